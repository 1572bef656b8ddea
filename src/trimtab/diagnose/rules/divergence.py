"""The rule of losses that end far above their best."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import numpy as np

from trimtab.diagnose.clues import Clue
from trimtab.diagnose.course import MIN_STEPS, Course
from trimtab.diagnose.rises import Rise, final_rise
from trimtab.diagnose.statistics import trend
from trimtab.diagnose.view import Need, View
from trimtab.types import Evidence, FindingCause

# An explosion ends at three times its best, and above where it began
_EXPLODED, _ABOVE_START = math.log(3.0), 1.5
# A loss that falls without a bound: by so much more in its last quarter than in its first, and so far down
_ACCELERATION, _FAR_DOWN = 10.0, 100.0
# with weights that grew so many times, this much is enough, and a fall that goes on
_GROWN, _FAR_ENOUGH, _STILL = 5.0, 20.0, 0.3
# After a rise the rest of what is not explained, or the validation loss, is at most so much of what it was
_AS_BEFORE, _AS_GOOD, _NUM_SINCE = 1.25, 1.1, 3
# or the validation loss went on to this share of it
_BETTER = 0.9
# The cross-entropy of a fresh model is that of guessing; with the wrong sign it has no floor
_NEAR, _DEEPER = 0.15, 2.0
# Of a validation loss
_TIMES_UP = 3.0
# A loss around zero, as a policy gradient's, may come back to where it began: it is lost when it goes beyond
_BEYOND, _NOT_NOTHING = 1.5, 0.25
# A rise of which so much came from one block to the next, and four blocks and more that fall after it
_AT_ONCE, _AFTER_JUMP, _SAME_RATE = 0.7, 4, 1.05


@final
@dataclass(frozen=True, slots=True)
class Divergence:
    """What it detects: a loss that ends clearly above the best level it had reached, or falls without bound.

    Why it matters: the run loses what it had gained; the last checkpoint is not the best one.

    Evidence used: medians of blocks of the loss on a log scale, a Mann-Whitney test between the best block
    and the last ones, standard errors from the scatter between blocks. With a learning rate, only blocks
    with a comparable rate are compared.

    What to try: go back to the best checkpoint; lower the learning rate, or let it decay; clip the
    gradients; a lengthening rise may also come from weight growth or from data that changed.

    Known false alarms: losses whose target moves, as of a GAN's generator or of value functions whose
    returns grow. Warm restarts and cyclic rates are allowed for, and so is a loss that is another from some
    step on, if it falls again, or if what is explained of the targets, or the validation loss, stays as it
    was; and rows that become harder little by little, if the validation loss falls meanwhile.

    References: Mann and Whitney 1947; Page, "Continuous inspection schemes", Biometrika 41, 1954.
    """

    causes = (FindingCause.LOSS_EXPLOSION, FindingCause.SLOW_DIVERGENCE)
    needs = Need.LOSS

    def look(self, view: View) -> tuple[Clue, ...]:
        """See `Rule.look`."""
        course = view.loss
        if len(course) < MIN_STEPS:
            return _short(course)
        if _falls_without_bound(course, view.weight_growth):
            return (_bottomless(course),)
        if _is_flipped(view) or _leaves_validation(view):
            return (_bottomless(course),)
        rise = final_rise(course, view.lr_of_blocks)
        if rise is not None and (view.targets_move or view.is_critic) and rise.size < _EXPLODED:
            return ()  # a target that moves takes its loss along, and so does a generator that learns
        if rise is None or (not course.is_positive and not _is_beyond(rise)) or _is_another_loss(view, rise):
            return ()
        if _holds_elsewhere(view, rise):
            return ()
        return (_clue(course, rise),)


def _is_beyond(rise: Rise) -> bool:
    return rise.lost >= _BEYOND and abs(rise.end) >= _NOT_NOTHING * abs(rise.best)


def _is_another_loss(view: View, rise: Rise) -> bool:
    """Whether the loss jumped once, at a rate that did not, and falls since: a harder task, another loss."""
    course, medians = view.loss, view.loss.blocks.medians
    if rise.end > course.start or len(medians) - rise.best_block < _AFTER_JUMP:
        return False
    jumps = np.diff(medians[rise.best_block :])
    top = rise.best_block + int(np.argmax(jumps)) + 1
    after = medians[top:]
    if jumps.max() < _AT_ONCE * rise.size or len(after) < _AFTER_JUMP or not trend(after).high < 0:
        return False
    lr = view.lr_of_blocks
    return lr is None or float(lr[top]) <= _SAME_RATE * float(lr[max(top - 2, 0)])


def _holds_elsewhere(view: View, rise: Rise) -> bool:
    """Whether the validation loss is better than before, or what the model explains, or else it, as good."""
    course = view.loss
    by_validation = _validation_since(view, rise)
    if by_validation < _BETTER:
        return True  # what is trained on became harder
    width = (rise.step - int(course.steps[0])) // 2
    before = view.explained_at(rise.step - width, rise.step)
    after = view.explained_at(int(course.steps[-max(3, len(course) // 10)]), int(course.steps[-1]))
    if math.isfinite(before) and math.isfinite(after):
        return after > 0 and 1 - after < _AS_BEFORE * (1 - before)
    return by_validation < _AS_GOOD


def _validation_since(view: View, rise: Rise) -> float:
    """The validation loss at the end over its lowest before a rise; nan if it is not known."""
    val = view.val
    if val is None or not val.is_positive:
        return math.nan
    since, known = val.values[val.steps > rise.step], val.values[val.steps <= rise.step]
    if len(since) < _NUM_SINCE or not len(known):
        return math.nan
    return float(np.median(since[-_NUM_SINCE:])) / float(known.min())


def _clue(course: Course, rise: Rise) -> Clue:
    above_start = rise.end > _ABOVE_START * course.start if course.is_positive else rise.end > course.start
    is_explosion = rise.size > _EXPLODED and above_start
    lost = "all it had gained" if rise.lost >= 1 else f"{rise.lost:.0%} of what it had gained"
    ratio = f", {rise.end / rise.best:.3g} times as high" if course.is_positive and rise.best > 0 else ""
    what = "exploded" if is_explosion else "drifted up"
    summary = (
        f"From step {rise.step} on the loss {what}: from "
        f"{rise.best:.4g} at its best to {rise.end:.4g} at the "
        f"end{ratio}. That is {lost}."
    )
    advice = (
        f"Go back to a checkpoint from before step {rise.step}. Lower "
        "the learning rate, to a third at first, "
        "and clip the gradients."
    )
    evidence = (
        Evidence("best level of the loss", rise.best),
        Evidence("level at the end", rise.end),
        Evidence("rise in standard errors", rise.z, limit=5.0),
        Evidence("share of the gain that is lost", rise.lost),
    )
    cause = FindingCause.LOSS_EXPLOSION if is_explosion else FindingCause.SLOW_DIVERGENCE
    steps = (rise.step, int(course.steps[-1]))
    confidence = min(0.97, 0.75 + 0.02 * min(rise.z, 10.0))
    return Clue(cause, min(1.0, rise.lost), confidence, summary, advice, evidence, steps)


def _short(course: Course) -> tuple[Clue, ...]:
    """A run too short for blocks, as one that was stopped: only what is beyond doubt."""
    if len(course) < 4 or not course.is_positive:
        return ()
    best, end = float(course.values.min()), float(course.values[-1])
    rises = np.diff(course.values[int(course.values.argmin()) :])
    if end < 10 * max(course.start, best) or len(rises) < 3 or not np.all(rises > 0):
        return ()
    summary = f"The loss exploded within {len(course)} steps: from {best:.4g} to {end:.4g}."
    advice = "Lower the learning rate, to a tenth at first, and clip the gradients."
    evidence = (Evidence("lowest loss", best), Evidence("last loss", end))
    steps = (int(course.steps[int(course.values.argmin())]), int(course.steps[-1]))
    return (Clue(FindingCause.LOSS_EXPLOSION, 1.0, 0.9, summary, advice, evidence, steps),)


def _falls_without_bound(course: Course, growth: float) -> bool:
    if course.is_positive:
        return False
    first, middle, last = (course.values[0], course.values[len(course) // 4], course.end)
    quarter = course.values[3 * len(course) // 4]
    early, late = abs(float(first - middle)), float(quarter - last)
    typical = float(np.median(np.abs(course.values[: max(4, len(course) // 20)])))
    acceleration, far = (_STILL, _FAR_ENOUGH) if growth > _GROWN else (_ACCELERATION, _FAR_DOWN)
    return late > acceleration * early and abs(last) > far * max(typical, 1e-12) and last < 0


def _is_flipped(view: View) -> bool:
    """Whether a cross-entropy began at minus that of guessing, and fell from there."""
    course, chance = view.loss, view.chance
    return abs(course.start + chance) < _NEAR * chance and course.end < _DEEPER * course.start


def _leaves_validation(view: View) -> bool:
    """Whether the loss fell below 0 while the same on new data, which is positive, went up many times."""
    course, val = view.loss, view.val
    if val is None or not val.is_positive or course.end >= 0:
        return False
    return float(val.values[-2:].min()) > _TIMES_UP * float(val.values[:2].max())


def _bottomless(course: Course) -> Clue:
    summary = (
        f"The loss falls without bound, and ever faster: from {course.start:.4g} to {course.end:.4g}. "
        "A loss that is to be made small should have a floor."
    )
    advice = (
        "Look at the sign of the loss and of each of its terms, and at targets outside the range that "
        "the loss takes."
    )
    evidence = (Evidence("loss at the start", course.start), Evidence("loss at the end", course.end))
    return Clue(
        FindingCause.LOSS_EXPLOSION,
        1.0,
        0.9,
        summary,
        advice,
        evidence,
        (int(course.steps[0]), int(course.steps[-1])),
    )
