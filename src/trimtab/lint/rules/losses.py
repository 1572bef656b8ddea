"""Rules about losses that get something else than they expect."""

from __future__ import annotations

import ast
from abc import ABC
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

from trimtab.lint.source import Source


class _LossOfActivation(ABC):
    """A loss whose first argument is the output of an activation that it does not expect."""

    __slots__ = ()

    nodes = (ast.Call,)
    losses: ClassVar[tuple[str, ...]]
    activation: ClassVar[str]
    told: ClassVar[str]  # the loss, and what is wrong with it

    def check(self, source: Source, node: ast.AST) -> Iterator[str]:
        """See `Rule.check`."""
        loss = source.operation(node) if isinstance(node, ast.Call) else None
        if loss is None or loss.name not in self.losses or not loss.is_torch:
            return
        given = loss.option("input", 0)
        made_by = None if given is None else source.through(given)
        if made_by is not None and made_by.is_torch and made_by.name == self.activation:
            yield f"{loss.name} {self.told}"


@final
@dataclass(frozen=True, slots=True)
class SoftmaxBeforeCrossEntropy(_LossOfActivation):
    """What it detects: cross_entropy of the output of a softmax, also of a model of this file that ends so.

    Why it matters: cross_entropy applies log-softmax itself. Logits between 0 and 1 cannot say much: with 10
    classes the loss cannot fall below 1.46, and gradients are small.

    Instead: give it the raw output of the last layer.

    Known false alarms: none known. A softmax of the target is right, and not reported.
    """

    name = "softmax-before-cross-entropy"
    losses = ("cross_entropy",)
    activation = "softmax"
    told = "gets probabilities and applies another softmax to them."
    advice = "Give cross_entropy the raw output of the last layer."


@final
@dataclass(frozen=True, slots=True)
class SigmoidBeforeLogits(_LossOfActivation):
    """What it detects: binary_cross_entropy_with_logits of the output of a sigmoid.

    Why it matters: it applies the sigmoid itself. Of a sigmoid's output it can make probabilities between
    0.5 and 0.73 only.

    Instead: give it the raw output of the last layer.

    Known false alarms: none known.
    """

    name = "sigmoid-before-logits-loss"
    losses = ("binary_cross_entropy_with_logits",)
    activation = "sigmoid"
    told = "gets probabilities and applies another sigmoid to them."
    advice = "Give it the raw output of the last layer."


@final
@dataclass(frozen=True, slots=True)
class SigmoidThenBinaryCrossEntropy(_LossOfActivation):
    """What it detects: binary_cross_entropy of the output of a sigmoid.

    Why it matters: in float32 the sigmoid is 1 from x = 17 on: the loss of a wrong answer there is 100
    whatever x is, by torch's clamp, and its gradient 0. Under autocast it is refused.

    Instead: `torch.nn.functional.binary_cross_entropy_with_logits(x, target)`.

    Known false alarms: none known.
    """

    name = "sigmoid-then-binary-cross-entropy"
    losses = ("binary_cross_entropy",)
    activation = "sigmoid"
    told = "of a sigmoid has no gradient where the sigmoid is saturated."
    advice = "Use torch.nn.functional.binary_cross_entropy_with_logits(x, target) on the raw output."


@final
@dataclass(frozen=True, slots=True)
class ProbabilitiesForLogProbabilities(_LossOfActivation):
    """What it detects: nll_loss or kl_div of the output of a softmax.

    Why it matters: both expect logarithms of probabilities as their first argument, and do not check. The
    loss is a number that falls, and not a likelihood.

    Instead: `torch.log_softmax(x, dim)`.

    Known false alarms: none known.
    """

    name = "probabilities-for-log-probabilities"
    losses = ("nll_loss", "kl_div")
    activation = "softmax"
    told = "expects log-probabilities and gets probabilities."
    advice = "Give it torch.log_softmax(x, dim)."
