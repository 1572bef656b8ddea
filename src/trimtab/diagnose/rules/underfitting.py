"""The rule of models that have no room, or no leave, to fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from trimtab.diagnose.clues import Clue
from trimtab.diagnose.rules.high_learning_rate import path_of_weights
from trimtab.diagnose.view import Need, View
from trimtab.types import Evidence, FindingCause

_MIN_STEPS = 100
# It gained something, kept most of itself, and its second half is flat: within 2 %
_GAINED, _KEPT, _FLAT = 0.02, 0.65, 0.02
# Training and validation loss agree
_GAP = 0.05
# The weights went far, so that the rate is not too low
_LONG_PATH = 1.0


@final
@dataclass(frozen=True, slots=True)
class Underfitting:
    """What it detects: training and validation loss that stopped together, high up, while weights move.

    Why it matters: the model is too small or too strongly held back, or the task is mostly noise.

    Evidence used: an equivalence test for the second half of the training loss (within 2 %), a validation
    loss that agrees with it within 5 %, two thirds of the initial loss left, weights that went further than
    their own norm, and a rate that has not decayed. From curves alone this cannot be told from noise in the
    labels, so it is told only as the cause of a run that learned nothing, or as a runner-up.

    What to try: learn one batch by heart: if that works, a larger model or less regularization; if not, the
    loop is at fault.

    Known false alarms: none known, since it is told only as the cause of something else.

    References: Goodfellow, Bengio, Courville, "Deep learning", 2016, section 5.2.
    """

    causes = (FindingCause.UNDERFITTING,)
    needs = Need.LOSS | Need.VAL_LOSS

    def look(self, view: View) -> tuple[Clue, ...]:
        """See `Rule.look`."""
        course, val = view.loss, view.val
        if val is None or len(course) < _MIN_STEPS or not course.is_positive or view.decayed_from is not None:
            return ()
        late = course.late
        is_flat = max(abs(late.low), abs(late.high)) < 2 * _FLAT and abs(late.change) < _FLAT
        last = float(np.median(val.values[-3:]))
        agree = abs(last - course.end) < _GAP * course.end
        path = path_of_weights(view)
        is_held = _GAINED < course.progress < 1 - _KEPT
        if not (is_flat and agree and is_held) or path < _LONG_PATH:
            return ()
        summary = (
            f"Training and validation loss stopped together at {course.end:.4g}, {1 - course.progress:.0%} "
            "of the start."
        )
        advice = (
            "Try to learn one batch by heart. If that works, use a larger model or less dropout and weight "
            "decay; if not, look at the loop."
        )
        evidence = (
            Evidence("training loss at the end", course.end),
            Evidence("validation loss at the end", last),
            Evidence("share of the initial loss that is left", 1 - course.progress, limit=_KEPT),
        )
        clue = Clue(
            FindingCause.UNDERFITTING, 0.4, 0.5, summary, advice, evidence, view.span, stands_alone=False
        )
        return (clue,)
