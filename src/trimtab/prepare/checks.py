"""What a pre-flight check says: one entry for each point that was looked at."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple


class CheckVerdict(str, Enum):
    """What came out of a check. Compares equal to its text: `check.verdict == "ok"`."""

    OK = "ok"
    PROBLEM = "problem"
    NOT_APPLICABLE = "not applicable"  # there is nothing of the kind here
    COULD_NOT_TELL = "could not tell"  # it was tried, and no honest answer came out

    def __str__(self) -> str:
        return self.value


class Number(NamedTuple):
    """One number that speaks for a verdict.

    Attributes:
        name: What was measured.
        value: The number.
    """

    name: str
    value: float


@dataclass(frozen=True, slots=True)
class Check:
    """One point of the list.

    Attributes:
        name: Which point, such as `initial loss`.
        verdict: What came out.
        summary: One sentence, in plain words.
        evidence: The numbers behind it.
        advice: What to change; empty if nothing.
        explained_by: Of a problem: name of another one that is the likely reason for it; empty if none is.
    """

    name: str
    verdict: CheckVerdict
    summary: str
    evidence: tuple[Number, ...] = ()
    advice: str = ""
    explained_by: str = ""


def ok(name: str, summary: str, *evidence: Number, advice: str = "") -> Check:
    """A check that found nothing wrong."""
    return Check(name, CheckVerdict.OK, summary, evidence, advice)


def problem(name: str, summary: str, *evidence: Number, advice: str) -> Check:
    """A check that found something wrong."""
    return Check(name, CheckVerdict.PROBLEM, summary, evidence, advice)


def nothing(name: str, why: str) -> Check:
    """A check for which there is nothing here."""
    return Check(name, CheckVerdict.NOT_APPLICABLE, why)


def unsure(name: str, why: str, *evidence: Number, advice: str = "") -> Check:
    """A check that gave no honest answer."""
    return Check(name, CheckVerdict.COULD_NOT_TELL, why, evidence, advice)


_MARKS = {
    CheckVerdict.OK: "ok",
    CheckVerdict.PROBLEM: "PROBLEM",
    CheckVerdict.NOT_APPLICABLE: "-",
    CheckVerdict.COULD_NOT_TELL: "?",
}


@dataclass(frozen=True, slots=True)
class Preflight:
    """What `preflight` found.

    Attributes:
        checks: One for each point, in the order in which they were looked at.
        seconds: How long it took.
    """

    checks: tuple[Check, ...]
    seconds: float

    @property
    def is_clean(self) -> bool:
        """Whether no check found a problem."""
        return not self.problems

    @property
    def problems(self) -> tuple[Check, ...]:
        """The checks that found something wrong, without those that another one of them explains."""
        return tuple(c for c in self.checks if c.verdict is CheckVerdict.PROBLEM and not c.explained_by)

    def check(self, name: str) -> Check:
        """The check of this name.

        Args:
            name: Such as `initial loss`.

        Raises:
            KeyError: There is none; the message lists those there are.
        """
        for check in self.checks:
            if check.name == name:
                return check
        raise KeyError(f"no check {name!r}: there are {[c.name for c in self.checks]}")

    def describe(self) -> str:
        """All of it as text for a terminal: one line for each point, numbers and advice below problems."""
        width = max((len(c.name) for c in self.checks), default=0)
        lines = []
        for check in self.checks:
            if not check.explained_by:
                lines += self._lines_of(check, width)
        num = len(self.problems)
        found = f"{num} problem{'' if num == 1 else 's'}" if num else "no problem"
        lines.append(f"{found} in {len(self.checks)} checks, {self.seconds:.1f} s")
        return "\n".join(lines)

    def _lines_of(self, check: Check, width: int) -> list[str]:
        lines = [f"{_MARKS[check.verdict]:>7}  {check.name:<{width}}  {check.summary}"]
        if check.verdict is CheckVerdict.PROBLEM and check.evidence:
            numbers = ", ".join(f"{n.name} {n.value:.4g}" for n in check.evidence)
            lines.append(f"{'':{width + 11}}{numbers}")
        if check.advice:
            lines.append(f"{'':{width + 11}}-> {check.advice}")
        explained = [c for c in self.checks if c.explained_by == check.name]
        return lines + [f"{'':{width + 11}}likely for this reason, {c.name}: {c.summary}" for c in explained]
