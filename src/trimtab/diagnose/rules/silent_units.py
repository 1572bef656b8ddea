"""The rule of units that never fire and units that are stuck at a bound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from trimtab.diagnose.clues import Clue
from trimtab.diagnose.view import Need, View
from trimtab.types import Evidence, FindingCause

# Healthy networks end with up to a fifth of the units of a layer silent; from half on it may be a cause,
# and a layer that is all but gone is told by itself
_SUSPECT, _GONE = 0.5, 0.98
# Counts come from so many rows at least, see `UnitCounts`
_ROWS = 256


@final
@dataclass(frozen=True, slots=True)
class SilentUnits:
    """What it detects: layers most of whose units never fire, or never leave the flat part of a sigmoid.

    Why it matters: such units pass no gradient: the layer cannot recover by itself.

    Evidence used: per unit, not per element: no positive input in a window of at least 256 rows and no
    gradient at its weights in the same steps; or beyond the point where the slope is below 5 % of its
    maximum, on the same side, in 95 % of the rows. In the last two windows.

    What to try: for dead units a lower rate, a smaller negative bias, LeakyReLU or GELU; for stuck ones a
    smaller initialization, scaled inputs, normalization.

    Known false alarms: half of the *elements* of a ReLU layer are zero when it is healthy: that is not
    looked at. Wide layers may work well with many dead units: below 98 % it is told only as a cause of
    something else.

    References: Maas et al. 2013; Glorot and Bengio 2010; Sokar et al., "The dormant neuron phenomenon",
    2023, arXiv:2302.12902.
    """

    causes = (FindingCause.DEAD_UNITS, FindingCause.SATURATION)
    needs = Need.LAYERS

    def look(self, view: View) -> tuple[Clue, ...]:
        """See `Rule.look`."""
        dead = _worst(view, "dead_share")
        stuck = _worst(view, "saturated_share")
        found = []
        if dead is not None:
            layer, share, step = dead
            summary = f"In {layer} {share:.0%} of the units never fire, and their weights get no gradient."
            advice = "Lower the learning rate, look at the layer's bias, or use LeakyReLU or GELU."
            found.append(_clue(FindingCause.DEAD_UNITS, layer, share, step, summary, advice))
        if stuck is not None:
            layer, share, step = stuck
            summary = f"In {layer} {share:.0%} of the units stay at a bound of their activation."
            advice = "Initialize the layer smaller, scale its inputs, or normalize before it."
            found.append(_clue(FindingCause.SATURATION, layer, share, step, summary, advice))
        return tuple(found)


def _clue(cause: FindingCause, layer: str, share: float, step: int, summary: str, advice: str) -> Clue:
    is_gone = share >= _GONE and cause is FindingCause.DEAD_UNITS
    evidence = (Evidence("share of the units", share, limit=_SUSPECT),)
    return Clue(cause, 0.5, 0.85, summary, advice, evidence, (step, step), layer, stands_alone=is_gone)


def _worst(view: View, name: str) -> tuple[str, float, int] | None:
    """The layer with the largest share in its last two windows: name, share, first step."""
    signal = view.signal(name)
    if signal is None:
        return None
    worst: tuple[str, float, int] | None = None
    for column, layer in enumerate(signal.axis):
        rows = np.flatnonzero(np.isfinite(signal.values[:, column]))[-2:]
        if not len(rows):
            continue
        share = float(signal.values[rows, column].min())
        if share >= _SUSPECT and (worst is None or share > worst[1]):
            worst = (layer, share, int(signal.steps[rows[0]]))
    return worst
