"""The rule of the global norm of the gradients: vanished, or far above what it was."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from trimtab.diagnose.clues import Clue
from trimtab.diagnose.view import Need, View
from trimtab.types import Evidence, FindingCause

# The norm fell to so little of what it was, and the loss kept this much of its start
_VANISHED, _LOSS_LEFT = 1e-3, 0.5
# Of a norm that was tiny from the start, in units of the loss: five orders below the usual
_TINY = 1e-6
# The norm rose so far above its early level, for good, and the loss gained nothing meanwhile
_EXPLODED = 100.0
_MIN_STEPS = 30


@final
@dataclass(frozen=True, slots=True)
class GradientNorms:
    """What it detects: a norm of the gradients that vanished while the loss was high, or grew a hundredfold.

    Why it matters: without gradients nothing is learned; with huge ones each step destroys.

    Evidence used: medians of the norm at the start and at the end, and of the loss. A norm that falls with
    the loss, as near a minimum, is fine, and so is one that grows while the loss goes on falling.

    What to try: for vanishing ones ReLU or GELU in place of sigmoids, normalization layers, residual
    connections, an initialization by He or Glorot; look for a detach() or a step under no_grad. For
    exploding ones clipping, a lower rate, a smaller initialization.

    Known false alarms: losses in units far from 1 with parameters to match.

    References: Pascanu et al. 2013, arXiv:1211.5063; Glorot and Bengio 2010.
    """

    causes = (FindingCause.VANISHING_GRADIENTS, FindingCause.EXPLODING_GRADIENTS)
    needs = Need.LOSS | Need.GRAD_NORM

    def look(self, view: View) -> tuple[Clue, ...]:
        """See `Rule.look`."""
        norm, loss = view.grad_norm, view.loss
        if min(len(norm), len(loss)) < _MIN_STEPS or not loss.is_positive:
            return ()
        third = norm.values[: max(5, len(norm) // 10)]
        before = float(np.median(third))
        is_high = loss.end > _LOSS_LEFT * loss.start
        has_vanished = norm.end <= _VANISHED * max(before, norm.start) or norm.end <= _TINY * loss.end
        if is_high and has_vanished:
            return (_vanished(view, max(before, norm.start)),)
        if norm.end > _EXPLODED * before and loss.end >= 0.9 * loss.start:
            return (_exploded(view, before),)
        return ()


def _vanished(view: View, before: float) -> Clue:
    norm, loss = view.grad_norm, view.loss
    summary = (
        f"The gradients have vanished: their norm is {norm.end:.2g} at "
        f"the end ({before:.2g} early on), though the "
        f"loss is still {loss.end:.4g} of {loss.start:.4g}."
    )
    advice = (
        "Look where the gradient stops: dead or saturated layers, a "
        "detach(), weights of zero. Use ReLU or GELU with "
        "normalization and residual connections, initialized after He or Glorot."
    )
    evidence = (
        Evidence("norm of the gradients at the end", norm.end),
        Evidence("norm early on", before),
        Evidence("share of the loss that is left", loss.end / loss.start, limit=_LOSS_LEFT),
    )
    return Clue(FindingCause.VANISHING_GRADIENTS, 0.9, 0.85, summary, advice, evidence, view.span)


def _exploded(view: View, before: float) -> Clue:
    norm = view.grad_norm
    rows = np.flatnonzero(norm.values > _EXPLODED * before)
    first = int(norm.steps[rows[0]]) if len(rows) else view.span[0]
    summary = (
        f"The norm of the gradients grew from {before:.2g} to {norm.end:.2g}, and the loss gained nothing."
    )
    advice = f"Clip the gradients: NormClip({before:.2g}) or QuantileClip(). Lower the learning rate."
    evidence = (
        Evidence("norm early on", before),
        Evidence("norm at the end", norm.end, limit=_EXPLODED * before),
    )
    return Clue(FindingCause.EXPLODING_GRADIENTS, 0.7, 0.75, summary, advice, evidence, (first, view.span[1]))
