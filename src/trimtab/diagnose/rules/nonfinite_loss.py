"""The rule of losses that are NaN or infinite."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from trimtab.diagnose.clues import Clue
from trimtab.diagnose.view import Need, View
from trimtab.types import Evidence, FindingCause

# Refused steps are no harm until they are so many
_MAX_REFUSED = 0.05


@final
@dataclass(frozen=True, slots=True)
class NonFiniteLoss:
    """What it detects: a loss that became NaN or infinite in a step that was applied, or in many steps.

    Why it matters: an update from such a loss makes every weight NaN, and the run is lost.

    Evidence used: the loss; whether the updates were applied; the course before.

    What to try: guard the run so that such steps are refused; trace the step to the operation where the
    number was born (`trimtab.trace`); check the batch for NaN; logarithms, divisions and square roots
    need a floor; lower the learning rate if the loss had been rising before.

    Known false alarms: none known. Single steps that a guard refused are not reported.

    References: IEEE 754-2019, section 6.
    """

    causes = (FindingCause.LOSS_NAN,)
    needs = Need.NOTHING

    def look(self, view: View) -> tuple[Clue, ...]:
        """See `Rule.look`."""
        log, rows = view.log, view.nonfinite
        if not len(rows):
            return ()
        applied = rows[log.applied[rows]]
        share = len(rows) / max(log.num_steps, 1)
        if not len(applied) and share < _MAX_REFUSED:
            return ()
        first, last = int(log.step[rows[0]]), int(log.step[rows[-1]])
        is_lost = bool(np.all(~np.isfinite(log.loss[rows[0] :][log.given("loss")[rows[0] :]])))
        word = "NaN" if np.isnan(log.loss[rows[0]]) else "infinite"
        if is_lost and log.num_steps > 1:
            summary = f"The loss became {word} at step {first} and never recovered."
        else:
            summary = (
                f"The loss was {word} or worse in {len(rows)} of {log.num_steps} steps, first at {first}."
            )
        advice = (
            "Trace the first bad step with trimtab.trace to the operation that made it, and train under a "
            "Guard, which refuses such updates. Look at that step's batch for NaN."
        )
        evidence = (
            Evidence("first step with a bad loss", first),
            Evidence("steps with a bad loss", len(rows), "steps"),
            Evidence("share of all steps", share),
        )
        harm = 1.0 if is_lost else min(1.0, 0.2 + share)
        return (Clue(FindingCause.LOSS_NAN, harm, 0.95, summary, advice, evidence, (first, last)),)
