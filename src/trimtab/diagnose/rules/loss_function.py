"""The rule of losses that do not fit what the model gives them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from trimtab.diagnose.clues import Clue
from trimtab.diagnose.view import Need, View
from trimtab.types import Evidence, FindingCause

_KINDS = (
    (
        "softmax_twice",
        FindingCause.SOFTMAX_BEFORE_CROSS_ENTROPY,
        "The cross-entropy gets the output of a softmax, and applies its "
        "own to it: logits in [0, 1] cannot say much.",
        "Give the raw output of the last layer to cross_entropy, or log_softmax to nll_loss.",
    ),
    (
        "sigmoid_twice",
        FindingCause.SIGMOID_BEFORE_BCE,
        "binary_cross_entropy_with_logits gets the output of a sigmoid, and applies its own to it.",
        "Give it the raw output of the last layer.",
    ),
    (
        "activated",
        FindingCause.ACTIVATED_LOGITS,
        "The logits of the cross-entropy have passed a ReLU, tanh or sigmoid: they cannot take all values.",
        "Leave the last layer without an activation.",
    ),
)


_MIN_LOOKS = 3


@final
@dataclass(frozen=True, slots=True)
class LossFunction:
    """What it detects: a softmax before cross-entropy, a sigmoid before BCE, a summed loss, all pairs.

    Why it matters: a second softmax leaves logits between 0 and 1, so that the loss cannot come near 0 and
    its gradient is small; a sum over the batch makes the step as many times larger as the batch; outputs of
    shape (N, 1) and targets of shape (N,) are compared each with each, and only the mean can be learned.

    Evidence used: the nodes of the graph behind the loss, in all looks. A sum is told only as the cause of
    something else.

    What to try: raw logits for losses that say "with logits" or "cross-entropy"; reduction="mean".

    Known false alarms: a softmax further back, as in attention, is not meant, and not matched.

    References: the documentation of `torch.nn.functional.cross_entropy`.
    """

    causes = (
        FindingCause.SOFTMAX_BEFORE_CROSS_ENTROPY,
        FindingCause.SIGMOID_BEFORE_BCE,
        FindingCause.ACTIVATED_LOGITS,
        FindingCause.SUM_REDUCTION,
        FindingCause.LABEL_TROUBLE,
    )
    needs = Need.LOSS_GRAPH

    def look(self, view: View) -> tuple[Clue, ...]:
        """See `Rule.look`."""
        found = _pairs(view)
        for key, cause, summary, advice in _KINDS:
            column = view.column("loss", key)
            seen = column[np.isfinite(column)]
            if len(seen) and np.all(seen == 1):
                evidence = (Evidence("looks that show it", float(len(seen))),)
                found.append(Clue(cause, 0.3, 0.95, summary, advice, evidence, view.span))
        is_sum = view.column("loss", "is_sum")
        if len(is_sum) and np.all(is_sum == 1):
            summary = "The loss is summed over the batch: gradients and steps grow with the batch size."
            advice = 'Use reduction="mean", or divide the learning rate by the number of terms.'
            evidence = (Evidence("looks that show it", float(len(is_sum))),)
            found.append(
                Clue(
                    FindingCause.SUM_REDUCTION,
                    0.3,
                    0.85,
                    summary,
                    advice,
                    evidence,
                    view.span,
                    stands_alone=False,
                )
            )
        return tuple(found)


def _pairs(view: View) -> list[Clue]:
    """A column of outputs that was broadcast against a row of targets."""
    pairs, rows, width = (
        view.column("loss", "num_paired"),
        view.column("output", "num_rows"),
        view.column("output", "num_classes"),
    )
    if len(rows) < _MIN_LOOKS or len(rows) != len(pairs):
        return []
    if not np.all((pairs == rows) & (width == 1) & (rows > 1)):
        return []
    number = int(rows[-1])
    summary = (
        f"Each of {number} outputs is compared with each of {number} targets: shape ({number}, 1) against "
        f"({number},) is broadcast. Only the mean of the targets can be learned so."
    )
    advice = "Give both the same shape: targets[:, None], or outputs.squeeze(1)."
    evidence = (Evidence("looks that show it", float(len(rows))),)
    return [Clue(FindingCause.LABEL_TROUBLE, 0.9, 0.95, summary, advice, evidence, view.span)]
