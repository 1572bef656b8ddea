"""The rule of layers without an activation in between."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from trimtab.diagnose.clues import Clue
from trimtab.diagnose.view import Need, View
from trimtab.types import Evidence, FindingCause

# Of all layers behind the first: a stem or a tail without an activation is meant so
_MOST, _MIN_STEPS = 0.6, 60


@final
@dataclass(frozen=True, slots=True)
class ChainedLayers:
    """What it detects: layers that follow each other with no activation in between.

    Why it matters: two linear maps in a row are one: depth and most of the parameters add nothing.

    Evidence used: the graph behind the loss: the share of linear layers and convolutions that take what
    another one gave through nothing but shapes, batch norm and divisors. Told from 60 % on, of a run that
    does not explain nearly all of its targets.

    What to try: an activation behind each layer but the last.

    Known false alarms: two layers around a narrow place are a factorization, and are left out; so are
    depthwise filters, and outputs that several layers take.

    References: Humbatova, Jahangirova, Tonella, "DeepCrime", ISSTA 2021 (the mutation "activation removed").
    """

    causes = (FindingCause.UNDERFITTING,)
    needs = Need.LOSS

    def look(self, view: View) -> tuple[Clue, ...]:
        """See `Rule.look`."""
        if len(view.loss) < _MIN_STEPS or not is_chained(view):
            return ()
        share = float(view.column("loss", "chained")[-1])
        summary = (
            f"{share:.0%} of the layers behind the first take what another one gave, with no activation in "
            "between: together they are one linear map."
        )
        advice = "Put an activation, as ReLU or GELU, behind each layer but the last; or leave layers out."
        evidence = (Evidence("share of the layers that follow another directly", share, limit=_MOST),)
        return (Clue(FindingCause.UNDERFITTING, 0.5, 0.85, summary, advice, evidence, view.span),)


def is_chained(view: View) -> bool:
    """Whether most layers follow another one with no activation in between.

    Args:
        view: The run.
    """
    chained = view.column("loss", "chained")
    return len(chained) > 0 and bool(chained[-1] >= _MOST)
