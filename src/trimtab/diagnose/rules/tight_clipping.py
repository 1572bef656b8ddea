"""The rule of gradients that are clipped to almost nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from trimtab.diagnose.clues import Clue
from trimtab.diagnose.rules.high_learning_rate import path_of_weights
from trimtab.diagnose.statistics import FloatArray
from trimtab.diagnose.view import Need, View
from trimtab.types import Evidence, FindingCause

# Nearly every step is cut to a twentieth and less
_FACTOR, _SHARE, _MIN_STEPS = 0.05, 0.9, 30
# A loop that clips by itself, seen in so many looks: by value, or by norm
_MIN_LOOKS, _TURNED, _VARIES = 6, 0.1, 0.3
# The weights hardly moved, in units of their norm, and the loss still falls in the last half
_SHORT_PATH, _STILL_FALLS = 0.5, -0.05


@final
@dataclass(frozen=True, slots=True)
class TightClipping:
    """What it detects: a clip that cuts nearly every gradient to a twentieth and less, in a run that is slow.

    Why it matters: without an optimizer that normalizes, the learning rate is in effect divided by as much.

    Evidence used: the clip factors; where the loop clips by itself, what backward brought to a few parameters
    against what the optimizer sees. Told only if the run learns too slowly or nothing, or if the loss still
    falls at the end and the weights went less than half their norm: with Adam a steady factor has no effect.

    What to try: a bound near the usual norm of the gradients, such as their 90th percentile.

    Known false alarms: none known, since it is told only as the cause of something else.

    References: Zhang et al., "Why gradient clipping accelerates training", 2020, arXiv:1905.11881.
    """

    causes = (FindingCause.CLIPPING_TOO_TIGHT,)
    needs = Need.LOSS | Need.CLIP_FACTOR

    def look(self, view: View) -> tuple[Clue, ...]:
        """See `Rule.look`."""
        if is_adaptive(view):
            return ()  # a steady factor cancels in its updates
        factors, norms = _own_factors(view), view.log.grad_norm[np.isfinite(view.log.grad_norm)]
        if not _is_tight(factors):
            factors, norms = _foreign_factors(view), norms[:0]
        if not _is_tight(factors):
            return ()
        typical = float(np.median(factors))
        summary = f"Clipping leaves {typical:.2g} of the gradient in the middle, in nearly every step."
        bound = (
            f"to about {float(np.quantile(norms, 0.9)):.2g}, the 90th percentile of the norms"
            if len(norms)
            else f"some {1 / max(typical, 1e-300):.2g} times"
        )
        advice = f"Raise the bound of the clip {bound}."
        evidence = (Evidence("median clip factor", typical, limit=_FACTOR),)
        told = is_held_back(view)
        cause = FindingCause.CLIPPING_TOO_TIGHT
        return (Clue(cause, 0.5, 0.85, summary, advice, evidence, view.span, stands_alone=told),)


def _is_tight(factors: FloatArray) -> bool:
    return len(factors) > 0 and float((factors < _FACTOR).mean()) >= _SHARE


def is_adaptive(view: View) -> bool:
    """Whether the optimizer keeps second moments, as Adam does."""
    moments = view.signal("epsilon_share")
    return moments is not None and bool(np.isfinite(moments.values).any())


def _own_factors(view: View) -> FloatArray:
    """What the guard's clip left of the norm, step by step."""
    factors = view.log.clip_factor[np.isfinite(view.log.clip_factor)]
    return factors if len(factors) >= _MIN_STEPS else factors[:0]


def _foreign_factors(view: View) -> FloatArray:
    """What is left of the gradients between backward and the step, in looks, where the loop clips by itself.

    A loss scale divides all by the same number; a clip by value turns them, one by norm varies.
    """
    residual, factor = view.column("stale_gradient", "residual"), view.column("stale_gradient", "factor")
    seen = np.isfinite(residual) & np.isfinite(factor) & (factor > 0)
    residual, factor = residual[seen], factor[seen]
    if len(factor) < _MIN_LOOKS:
        return factor[:0]
    is_turned = float(np.median(residual)) > _TURNED
    varies = float(np.ptp(np.log(np.sort(factor)[1:-1]))) > _VARIES
    return factor if is_turned or varies else factor[:0]


def is_held_back(view: View) -> bool:
    """Whether the run is far from done: the weights hardly moved, and the loss still falls."""
    course = view.loss
    if len(course) < _MIN_STEPS or not path_of_weights(view) < _SHORT_PATH:
        return False
    return course.late.high < _STILL_FALLS
