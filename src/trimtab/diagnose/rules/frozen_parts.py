"""The rule of parts that are frozen in a run that learns too little."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from trimtab.diagnose.clues import Clue
from trimtab.diagnose.view import Need, View
from trimtab.types import Evidence, FindingCause

_MIN_LOOKS = 3


@final
@dataclass(frozen=True, slots=True)
class FrozenParts:
    """What it detects: weights with `requires_grad=False` in a run that is idle.

    Why it matters: what is frozen by oversight stays as it was, at its random start in the worst case.

    Evidence used: `requires_grad` of each weight in all looks. A frozen part is no trouble by itself: it is
    told only if the run learns nothing, and behind every cause that is surer.

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
        clue = Clue(
            FindingCause.FROZEN,
            share,
            0.3 + 0.4 * share,
            summary,
            advice,
            evidence,
            view.span,
            names[0],
            stands_alone=False,
        )
        return (clue,)
