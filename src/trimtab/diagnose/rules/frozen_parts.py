"""The rule of parts that are frozen in a run that learns too little."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from trimtab.diagnose.clues import Clue
from trimtab.diagnose.view import Need, View
from trimtab.types import Evidence, FindingCause

_MIN_LOOKS = 3
# Random layers that are frozen on purpose do no harm in a run that learns; one that kept so much does not
_SLOW_STEPS, _SLOW_GAIN = 100, 0.35


@final
@dataclass(frozen=True, slots=True)
class FrozenParts:
    """What it detects: weights with `requires_grad=False` in a run that is idle.

    Why it matters: what is frozen by oversight stays as it was, at its random start in the worst case.

    Evidence used: `requires_grad` of each weight in all looks, and whether the frozen ones are spread as
    torch's own initialization spreads them. A frozen part is no trouble by itself: it is told if the run learns
    nothing, behind every cause that is surer; or if it is slow and the part was never trained.

    What to try: `requires_grad_(True)` for what is to be trained, and then build the optimizer anew.

    Known false alarms: none known, since it is told only as the cause of something else.

    References: Jiang et al., TrainCheck, OSDI 2025 (a frozen part against the optimizer).
    """

    causes = (FindingCause.FROZEN,)
    needs = Need.PARAMETERS

    def look(self, view: View) -> tuple[Clue, ...]:
        """See `Rule.look`."""
        wants, weights = view.signal("requires_gradient"), view.weights
        if wants is None or weights is None or len(wants.steps) < _MIN_LOOKS:
            return ()
        frozen = np.all(wants.values == 0, axis=0) & weights
        if not frozen.any():
            return ()
        names = [name for name, is_frozen in zip(wants.axis, frozen, strict=True) if is_frozen]
        share = float(frozen.sum() / weights.sum())
        summary = f"{len(names)} of {int(weights.sum())} weights are frozen, first {names[0]}."
        advice = (
            f"If {names[0]} is to be trained, call requires_grad_(True) and build the optimizer after that."
        )
        evidence = (Evidence("share of the weights that is frozen", share),)
        confidence, told = 0.3 + 0.4 * share, False
        fresh = view.signal("as_initialized")
        if fresh is not None and np.all(fresh.values[-1, frozen] == 1):
            confidence, told = 0.85, _is_slow(view)
            summary += " They are as torch initializes them: they were never trained."
        cause = FindingCause.FROZEN
        return (
            Clue(cause, share, confidence, summary, advice, evidence, view.span, names[0], stands_alone=told),
        )


def _is_slow(view: View) -> bool:
    course = view.loss
    return len(course) >= _SLOW_STEPS and course.is_positive and course.progress < _SLOW_GAIN
