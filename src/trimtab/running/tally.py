"""What came of the optimizers of a script, counted apart from them so that they can be collected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trimtab.types import StepOutcome


@dataclass(slots=True)
class Tally:
    """Steps of one optimizer.

    Attributes:
        optimizer: Name of its class.
        folder: Where its run log is, or None.
        unguarded_because: Why it has no guard, or None if it has one.
        num_steps: Its steps.
        num_faulty: Those with a fault that a remedy was asked about.
        num_refused: Those that were not applied, without those of `num_overflows`.
        num_overflows: Those that a loss scale was too large for, which is no fault.
    """

    optimizer: str
    folder: Path | None = None
    unguarded_because: str | None = None
    num_steps: int = 0
    num_faulty: int = 0
    num_refused: int = 0
    num_overflows: int = 0

    def count(self, outcome: StepOutcome) -> None:
        """Count one more step."""
        self.num_steps += 1
        if outcome.reason.startswith("loss scale"):
            self.num_overflows += 1
            return
        self.num_faulty += any(not fault.is_advisory for fault in outcome.faults)
        self.num_refused += not outcome.applied


def sentence(tallies: Sequence[Tally]) -> str:
    """One line about a run that is over.

    Example:
        >>> from trimtab.running import Tally, sentence
        >>> sentence([Tally("AdamW", Path("runs/a"), num_steps=812, num_faulty=1, num_refused=1)])
        '812 steps, 1 faulty, 1 refused. See: trimtab show runs/a'
        >>> sentence([])
        'no optimizer made a step in this process, so nothing was guarded.'
    """
    guarded = [tally for tally in tallies if tally.unguarded_because is None and tally.num_steps]
    others = [tally for tally in tallies if tally.unguarded_because is not None]
    if not guarded and not others:
        return "no optimizer made a step in this process, so nothing was guarded."
    parts = []
    if guarded:
        num_steps, num_faulty, num_refused, num_overflows = (
            sum(getattr(tally, name) for tally in guarded)
            for name in ("num_steps", "num_faulty", "num_refused", "num_overflows")
        )
        of = f" of {len(guarded)} optimizers" if len(guarded) > 1 else ""
        faulty = f"{num_faulty} faulty, {num_refused} refused" if num_faulty or num_refused else "none faulty"
        scale = f", loss scale too large in {num_overflows}" if num_overflows else ""
        parts.append(f"{num_steps} step{'s' * (num_steps != 1)}{of}, {faulty}{scale}.")
    parts += [f"{tally.optimizer} was not guarded: {tally.unguarded_because}." for tally in others]
    folders = [f"trimtab show {tally.folder}" for tally in guarded if tally.folder is not None]
    if folders:
        shown = folders if len(folders) <= 3 else [*folders[:3], f"and {len(folders) - 3} more"]
        parts.append(f"See: {', '.join(shown)}")
    return " ".join(parts)
