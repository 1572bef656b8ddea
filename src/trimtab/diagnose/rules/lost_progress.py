"""The rule of runs that lose at each validation what they learned since the last one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import numpy as np

from trimtab.diagnose.clues import Clue
from trimtab.diagnose.statistics import FloatArray
from trimtab.diagnose.view import Need, View
from trimtab.types import Evidence, FindingCause

# So many validations, at a distance in which a level can be told before and after
_MIN_EVENTS, _MIN_GAP, _WINDOW, _PART = 8, 12, 4, 6
# The loss is a tenth higher behind them, beyond so many standard errors, and behind four of five
_MIN_JUMP, _ERRORS, _MOST = 0.1, 3.5, 0.8
# The later half of the validations against the earlier one: what learns in spite of the jumps is let be
_BETTER = 0.95
# A schedule that starts anew there throws the loss up by itself
_RESTART = 1.2


@final
@dataclass(frozen=True, slots=True)
class LostProgress:
    """What it detects: a training loss that jumps up behind each validation and falls until the next.

    Why it matters: what is learned in between is taken back again, so that the run gets nowhere.

    Evidence used: the logarithm of the loss in a few steps before and after each of at least eight
    validations: higher behind them by a tenth in the mean, beyond 3.5 standard errors, and in four cases of
    five; and more lost there than the run gains from one to the next. Not where the learning rate rises, or
    validation gets better.

    What to try: look at what is done around a validation: a checkpoint that is loaded, a model that is
    swapped for its average, statistics that are reset.

    Known false alarms: data that change with each validation, or an order of rows that is the same in each
    epoch, in a run whose validation loss stands still.

    References: none; a paired test of means.
    """

    causes = (FindingCause.STEP_CHANGES_NOTHING,)
    needs = Need.LOSS | Need.LR

    def look(self, view: View) -> tuple[Clue, ...]:
        """See `Rule.look`."""
        if view.val is None or not view.loss.is_positive:
            return ()
        jumps, levels = _jumps(view)
        if len(jumps) < _MIN_EVENTS:
            return ()
        jump, error = float(jumps.mean()), float(jumps.std(ddof=1)) / math.sqrt(len(jumps))
        gained = float(levels[0] - levels[-1]) / (len(levels) - 1)
        is_clear = jump > max(_MIN_JUMP, _ERRORS * error) and float((jumps > 0).mean()) >= _MOST
        if not is_clear or gained > jump or _improves(view):
            return ()
        summary = (
            f"The training loss jumps up by {math.expm1(jump):.0%} behind each validation, and falls until "
            "the next: what was learned in between is taken back."
        )
        advice = (
            "Look at what is done around a validation: a checkpoint that is loaded, a model that is swapped "
            "for its average, statistics that are reset."
        )
        evidence = (
            Evidence("jump of the loss behind a validation, on the log scale", jump, limit=_MIN_JUMP),
            Evidence("validations", len(jumps)),
        )
        return (Clue(FindingCause.STEP_CHANGES_NOTHING, 0.6, 0.75, summary, advice, evidence, view.span),)


def _improves(view: View) -> bool:
    """Whether the later half of the validations is better than the earlier one."""
    assert view.val is not None
    values = view.val.values
    half = len(values) // 2
    return float(np.median(values[half:])) < _BETTER * float(np.median(values[:half]))


def _jumps(view: View) -> tuple[FloatArray, FloatArray]:
    """How much higher the loss is behind each validation than before it, and its level before each."""
    assert view.val is not None
    losses, steps, lr = view.loss.judged, view.loss.steps, view.lr
    ends = np.searchsorted(steps, view.val.steps, side="right")
    gaps = np.diff(ends)
    if not len(gaps) or gaps.min() < _MIN_GAP:
        return np.zeros(0), np.zeros(0)
    window = max(_WINDOW, int(gaps.min()) // _PART)
    ends = ends[(ends >= window) & (ends + window <= len(losses))]
    before = np.array([losses[end - window : end].mean() for end in ends])
    after = np.array([losses[end : end + window].mean() for end in ends])
    risen = np.array([lr[end] > _RESTART * lr[end - 1] for end in ends], dtype=bool)
    return (after - before)[~risen], before
