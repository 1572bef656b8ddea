"""The rule of weights that grow or shrink by an order of magnitude."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import numpy as np

from trimtab.diagnose.clues import Clue
from trimtab.diagnose.rules.stuck import explains_little, is_slow
from trimtab.diagnose.rules.underfitting import is_outdone, keeps_up
from trimtab.diagnose.statistics import middle
from trimtab.diagnose.view import Need, View
from trimtab.types import Evidence, FindingCause

_GROWN, _SHRUNK = 5.0, 0.2
# The rate of decay, times the learning rate and the steps that a weight needs to be halved
_MIN_LOOKS = 5
# Weights that were pulled in, and a loss that lost less than this share, need no other sign
_POOR = 0.65
# So little is told whatever the loss does
_NOTHING_LEFT = 0.02
# A penalty that is half of the loss, as the validation loss shows, pulls weights to half of their size
_PULLED, _OUTWEIGHS = 0.5, 2.0
# A decay that is part of the gradient, and at the end as large as the loss's own: then both stand still
_BALANCE, _HELD, _NUM_LATE = 0.6, 0.65, 3
# So large a share of a weight's elements is as large as the largest one, in half of the weights
_AT_BOUND, _HALF = 0.3, 0.5
# Where no gradient arrives, decay has nothing to hold against it: that is another matter
_NO_GRADIENT = 0.9


@final
@dataclass(frozen=True, slots=True)
class WeightSize:
    """What it detects: weights that grew fivefold or fell to a fifth, or that something cuts off at a bound.

    Why it matters: growing weights make steps and outputs unstable; weights that are pulled to zero cannot
    hold what is to be learned.

    Evidence used: the size of each weight matrix at the first and the last look, in the middle over the
    layers, and the share of its elements that are as large as the largest. Told only if the run has
    trouble that this explains; shrinking also if not all is learned, if there is no weight decay, or if
    next to nothing is left of them. To half of their size, where decay is part of the gradient, only while
    it is as large as what the loss asks for.

    What to try: a smaller weight decay for shrinking ones; decay, normalization or a lower rate for growing.

    Known false alarms: none known. What explains as much as a plain regression does is let be.

    References: Krogh and Hertz 1992; Loshchilov and Hutter 2019, arXiv:1711.05101.
    """

    causes = (FindingCause.WEIGHT_GROWTH, FindingCause.OVER_REGULARIZED)
    needs = Need.PARAMETERS

    def look(self, view: View) -> tuple[Clue, ...]:
        """See `Rule.look`."""
        size, weights = view.signal("weight_rms"), view.weights
        if size is None or weights is None or len(size.steps) < _MIN_LOOKS:
            return ()
        is_weight = weights & (size.values[0] > 0)
        if not is_weight.any():
            return ()
        clamped = _clamped(view)
        if clamped:
            return clamped
        ratio = view.weight_growth
        decay = view.column("optimizer", "weight_decay")
        strength = float(decay[-1]) if len(decay) else 0.0
        steps = (int(size.steps[0]), int(size.steps[-1]))
        silent = view.signal("gradient_zero_share")
        is_reached = silent is None or not middle(silent.values[:, is_weight]) > _NO_GRADIENT
        if ratio < _small_ratio(view, strength) and is_reached:
            clue = _shrunk(ratio, strength, steps)
            is_poor = 0 < view.loss.progress < _POOR and not view.is_warming_up
            # without a decay training does not do that; and what is left of nothing holds nothing
            is_told = is_poor or strength == 0 or ratio < _NOTHING_LEFT or view.has_much_left
            is_told = is_told or not (view.has_learned or keeps_up(view))
            return (replace(clue, stands_alone=is_told),)
        if ratio > _GROWN:
            summary = f"The weights grew to {ratio:.3g} times their initial size."
            advice = "Lower the learning rate, or add weight decay or normalization layers."
            grown = (Evidence("size of the weights against the start", ratio, limit=_GROWN),)
            return (
                Clue(FindingCause.WEIGHT_GROWTH, 0.5, 0.6, summary, advice, grown, steps, stands_alone=False),
            )
        return ()


def _small_ratio(view: View, strength: float) -> float:
    """What the weights have shrunk to counts below this: less of a sign is needed where the cause shows."""
    if strength == 0:
        return _PULLED if _penalty_outweighs(view) else _SHRUNK
    return _HELD if _decay_holds(view, strength) else _SHRUNK


def _clamped(view: View) -> tuple[Clue, ...]:
    """Weights that are held within a bound, in a run that does not learn what it could."""
    bound, weights = view.signal("at_bound"), view.trained_weights
    if bound is None or weights is None or not weights.any() or view.is_critic:
        return ()
    late = np.nanmedian(bound.values[len(bound.values) // 2 :][:, weights], axis=0)
    is_poor = is_slow(view.loss) or explains_little(view) or is_outdone(view)
    if not (float((late > _AT_BOUND).mean()) > _HALF and is_poor):
        return ()
    share = float(np.median(late))
    summary = (
        f"{share:.0%} of the elements of a weight, in the middle, are as large as its largest one: something "
        "cuts them off."
    )
    advice = "Look for a clamp of the weights in the loop; a wider bound, or none, lets the model learn more."
    evidence = (Evidence("share of a weight's elements at its largest size", share, limit=_AT_BOUND),)
    return (Clue(FindingCause.OVER_REGULARIZED, 0.6, 0.85, summary, advice, evidence, view.span),)


def _penalty_outweighs(view: View) -> bool:
    """Whether the training loss ended at several times that of validation: something else is in it."""
    if view.val is None or not len(view.loss) or not view.loss.is_positive:
        return False
    return view.loss.end > _OUTWEIGHS * float(view.val.values[-3:].max()) > 0


def _decay_holds(view: View, strength: float) -> bool:
    """Whether what decay adds to the gradients is as large as what the loss asks for, in the middle."""
    sizes, gradients, weights = view.signal("weight_rms"), view.signal("gradient_rms"), view.trained_weights
    decoupled = view.column("optimizer", "is_decoupled")
    if sizes is None or gradients is None or weights is None or not len(decoupled) or decoupled[-1] != 0:
        return False
    size, gradient = (s.values[len(s.values) // 2 :][:, weights] for s in (sizes, gradients))
    with np.errstate(divide="ignore", invalid="ignore"):
        share = strength * size / gradient
    return len(share) >= _NUM_LATE and middle(share) > _BALANCE


def _shrunk(ratio: float, decay: float, steps: tuple[int, int]) -> Clue:
    if decay > 0:
        summary = f"Weight decay {decay:.3g} pulled the weights to {ratio:.2g} of their initial size."
        advice = f"Lower the weight decay from {decay:.3g} to about {decay / 100:.2g}."
    else:
        summary = (
            f"Something other than weight decay pulled the weights to {ratio:.2g} of their initial size."
        )
        advice = "Lower the penalty on the weights that the loss holds, to a hundredth at first."
    evidence = (
        Evidence("size of the weights against the start", ratio, limit=_SHRUNK),
        Evidence("weight decay", decay),
    )
    return Clue(FindingCause.OVER_REGULARIZED, 0.6, 0.9, summary, advice, evidence, steps)
