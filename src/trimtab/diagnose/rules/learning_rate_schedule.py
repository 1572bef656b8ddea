"""The rule of learning rates that vanish while there is still something to learn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from trimtab.diagnose.clues import Clue
from trimtab.diagnose.view import Need, View
from trimtab.types import Evidence, FindingCause

# So much of the run passed after the rate fell below 3 % of its peak
_MIN_SHARE = 0.35
# In the stretch before, as long as a tenth of the run, the loss still fell by so much
_MIN_FALL = 0.08
_MIN_STEPS = 40
_ZERO_SHARE = 0.2
_WORTH = 0.3
# A rate of exactly 0 for most of the run needs no other sign; nor does one that was worth something for so
# little of it, when the loss kept two thirds
_MOST, _BRIEF, _KEPT = 0.5, 0.15, 0.35
# The tail of a schedule is shorter, and in a run that has learned nearly all it costs nothing
_LONG_TAIL = 2 / 3


@final
@dataclass(frozen=True, slots=True)
class LearningRateSchedule:
    """What it detects: a learning rate of zero, or one that decayed to nothing while the loss still fell.

    Why it matters: the rest of the run is computed for nothing.

    Evidence used: the step from which the rate stayed below 3 % of its peak, how much of the run came after
    it, and the fall of the loss just before. A loss that had converged by then is no finding.

    What to try: match the length of the schedule to that of the run; steps are not epochs.

    Known false alarms: a fine-tuning phase at a tiny rate on purpose.

    References: Loshchilov and Hutter, "SGDR", 2017, arXiv:1608.03983.
    """

    causes = (FindingCause.LR_ZERO, FindingCause.LR_DECAYED_TOO_EARLY)
    needs = Need.LR

    def look(self, view: View) -> tuple[Clue, ...]:
        """See `Rule.look`."""
        known = view.log.lr[np.isfinite(view.log.lr)]
        if len(known) < _MIN_STEPS:
            return ()
        if known.max() == 0.0:
            return (_zero(view, 0, len(known)),)
        start = view.decayed_from
        if start is None or len(view.loss) < _MIN_STEPS:
            return ()
        share = 1 - start / len(view.lr)
        fall = _fall_before(view, start)
        num_zeros = int((view.lr != 0)[::-1].argmax())  # steps at rate 0 that end the run
        zeros = num_zeros / len(view.lr)
        kept = view.loss.is_positive and view.loss.progress < _KEPT
        if zeros >= _MOST or (zeros >= _ZERO_SHARE and (fall >= _MIN_FALL or kept)):
            return (_zero(view, len(view.lr) - num_zeros, len(view.lr)),)
        is_brief = float((view.lr > _WORTH * view.peak_lr).mean()) < _BRIEF and kept
        if share < _MIN_SHARE or not (fall >= _MIN_FALL or is_brief):
            return ()
        step = int(view.loss.steps[start])
        summary = (
            f"From step {step} on the learning rate is below 3 % of its "
            f"peak ({view.peak_lr:.3g}), {share:.0%} of "
            f"the run, though the loss was still falling by {fall:.0%} in the stretch before."
        )
        advice = (
            "Let the schedule end with the run: at about step "
            f"{view.span[1]} instead of {step}. Look whether it "
            "counts epochs or steps."
        )
        evidence = (
            Evidence("share of the run at a vanished rate", share, limit=_MIN_SHARE),
            Evidence("fall of the loss just before", fall, limit=_MIN_FALL),
        )
        told, cause = share > _LONG_TAIL or not view.has_learned, FindingCause.LR_DECAYED_TOO_EARLY
        steps = (step, view.span[1])
        return (Clue(cause, 0.4, 0.85, summary, advice, evidence, steps, stands_alone=told),)


def _fall_before(view: View, start: int) -> float:
    """Share by which the loss fell in the tenth of the run before an index, or since the beginning."""
    # as long as the rate was worth something: at its very end a schedule moves nothing any more
    high = np.flatnonzero(view.lr[: max(start, 1)] > _WORTH * view.peak_lr)
    return max(_fall_until(view, end) for end in {max(start, 1), int(high[-1]) + 1 if len(high) else 1})


def _fall_until(view: View, end: int) -> float:
    width = max(5, len(view.lr) // 10)
    before = view.loss.values[max(0, end - width) : end]
    if len(before) < 4:
        return 1.0 if view.loss.progress < 0.3 else 0.0
    third = max(1, len(before) // 3)
    first, last = float(np.median(before[:third])), float(np.median(before[-third:]))
    gained = abs(view.loss.start - view.loss.best)
    # of a small loss a small change is much of itself and no matter
    return min((first - last) / max(abs(first), 1e-300), 4 * (first - last) / max(gained, 1e-300))


def _zero(view: View, start: int, total: int) -> Clue:
    step = int(view.log.step[min(start, view.log.num_steps - 1)])
    share = 1 - start / max(total, 1)
    summary = f"The learning rate is 0 from step {step} on, {share:.0%} of the run: nothing is learned there."
    advice = "Look at the scheduler: how often it is stepped, and with what length it was made."
    evidence = (Evidence("share of the run at rate 0", share, limit=_ZERO_SHARE),)
    return Clue(FindingCause.LR_ZERO, min(1.0, share), 0.95, summary, advice, evidence, (step, view.span[1]))
