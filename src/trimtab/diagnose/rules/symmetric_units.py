"""The rule of layers whose units all began alike and stay alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from trimtab.diagnose.clues import Clue
from trimtab.diagnose.view import Need, View
from trimtab.record import Signal
from trimtab.types import Evidence, FindingCause

_SAME, _NUM_LOOKS = 1e-6, 3
# Units in so few directions are copies of one or two, or have weights of one sign; random ones of 12 have six
_FEW = 2.5
# In the first look more than half of a ReLU layer's gradients are seldom 0
_MOSTLY = 0.6


@final
@dataclass(frozen=True, slots=True)
class SymmetricUnits:
    """What it detects: weights whose rows are equal or zero at the start and looks later, or nearly so.

    Why it matters: equal units get equal gradients, and so remain one unit for ever. A layer of zeros
    between others of zeros gets no gradient at all.

    Evidence used: the deviation between units against the size of the weights, in at least three looks;
    weights with one value for all elements at the first step, if most have it; units that began along one
    or two directions, in most weights and two at least, if not nearly all is learned.

    What to try: random initialization: He for ReLU, Glorot for tanh.

    Known false alarms: branches and output layers that start at zero are fine: their units differ after
    the first steps. Frozen layers are left out, and weights that stay on one side of 0, as in monotone
    models.

    References: Goodfellow, Bengio and Courville, "Deep Learning", section 8.4.
    """

    causes = (FindingCause.SYMMETRIC_INIT,)
    needs = Need.PARAMETERS

    def look(self, view: View) -> tuple[Clue, ...]:
        """See `Rule.look`."""
        spread = view.signal("unit_spread")
        if spread is None or len(spread.steps) < _NUM_LOOKS:
            return ()
        values = spread.values
        trained = _trained(view, spread.axis)
        same = np.all(np.isfinite(values), axis=0) & np.all(values <= _SAME, axis=0) & trained
        if not same.any():
            return _constant(view, spread, trained) or _aligned(view, trained)
        names = [name for name, is_same in zip(spread.axis, same, strict=True) if is_same]
        num = int((np.isfinite(values[0]) & trained).sum())
        size = view.column("weight_rms", names[0])
        how = "all zero" if len(size) and size[-1] == 0 else "all equal"
        summary = (
            f"The units of {names[0]}"
            + (f" and of {len(names) - 1} more layers" if len(names) > 1 else "")
            + f" are {how} at step {int(spread.steps[0])} and still are at step {int(spread.steps[-1])}."
        )
        advice = "Initialize the weights at random: He (kaiming) for ReLU, Glorot (xavier) for tanh."
        evidence = (
            Evidence("layers with equal units", len(names)),
            Evidence("layers in all", num),
            Evidence("looks", len(spread.steps)),
        )
        harm = min(1.0, 0.5 + len(names) / max(num, 1))
        steps = (int(spread.steps[0]), int(spread.steps[-1]))
        return (Clue(FindingCause.SYMMETRIC_INIT, harm, 0.95, summary, advice, evidence, steps, names[0]),)


def _constant(view: View, spread: Signal, trained: np.ndarray) -> tuple[Clue, ...]:
    """Weights that began with equal units; what broke the symmetry later is beside the point."""
    size = view.signal("weight_rms")
    if size is None or size.axis != spread.axis or int(spread.steps[0]) != view.span[0]:
        return ()
    weights = np.isfinite(spread.values[0]) & trained
    flat = weights & (spread.values[0] <= _SAME) & (size.values[0] > 0)
    # beside another weight of its module, as the deviation beside the mean, it makes no unit like another
    homes = np.array([name.rpartition(".")[0] for name in spread.axis])
    flat &= ~np.isin(homes, homes[weights & ~flat])
    if flat.sum() < max(2, weights.sum() / 2) or not (flat & _hidden(view, spread.axis)).any():
        return ()
    first = spread.axis[int(np.flatnonzero(flat)[0])]
    summary = f"{int(flat.sum())} of {int(weights.sum())} weights, {first} first, began with equal units."
    advice = "Initialize the weights at random: He (kaiming) for ReLU, Glorot (xavier) for tanh."
    evidence = (Evidence("weights that began with equal units", float(flat.sum())),)
    return (Clue(FindingCause.SYMMETRIC_INIT, 0.5, 0.9, summary, advice, evidence, view.span, first),)


def _aligned(view: View, trained: np.ndarray) -> tuple[Clue, ...]:
    """Weights whose units began along one or two directions, unless the run has learned in spite of it."""
    directions = view.signal("unit_directions")
    if directions is None or int(directions.steps[0]) != view.span[0] or view.has_learned:
        return ()
    first = directions.values[0]
    is_known = np.isfinite(first) & trained
    is_meant = _held_positive(view, directions.axis) | _are_tables(view, directions.axis)
    few = is_known & (first < _FEW) & ~is_meant
    if few.sum() < max(2, is_known.sum() / 2 + 0.5) or not (few & _hidden(view, directions.axis)).any():
        return ()
    name = directions.axis[int(np.flatnonzero(few)[0])]
    summary = (
        f"The units of {int(few.sum())} of {int(is_known.sum())} weights, {name} first, began along one or "
        "two directions: copies of each other, or all of one sign."
    )
    advice = "Initialize the weights at random around 0: He (kaiming) for ReLU, Glorot (xavier) for tanh."
    evidence = (
        Evidence("directions of the units at the start", float(np.nanmedian(first[few])), limit=_FEW),
    )
    return (Clue(FindingCause.SYMMETRIC_INIT, 0.5, 0.85, summary, advice, evidence, view.span, name),)


def _held_positive(view: View, names: tuple[str, ...]) -> np.ndarray:
    """Which weights were of one sign at the first look and still are: held so, as in monotone models."""
    share = view.signal("rarer_sign_share")
    if share is None or share.axis != names:
        return np.zeros(len(names), dtype=bool)
    return np.asarray((share.values[0] == 0) & (share.values[-1] == 0))


def _are_tables(view: View, names: tuple[str, ...]) -> np.ndarray:
    """Which weights get no gradient in most of their elements, as rows that are in no batch."""
    zeros = view.signal("gradient_zero_share")
    if zeros is None or zeros.axis != names:
        return np.zeros(len(names), dtype=bool)
    return np.asarray(np.nan_to_num(zeros.values[0]) > _MOSTLY)


def _hidden(view: View, names: tuple[str, ...]) -> np.ndarray:
    """Which weights are not those of the outputs, which have targets of their own that part them at once."""
    num_units, width = view.signal("num_units"), view.column("output", "num_classes")
    if num_units is None or num_units.axis != names or not len(width):
        return np.ones(len(names), dtype=bool)
    return np.asarray(num_units.values[0] != width[0])


def _trained(view: View, names: tuple[str, ...]) -> np.ndarray:
    """Which parameters are trained."""
    chosen = np.ones(len(names), dtype=bool)
    for name in ("requires_gradient", "in_optimizer", "has_gradient"):
        signal = view.signal(name)
        if signal is not None and signal.axis == names:
            chosen &= np.all(signal.values == 1, axis=0)
    return chosen
