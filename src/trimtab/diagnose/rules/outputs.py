"""The rule of outputs that do not depend on the inputs, and of labels that have nothing to do with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from trimtab.diagnose.clues import Clue
from trimtab.diagnose.view import Need, View
from trimtab.types import Evidence, FindingCause

_MIN_LOOKS = 3
_COLLAPSED, _ALL = 1e-3, 0.999


@final
@dataclass(frozen=True, slots=True)
class Outputs:
    """What it detects: outputs that are the same for every input; a loss at chance over healthy layers.

    Why it matters: a model that answers without looking has learned only how often each answer occurs;
    labels that do not belong to their inputs can only be learned by heart.

    Evidence used: the share of the output's variance that comes from the batch, and of its most frequent
    class; for labels: weights that move, gradients that arrive, inputs that differ, and still no gain.

    What to try: look at a batch with your own eyes: are the labels those of these inputs? Then the causes
    named as runners-up.

    Known false alarms: it is told only as the cause of something else.

    References: Northcutt et al., "Pervasive label errors in test sets", 2021, arXiv:2103.14749.
    """

    causes = (FindingCause.CLASS_COLLAPSE, FindingCause.LABEL_TROUBLE)
    needs = Need.LAYERS | Need.PARAMETERS

    def look(self, view: View) -> tuple[Clue, ...]:
        """See `Rule.look`."""
        spread = view.column("output", "batch_spread")
        late = spread[len(spread) // 2 :]
        late = late[np.isfinite(late)]
        if len(late) < _MIN_LOOKS:
            return ()
        middle = float(np.median(late))
        evidence = (Evidence("share of the output that depends on the input", middle, limit=_COLLAPSED),)
        if middle < _COLLAPSED:
            cause, confidence = FindingCause.CLASS_COLLAPSE, 0.6
            summary = (
                f"The output hardly depends on the input: {middle:.1e} of its variance comes from the batch."
            )
            advice = (
                "Look for dead layers, constant inputs, or a rate that "
                "threw the model out of its initial state."
            )
        else:
            cause, confidence = FindingCause.LABEL_TROUBLE, 0.55
            summary = (
                "Weights move, gradients arrive and the outputs depend on "
                "the inputs, and still nothing is learned."
            )
            advice = (
                "Look at a batch: are the labels those of these inputs? "
                "Were inputs and labels shuffled apart?"
            )
        clue = Clue(cause, 0.8, confidence, summary, advice, evidence, view.span, stands_alone=False)
        return (clue,)
