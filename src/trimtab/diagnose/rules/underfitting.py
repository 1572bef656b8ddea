"""The rule of models that have no room, or no leave, to fit."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import numpy as np

from trimtab.diagnose.clues import Clue
from trimtab.diagnose.rules.high_learning_rate import path_of_weights
from trimtab.diagnose.shares import MIN_LATE
from trimtab.diagnose.statistics import FloatArray
from trimtab.diagnose.view import Need, View
from trimtab.types import Evidence, FindingCause

_MIN_STEPS = 100
# It gained something, kept most of itself, and its second half is flat: within 2 %
_GAINED, _KEPT, _FLAT = 0.02, 0.65, 0.02
# Training and validation loss agree
_GAP = 0.05
# The weights went far, so that the rate is not too low
_LONG_PATH = 1.0
# A ridge regression explains so much at least, and the model less than this share of it, beyond so many
# standard errors; in sound runs it is 0.88 and more
_WORTH, _BEHIND, _ERRORS = 0.05, 0.8, 3.0
# or somewhat more of it, and leaves so many times the squares that the regression leaves
_SOMEWHAT, _LEAVES = 0.87, 1.5
# By itself it is no more than a hint that it leaves so many times the squares
_MORE = 1.2
# A rate that is a tenth of its peak
_ENDED = 0.1
# A loss that changes by less in its second half, on the log scale
_AT_REST = 0.1
# Of ids a regression may know all but so little by heart
_GIVEN = 0.97
# With so large a share of what that explains a model keeps up with it
_EVEN = 0.9
# Of losses whose targets are not known: what is foretold of the output's gradient, in squares, over what that
# was in the first looks; at most 0.4 in sound runs
_UNLEARNED = 0.5


@final
@dataclass(frozen=True, slots=True)
class Underfitting:
    """What it detects: a model that explains less than a plain regression does; one without room to fit.

    Why it matters: what a run could know is not learned. The model is too small or too strongly held back,
    its activations or its loss keep it from the answers, or the loop spoils what it learns.

    Evidence used: a ridge regression on half of the rows of all earlier looks (of the inputs and a random
    layer of them) predicts the targets of the other half of each look; the model explains less
    than 80 % of what that explains, or less than 87 % and leaves half as much again, beyond three standard
    errors. Where targets are not known: the gradient
    at the output, of whose first square such a regression still foretells half at the end; an
    equivalence test for the second half of the training loss (within 2 %), a validation loss that agrees
    with it within 5 %, two thirds of the initial loss left, weights that went further than their own norm.
    That cannot be told from noise in the labels, so it is told only as the cause of a run that learned
    nothing, or as a runner-up.

    What to try: learn one batch by heart: if that works, a larger model or less regularization; if not,
    look at activations, at scales, at the rate, and at what the loop does to weights and gradients.

    Known false alarms: a model that is meant to see less than it is given, as behind a narrow bottleneck.
    Autoencoders are left out, and models of tokens that hide from themselves what they are given, and runs
    that still warm up.

    References: Goodfellow, Bengio, Courville, "Deep learning", 2016, section 5.2; Dawid, "Prequential
    analysis", 1984.
    """

    causes = (FindingCause.UNDERFITTING, FindingCause.PLATEAU)
    needs = Need.LOSS

    def look(self, view: View) -> tuple[Clue, ...]:
        """See `Rule.look`."""
        if len(view.loss) < _MIN_STEPS or view.is_warming_up:
            return ()
        if is_outdone(view):
            return _outdone(view)
        return _left_undone(view) or _held_back(view) or _behind(view)


def is_outdone(view: View) -> bool:
    """Whether a plain regression explains clearly more than the model.

    Args:
        view: The run.
    """
    by_plain = view.explained_plainly.value
    if not by_plain > _WORTH or (by_plain > _GIVEN and _takes_tokens(view)):
        return False
    columns = (view.column("yardstick", name) for name in ("error", "plain_error", "baseline"))
    # of a loss that came to rest more looks are alike
    part = 2 if abs(view.loss.late.change) < _AT_REST else 3
    error, plain, baseline = (_last(column, part) for column in columns)
    # look by look, since what is hard for the one is hard for the other
    if _is_above_zero(error - _BEHIND * plain - (1 - _BEHIND) * baseline):
        return True
    is_behind = _is_above_zero(error - _SOMEWHAT * plain - (1 - _SOMEWHAT) * baseline)
    return is_behind and _is_above_zero(error - _LEAVES * plain)


def _last(column: FloatArray, part: int) -> FloatArray:
    return column[-max(MIN_LATE, len(column) // part) :]


def _is_at_its_end(view: View) -> bool:
    """Whether the rate came down to a tenth of its peak: what is not learned by then will not be."""
    lr = view.lr[np.isfinite(view.lr)]
    return len(lr) > 0 and float(lr[-1]) < _ENDED * view.peak_lr


def _takes_tokens(view: View) -> bool:
    """Whether the inputs are ids: those that a regression knows by heart are themselves the targets.

    Then the model hides them from itself, as to learn from gaps.
    """
    sizes = view.column("input", "rms")
    return len(sizes) > 0 and not bool(np.isfinite(sizes).any())


def _is_above_zero(numbers: FloatArray) -> bool:
    """Whether the mean is, beyond three standard errors."""
    seen = numbers[np.isfinite(numbers)]
    if len(seen) < MIN_LATE:
        return False
    return float(seen.mean()) > _ERRORS * float(np.std(seen, ddof=1)) / math.sqrt(len(seen))


def keeps_up(view: View) -> bool:
    """Whether the model explains what a plain regression does, where that explains anything.

    Args:
        view: The run.
    """
    plain, model = view.explained_plainly.value, view.explained_squares.value
    return plain > _WORTH and model > _EVEN * plain


def _outdone(view: View) -> tuple[Clue, ...]:
    plain, model = view.explained_plainly.value, view.explained_squares.value
    summary = (
        f"The model explains {max(model, 0):.0%} of what its targets vary at the end of the run; a ridge "
        f"regression on the same inputs explains {plain:.0%}."
    )
    advice = (
        "Try to learn one batch by heart. If that works, the model is held back: by its size, by dropout or "
        "weight decay, or by a rate that is too low. If not, look at activations that bound the output, at "
        "scales, and at what the loop does to weights and gradients."
    )
    evidence = (
        Evidence("share of the targets' variance that the model explains", model, limit=_BEHIND * plain),
        Evidence("share that a ridge regression explains", plain),
    )
    harm = min(0.9, 1 - max(model, 0) / plain)
    is_on_its_way = view.loss.still_falls and not (view.is_square and _is_at_its_end(view))
    clue = Clue(
        FindingCause.UNDERFITTING,
        harm,
        0.8,
        summary,
        advice,
        evidence,
        view.span,
        stands_alone=not is_on_its_way,
    )
    if is_on_its_way:
        return (clue,)
    hint = Clue(FindingCause.PLATEAU, 0.3, 0.5, summary, "", stands_alone=False, is_hint=True)
    return clue, hint


def _behind(view: View) -> tuple[Clue, ...]:
    """A hint that something keeps the model back: it leaves clearly more than a plain regression does."""
    if not view.explained_plainly.value > _WORTH or _takes_tokens(view):
        return ()
    error, plain = (_last(view.column("yardstick", name), 2) for name in ("error", "plain_error"))
    if not _is_above_zero(error - _MORE * plain):
        return ()
    summary = "A ridge regression on the same inputs leaves clearly less of what the targets vary."
    return (Clue(FindingCause.PLATEAU, 0.3, 0.5, summary, "", stands_alone=False, is_hint=True),)


def _left_undone(view: View) -> tuple[Clue, ...]:
    """Of a loss whose targets are not known: what it asks for is foretold by the inputs, and not learned."""
    share, asked = view.foretold, view.still_asked
    # where answers spread out gradients may grow, as with contrasts: that is no more to learn
    unlearned = (share.value - _ERRORS * share.error) * min(asked, 1.0) ** 2
    if math.isfinite(view.explained.value) or not unlearned > _UNLEARNED:
        return ()
    # a loss below 0 may be linear in the output, as a critic's: then its gradient never gets less
    if view.loss.still_falls or not view.loss.is_positive:
        return ()
    summary = (
        f"The gradient at the output is still {asked:.0%} of what it was at first, and a ridge regression on "
        f"the inputs foretells {share.value:.0%} of it: what is asked of the model is not learned."
    )
    advice = (
        "Try to learn one batch by heart. If that works, the model is held back: by a rate that is too low, "
        "by its size, by dropout or weight decay. If not, look for what is cut, bounded or undone on the way."
    )
    evidence = (
        Evidence("share of the output's gradient that the inputs foretell", share.value),
        Evidence("size of that gradient over that of the first looks", asked),
        Evidence("part of its first square that is foretold and left", unlearned, limit=_UNLEARNED),
    )
    return (Clue(FindingCause.UNDERFITTING, 0.6, 0.7, summary, advice, evidence, view.span),)


def _held_back(view: View) -> tuple[Clue, ...]:
    """Training and validation loss that stopped together, high up, while weights move."""
    course, val = view.loss, view.val
    if val is None or not course.is_positive or view.decayed_from is not None:
        return ()
    late = course.late
    is_flat = max(abs(late.low), abs(late.high)) < 2 * _FLAT and abs(late.change) < _FLAT
    last = float(np.median(val.values[-3:]))
    agree = abs(last - course.end) < _GAP * course.end
    is_held = _GAINED < course.progress < 1 - _KEPT
    if not (is_flat and agree and is_held) or path_of_weights(view) < _LONG_PATH:
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
    clue = Clue(FindingCause.UNDERFITTING, 0.4, 0.5, summary, advice, evidence, view.span, stands_alone=False)
    return (clue,)
