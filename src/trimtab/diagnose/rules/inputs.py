"""The rule of inputs: their scale, and whether they say anything."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import numpy as np

from trimtab.diagnose.clues import Clue
from trimtab.diagnose.rules.stuck import is_slow
from trimtab.diagnose.statistics import FloatArray, middle
from trimtab.diagnose.view import Need, View
from trimtab.types import Evidence, FindingCause

# Standardized inputs have size 1, pixels of 0..255 some 100; below 0.05 a first layer initialized for size 1
# sees next to nothing
_LARGE, _SMALL, _DISPARITY = 20.0, 0.05, 50.0
_MIN_LOOKS = 3
# Targets so many times as large as the first outputs
_APART = 20.0
# and less than this share of them explained at the end, or than that while the loss still falls so much
_HALF, _NEARLY = 0.5, 0.9
# Columns that hold one number, or repeat another column
_MOST = 0.6
# Rows that are evaluated have so many times the size of those of training, or the inverse; and the loss
_OTHER_SIZE, _MUCH_WORSE = 3.0, 2.0
# Training rows can be told from evaluated ones so well, and so little is explained
_TOLD_APART, _LITTLE = 0.4, 0.4
# or the validation loss is so many times that of training, and kept so much of its start
_FAR, _STAYED = 4.0, 0.5
# One huge feature is told by itself where so much of the loss of guessing is left
_MIN_STEPS, _LEFT = 100, 0.25


@final
@dataclass(frozen=True, slots=True)
class Inputs:
    """What it detects: inputs that are all the same, far from size 1, with one huge feature or empty columns.

    Why it matters: a model cannot learn from inputs that say nothing; far from size 1 the first layer's
    gradients, and with them the largest stable rate, are off by orders of magnitude.

    Evidence used: the inputs of the model in all looks. Their scale is told only if the run has trouble that
    it explains, or if one feature is huge and a classifier learned little: pixels from 0 to 255 are no
    finding by themselves. Also tables most columns of which hold one number or repeat another column
    while much is left to learn, targets that the outputs do not come near to, and rows that have three times
    another size in evaluation than in training, with twice the loss.

    What to try: standardize each feature: subtract its mean, divide by its deviation.

    Known false alarms: models that take their first argument for something else than data.

    References: LeCun et al., "Efficient BackProp", 1998, section 4.3.
    """

    causes = (FindingCause.CONSTANT_FEATURES, FindingCause.INPUT_SCALE, FindingCause.UNDERFITTING)
    needs = Need.INPUTS

    def look(self, view: View) -> tuple[Clue, ...]:
        """See `Rule.look`."""
        return (*self._of_training(view), *(_other_when_evaluated(view) or _of_another_kind(view)))

    def _of_training(self, view: View) -> tuple[Clue, ...]:
        same, rms = view.column("input", "same_rows"), view.column("input", "rms")
        ratio = view.column("input", "scale_ratio")
        if len(same) < _MIN_LOOKS:
            return ()
        if np.all(same == 1):
            summary = "All samples of a batch are equal: the model sees nothing that could tell them apart."
            advice = (
                "Look at how batches are made: broadcasting, indexing, augmentation, or a loader of zeros."
            )
            evidence = (Evidence("looks with equal samples", float(len(same))),)
            return (Clue(FindingCause.CONSTANT_FEATURES, 0.9, 0.95, summary, advice, evidence, view.span),)
        return _poor_columns(view) + _sizes(view, rms, ratio)


def _sizes(view: View, rms: FloatArray, ratio: FloatArray) -> tuple[Clue, ...]:
    size, disparity = middle(rms), middle(ratio)
    if not (size < _SMALL or size > _LARGE or disparity > _DISPARITY):  # token ids have no size
        return _large_targets(view)
    summary = (
        f"The inputs have size {size:.3g}, and the largest feature "
        f"varies {disparity:.3g} times as much as most."
    )
    advice = f"Standardize each feature; to begin with, multiply the inputs by {1 / max(size, 1e-300):.2g}."
    sizes = (
        Evidence("size of the inputs (root mean square)", size, limit=_LARGE if size > 1 else _SMALL),
        Evidence("largest deviation of a feature over the median one", disparity, limit=_DISPARITY),
    )
    cause, told = FindingCause.INPUT_SCALE, disparity > _DISPARITY and _is_far_from_done(view)
    return (Clue(cause, 0.4, 0.8, summary, advice, sizes, view.span, stands_alone=told),)


def _poor_columns(view: View) -> tuple[Clue, ...]:
    """Columns of a table that say nothing, or nothing new, where something is left to learn."""
    filled, copied = (middle(view.column("input", name)) for name in ("filled_share", "copied_share"))
    if not max(filled, copied) > _MOST or len(view.loss) < _MIN_STEPS:
        return ()
    if not view.has_much_left:
        return ()
    if filled > _MOST:
        summary = (
            f"{filled:.0%} of the columns of the inputs hold one number other than 0, the same in all rows."
        )
        advice = "Look at where they were filled: a join that found nothing, a default for what is missing."
        evidence = Evidence("share of the columns with one number in all rows", filled, limit=_MOST)
    else:
        summary = f"{copied:.0%} of the columns of the inputs repeat another column."
        advice = (
            "Look at how the columns are made: a join, a reshape or an average that wrote one over others."
        )
        evidence = Evidence("share of the varying columns that repeat another", copied, limit=_MOST)
    return (Clue(FindingCause.CONSTANT_FEATURES, 0.5, 0.8, summary, advice, (evidence,), view.span),)


def _other_when_evaluated(view: View) -> tuple[Clue, ...]:
    """Rows of another size in evaluation than in training, and a validation loss to go with it."""
    sizes = [view.column("validation", name)[-1:] for name in ("trained_rms", "evaluated_rms")]
    if view.val is None or not all(len(size) for size in sizes):
        return ()
    trained, evaluated = (float(size[0]) for size in sizes)
    ratio = evaluated / trained if trained > 0 else math.nan
    if not abs(math.log(max(ratio, 1e-30))) > math.log(_OTHER_SIZE) or len(view.loss) < _MIN_STEPS:
        return ()
    last = float(np.median(view.val.values[-_MIN_LOOKS:]))
    if not (last > _MUCH_WORSE * view.loss.end and view.loss.is_positive):
        return ()
    summary = (
        f"What the model is evaluated on has {ratio:.3g} times the size of what it is trained on, and the "
        f"validation loss ({last:.4g}) has little to do with that of training ({view.loss.end:.4g})."
    )
    advice = "Prepare both alike: the same scaling, by the mean and the deviation of the training data."
    evidence = (
        Evidence("size of the evaluated rows over that of training rows", ratio, limit=_OTHER_SIZE),
        Evidence("validation loss at the end", last),
    )
    return (Clue(FindingCause.INPUT_SCALE, 0.6, 0.9, summary, advice, evidence, view.span),)


def _of_another_kind(view: View) -> tuple[Clue, ...]:
    """Training rows that can be told from evaluated ones, in a run that learns little from them."""
    shares = view.column("validation", "told_apart")
    shares = shares[np.isfinite(shares)]
    if not len(shares) or not shares[-1] > _TOLD_APART or len(view.loss) < _MIN_STEPS:
        return ()
    explained = view.explained.value
    is_poor = explained < _LITTLE if math.isfinite(explained) else is_slow(view.loss)
    if not (is_poor or _is_far_worse(view)):
        return ()
    share = float(shares[-1])
    summary = (
        f"The rows that the model is trained on are of another kind than those that it is evaluated on (a "
        f"plain regression explains {share:.0%} of which is which), and what it learns does not carry far."
    )
    advice = (
        "Prepare both alike. If the difference is an augmentation, train without it: it may take out what "
        "the answer hangs on, as the order of a sequence or the direction of a picture."
    )
    evidence = (Evidence("share of the kind that is told from the rows", share, limit=_TOLD_APART),)
    return (Clue(FindingCause.UNDERFITTING, 0.5, 0.7, summary, advice, evidence, view.span),)


def _is_far_worse(view: View) -> bool:
    """Whether the validation loss was many times that of training, and stayed there."""
    if view.val is None or not view.loss.is_positive:
        return False
    val = view.val.values
    return float(val[-_MIN_LOOKS:].min()) > max(_FAR * view.loss.end, _STAYED * float(val[0]))


def _is_far_from_done(view: View) -> bool:
    """Whether a classifier kept a good part of the loss of guessing."""
    return len(view.loss) >= _MIN_STEPS and view.loss.end > _LEFT * view.chance


def _large_targets(view: View) -> tuple[Clue, ...]:
    """Targets that are far larger than the outputs of a fresh model, which has a long way to go then."""
    out, target = view.column("output", "rms"), _size_of_targets(view)
    if (
        len(out) < _MIN_LOOKS or view.targets_move or not target > _LARGE
    ):  # of standardized targets the size is 1
        return ()
    ratio = target / max(float(out[0]), 1e-300)
    if not ratio > _APART:
        return ()
    summary = f"The targets have size {target:.3g}, {ratio:.0f} times that of the model's first outputs."
    advice = "Standardize the targets: subtract their mean and divide by their deviation."
    evidence = (Evidence("size of the targets over that of the first outputs", ratio, limit=_APART),)
    is_far = view.explained.value < (_NEARLY if view.loss.still_falls else _HALF)
    cause, told = FindingCause.INPUT_SCALE, is_far and len(view.loss) >= _MIN_STEPS
    return (Clue(cause, 0.5, 0.8, summary, advice, evidence, view.span, stands_alone=told),)


def _size_of_targets(view: View) -> float:
    """Root mean square of the targets of a squared error, from the gradients or from a loss far too large."""
    if not view.is_square or not len(view.loss):
        return math.nan
    known = middle(view.column("target", "rms"))
    return known if math.isfinite(known) else math.sqrt(view.loss.end)
