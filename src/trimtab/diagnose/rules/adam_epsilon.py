"""The rule of Adam's epsilon when it outweighs the second moment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from trimtab.diagnose.clues import Clue
from trimtab.diagnose.rules.tight_clipping import is_held_back
from trimtab.diagnose.view import Need, View
from trimtab.types import Evidence, FindingCause

_SHARE = 0.9


# The smallest epsilon in common use, which is torch's own
_TINY = 1e-8


@final
@dataclass(frozen=True, slots=True)
class AdamEpsilon:
    """What it detects: an epsilon of Adam above the root of the second moment of nearly all elements.

    Why it matters: the update is then the gradient divided by epsilon: Adam has become a slow SGD.

    Evidence used: samples of the second moment in the optimizer's state. Told only if the run learns too
    slowly or nothing, or if the loss still falls at the end and the weights went less than half their norm.

    What to try: an epsilon of 1e-8, or below the usual size of the gradients.

    Known false alarms: none known, since it is told only as the cause of something else.

    References: Kingma and Ba 2015, arXiv:1412.6980, section 2.
    """

    causes = (FindingCause.ADAM_EPSILON,)
    needs = Need.PARAMETERS

    def look(self, view: View) -> tuple[Clue, ...]:
        """See `Rule.look`."""
        share, weights = view.signal("epsilon_share"), view.weights
        if share is None or weights is None or len(share.steps) < 3:
            return ()
        late = share.values[len(share.steps) // 2 :][:, weights]
        seen = late[np.isfinite(late)]
        if not len(seen) or float(np.median(seen)) < _SHARE:
            return ()
        middle = float(np.median(seen))
        summary = (
            "Epsilon outweighs the second moment of Adam in "
            f"{middle:.0%} of the elements: its steps are tiny."
        )
        advice = "Set eps to 1e-8. If gradients are that small on purpose, scale the loss."
        evidence = (Evidence("share of elements below epsilon", middle, limit=_SHARE),)
        cause, told = FindingCause.ADAM_EPSILON, is_held_back(view) or _are_tiny(view)
        return (Clue(cause, 0.5, 0.9, summary, advice, evidence, view.span, stands_alone=told),)


def _are_tiny(view: View) -> bool:
    """Whether gradients were below any epsilon in use from the first look on, as of a loss in tiny units."""
    size, weights = view.signal("gradient_rms"), view.weights
    if size is None or weights is None or not weights.any():
        return False
    return float(np.nanmax(size.values[:, weights])) < _TINY
