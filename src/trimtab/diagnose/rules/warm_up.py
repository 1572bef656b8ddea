"""The rule of rates that are right, but not for the first steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from trimtab.diagnose.clues import Clue
from trimtab.diagnose.course import Course
from trimtab.diagnose.view import Need, View
from trimtab.types import Evidence, FindingCause

# Thrown up at once: by half and beyond six deviations, within the first few steps
_UP, _MIN_Z, _AT_ONCE = np.log(1.5), 6.0, 10
# The way back to where it began took this share of the run and more, and then the run learned after all
_LOST_SHARE, _MIN_LOST, _LEARNED = 0.1, 10, 0.85
_FULL_RATE = 0.9
_MIN_STEPS = 60


@final
@dataclass(frozen=True, slots=True)
class WarmUp:
    """What it detects: a loss that the very first steps throw up, and that needs long to come back and learn.

    Why it matters: the steps until then are lost, and what they did to the weights may stay.

    Evidence used: the full learning rate from the first step; a loss above 1.5 times its first value within
    ten steps; the steps until it was below that value again, a tenth of the run or more; and that the same
    rate worked afterwards, so that the rate itself is not to blame.

    What to try: a linear warm-up over about as many steps as were lost.

    Known false alarms: losses whose target is made in the run, as of value functions, rise at first as well,
    but not within ten steps.

    References: Gilmer et al. 2021, arXiv:2110.04369; Liu et al., "On the variance of the adaptive learning
    rate and beyond", 2020, arXiv:1908.03265.
    """

    causes = (FindingCause.NO_WARMUP,)
    needs = Need.LOSS | Need.LR

    def look(self, view: View) -> tuple[Clue, ...]:
        """See `Rule.look`."""
        course, lr = view.loss, view.lr
        if len(course) < _MIN_STEPS or not course.is_positive or not np.isfinite(lr[:1]).all():
            return ()
        first = float(course.values[0])
        if lr[0] < _FULL_RATE * view.peak_lr or not course.end < _LEARNED * first:
            return ()
        peak = _thrown(course)
        lost = _steps_above(course)
        if peak is None or lost < max(_MIN_LOST, _LOST_SHARE * len(course)):
            return ()
        summary = (
            f"The first steps threw the loss from {first:.4g} up to {peak:.4g}; it took {lost} steps to come "
            "back, and then the same rate worked."
        )
        advice = (
            f"Warm the learning rate up from 0 to {view.peak_lr:.3g} over some {_round(lost)} steps, or clip "
            "the gradients."
        )
        evidence = (
            Evidence("highest loss of the first steps", peak, limit=first),
            Evidence("steps until the loss was back", lost, "steps", _LOST_SHARE * len(course)),
        )
        steps = (int(course.steps[0]), int(course.steps[min(lost, len(course) - 1)]))
        harm = lost / len(course)
        return (Clue(FindingCause.NO_WARMUP, harm, 0.75, summary, advice, evidence, steps),)


def _thrown(course: Course) -> float | None:
    """Height to which the first steps threw the loss, or None."""
    early = course.judged[1 : 1 + _AT_ONCE]
    second = float(np.sort(early)[-2])  # a single value is no state
    up = second - float(course.judged[0])
    return course.peak if up > max(_UP, _MIN_Z * course.noise) else None


def _steps_above(course: Course) -> int:
    """How many steps it took until the loss, in the middle over five, was below its first value."""
    below = course.judged < course.judged[0]
    five = np.convolve(below.astype(float), np.ones(5), mode="valid") >= 3
    return int(np.argmax(five)) if five.any() else len(course)


def _round(steps: int) -> int:
    return max(10, round(steps, -1))
