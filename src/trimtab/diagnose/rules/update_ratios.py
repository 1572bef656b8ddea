"""The rule of single layers whose steps are out of all proportion to those of the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from trimtab.diagnose.clues import Clue
from trimtab.diagnose.view import Need, View
from trimtab.types import Evidence, FindingCause

_MIN_LOOKS, _MIN_WEIGHTS = 4, 3
# Each step changes so much of a weight: even one that grows by its steps, as under Adam, keeps that for a
# while. Healthy layers lie within a factor of ten
_LARGE, _APART = 0.02, 30.0
# Beside others that move, a weight that moves so little in a step stands still
_SMALL, _FAR_APART = 1e-6, 1000.0


@final
@dataclass(frozen=True, slots=True)
class UpdateRatios:
    """What it detects: a weight that each step changes by 2 % and more, or hardly, unlike the others.

    Why it matters: one rate does not fit all layers: this one is thrown about, or does not take part.

    Evidence used: the change that the actual step made to each weight, over the weight's size, in the middle
    over the second half of the looks, against the middle over the other weights. Told only if the run has
    trouble that this explains. The usual "rate times gradient over weight" is not used: it is wrong for
    Adam, momentum, decay and clipping.

    What to try: a rate of its own for that group, normalization, another initialization; look for a group
    that was given another rate by mistake.

    Known false alarms: none known, since it is told only as the cause of something else. Weights that begin
    at zero are left out of the first half.

    References: You et al., "Large batch training of convolutional networks" (LARS), 2017, arXiv:1708.03888.
    """

    causes = (FindingCause.UPDATE_RATIO,)
    needs = Need.PARAMETERS

    def look(self, view: View) -> tuple[Clue, ...]:
        """See `Rule.look`."""
        ratio, weights = view.signal("update_ratio"), view.weights
        if ratio is None or weights is None or len(ratio.steps) < _MIN_LOOKS:
            return ()
        late = ratio.values[len(ratio.steps) // 2 :]
        usable = weights & np.isfinite(late).all(axis=0) & (np.median(late, axis=0) > 0)
        if usable.sum() < _MIN_WEIGHTS:
            return ()
        names = np.array(ratio.axis)[usable]
        sizes = np.median(late, axis=0)[usable].astype(np.float64)
        middle = float(np.median(sizes))
        largest, smallest = int(np.argmax(sizes)), int(np.argmin(sizes))
        if sizes[largest] > _LARGE and sizes[largest] > _APART * middle:
            return (_clue(view, str(names[largest]), float(sizes[largest]), middle),)
        if sizes[smallest] < _SMALL and sizes[smallest] * _FAR_APART < middle:
            return (_clue(view, str(names[smallest]), float(sizes[smallest]), middle),)
        return ()


def _clue(view: View, layer: str, size: float, middle: float) -> Clue:
    factor = middle / size
    summary = (
        f"Each step changes {layer} by {size:.2g} of its size, the middle of the others is {middle:.2g}."
    )
    advice = (
        f"Give {layer} a learning rate of its own, about {factor:.2g} times the present one; look "
        "whether its parameter group was given another rate by mistake."
    )
    evidence = (
        Evidence("change of this weight in one step", size),
        Evidence("middle over the weights", middle),
    )
    return Clue(
        FindingCause.UPDATE_RATIO, 0.4, 0.7, summary, advice, evidence, view.span, layer, stands_alone=False
    )
