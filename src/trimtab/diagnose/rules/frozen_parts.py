"""The rule of parts that are frozen at their random start, in a run that learns too little."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from trimtab.diagnose.clues import Clue
from trimtab.diagnose.rules.stuck import is_slow
from trimtab.diagnose.view import Need, View
from trimtab.record import Signal
from trimtab.types import Evidence, FindingCause

_MIN_LOOKS = 3
_MOST = 0.5
# of what a constant answer leaves; random features that are enough explain more
_POOR, _MIN_STEPS = 0.45, 100
# Frozen so early in the run
_EARLY = 0.25


@final
@dataclass(frozen=True, slots=True)
class FrozenParts:
    """What it detects: weights with `requires_grad=False` that were never trained, in a run that is slow.

    Why it matters: what is frozen by oversight stays at its random start, and the rest has to live with it.

    Evidence used: `requires_grad` of each weight in all looks, and whether the frozen ones are still spread
    as torch's own initialization spreads them. It is told if the run keeps two thirds of its loss, or
    explains less than 45 % of what a constant answer leaves, or as the cause of one that learns nothing.

    What to try: `requires_grad_(True)` for what is to be trained, and then build the optimizer anew.

    Known false alarms: random features that are frozen on purpose and do not suffice. A pretrained part is
    no matter: its weights are not spread like that. Nor is a copy of what is trained, to compare it with.

    References: Jiang et al., TrainCheck, OSDI 2025 (a frozen part against the optimizer).
    """

    causes = (FindingCause.FROZEN,)
    needs = Need.PARAMETERS

    def look(self, view: View) -> tuple[Clue, ...]:
        """See `Rule.look`."""
        wants, weights, fresh = view.signal("requires_gradient"), view.weights, view.signal("as_initialized")
        if wants is None or weights is None or fresh is None or len(wants.steps) < _MIN_LOOKS:
            return ()
        late = _frozen_early(view, wants, weights)
        if late:
            return late
        frozen = np.all(wants.values == 0, axis=0) & weights & ~_are_copied(view, wants)
        fresh_ones = frozen & (fresh.values[-1] == 1)
        if fresh_ones.sum() < max(1.0, _MOST * frozen.sum()):
            return ()
        names = [name for name, is_fresh in zip(wants.axis, fresh_ones, strict=True) if is_fresh]
        share = float(frozen.sum() / weights.sum())
        summary = (
            f"{int(frozen.sum())} of {int(weights.sum())} weights are frozen, {names[0]} among them, still "
            "as torch initializes them: they were never trained."
        )
        advice = (
            f"If {names[0]} is to be trained, call requires_grad_(True) and build the optimizer after that."
        )
        evidence = (Evidence("share of the weights that is frozen", share),)
        is_poor = len(view.loss) >= _MIN_STEPS and view.explained.value < _POOR
        cause, told = FindingCause.FROZEN, is_slow(view.loss) or is_poor
        return (Clue(cause, share, 0.85, summary, advice, evidence, view.span, names[0], stands_alone=told),)


def _are_copied(view: View, wants: Signal) -> NDArray[np.bool_]:
    """Which parameters began as large, to the last digit, as one that is trained: a copy to compare with."""
    size = view.signal("weight_rms")
    if size is None or size.axis != wants.axis:
        return np.zeros(len(wants.axis), dtype=bool)
    trained = np.any(wants.values == 1, axis=0) & (size.values[0] > 0)
    return np.asarray(np.isin(size.values[0], size.values[0][trained]) & ~trained)


def _frozen_early(view: View, wants: Signal, weights: NDArray[np.bool_]) -> tuple[Clue, ...]:
    """Most weights trained in the first looks and in none of the later ones, with much left to learn."""
    first, last = view.span
    begins = (wants.steps - first) / max(last - first, 1)
    later = wants.values[begins > _EARLY]
    if len(later) < _MIN_LOOKS or len(view.loss) < _MIN_STEPS:
        return ()
    stopped = weights & (wants.values[0] == 1) & np.all(later == 0, axis=0)
    share = float(stopped.sum() / max(weights.sum(), 1))
    if share < _MOST or not (view.has_much_left and view.loss.is_positive):
        return ()
    names = [name for name, is_stopped in zip(wants.axis, stopped, strict=True) if is_stopped]
    summary = (
        f"{int(stopped.sum())} of {int(weights.sum())} weights, {names[0]} among them, were trained at first "
        "and are frozen since, though much was left to learn."
    )
    advice = (
        "Look for requires_grad_(False) in the loop that is not taken back, as after a step of another part."
    )
    evidence = (Evidence("share of the weights that was frozen early on", share, limit=_MOST),)
    return (Clue(FindingCause.FROZEN, share, 0.85, summary, advice, evidence, view.span, names[0]),)
