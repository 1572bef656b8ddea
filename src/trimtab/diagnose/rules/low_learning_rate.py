"""The rule of learning rates that are too low."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import numpy as np

from trimtab.diagnose.clues import Clue
from trimtab.diagnose.course import Course
from trimtab.diagnose.rules.high_learning_rate import path_of_weights
from trimtab.diagnose.rules.stuck import explains_little
from trimtab.diagnose.rules.underfitting import keeps_up
from trimtab.diagnose.statistics import middle
from trimtab.diagnose.view import Need, View
from trimtab.types import Evidence, FindingCause

_MIN_STEPS = 60
# A straight descent: each half, and each quarter, brings about the same; healthy runs begin steeply
_STRAIGHT = (0.6, 1.6)
# and what it brought in all is little of the loss, so that the run is far from done
_MAX_GAIN = 0.3
_MIN_Z = 6.0
# In a run that learns, weights go some norms far; below a sixth of one they hardly left their place
_SHORT_PATH, _LONG_PATH = 0.15, 3.0
# and each step is small: of a run that has only begun, the way is always short
_SMALL_STEP = 3e-4
_STEADY_NORM = 1.25
# A classifier that begins so near to guessing was not trained before
_AT_CHANCE = 0.8
# Weights that went so little of their norm in all did not take part while half of the loss is still there;
# fine-tuning moves them further
_NO_PATH, _LONG, _NO_GAIN, _LITTLE = 0.03, 100, 0.5, 0.5
# nor did those that went a little further, while the inputs foretell so much of what the loss asks for, or
# while most of the loss is there
_SMALL_PATH, _FORETOLD = 0.045, 0.2
# Of a loss whose targets are not known, what the output is asked for is at the end nearly what it was
_STILL_ASKED = 0.75
# and that is next to nothing, whatever the loss
_NOWHERE = 1e-3


@final
@dataclass(frozen=True, slots=True)
class LowLearningRate:
    """What it detects: a loss that falls slowly and straight to the very end; weights that hardly move.

    Why it matters: the run spends its time on what a larger rate does in a fraction of it.

    Evidence used: the descent of each quarter of the run, equal within noise; a small gain in all; a norm
    of the gradients that stays what it was; where they were measured, update-to-weight ratios, added up
    to the way of the weights: one below 3 % of their norm, or 4.5 % while most of the loss is there, needs no
    other sign while most is left to learn. The rate by itself is no evidence, and nothing is told of a model
    that explains as much as a plain regression does.

    What to try: three to ten times the rate, or a range test.

    Known false alarms: fine-tuning at a rate that is low on purpose, when it goes on evenly to the end.

    References: Smith, "Cyclical learning rates for training neural networks", 2017, arXiv:1506.01186.
    """

    causes = (FindingCause.LR_TOO_LOW,)
    needs = Need.LOSS

    def look(self, view: View) -> tuple[Clue, ...]:
        """See `Rule.look`."""
        course, path = view.loss, path_of_weights(view)
        if len(course) < _MIN_STEPS or view.is_warming_up or keeps_up(view):
            return ()
        if _stands_still(view, path):  # whatever the schedule: it was too low at its peak
            return (_clue(view, path, stands_alone=True),)
        if view.decayed_from is not None:
            return ()
        is_short = bool(path < _SHORT_PATH and path / max(view.span[1] - view.span[0], 1) < _SMALL_STEP)
        hardly_moved = is_short and view.peak_lr != 0
        is_steady = hardly_moved or (not path > _LONG_PATH and _is_steady(view))
        if is_steady and _is_flat_rate(view) and _is_straight(course, any_bend=hardly_moved):
            return (_clue(view, path, stands_alone=True),)
        has_far_to_go = _barely_began(view) or explains_little(view) or _is_fresh(view)
        if hardly_moved and path > 0 and _is_flat_rate(view) and has_far_to_go:
            return (_clue(view, path, stands_alone=True),)
        return (_clue(view, path, stands_alone=False),) if hardly_moved and path > 0 else ()


def _clue(view: View, path: float, *, stands_alone: bool) -> Clue:
    course = view.loss
    lr = f" from {view.peak_lr:.3g} to {view.peak_lr * 10:.3g}" if np.isfinite(view.peak_lr) else " tenfold"
    summary = (
        f"The loss falls evenly and slowly to the very end, from {course.start:.4g} to {course.end:.4g}: the "
        "steps are too small."
        if stands_alone and not path < _SMALL_PATH
        else f"In the whole run the weights went {path:.2g} of their norm: the steps are too small."
    )
    advice = (
        f"Raise the learning rate{lr}, or find it with a range test. If "
        "the gradients are clipped, see how hard."
    )
    evidence = [Evidence("share of the loss that went away", course.progress, limit=_MAX_GAIN)]
    if np.isfinite(path):
        evidence.append(Evidence("way of the weights in the whole run, in norms", path, limit=_SHORT_PATH))
    confidence = 0.85 if path < _SHORT_PATH else 0.65
    harm = 0.5
    return Clue(
        FindingCause.LR_TOO_LOW,
        harm,
        confidence,
        summary,
        advice,
        tuple(evidence),
        view.span,
        stands_alone=stands_alone,
    )


def _is_straight(course: Course, *, any_bend: bool) -> bool:
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
    if total < _MIN_Z * max(noise, 1e-300) or (falls.min() <= 0 and not any_bend):
        return False
    if falls[2] + falls[3] <= 0:
        return False
    halves = (falls[0] + falls[1]) / (falls[2] + falls[3])
    uncertain = 2.5 * noise / (total / 2)
    low, high = (0.0 if any_bend else _STRAIGHT[0]), _STRAIGHT[1]
    within = low - uncertain < halves < high + uncertain and uncertain < 0.5
    return bool(within and falls[0] / (total / 4) < 1.5 + 2 * uncertain)


def _barely_began(view: View) -> bool:
    """Whether a classifier began at chance, kept most of that, and was still falling at the end."""
    course, chance = view.loss, view.chance
    if not course.is_positive or not course.start > _AT_CHANCE * chance or not course.progress < _MAX_GAIN:
        return False
    return course.late.high < 0


def _stands_still(view: View, path: float) -> bool:
    """Whether the weights are where they were, and what there is to learn is not learned.

    Models that were trained before, and go on at a small rate on purpose, know most of their targets.
    """
    course = view.loss
    if len(course) < _LONG or not course.is_positive or not course.progress < _NO_GAIN:
        return False
    is_asked = view.foretold.value - 3 * view.foretold.error > _FORETOLD
    knows_little = view.explained.value < _LITTLE or course.start > _AT_CHANCE * view.chance
    is_unknown = not math.isfinite(view.explained.value) and not math.isfinite(view.chance)
    knows_little = knows_little or path < _NOWHERE or (is_unknown and view.still_asked > _STILL_ASKED)
    has_gained_little = is_asked or course.progress < _MAX_GAIN
    return 0 < path < (_SMALL_PATH if has_gained_little else _NO_PATH) and (is_asked or knows_little)


def _is_fresh(view: View) -> bool:
    """Whether most weights are at the end still spread as torch initializes them, and little was gained."""
    fresh, trained, course = view.signal("as_initialized"), view.trained_weights, view.loss
    if fresh is None or trained is None or len(course) < _LONG or not course.is_positive:
        return False
    return middle(fresh.values[-1][trained]) == 1 and course.progress < _MAX_GAIN


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
