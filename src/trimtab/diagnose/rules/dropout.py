"""The rule of dropout that leaves too little."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import numpy as np

from trimtab.diagnose.clues import Clue
from trimtab.diagnose.view import Need, View
from trimtab.types import Evidence, FindingCause

# Usual rates are 0.1 to 0.5; at 0.8 the noise has four times the power of the signal
_STRONG = 0.8
# Told by itself where the training loss keeps so much of itself
_POOR, _MIN_STEPS, _MIN_LOOKS = 0.65, 100, 3


@final
@dataclass(frozen=True, slots=True)
class Dropout:
    """What it detects: dropout that leaves a fifth of its input or less, or that is done to the outputs.

    Why it matters: with a rate p the noise has p / (1 - p) times the power of the signal: four times at 0.8,
    nineteen times at 0.95. A single such layer can keep a model from learning. Outputs that are dropped are
    wrong in training by the share that is dropped, whatever was learned.

    Evidence used: the largest rate of the dropout layers that are in train mode, in all looks, or of the
    calls of a forward pass. Told if the run keeps a third of its loss, or as the cause of one that learns
    nothing. Whether what dropout gave is what the model gave, where the loss takes it for the answer itself.

    What to try: 0.1 to 0.5. Where a rate was meant as the share to keep, as in older TensorFlow, use 1 - p.
    No dropout behind the last layer.

    Known false alarms: models that are trained on few visible parts on purpose; they mask their input, and
    have no dropout layer for that.

    References: Srivastava et al., "Dropout", JMLR 15, 2014, section 7.3 (the effect of the rate).
    """

    causes = (FindingCause.OVER_REGULARIZED,)
    needs = Need.LAYERS

    def look(self, view: View) -> tuple[Clue, ...]:
        """See `Rule.look`."""
        rates, called = view.column("mode", "largest_dropout"), view.column("dropout", "trained")
        if len(rates) < _MIN_LOOKS:
            return ()
        is_on_output = view.column("dropout", "is_on_output")
        if len(is_on_output) and is_on_output[-1] == 1 and _are_answers(view):
            return (_on_output(view, float(called[-1])),)
        course, rate = view.loss, float(np.fmax(rates.min(), called[-1] if len(called) else 0.0))
        if not rate >= _STRONG:
            return ()
        summary = (
            f"A dropout layer takes {rate:.0%} of its input away: the noise is {rate / (1 - rate):.3g} times "
        )
        summary += "the signal."
        advice = (
            f"Lower the rate from {rate:.2g} to 0.1-0.5; if it was meant as what to keep, to {1 - rate:.2g}."
        )
        evidence = (Evidence("largest rate of dropout", rate, limit=_STRONG),)
        is_poor = len(course) >= _MIN_STEPS and course.is_positive and course.progress < _POOR
        told = is_poor and not view.is_warming_up
        cause = FindingCause.OVER_REGULARIZED
        return (Clue(cause, 0.5, 0.85, summary, advice, evidence, view.span, stands_alone=told),)


def _are_answers(view: View) -> bool:
    """Whether the loss is known to compare the outputs themselves with targets."""
    return math.isfinite(view.explained.value)


def _on_output(view: View, rate: float) -> Clue:
    summary = f"Dropout sets {rate:.0%} of the model's outputs to zero in training."
    advice = "Take the dropout behind the last layer away."
    evidence = (Evidence("rate of dropout on the outputs", rate),)
    return Clue(FindingCause.OVER_REGULARIZED, 0.5, 0.9, summary, advice, evidence, view.span)
