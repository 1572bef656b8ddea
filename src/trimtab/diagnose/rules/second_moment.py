"""The rule of Adam's second moment when it remembers gradients that are long gone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from trimtab.diagnose.clues import Clue
from trimtab.diagnose.statistics import middle
from trimtab.diagnose.view import Need, View
from trimtab.types import Evidence, FindingCause

# Of a steady gradient the ratio is 1, and below 3 as long as the norm falls by no more than healthy runs do;
# above this the step is a thirtieth of what Adam means it to be
_STALE = 30.0
_MIN_LOOKS, _SHARE = 4, 0.8
# A run that lost less than this share of its loss, and still falls, is not near a minimum
_FAR = 0.8
# Half of what a moment holds is of the last step
_NO_PAST = 0.5
# The norm of the gradients is at the end what it was, or more than so much of it
_STEADY = 0.3


@final
@dataclass(frozen=True, slots=True)
class SecondMoment:
    """What it detects: a second moment of Adam far above the square of the gradients, or without a past.

    Why it matters: one huge gradient stays in it for 1 / (1 - beta2) steps, and meanwhile the steps of the
    weights concerned are too small by the root of that ratio. With a beta2 of a half or less the moment is
    that of the step itself: Adam goes by the signs of gradients, by the whole rate however small they are.

    Evidence used: the root of the corrected second moment over the size of the gradient, weight by weight,
    in the second half of the looks. Told only if the run learns too slowly or nothing, is far from done and
    still falling, or if the norm of the gradients did not fall: near a minimum gradients fall faster than
    the moment forgets, and nothing is wrong.

    What to try: a beta2 of 0.95 to 0.999; clip before the step, so that no gradient gets in that large;
    skip bad steps; clear the optimizer's state after a spike.

    Known false alarms: none known, since it is told only as the cause of something else.

    References: Kingma and Ba 2015, arXiv:1412.6980; Molybog et al., "A theory on Adam instability in
    large-scale machine learning", 2023, arXiv:2304.09871.
    """

    causes = (FindingCause.SECOND_MOMENT,)
    needs = Need.PARAMETERS

    def look(self, view: View) -> tuple[Clue, ...]:
        """See `Rule.look`."""
        second = middle(view.column("optimizer", "second_beta"))
        if second <= _NO_PAST:
            return (_without_past(view, second),)
        ratio = view.signal("moment_ratio")
        weights = view.weights
        if ratio is None or weights is None or len(ratio.steps) < _MIN_LOOKS:
            return ()
        late = ratio.values[len(ratio.steps) // 2 :][:, weights]
        late = late[:, np.isfinite(late).all(axis=0)]
        if not late.size:
            return ()
        looks = np.median(late, axis=1)
        if float((looks > _STALE).mean()) < _SHARE:
            return ()
        typical = float(np.median(looks))
        summary = (
            f"Adam's second moment is that of gradients {typical:.0f} times as large as those of the second "
            "half of the run: its steps are too small by that."
        )
        advice = (
            "Clip before the step, so that no such gradient gets into the moments, or set beta2 to "
            "0.95-0.999. Clear the optimizer's state after a spike."
        )
        evidence = (Evidence("root of the second moment over the gradient", typical, limit=_STALE),)
        steps = (int(ratio.steps[len(ratio.steps) // 2]), view.span[1])
        told = _is_held_back(view)
        cause = FindingCause.SECOND_MOMENT
        return (Clue(cause, 0.4, 0.8, summary, advice, evidence, steps, stands_alone=told),)


def _without_past(view: View, second: float) -> Clue:
    summary = f"beta2 is {second:g}: Adam divides each gradient by its own size, and goes by signs alone."
    advice = "Set beta2 to 0.95-0.999; betas are (momentum, second moment), (0.9, 0.999) as a rule."
    evidence = (Evidence("beta2", second, limit=_NO_PAST),)
    return Clue(FindingCause.SECOND_MOMENT, 0.4, 0.8, summary, advice, evidence, view.span)


def _is_held_back(view: View) -> bool:
    course, norm = view.loss, view.grad_norm
    if len(norm) and norm.end > _STEADY * norm.early:
        return True  # no norm that was seen explains such a moment, but that of a step or two
    if not course.is_positive or not 0 < course.progress < _FAR or view.decayed_from is not None:
        return False
    return course.late.high < 0
