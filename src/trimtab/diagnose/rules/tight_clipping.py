"""The rule of gradients that are clipped to almost nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from trimtab.diagnose.clues import Clue
from trimtab.diagnose.rules.high_learning_rate import path_of_weights
from trimtab.diagnose.statistics import trend
from trimtab.diagnose.view import Need, View
from trimtab.types import Evidence, FindingCause

# Nearly every step is cut to a twentieth and less
_FACTOR, _SHARE, _MIN_STEPS = 0.05, 0.9, 30
# The weights hardly moved, in units of their norm, and the loss still falls in the last half
_SHORT_PATH, _STILL_FALLS = 0.5, -0.05


@final
@dataclass(frozen=True, slots=True)
class TightClipping:
    """What it detects: a clip that cuts nearly every gradient to a twentieth and less, in a run that is slow.

    Why it matters: without an optimizer that normalizes, the learning rate is in effect divided by as much.

    Evidence used: the clip factors. Told only if the run learns too slowly or nothing, or if the loss still
    falls at the end and the weights went less than half their norm: with Adam a steady factor has no effect.

    What to try: a bound near the usual norm of the gradients, such as their 90th percentile.

    Known false alarms: none known, since it is told only as the cause of something else.

    References: Zhang et al., "Why gradient clipping accelerates training", 2020, arXiv:1905.11881.
    """

    causes = (FindingCause.CLIPPING_TOO_TIGHT,)
    needs = Need.CLIP_FACTOR

    def look(self, view: View) -> tuple[Clue, ...]:
        """See `Rule.look`."""
        factors = view.log.clip_factor[np.isfinite(view.log.clip_factor)]
        if len(factors) < _MIN_STEPS or float((factors < _FACTOR).mean()) < _SHARE:
            return ()
        adam = view.signal("epsilon_share")
        if adam is not None and np.isfinite(adam.values).any():
            return ()  # a steady factor cancels in its updates
        norms = view.log.grad_norm[np.isfinite(view.log.grad_norm)]
        usual = float(np.quantile(norms, 0.9)) if len(norms) else float("nan")
        middle = float(np.median(factors))
        summary = f"Clipping leaves {middle:.2g} of the gradient in the middle, in nearly every step."
        advice = f"Raise the bound of the clip to about {usual:.2g}, the 90th percentile of the norms."
        evidence = (
            Evidence("median clip factor", middle, limit=_FACTOR),
            Evidence("90th percentile of the norms", usual),
        )
        return (
            Clue(
                FindingCause.CLIPPING_TOO_TIGHT,
                0.5,
                0.85,
                summary,
                advice,
                evidence,
                view.span,
                stands_alone=_is_held_back(view),
            ),
        )


def _is_held_back(view: View) -> bool:
    """Whether the run is far from done: the weights hardly moved, and the loss still falls."""
    course = view.loss
    if len(course) < _MIN_STEPS or not path_of_weights(view) < _SHORT_PATH:
        return False
    return trend(course.blocks.medians[len(course.blocks) // 2 :]).high < _STILL_FALLS
