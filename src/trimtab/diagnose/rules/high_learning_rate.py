"""The rule of learning rates that are too high."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import numpy as np

from trimtab.diagnose.clues import Clue
from trimtab.diagnose.course import MIN_STEPS, Course
from trimtab.diagnose.rises import final_rise
from trimtab.diagnose.rules.stuck import explains_little, is_slow, was_thrown_out
from trimtab.diagnose.statistics import FloatArray
from trimtab.diagnose.view import Need, View
from trimtab.types import Evidence, FindingCause

# Thrown out of its initial state, and at the end no better than this share of where it began
_NO_BETTER = 0.75
# Large steps are no trouble while the loss falls below this share of its start
_NO_GAIN = 0.9
# Steps that large, and a loss that ended so much above where it began
_ABOVE = 1.2
# of a weight, in the middle over them: healthy runs under Adam begin with as much
_SMALL_STEP = 0.02
# Common ones are 0.9 to 0.99; what Adam's second moment has is no momentum
_HEAVY, _NEVER = 0.995, 0.998
# A step that changes a tenth of a weight (its norm) is no small step any more
_LARGE_STEP = 0.1
# A run long enough, a part of it that is long enough, a rate so many times higher, and a loss so much above;
# validation losses on either side
_LONG, _SOME, _LEAP, _WORSE, _NUM_VAL = 60, 0.15, 5.0, 1.1, 2
# A jump of the rate right before the loss rises, and a rise that early in the run, speak for the rate
_JUMP, _EARLY = 1.5, 0.25


@final
@dataclass(frozen=True, slots=True)
class HighLearningRate:
    """What it detects: trouble of the loss that a too high learning rate explains.

    Why it matters: it is the commonest cause of a loss that explodes, swings or stays at chance after a
    first jump, and the easiest to mend.

    Evidence used: the loss was thrown to three times its start in the first tenth and ended no better than it
    began; or it rose in the first quarter, or right after the rate rose; update-to-weight ratios of the
    actual steps where they were measured; a momentum of 0.998 and more, or
    of 0.995 in a run that keeps most of its loss. The rate by itself is no evidence.

    What to try: the rate at which the loss was still stable, divided by four; warm-up; clipping.

    Known false alarms: inputs or initial weights far too large look alike in the loss; where the signals
    for those are there, they come first.

    References: Cohen et al. 2021, arXiv:2103.00065; Gilmer et al., "A loss curvature perspective on training
    instability", 2021, arXiv:2110.04369.
    """

    causes = (FindingCause.LR_TOO_HIGH,)
    needs = Need.LOSS

    def look(self, view: View) -> tuple[Clue, ...]:
        """See `Rule.look`."""
        return _steps_too_large(view) or _jumped(view) or _momentum_too_long(view)


def _steps_too_large(view: View) -> tuple[Clue, ...]:
    course = view.loss
    if len(course) < 3:
        return ()
    ratio = early_update_ratio(view)
    thrown = (
        course.is_positive and was_thrown_out(course) and course.end > _NO_BETTER * float(course.values[0])
    )
    onset = _onset(course, view)
    is_large = bool(ratio > _LARGE_STEP)
    has_gained = course.is_positive and course.end < _NO_GAIN * float(course.values[0])
    if not thrown and onset is None and (not is_large or has_gained):
        return ()
    is_above = is_large and course.is_positive and course.end > _ABOVE * float(course.values[0])
    evidence = []
    if np.isfinite(ratio):
        evidence.append(
            Evidence("change of the weights in one step, of their norm", ratio, limit=_LARGE_STEP)
        )
    if thrown:
        evidence.append(Evidence("highest loss early on", course.peak, limit=float(course.values[0])))
    summary = (
        f"The loss was thrown from {course.values[0]:.4g} up to "
        f"{course.peak:.4g} and ended at {course.end:.4g}: "
        "the first steps were too large."
        if thrown
        else "The steps are too large for this model."
    )
    first = int(course.steps[0]) if onset is None else onset
    return (
        Clue(
            FindingCause.LR_TOO_HIGH,
            0.9 if thrown or is_above else 0.5,
            0.85 if thrown or is_large else 0.7,
            summary,
            _advice(view, onset),
            tuple(evidence),
            (first, int(course.steps[-1])),
            stands_alone=(thrown or is_above) and len(course) >= MIN_STEPS,
        ),
    )


def _jumped(view: View) -> tuple[Clue, ...]:
    """A rate that went up many times at one step, for good, and a loss that never was as low again."""
    course, lr, number = view.loss, view.lr, len(view.lr)
    if number < _LONG or not np.isfinite(lr).all() or not course.is_positive or not lr.min() > 0:
        return ()
    at = int(np.argmax(lr[1:] / lr[:-1])) + 1
    before, after = lr[:at], lr[at:]
    was_steady = at > _SOME * number and float(np.median(before)) > 0.5 * float(before.max())
    if not was_steady or len(after) < _SOME * number or not after.min() > _LEAP * before.max():
        return ()
    step = int(course.steps[at])
    worse = _worse_since(view, at)
    if not worse > _WORSE:
        return ()
    summary = (
        f"At step {step} the learning rate rose from {before[-1]:.3g} to {after[0]:.3g}: the loss is "
        f"{worse - 1:.0%} above what it was."
    )
    advice = f"Look for what changed the rate at step {step}, and keep it at {before[-1]:.3g} or below."
    evidence = (
        Evidence("rate after the step over that before", float(after[0] / before[-1]), limit=_LEAP),
        Evidence("loss since over that before", worse, limit=_WORSE),
    )
    clue = Clue(FindingCause.LR_TOO_HIGH, 0.6, 0.85, summary, advice, evidence, (step, view.span[1]))
    return (clue,)


def _worse_since(view: View, at: int) -> float:
    """The last losses over those before an index: of validation, where there are enough, else of training."""
    course, val = view.loss, view.val
    if val is not None and len(val) >= 2 * _NUM_VAL:
        is_before = val.steps <= course.steps[at]
        if _NUM_VAL <= int(is_before.sum()) <= len(val) - _NUM_VAL:
            early, late = val.values[is_before][-_NUM_VAL:], val.values[-_NUM_VAL:]
            return float(late.min() / early.max()) if early.min() > 0 else math.nan
    width = max(10, len(course) // 8)
    return float(np.median(course.values[-width:]) / np.median(course.values[max(0, at - width) : at]))


def _momentum_too_long(view: View) -> tuple[Clue, ...]:
    """A momentum that adds up so many gradients that a run of some length got little done."""
    momentum = view.column("optimizer", "momentum")
    if not len(momentum) or not float(momentum[-1]) >= _HEAVY:
        return ()
    value = float(momentum[-1])
    told = value >= _NEVER or is_slow(view.loss) or explains_little(view)
    summary = (
        f"A momentum of {value:.5g} adds up some {1 / max(1 - value, 1e-9):.0f} gradients: steps turn as "
        "slowly as that, and are as many times larger."
    )
    advice = (
        "Set the momentum (of Adam the first of its betas) to 0.9; or lower the rate by "
        f"{(1 - value) / 0.1:.2g} and give the run longer."
    )
    evidence = (Evidence("momentum", value, limit=_HEAVY),)
    cause = FindingCause.LR_TOO_HIGH
    return (Clue(cause, 0.5, 0.75, summary, advice, evidence, view.span, stands_alone=told),)


def path_of_weights(view: View) -> float:
    """How far the weights went in all, in units of their norm: the middle one of them; nan if unknown."""
    signal, shaped = view.signal("update_ratio"), view.trained_weights
    if signal is None or shaped is None or len(signal.steps) < 3:
        return float("nan")
    weights = shaped & np.isfinite(signal.values).all(axis=0)
    if not weights.any():
        return float("nan")
    steps, ratios = signal.steps, np.median(signal.values[:, weights], axis=1).astype(np.float64)
    span = view.span[1] - int(steps[0]) + 1
    return float(
        np.sum((ratios[1:] + ratios[:-1]) / 2 * np.diff(steps)) / max(int(steps[-1] - steps[0]), 1) * span
    )


def early_update_ratio(view: View) -> float:
    """Median over weights of the largest change that one step made in the first half; nan if unknown."""
    signal, weights = view.signal("update_ratio"), view.trained_weights
    if signal is None or weights is None or not len(signal.steps):
        return float("nan")
    # biases begin at zero, and every step is large for them
    rows = signal.values[: max(1, len(signal.steps) // 2)][:, weights]
    rows = rows[np.isfinite(rows).all(axis=1)] if rows.size else rows
    return float(np.median(rows.max(axis=0))) if rows.size else float("nan")


def _onset(course: Course, view: View) -> int | None:
    """Step at which the loss began to rise for good, if the rate may be blamed for it; None otherwise."""
    if len(course) < MIN_STEPS:
        rising = len(course) >= 3 and course.values[-1] > 5 * max(course.start, 1e-300)
        return int(course.steps[int(course.values.argmin())]) if rising and course.is_positive else None
    lr = view.lr
    is_known = bool(np.isfinite(lr).all()) and len(lr) > 0
    rise = final_rise(course, view.lr_of_blocks)
    rows = np.flatnonzero(course.judged > course.blocks.medians[0] + 1.0)
    bad = int(view.nonfinite[0]) if len(view.nonfinite) else None
    index = None
    if rise is not None:
        index = int(course.blocks.edges[rise.best_block + 1])
    elif bad is not None and len(rows) and rows[-1] >= len(course) - 3:
        index = int(rows[0])
    if index is None or not is_known:
        return None
    index = min(index, len(course) - 1)
    # where steps are known to be small, a rise is something else's, as of a generator against its critic
    is_early = index <= _EARLY * view.log.num_steps and not early_update_ratio(view) < _SMALL_STEP
    return int(course.steps[index]) if is_early or _rate_rose(lr, index) else None


def _rate_rose(lr: FloatArray, index: int) -> bool:
    """Whether the rate jumped just before an index, or was never so high before."""
    near = float(lr[max(index - 1, 0) : index + max(10, len(lr) // 20)].max())
    before = lr[max(0, index - max(len(lr) // 10, 1)) : index]
    has_jumped = len(before) > 0 and near > _JUMP * max(float(before.min()), 1e-300)
    past = lr[: max(index, 1)]
    is_new = float(lr[index]) >= float(past.max()) and float(lr[index]) > _JUMP * float(np.median(past))
    return has_jumped or is_new


def _advice(view: View, onset: int | None) -> str:
    peak = view.peak_lr
    if not np.isfinite(peak):
        return "Lower the learning rate to a tenth at first, and add a warm-up or clipping."
    steps, rates = view.log.step, view.log.lr
    stable = rates[(steps < onset) & np.isfinite(rates)] if onset is not None else rates[:0]
    if len(stable) and stable.max() < 0.9 * peak:
        return (
            f"Lower the learning rate from {peak:.3g} to about "
            f"{stable.max() / 2:.2g}: the loss was stable up to "
            f"{stable.max():.2g}."
        )
    return f"Lower the learning rate from {peak:.3g} to about {peak / 10:.2g}, and add a warm-up or clipping."
