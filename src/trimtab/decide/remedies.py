"""Remedies: what is done about a faulty step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

from trimtab.decide.protocols import Refusal
from trimtab.types import Action, Decision, Fault, Place, StepStats


@final
@dataclass(frozen=True, slots=True)
class Observe:
    """Report and record faults, act on nothing: the optimizer steps as it would without a guard.

    A faulty gradient is not clipped either, so that a NaN in one tensor reaches no other by way of
    the clip factor.

    Cost:
        The step's one host read.
    """

    refusal: ClassVar[Refusal] = Refusal.NEVER

    def init(self) -> None:
        """No state."""

    def decide(self, faults: Sequence[Fault], stats: StepStats[float], state: None) -> tuple[Decision, None]:
        """Apply every step."""
        del faults, stats
        return Decision(Action.APPLY), state


@final
@dataclass(frozen=True, slots=True)
class Raise:
    """Refuse the first faulty step and raise `NonFiniteError` with everything known about it.

    Cost:
        The step's one host read.
    """

    refusal: ClassVar[Refusal] = Refusal.ALWAYS

    def init(self) -> None:
        """No state."""

    def decide(self, faults: Sequence[Fault], stats: StepStats[float], state: None) -> tuple[Decision, None]:
        """Raise on any fault."""
        del stats
        return Decision(Action.RAISE if faults else Action.APPLY), state


@final
@dataclass(frozen=True, slots=True)
class Skip:
    """Refuse faulty steps, up to `budget` of them in a row, then raise `NonFiniteError`.

    A skipped step leaves parameters, optimizer state and floating-point buffers as they were before
    its forward pass. A healthy step refills the budget.

    Args:
        budget: Longest run of faulty steps that is passed over. At least 0; 0 raises at once.

    Raises:
        ValueError: `budget` is not a whole number of at least 0.

    Cost:
        The step's one host read.

    Example:
        >>> stats, fault = StepStats(loss=2.0, grad_norm=1.0), Fault(Kind.NAN, Place.LOSS)
        >>> remedy = Skip(budget=1)
        >>> decision, used = remedy.decide((fault,), stats, remedy.init())
        >>> decision.action, decision.reason
        (<Action.SKIP: 'skip'>, '1 of 1 faulty steps in a row')
        >>> remedy.decide((fault,), stats, used)[0].action
        <Action.RAISE: 'raise'>
    """

    refusal: ClassVar[Refusal] = Refusal.ALWAYS

    # A healthy run of bfloat16 or float32 meets no bad step, one with dirty data an isolated few:
    # ten in a row is a state problem that skipping does not mend
    budget: int = 10

    def __post_init__(self) -> None:
        if isinstance(self.budget, bool) or not isinstance(self.budget, int) or self.budget < 0:
            raise ValueError(
                f"Skip(budget={self.budget!r}): expected a whole number >= 0, the longest run of "
                "faulty steps to pass over. To stop at the first one, use Raise()."
            )

    def init(self) -> int:
        """Number of faulty steps in a row so far."""
        return 0

    def decide(self, faults: Sequence[Fault], stats: StepStats[float], state: int) -> tuple[Decision, int]:
        """Skip while the budget lasts."""
        del stats
        if not faults:
            return Decision(Action.APPLY), 0
        state += 1
        if state > self.budget:
            reason = f"{state} faulty steps in a row, {self.budget} allowed"
            if any(fault.place is Place.PARAMETER for fault in faults):
                reason += "; the parameters themselves are bad, which skipping cannot mend"
            return Decision(Action.RAISE, reason), state
        return Decision(Action.SKIP, f"{state} of {self.budget} faulty steps in a row"), state
