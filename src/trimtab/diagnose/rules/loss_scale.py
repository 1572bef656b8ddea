"""The rule of loss scales that collapse."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from trimtab.diagnose.clues import Clue
from trimtab.diagnose.view import Need, View
from trimtab.types import Evidence, FindingCause

# A scale that ends below 1 enlarges nothing, and one that halved ten times does not find its level
_MIN_SCALE, _MIN_FALL = 1.0, 2.0**10
_REFUSED = 0.3


@final
@dataclass(frozen=True, slots=True)
class LossScale:
    """What it detects: a loss scale of float16 training that falls and falls.

    Why it matters: gradients are not finite at any scale, so that it is not the scale that is wrong; below
    1 small gradients are lost.

    Evidence used: the logged loss scale (`loss_scale`, `scale`, ...), and the share of refused steps.

    What to try: trace a refused step to the operation that overflows; compute it in float32; bfloat16.

    Known false alarms: the first steps of a scale that begins high: the fall must go on.

    References: Micikevicius et al., "Mixed precision training", 2018, arXiv:1710.03740.
    """

    causes = (FindingCause.LOSS_SCALE_COLLAPSE,)
    needs = Need.LOSS_SCALE

    def look(self, view: View) -> tuple[Clue, ...]:
        """See `Rule.look`."""
        scale = view.loss_scale
        assert scale is not None
        highest, last = float(scale.values.max()), float(scale.values[-1])
        half = scale.values[len(scale) // 2 :]
        goes_on = len(half) >= 2 and half[-1] < half[0] and bool(np.all(np.diff(half) <= 0))
        refused = float((~view.log.applied).mean()) if view.log.num_steps else 0.0
        if not (
            goes_on and highest >= _MIN_FALL * max(last, 1e-300) and (last < _MIN_SCALE or refused > _REFUSED)
        ):
            return ()
        summary = f"The loss scale fell from {highest:.3g} to {last:.3g} and goes on falling."
        advice = (
            "No scale helps: the numbers are not finite by themselves. Trace "
            "a refused step, and compute the operation "
            "it names in float32, or use bfloat16."
        )
        evidence = (
            Evidence("highest loss scale", highest),
            Evidence("last loss scale", last, limit=_MIN_SCALE),
            Evidence("share of refused steps", refused),
        )
        return (
            Clue(
                FindingCause.LOSS_SCALE_COLLAPSE,
                0.9,
                0.9,
                summary,
                advice,
                evidence,
                (int(scale.steps[0]), int(scale.steps[-1])),
            ),
        )
