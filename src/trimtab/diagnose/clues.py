"""What a rule reports: something it saw, that may be a root cause, a symptom, or only a possible cause."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from trimtab.diagnose.view import Need, View
from trimtab.types import Evidence, FindingCause, Severity

# Harm is the share of the run's worth that is lost
_CRITICAL, _WARNING = 0.5, 0.05


@dataclass(frozen=True, slots=True)
class Clue:
    """Something a rule saw.

    Attributes:
        cause: What it would be a sign of.
        harm: Estimated share of what the run could achieve that is lost, in [0, 1].
        confidence: Probability that this is so, in (0, 1].
        summary: One sentence.
        advice: What to change.
        evidence: The numbers.
        steps: First and last step concerned.
        layer: The layer concerned most, or None.
        stands_alone: Whether it is worth telling by itself; else it is told only if it explains a clue
            that does.
        is_hint: Whether it is no trouble by itself, but lets causes of trouble count.
    """

    cause: FindingCause
    harm: float
    confidence: float
    summary: str
    advice: str
    evidence: tuple[Evidence, ...] = ()
    steps: tuple[int, int] = (0, 0)
    layer: str | None = None
    stands_alone: bool = True
    is_hint: bool = False

    @property
    def severity(self) -> Severity:
        """The harm in words."""
        if self.harm >= _CRITICAL:
            return Severity.CRITICAL
        return Severity.WARNING if self.harm >= _WARNING else Severity.INFO


class Rule(Protocol):
    """Looks for one kind of trouble.

    The docstring of a rule has the headings What it detects, Why it matters, Evidence used, What to try,
    Known false alarms, References; the page of rules is made of it.
    """

    @property
    def causes(self) -> tuple[FindingCause, ...]:
        """What it may report."""

    @property
    def needs(self) -> Need:
        """What the log must hold."""

    def look(self, view: View) -> tuple[Clue, ...]:
        """Look at a run.

        Args:
            view: The run, which holds what `needs` says.
        """
