"""Rules about losses that get something else than they expect."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

from trimtab.lint.operations import Operation
from trimtab.lint.source import Source


def _prediction(source: Source, node: ast.AST, *losses: str) -> Operation | None:
    """What computes the first argument of one of these losses."""
    found = source.operation(node) if isinstance(node, ast.Call) else None
    if found is None or found.name not in losses or not found.is_torch:
        return None
    given = found.option("input", 0)
    return None if given is None else source.through(given)


def _is(found: Operation | None, name: str) -> bool:
    return found is not None and found.is_torch and found.name == name


@final
@dataclass(frozen=True, slots=True)
class SoftmaxBeforeCrossEntropy:
    """What it detects: cross_entropy of the output of a softmax, also of a model of this file that ends so.

    Why it matters: cross_entropy applies log-softmax itself. Logits between 0 and 1 cannot say much: with 10
    classes the loss cannot fall below 1.46, and gradients are small.

    Instead: give it the raw output of the last layer.

    Known false alarms: none known. A softmax of the target is right, and not reported.
    """

    name = "softmax-before-cross-entropy"
    nodes = (ast.Call,)
    advice = "Give cross_entropy the raw output of the last layer."

    def check(self, source: Source, node: ast.AST) -> Iterator[str]:
        """See `Rule.check`."""
        if _is(_prediction(source, node, "cross_entropy"), "softmax"):
            yield "cross_entropy gets probabilities and applies another softmax to them."


@final
@dataclass(frozen=True, slots=True)
class SigmoidBeforeLogits:
    """What it detects: binary_cross_entropy_with_logits of the output of a sigmoid.

    Why it matters: it applies the sigmoid itself. Of a sigmoid's output it can make probabilities between
    0.5 and 0.73 only.

    Instead: give it the raw output of the last layer.

    Known false alarms: none known.
    """

    name = "sigmoid-before-logits-loss"
    nodes = (ast.Call,)
    advice = "Give it the raw output of the last layer."

    def check(self, source: Source, node: ast.AST) -> Iterator[str]:
        """See `Rule.check`."""
        if _is(_prediction(source, node, "binary_cross_entropy_with_logits"), "sigmoid"):
            yield "binary_cross_entropy_with_logits gets probabilities and applies another sigmoid to them."


@final
@dataclass(frozen=True, slots=True)
class SigmoidThenBinaryCrossEntropy:
    """What it detects: binary_cross_entropy of the output of a sigmoid.

    Why it matters: in float32 the sigmoid is 1 from x = 17 on: the loss of a wrong answer there is 100
    whatever x is, by torch's clamp, and its gradient 0. Under autocast it is refused.

    Instead: `torch.nn.functional.binary_cross_entropy_with_logits(x, target)`.

    Known false alarms: none known.
    """

    name = "sigmoid-then-binary-cross-entropy"
    nodes = (ast.Call,)
    advice = "Use torch.nn.functional.binary_cross_entropy_with_logits(x, target) on the raw output."

    def check(self, source: Source, node: ast.AST) -> Iterator[str]:
        """See `Rule.check`."""
        if _is(_prediction(source, node, "binary_cross_entropy"), "sigmoid"):
            yield "binary_cross_entropy of a sigmoid has no gradient where the sigmoid is saturated."


@final
@dataclass(frozen=True, slots=True)
class ProbabilitiesForLogProbabilities:
    """What it detects: nll_loss or kl_div of the output of a softmax.

    Why it matters: both expect logarithms of probabilities as their first argument, and do not check. The
    loss is a number that falls, and not a likelihood.

    Instead: `torch.log_softmax(x, dim)`.

    Known false alarms: none known.
    """

    name = "probabilities-for-log-probabilities"
    nodes = (ast.Call,)
    advice = "Give it torch.log_softmax(x, dim)."

    def check(self, source: Source, node: ast.AST) -> Iterator[str]:
        """See `Rule.check`."""
        for loss in ("nll_loss", "kl_div"):
            if _is(_prediction(source, node, loss), "softmax"):
                yield f"{loss} expects log-probabilities and gets probabilities."
