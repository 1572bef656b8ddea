"""Where the bad values of a run were born: each origin once, however many steps it spoiled."""

from __future__ import annotations

from dataclasses import dataclass

from trimtab.record.log import RunLog
from trimtab.types import Origin


@dataclass(frozen=True, slots=True)
class Birthplace:
    """One origin, and the steps in which it was found.

    Attributes:
        origin: As it was found the first time.
        steps: The traced steps.
        evidence: Fault folder of the first of them that has one; "" if none has.
    """

    origin: Origin
    steps: tuple[int, ...]
    evidence: str

    @property
    def heading(self) -> str:
        """Which steps, and what was seen in the first of them."""
        seen = self.origin.seen or "a value became non-finite"
        if len(self.steps) == 1:
            return f"Step {self.steps[0]}: {seen}"
        return f"{len(self.steps)} traced steps, {self.steps[0]} to {self.steps[-1]}: {seen}"


def birthplaces(log: RunLog) -> tuple[Birthplace, ...]:
    """The distinct origins of a run, in the order in which they were met.

    Args:
        log: The run.
    """
    found: dict[object, Birthplace] = {}
    for event in log.origins:
        key = event.origin.identity
        known = found.get(key)
        if known is None:
            found[key] = Birthplace(event.origin, (event.step,), event.evidence)
        else:
            steps = tuple(dict.fromkeys((*known.steps, event.step)))
            found[key] = Birthplace(known.origin, steps, known.evidence or event.evidence)
    return tuple(found.values())
