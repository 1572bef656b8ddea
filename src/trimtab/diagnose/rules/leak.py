"""The rule of validation data that the model is trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from trimtab.diagnose.clues import Clue
from trimtab.diagnose.view import Need, View
from trimtab.types import Evidence, FindingCause

_MIN_ROWS, _MIN_KNOWN = 16, 12
# What is remembered is part of the training set: so much of it, or nothing can be said
_MIN_EXPECTED, _SHARE = 0.15, 0.85
# Rows that are equal by nature, as in tables of few categories, must not explain it
_ABOVE_CHANCE = 5.0


@final
@dataclass(frozen=True, slots=True)
class Leak:
    """What it detects: a model that is evaluated on the very rows it is trained on.

    Why it matters: the validation loss then says nothing of new data, and overfitting cannot be seen.

    Evidence used: fingerprints of training rows at the looks, and of rows in forward passes in eval mode. If
    the rows are the same, as large a share of them is known as of later training batches, which come
    again from epoch to epoch; rows that are equal within a batch show what chance does.

    What to try: split the data before anything else is done with it; look at how the index of the
    validation set is made.

    Known false alarms: a training set that is evaluated on purpose, and no other. Augmented or made anew,
    rows are not recognized; of a data set that is never seen twice nothing is told.

    References: Kaufman et al., "Leakage in data mining: formulation, detection, and avoidance", 2012.
    """

    causes = (FindingCause.LEAK,)
    needs = Need.EVALUATION | Need.VAL_LOSS

    def look(self, view: View) -> tuple[Clue, ...]:
        """See `Rule.look`."""
        rows, known, expected, chance = (
            float(view.column("validation", name)[-1])
            for name in ("num_evaluated", "num_known", "expected_share", "chance_share")
        )
        share = known / max(rows, 1.0)
        is_told = rows >= _MIN_ROWS and known >= _MIN_KNOWN and expected >= _MIN_EXPECTED
        if not is_told or share < max(_SHARE * expected, _ABOVE_CHANCE * chance):
            return ()
        summary = (
            f"The model is evaluated on rows it is trained on: {known:.0f} of {rows:.0f} evaluated rows were "
            f"seen in training batches, as many as of the training rows themselves ({expected:.0%})."
        )
        advice = (
            "Split the data first, and look at how the validation set is made. If this is "
            "meant, log that loss under another name than one of a validation loss."
        )
        evidence = (
            Evidence("share of the evaluated rows that were trained on", share, limit=_SHARE * expected),
            Evidence("evaluated rows", rows, "rows"),
        )
        return (Clue(FindingCause.LEAK, 0.3, 0.85, summary, advice, evidence, view.span),)
