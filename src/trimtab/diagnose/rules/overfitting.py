"""The rule of validation losses that rise while the training loss falls."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import numpy as np

from trimtab.diagnose.clues import Clue
from trimtab.diagnose.course import Course
from trimtab.diagnose.statistics import spread
from trimtab.diagnose.view import Need, View
from trimtab.types import Evidence, FindingCause

# The last three must all be clearly above the best: by so much of it, of what was gained, and of the noise
_NUM_LAST, _MIN_RATIO, _MIN_OF_GAIN, _MIN_Z = 3, 0.15, 0.15, 4.0
# The training loss must have fallen further meanwhile, by so much of itself
_TRAIN_FALLS = 0.05
# Of so many validation losses the scatter is known without their trend
_ENOUGH = 8
# Learned by heart from the beginning: of the start so much is left in training and in validation
_LEARNED, _KEPT, _LONG = 0.1, 0.4, 60
# or somewhat less, but that many times the training loss: fewer where that is known to be a plain loss, or
# all looks met the same rows
# and of a validation loss that never looked like the training loss, so many times that of a constant answer
_WORSE, _FAR_WORSE, _OTHER_KIND = 1.3, 4.0, 50.0
_KEPT_SOME, _HUNDRED, _MANY_TIMES, _FEW_LOOKS = 0.2, 100.0, 10.0, 4
# A training loss that fell to this share, and a validation loss that never fell by more than that
_HALVED, _STAYED = 0.6, 0.15
_AT_CHANCE, _SOME_CLASSES = 0.04, 3
# So many validation losses tell whether both losses are one quantity
_NUM_FIRST = 3
# Where the very same rows come in every step so much less has to be left
_KEPT_OF_SAME = 0.12
# A validation loss that falls by so much in its second half is on its way
_STILL = 0.12
# Below this share of its start the training loss is as good as zero
_GONE = 1e-3


@final
@dataclass(frozen=True, slots=True)
class Overfitting:
    """What it detects: a validation loss that ends clearly above its best while the other still falls.

    Why it matters: what is learned then does not carry over to new data; an earlier checkpoint is better.

    Evidence used: the last three validation losses against the best one: by 15 % of it, by 15 % of what
    was gained, and by four times the scatter between neighbors; and a training loss that fell meanwhile.

    What to try: keep the checkpoint of the best validation loss; stop there; more data or augmentation,
    weight decay, dropout, a smaller model.

    Known false alarms: a cross-entropy may rise while the accuracy still grows, since the model becomes too
    sure of its few mistakes. Losses of single samples are compared by their mean. A late second descent
    (grokking, double descent) is not foreseen.

    References: Prechelt, "Early stopping - but when?", 1998; Guo et al., "On calibration of modern neural
    networks", 2017, arXiv:1706.04599.
    """

    causes = (FindingCause.OVERFITTING,)
    needs = Need.VAL_LOSS

    def look(self, view: View) -> tuple[Clue, ...]:
        """See `Rule.look`."""
        val, train = view.val, view.loss
        if val is None or len(val) < _NUM_LAST + 2:
            return ()
        best = int(np.argmin(val.values[:-_NUM_LAST]))
        lowest, last = float(val.values[best]), val.values[-_NUM_LAST:]
        rise = float(last.min()) - lowest
        noise = _noise(val)
        # an early best may be a matter of luck: then the gain is what the first value shows
        gained = max(float(val.values[0]), _start(view) if _is_alike(train, val) else -np.inf) - lowest
        is_enough = rise > _MIN_RATIO * abs(lowest) and rise > _MIN_Z * noise and rise > _MIN_OF_GAIN * gained
        falls = _falls_after(train, int(val.steps[best]))
        if not is_enough or falls < _TRAIN_FALLS:
            return (_by_heart(train, val),) if _never_generalized(view, train, val) else ()
        rise_z = rise / max(noise, 1e-300)
        return (_rose(val, best, falls, rise_z, harm=min(1.0, rise / gained) if gained > 0 else 0.6),)


def _rose(val: Course, best: int, falls: float, rise_z: float, *, harm: float) -> Clue:
    """A validation loss that was best some time ago, while that of training still fell."""
    step, lowest, last = int(val.steps[best]), float(val.values[best]), val.values[-_NUM_LAST:]
    summary = (
        f"The validation loss was best at step {step} ({lowest:.4g}) and rose to "
        f"{float(np.median(last)):.4g}, while the training loss fell by another {falls:.0%}."
    )
    advice = (
        f"Use the checkpoint of step {step} and stop there next time: the validation loss is "
        f"{1 - lowest / float(np.median(last)):.0%} lower. Or add data, augmentation or weight decay."
    )
    evidence = (
        Evidence("best validation loss", lowest),
        Evidence("lowest of the last three", float(last.min())),
        Evidence("rise over the scatter of neighbors", rise_z, limit=_MIN_Z),
        Evidence("fall of the training loss since", falls),
    )
    confidence = 0.9 if len(val) >= 8 else 0.8
    steps = (step, int(val.steps[-1]))
    return Clue(FindingCause.OVERFITTING, harm, confidence, summary, advice, evidence, steps)


def _never_generalized(view: View, train: Course, val: Course) -> bool:
    """Whether the training loss lost nearly all, and the validation loss kept much of the same start.

    Or, where the targets are known, of what a constant answer would leave.
    """
    if not train.is_positive or not val.is_positive or len(train) < _LONG:
        return False
    last, end = float(val.values[-_NUM_LAST:].min()), max(train.end, train.mean_end)
    still_falls = last < (1 - _STILL) * float(np.median(val.values[len(val) // 2 :][:_NUM_LAST]))
    start = _start(view)
    is_learned, times = end < _LEARNED * start, _MANY_TIMES if _is_comparable(view) else _HUNDRED
    constant = view.baseline_of_loss
    if is_learned and last > _FAR_WORSE * constant and float(val.values[0]) < _OTHER_KIND * constant:
        return True  # whichever way it goes
    if end < _HALVED * train.start and _stays_at_chance(view, val):
        return True
    if not is_learned and not still_falls and _is_alike(train, val):
        # of a constant answer's loss more may have been gained before the first look at it
        began = max(float(val.values[0]), train.start, np.nan_to_num(constant))
        never_left = float(val.values.min()) > (1 - _STAYED) * began
        return never_left and end < _HALVED * train.start
    if still_falls or not is_learned:
        return False
    if not _is_alike(train, val):  # of another kind, or worse than a constant answer from first to last
        return last > _WORSE * view.baseline_of_loss and last > _KEPT * float(val.values[0])
    kept = _KEPT_OF_SAME if _are_the_same_rows(view) else _KEPT_SOME
    is_apart = last > kept * start and last > times * end
    return bool(last > _KEPT * start or is_apart)


def _start(view: View) -> float:
    """The loss of one who knows nothing: of a squared error outputs that are off by far know less still.

    A classifier that was trained before begins better than that.
    """
    start, constant = view.loss.start, view.baseline_of_loss
    return float(np.fmin(start, constant) if view.is_square else np.fmax(start, constant))


def _stays_at_chance(view: View, val: Course) -> bool:
    """Whether every validation loss is, within a few percent, the logarithm of the number of outputs."""
    classes, entropy = view.column("output", "num_classes"), view.column("loss", "is_entropy")
    if not len(classes) or not np.all(classes == classes[-1]):
        return False
    # a bare logarithm is no loss that is known, and near ln 2 is many a number
    if not (len(entropy) and entropy[-1] == 1) and classes[-1] < _SOME_CLASSES:
        return False
    apart = np.abs(val.values / math.log(max(float(classes[-1]), 2.0)) - 1)
    is_apart = view.loss.mean_end < _HALVED * float(val.values[-1])
    return len(val) >= _FEW_LOOKS and is_apart and bool(np.all(apart < _AT_CHANCE))


def _is_comparable(view: View) -> bool:
    """Whether the training loss is a plain one, or no look met a training row that the first one had not."""
    return math.isfinite(view.baseline) or _are_the_same_rows(view)


def _are_the_same_rows(view: View) -> bool:
    """Whether no look met a training row that the first one had not."""
    known = view.column("validation", "num_trained")
    return len(known) >= _FEW_LOOKS and bool(np.all(known == known[0])) and known[0] > 0


def _by_heart(train: Course, val: Course) -> Clue:
    last = float(np.median(val.values[-_NUM_LAST:]))
    summary = (
        f"The training loss fell from {train.start:.4g} to {train.end:.4g}, the validation loss is still "
        f"{last:.4g}: what is learned does not carry over."
    )
    advice = (
        "Look for a feature that holds the answer in training only, for a batch that comes again and again, "
        "and for validation data of another kind. Else add data, augmentation or regularization."
    )
    evidence = (
        Evidence("training loss left, share of the start", train.end / train.start, limit=_LEARNED),
        Evidence("validation loss left, share of the same start", last / train.start, limit=_KEPT),
    )
    steps = (int(train.steps[0]), int(train.steps[-1]))
    return Clue(FindingCause.OVERFITTING, 0.4, 0.8, summary, advice, evidence, steps)


def _noise(val: Course) -> float:
    """Scatter of neighbors; by second differences, where there are enough, a steady rise is no scatter."""
    first = spread(np.diff(val.values)) / math.sqrt(2)
    second = spread(np.diff(val.values, 2)) / math.sqrt(6) if len(val) >= _ENOUGH else math.inf
    return min(first, second)


def _is_alike(train: Course, val: Course) -> bool:
    """Whether both losses are the same quantity, as far as their first values tell."""
    if not (train.is_positive and val.is_positive and len(train)):
        return False
    low, high = 0.2 * min(train.early, train.start), 5.0 * max(train.early, train.start)
    # the very first may be off by far, as with running statistics that have not settled
    return bool(np.any((low < val.values[:_NUM_FIRST]) & (val.values[:_NUM_FIRST] < high)))


def _falls_after(train: Course, step: int) -> float:
    """Share of the training loss that went away since a step."""
    before = train.values[(train.steps <= step)][-max(5, len(train) // 20) :]
    if len(before) == 0 or len(train) == 0:
        return 0.0
    level = float(np.median(before))
    if train.is_positive and max(level, train.end) < _GONE * train.start:
        return 1.0  # there is nothing left that could fall
    return (level - train.end) / abs(level) if level != 0 else 0.0
