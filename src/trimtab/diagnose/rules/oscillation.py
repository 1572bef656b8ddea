"""The rule of losses that swing from step to step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from trimtab.diagnose.clues import Clue
from trimtab.diagnose.statistics import autocorrelation, spread
from trimtab.diagnose.view import Need, View
from trimtab.types import Evidence, FindingCause

_MIN_STEPS = 64
# Independent noise gives 0 within 2 / sqrt(n); batches drawn without replacement a little below
_MAX_CORRELATION = -0.5
# Values that come again exactly are those of fixed batches
_SAME = 0.97
# or each other one, two and three rounds later, as those of two tasks in turn
_ALIKE = 0.85
# On the log scale: swings by a quarter and more
_MIN_SWING = 0.25
# The second half gained no more than this
_MAX_GAIN = 0.05


@final
@dataclass(frozen=True, slots=True)
class Oscillation:
    """What it detects: a loss that goes up and down from one step to the next and no longer falls.

    Why it matters: the steps jump over the valley: the learning rate is beyond what the curvature allows.

    Evidence used: the correlation of the loss with itself one step later, after the trend is taken out;
    below -0.5 in the second half, with swings of 25 % and more, and no gain in that half.

    What to try: a third of the learning rate; less momentum.

    Known false alarms: two batches in turn. Fixed batches swing by an amount that stays the same from one
    round to the next, and are left out.

    References: Cohen et al., "Gradient descent on neural networks typically occurs at the edge of
    stability", 2021, arXiv:2103.00065.
    """

    causes = (FindingCause.OSCILLATION,)
    needs = Need.LOSS

    def look(self, view: View) -> tuple[Clue, ...]:
        """See `Rule.look`."""
        course = view.loss
        if len(course) < _MIN_STEPS or not course.is_positive:
            return ()
        half = course.judged[len(course) // 2 :]
        width = 8
        smooth = np.convolve(half, np.ones(width) / width, mode="valid")
        residual = half[width // 2 : width // 2 + len(smooth)] - smooth
        swing, correlation = spread(residual), autocorrelation(residual, 1)
        gain = float(np.median(half[: len(half) // 2]) - np.median(half[len(half) // 2 :]))
        if correlation > _MAX_CORRELATION or swing < _MIN_SWING or gain > _MAX_GAIN or _repeats(half):
            return ()
        lr = (
            f" from {view.peak_lr:.3g} to {view.peak_lr / 3:.3g}"
            if np.isfinite(view.peak_lr)
            else " to a third"
        )
        summary = (
            "In its second half the loss swings from step to step by "
            f"{np.expm1(swing):.0%} and no longer falls."
        )
        advice = f"Lower the learning rate{lr}, or the momentum."
        evidence = (
            Evidence("correlation of neighboring steps", correlation, limit=_MAX_CORRELATION),
            Evidence("swing on the log scale", swing, limit=_MIN_SWING),
        )
        steps = (int(course.steps[len(course) // 2]), int(course.steps[-1]))
        return (Clue(FindingCause.OSCILLATION, 0.3, 0.75, summary, advice, evidence, steps),)


def _repeats(half: np.ndarray) -> bool:
    """Whether the same few values come again and again, as those of fixed batches."""
    around = half - half.mean()
    if all(autocorrelation(around, lag) > _ALIKE for lag in (2, 4, 6)):
        return True
    return any(autocorrelation(around, lag) > _SAME for lag in (2, 3, 4, 6, 8))
