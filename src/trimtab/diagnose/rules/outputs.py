"""The rule of outputs that do not depend on the inputs, and of labels that have nothing to do with them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import numpy as np

from trimtab.diagnose.clues import Clue
from trimtab.diagnose.rules.chained_layers import is_chained
from trimtab.diagnose.rules.high_learning_rate import path_of_weights
from trimtab.diagnose.rules.underfitting import is_outdone
from trimtab.diagnose.statistics import middle, trend
from trimtab.diagnose.view import Need, View
from trimtab.types import Evidence, FindingCause

_MIN_LOOKS = 3
_COLLAPSED, _ALL = 1e-3, 0.999
# A loss that stays above this share of guessing, flat over the second half, while weights go so many norms
_NEAR_CHANCE, _FLAT, _LONG_PATH, _MIN_STEPS = 0.75, 0.05, 1.5, 100
_SOME_WAY = 0.1
# of what a constant answer leaves, so little is explained, and a validation loss this much lower
_LITTLE, _BETTER = 0.15, 0.85
# Outputs that depend so little on the input, and did so eight times as much at first
_BLIND, _FELL, _SOME_PATH = 0.05, 8.0, 0.5
# Logits of this size cannot tell classes apart
_SMALL = 0.02
_HIGH = 0.3
# The mean of n labels drawn at random scatters by the root of n less than they do; of sorted ones, more
_APART, _SAME, _MANY_LOOKS = 1.5, 0.1, 8
# and of numbers the error must be so much of their variance; of several numbers one may be sorted
_HALF, _SOMEWHAT_APART, _BY_CHANCE = 0.5, 0.4, 2.5
# Looks in which all samples had the same target, and another one in other looks
_ALWAYS, _CHANGED = 1.0, 1e-3
# Rare classes leave a loss of at least their share
_NOTHING = 1e-4
# What to do where labels and inputs seem to have nothing to do with each other
_LOOK_AT_LABELS = (
    "Look at a batch: are the labels those of these inputs? Were inputs and labels shuffled apart?"
)


@final
@dataclass(frozen=True, slots=True)
class Outputs:
    """What it detects: outputs that are the same for every input; a loss at chance over healthy layers.

    Why it matters: a model that answers without looking has learned only how often each answer occurs;
    labels that do not belong to their inputs can only be learned by heart.

    Evidence used: the share of the output's variance that comes from the batch, and of its most frequent
    class; for labels: weights that move, gradients that arrive, inputs that differ, and still no gain.

    What to try: look at a batch with your own eyes: are the labels those of these inputs? Then the causes
    named as runners-up.

    Known false alarms: it is told only as the cause of something else, but for a classifier of three classes
    and more that comes to rest above three quarters of ln K while its weights go far.

    References: Northcutt et al., "Pervasive label errors in test sets", 2021, arXiv:2103.14749.
    """

    causes = (FindingCause.CLASS_COLLAPSE, FindingCause.LABEL_TROUBLE)
    needs = Need.LAYERS | Need.PARAMETERS

    def look(self, view: View) -> tuple[Clue, ...]:
        """See `Rule.look`."""
        if _is_sorted(view):
            return (_sorted(view),)
        if _are_alike(view):
            return (_alike(view),)
        spread = view.column("output", "batch_spread")
        late = spread[len(spread) // 2 :]
        late = late[np.isfinite(late)]
        if len(late) < _MIN_LOOKS:
            return ()
        share = float(np.median(late))
        evidence = (Evidence("share of the output that depends on the input", share, limit=_COLLAPSED),)
        is_collapsed = share < _COLLAPSED
        says_nothing = middle(view.column("output", "rms")) < _SMALL
        if not is_collapsed and (says_nothing or is_outdone(view) or is_chained(view)):
            # outputs that can say nothing are no matter of the labels; nor is what a plain regression learns,
            # or what a linear map cannot
            return ()
        if not is_collapsed and _stopped_near_chance(view):
            return (_stopped(view, evidence),)
        if _knows_one_answer(view):
            return (_one_answer(view),)
        if _learned_frequencies_only(view, spread):
            return (_frequencies(view, spread),)
        if is_collapsed:
            return (_collapsed(view, share, evidence, is_told=_went_blind(view, spread)),)
        return (_nothing_learned(view, evidence),)


def _collapsed(view: View, share: float, evidence: tuple[Evidence, ...], *, is_told: bool) -> Clue:
    summary = f"The output hardly depends on the input: {share:.1e} of its variance comes from the batch."
    advice = "Look for dead layers, constant inputs, or a rate that threw the model out of its initial state."
    cause = FindingCause.CLASS_COLLAPSE
    return Clue(cause, 0.8, 0.6, summary, advice, evidence, view.span, stands_alone=is_told)


def _stopped(view: View, evidence: tuple[Evidence, ...]) -> Clue:
    part = 1 - view.explained.value
    part = part if math.isfinite(part) else view.loss.end / view.chance
    summary = (
        f"The loss stopped at {view.loss.end:.4g}, {part:.0%} of that of a constant answer, though "
        "weights went far: most labels say little about their inputs, or the model has no room."
    )
    return Clue(FindingCause.LABEL_TROUBLE, 0.6, 0.55, summary, _LOOK_AT_LABELS, evidence, view.span)


def _nothing_learned(view: View, evidence: tuple[Evidence, ...]) -> Clue:
    summary = (
        "Weights move, gradients arrive and the outputs depend on the inputs, and still nothing is learned."
    )
    cause = FindingCause.LABEL_TROUBLE
    return Clue(cause, 0.8, 0.55, summary, _LOOK_AT_LABELS, evidence, view.span, stands_alone=False)


def _is_sorted(view: View) -> bool:
    """Whether each batch holds one class or little else, and another one each time."""
    within, between = _scatter_of_labels(view)
    if not view.is_square:
        return between > _APART * within and between > _SAME
    # neighbours in time are alike too: there it must hurt, now and then at least
    errors = view.column("target", "error")[-_MANY_LOOKS:]
    error = float(np.mean(errors[np.isfinite(errors)])) if np.isfinite(errors).any() else math.nan
    is_poor = error > _HALF * (within**2 + between**2)
    rows = middle(view.column("output", "num_rows"))
    # the means of a few rows scatter by themselves
    by_chance = _BY_CHANCE / math.sqrt(rows) if rows > 0 else 0.0
    return between > max(_SOMEWHAT_APART, by_chance) * within and is_poor and not view.targets_move


def _scatter_of_labels(view: View) -> tuple[float, float]:
    """Deviation of the labels' numbers within a batch, and of their mean from batch to batch."""
    mean, rms = view.column("target", "mean"), view.column("target", "rms")
    seen = np.isfinite(mean) & np.isfinite(rms)
    if seen.sum() < _MANY_LOOKS:
        return math.nan, math.nan
    within = np.sqrt(np.maximum(rms[seen] ** 2 - mean[seen] ** 2, 0.0))
    return float(np.median(within)), float(np.std(mean[seen]))


def _sorted(view: View) -> Clue:
    within, between = _scatter_of_labels(view)
    summary = "Each batch holds samples with about the same target, and the next batch those with another: "
    summary += "the model learns the last batches and forgets the others."
    advice = "Shuffle: DataLoader(shuffle=True), or a random permutation before the data is cut into batches."
    evidence = (
        Evidence("deviation of the labels' numbers within a batch", within),
        Evidence("deviation of their mean from batch to batch", between, limit=_APART * within),
    )
    return Clue(FindingCause.LABEL_TROUBLE, 0.7, 0.9, summary, advice, evidence, view.span)


def _are_alike(view: View) -> bool:
    """Whether all samples of a batch share their targets, not their inputs, and others differ from them."""
    alike, mean = view.column("target", "alike"), view.column("target", "mean")
    seen, same = np.isfinite(alike), view.column("input", "same_rows")
    if seen.sum() < _MANY_LOOKS or not np.all(alike[seen] == _ALWAYS) or np.any(same == 1):
        return False
    return bool(np.std(mean[seen]) > _CHANGED * np.abs(mean[seen]).max())


def _alike(view: View) -> Clue:
    number = float(np.isfinite(view.column("target", "alike")).sum())
    summary = "In each batch all samples have the same target, though their inputs differ."
    advice = (
        "Look at how targets are put into batches: a variable of the loop that a closure holds, an index "
        "that stays, a broadcast of one row."
    )
    evidence = (Evidence("looks in which all targets are alike", number),)
    return Clue(FindingCause.LABEL_TROUBLE, 0.9, 0.95, summary, advice, evidence, view.span)


def _went_blind(view: View, spread: np.ndarray) -> bool:
    """Whether a classifier's outputs depended on the inputs at first and no more, high above its floor."""
    early, late = middle(spread[:_MIN_LOOKS]), spread[-2 * _MIN_LOOKS :]
    is_high = len(view.loss) >= _MIN_STEPS and view.loss.end > _HIGH * view.chance
    return is_high and early > _BLIND and len(spread) > 3 * _MIN_LOOKS and bool(np.all(late < _COLLAPSED))


def _learned_frequencies_only(view: View, spread: np.ndarray) -> bool:
    """Whether what was learned in the first quarter is how often each answer occurs, and nothing since."""
    course = view.loss
    # a classifier, or something whose targets are not known: of known ones it is known what was learned
    is_open = view.chance >= math.log(2.5) or not (view.chance > 0 or math.isfinite(view.explained.value))
    if len(course) < _MIN_STEPS or not is_open or view.decayed_from is not None or not course.is_positive:
        return False
    rest = trend(course.blocks.medians[len(course.blocks) // 4 :])
    is_flat = abs(rest.change) < _FLAT and rest.low > -1.5 * _FLAT
    last = float(np.median(spread[-_MIN_LOOKS:]))
    is_blind = last < _BLIND and last * _FELL < float(np.nanmax(spread[:_MIN_LOOKS]))
    return is_flat and is_blind and course.progress > 0 and path_of_weights(view) > _SOME_PATH


def _frequencies(view: View, spread: np.ndarray) -> Clue:
    course, last = view.loss, float(np.median(spread[-_MIN_LOOKS:]))
    summary = (
        f"The loss has stood at {course.end:.4g} for three quarters of the run, and the outputs hardly "
        "depend on the inputs any more: only how often each answer occurs was learned."
    )
    advice = (
        "Look at a batch: do these labels belong to these inputs? Labels that are shifted by one row, or "
        "shuffled apart from their inputs, look like this."
    )
    evidence = (
        Evidence("share of the output that depends on the input", last, limit=_BLIND),
        Evidence("loss at the end", course.end),
    )
    return Clue(FindingCause.LABEL_TROUBLE, 0.7, 0.8, summary, advice, evidence, view.span)


def _knows_one_answer(view: View) -> bool:
    """Whether a classifier gives one class for every sample, and is always right with it."""
    share = view.column("output", "top_class_share")
    late = share[len(share) // 2 :]
    return len(late) >= _MIN_LOOKS and bool(np.all(late == 1)) and 0 <= view.loss.end < _NOTHING * view.chance


def _one_answer(view: View) -> Clue:
    summary = "The model gives one class for all samples and is always right: no other label was seen."
    advice = "Look at how the labels are made and at how batches are drawn: is there more than one class?"
    evidence = (Evidence("loss at the end", view.loss.end, limit=_NOTHING * view.chance),)
    return Clue(FindingCause.CLASS_COLLAPSE, 0.8, 0.85, summary, advice, evidence, view.span)


def _stopped_near_chance(view: View) -> bool:
    """Whether a run of several classes came to rest close to guessing although its weights moved."""
    course, path = view.loss, path_of_weights(view)
    if len(course) < _MIN_STEPS or view.decayed_from is not None:
        return False
    is_flat = abs(course.late.change) < _FLAT and course.late.low > -2 * _FLAT
    is_high = _NEAR_CHANCE * view.chance < course.end < 1.1 * view.chance and view.chance > math.log(2.5)
    return is_flat and ((is_high and path > _LONG_PATH) or (_is_spoiled(view) and path > _SOME_WAY))


def _is_spoiled(view: View) -> bool:
    """Whether little is explained of the training targets, and clearly more of those of the validation.

    A task that is mostly noise leaves as much of both; labels or inputs that were spoiled do not.
    """
    is_little, val = view.explained.value + view.explained.error < _LITTLE, view.val
    return is_little and val is not None and float(np.median(val.values[-3:])) < _BETTER * view.loss.end
