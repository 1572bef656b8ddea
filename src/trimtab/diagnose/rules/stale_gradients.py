"""The rule of gradients that are never cleared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from trimtab.diagnose.clues import Clue
from trimtab.diagnose.statistics import middle
from trimtab.diagnose.view import Need, View
from trimtab.types import Evidence, FindingCause

_RESIDUAL, _FACTOR, _MIN_LOOKS, _SHARE = 0.3, 1.5, 3, 0.6
# At a right angle, nearly, to what backward brought: four times as much came from elsewhere
_FOREIGN = 0.97
_REVERSED, _CLIPPED = -0.9, 0.05
# A gradient that is never larger than what backward brought, and mostly smaller
_CUT, _NO_MORE = 0.85, 1.05
# So large a part of every weight's gradient is exactly 0 where only its largest elements are passed on
_THINNED = 0.5
# The lowest cosine of a parameter to what backward brought, where its size alone was changed
_SAME_WAY = 0.999


@final
@dataclass(frozen=True, slots=True)
class StaleGradients:
    """What it detects: gradients that hold more than the backward passes of their own step brought.

    Why it matters: old gradients pile up: the steps grow and point where the loss fell long ago; gradients
    that something else wrote point anywhere.

    Evidence used: what backward passes bring to a few parameters, added up over the step by hooks, against
    the gradient that the optimizer sees: its direction and its size. Several backward passes for one step,
    clipping and loss scales are no matter.

    What to try: `optimizer.zero_grad()` once per step, before backward.

    Known false alarms: gradients that are drowned in noise on purpose, for privacy. Clipping and projections
    turn gradients by less than is told. Layers whose gradients are each made smaller or larger, and runs with
    several processes, are left out.

    References: TrainCheck, OSDI 2025 (the invariant that zero_grad clears).
    """

    causes = (FindingCause.ZERO_GRAD_MISSING, FindingCause.GRADIENTS_ALTERED)
    needs = Need.PARAMETERS

    def look(self, view: View) -> tuple[Clue, ...]:
        """See `Rule.look`."""
        residual = view.column("stale_gradient", "residual")[1:]  # nothing can be left over at the first look
        factor = view.column("stale_gradient", "factor")[1:]
        seen = np.isfinite(residual) & np.isfinite(factor)
        residual, factor = residual[seen], factor[seen]
        if len(residual) < _MIN_LOOKS or _only_sizes_differ(view):
            return ()
        is_shrunk = float(np.median(factor)) < _CLIPPED  # that is what a clip by value does
        if float(residual.min()) > _FOREIGN and not is_shrunk and not _grows(view):
            return (_altered(view, float(np.median(residual))),)
        cosine = view.column("stale_gradient", "lowest_cosine")
        if len(cosine) >= _MIN_LOOKS and float(np.nanmax(cosine)) < _REVERSED:
            return (_reversed(view, float(np.nanmedian(cosine))),)
        stale = (residual > _RESIDUAL) | (factor > _FACTOR)
        grows = _grows(view)
        # what is left from other steps adds to some gradients; a clip of single elements only takes away
        is_cut = float(np.median(factor)) < _CUT and float(factor.max()) < _NO_MORE
        if float(stale.mean()) < _SHARE or not grows or is_cut or _is_thinned_out(view):
            return ()
        middle = float(np.median(residual))
        summary = (
            "Gradients pile up from step to step: the optimizer sees "
            "more than the step's backward pass brought."
        )
        advice = "Call optimizer.zero_grad() once in each step, before backward()."
        evidence = (
            Evidence("share of the gradient that is not of this step", middle, limit=_RESIDUAL),
            Evidence("looks that show it", float(stale.sum())),
        )
        return (Clue(FindingCause.ZERO_GRAD_MISSING, 0.6, 0.95, summary, advice, evidence, view.span),)


def _only_sizes_differ(view: View) -> bool:
    """Whether each gradient points to where backward brought it: layers have rates of their own, then."""
    cosines = view.column("stale_gradient", "lowest_cosine")
    cosines = cosines[np.isfinite(cosines)]
    return len(cosines) >= _MIN_LOOKS and bool(cosines.min() > _SAME_WAY)


def _is_thinned_out(view: View) -> bool:
    """Whether most of what the optimizer sees is exactly 0: sent in parts, with the rest kept for later."""
    zeros, weights = view.signal("gradient_zero_share"), view.trained_weights
    if zeros is None or weights is None or not weights.any():
        return False
    return middle(np.nanmin(zeros.values[:, weights], axis=1)) > _THINNED


def _altered(view: View, residual: float) -> Clue:
    summary = (
        f"Something changes the gradients between backward() and the step: {residual:.1%} of what the "
        "optimizer sees is not what backward brought."
    )
    advice = (
        "Look at what writes to .grad after backward(): noise, hooks, a second loss, gradients copied from "
        "another model. If it is meant, as for privacy, use larger batches or less noise."
    )
    evidence = (Evidence("part of the gradient that backward did not bring", residual, limit=_FOREIGN),)
    return Clue(FindingCause.GRADIENTS_ALTERED, 0.4, 0.85, summary, advice, evidence, view.span)


def _reversed(view: View, cosine: float) -> Clue:
    summary = "The gradient of at least one parameter is turned around between backward() and the step."
    advice = "Look for a minus sign: at a hook of the parameter, a gradient reversal, or a loop over .grad."
    evidence = (Evidence("lowest cosine to what backward brought", cosine, limit=_REVERSED),)
    return Clue(FindingCause.GRADIENTS_ALTERED, 0.5, 0.9, summary, advice, evidence, view.span)


def _grows(view: View) -> bool:
    """Whether what is left over is more than noise added on purpose: that is there from the start."""
    residual = view.column("stale_gradient", "residual")
    late = residual[len(residual) // 2 :]
    late = late[np.isfinite(late)]
    first = residual[:1]
    return bool(len(late) and np.median(late) > _RESIDUAL and not (len(first) and first[0] > _RESIDUAL))
