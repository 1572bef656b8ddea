"""The rule of learning rates that are too low."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import numpy as np

from trimtab.diagnose.clues import Clue
from trimtab.diagnose.course import Course
from trimtab.diagnose.rules.high_learning_rate import early_update_ratio
from trimtab.diagnose.view import Need, View
from trimtab.types import Cause, Evidence

_MIN_STEPS = 60
# A straight descent: each half, and each quarter, brings about the same; healthy runs begin steeply
_STRAIGHT = (0.6, 1.6)
# and what it brought in all is little of the loss, so that the run is far from done
_MAX_GAIN = 0.3
_MIN_Z = 6.0
# Whole runs with weights that hardly move: the order of magnitude of healthy steps is 1e-3
_TINY_STEP = 2e-5
_STEADY_NORM = 1.25


@final
@dataclass(frozen=True, slots=True)
class LowLearningRate:
    """What it detects: a loss that falls slowly and in a straight line to the very end; weights that hardly move.

    Why it matters: the run spends its time on what a larger rate does in a fraction of it.

    Evidence used: the descent of each quarter of the run, equal within noise; a small gain in all; a norm
    of the gradients that stays what it was; update-to-weight ratios where they were measured. The rate by
    itself is no evidence.

    What to try: three to ten times the rate, or a range test.

    Known false alarms: fine-tuning at a rate that is low on purpose, when it goes on evenly for the whole run.

    References: Smith, "Cyclical learning rates for training neural networks", 2017, arXiv:1506.01186.
    """

    causes = (Cause.LR_TOO_LOW,)
    needs = Need.LOSS

    def look(self, view: View) -> tuple[Clue, ...]:
        """See `Rule.look`."""
        course, ratio = view.loss, early_update_ratio(view)
        is_tiny = ratio < _TINY_STEP
        if is_tiny and ratio > 0 and view.peak_lr != 0:
            return (_clue(view, ratio, stands_alone=False),)
        if len(course) < _MIN_STEPS or view.decayed_from is not None or not _is_straight(course):
            return ()
        if view.is_warming_up or not _is_flat_rate(view) or not _is_steady(view):
            return ()
        if ratio > 1e-3:  # the steps are not small: something else is slow
            return ()
        return (_clue(view, ratio, stands_alone=True),)


def _clue(view: View, ratio: float, *, stands_alone: bool) -> Clue:
    course = view.loss
    lr = f" from {view.peak_lr:.3g} to {view.peak_lr * 10:.3g}" if np.isfinite(view.peak_lr) else " tenfold"
    summary = (
        f"The loss falls evenly and slowly to the very end, from {course.start:.4g} to {course.end:.4g}: the "
        "steps are too small."
        if stands_alone
        else f"A step changes the weights by {ratio:.1e} of their norm: the steps are too small."
    )
    advice = f"Raise the learning rate{lr}, or find it with a range test. If the gradients are clipped, see how hard."
    evidence = [Evidence("share of the loss that went away", course.progress, limit=_MAX_GAIN)]
    if np.isfinite(ratio):
        evidence.append(Evidence("change of the weights in one step, of their norm", ratio, limit=_TINY_STEP))
    confidence = 0.85 if ratio < 1e-4 else 0.65
    harm = 0.5
    return Clue(
        Cause.LR_TOO_LOW,
        harm,
        confidence,
        summary,
        advice,
        tuple(evidence),
        view.span,
        stands_alone=stands_alone,
    )


def _is_straight(course: Course) -> bool:
    """Whether the loss itself, not its logarithm, fell in a straight line, and only a little."""
    if not course.is_positive or not 0 < course.progress < _MAX_GAIN:
        return False
    edges = course.blocks.edges
    number = len(edges) - 1
    levels = np.array([course.level(b) for b in range(number)])
    quarter = number // 4
    ends = [
        course.start,
        *(float(levels[max(0, k * quarter - 1) : k * quarter + 1].mean()) for k in (1, 2, 3)),
    ]
    ends.append(float(levels[-1]))
    falls = -np.diff(ends)
    noise = course.blocks.noise * course.early
    total = ends[0] - ends[-1]
    if total < _MIN_Z * max(noise, 1e-300) or falls.min() <= 0:
        return False
    halves = (falls[0] + falls[1]) / (falls[2] + falls[3])
    uncertain = 2.5 * noise / (total / 2)
    low, high = _STRAIGHT
    within = low - uncertain < halves < high + uncertain and uncertain < 0.5
    return bool(within and falls[0] / (total / 4) < 1.5 + 2 * uncertain)


def _is_flat_rate(view: View) -> bool:
    """Whether the rate was about the same all along, or is not known."""
    lr = view.lr[np.isfinite(view.lr)]
    return len(lr) == 0 or float(np.quantile(lr, 0.1)) > 0.3 * float(lr.max())


def _is_steady(view: View) -> bool:
    """Whether the norm of the gradients stayed what it was, or is not known."""
    norm = view.grad_norm
    if len(norm) < _MIN_STEPS or norm.end <= 0 or norm.early <= 0:
        return True
    return abs(math.log(norm.end / norm.early)) < math.log(_STEADY_NORM) * 2
