"""Remedies that write over bad numbers and then apply the step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, final, get_args

from trimtab.decide.checks import check_budget, check_number
from trimtab.decide.protocols import Refusal
from trimtab.types import (
    Action,
    Decision,
    Fault,
    Kind,
    Mend,
    Place,
    Replace,
    RescaleTensors,
    StepStats,
    ZeroTensors,
)

Scope = Literal["elements", "tensors"]


@final
@dataclass(frozen=True, slots=True)
class ZeroBad:
    """Set bad gradient elements to 0 and apply the step, up to `budget` faulty steps in a row, then raise.

    The bad elements are those that are NaN or infinite, and those beyond the threshold of an `Overflow`
    detector. A spike has no bad elements and is applied as it is. Parameters, buffers and optimizer
    state are not written to, and a fault there raises: see `PerPlace`.

    Args:
        scope: "elements" zeroes the bad elements alone, "tensors" every gradient that holds one.
        budget: Longest run of faulty steps that is mended. At least 0.

    Raises:
        ValueError: An argument is out of its range.

    Cost:
        The step's one host read; in a faulty step a few passes over the bad tensors, a second
        measurement of the norms and a second read.

    Example:
        >>> fault, stats = Fault(Kind.NAN, Place.GRADIENT), StepStats(loss=2.0, grad_norm=float("nan"))
        >>> decision, used = ZeroBad().decide((fault,), stats, 0)
        >>> decision.action, decision.reason
        (<Action.MEND: 'mend'>, 'bad elements set to 0; 1 of 10 faulty steps in a row')
    """

    refusal: ClassVar[Refusal] = Refusal.SOMETIMES

    scope: Scope = "elements"
    budget: int = 10

    def __post_init__(self) -> None:
        if self.scope not in get_args(Scope):
            raise ValueError(f"ZeroBad(scope={self.scope!r}): expected 'elements' or 'tensors'.")
        check_budget("ZeroBad", self.budget)

    def init(self) -> int:
        """Number of faulty steps in a row so far."""
        return 0

    def decide(self, faults: Sequence[Fault], stats: StepStats[float], state: int) -> tuple[Decision, int]:
        """Mend while the budget lasts."""
        del stats
        mend = Replace(overflow=0.0) if self.scope == "elements" else ZeroTensors()
        return _mended(faults, mend, f"bad {self.scope} set to 0", self.budget, state)


@final
@dataclass(frozen=True, slots=True)
class ReplaceBad:
    """Replace bad gradient elements and apply the step, up to `budget` faulty steps in a row, then raise.

    Signs are kept: -Inf becomes `-inf`. A value that the gradient's type cannot hold becomes the largest
    one that it can. Otherwise as `ZeroBad`.

    Args:
        nan: What NaN becomes.
        inf: What +Inf becomes. At least 0.
        overflow: What a finite element beyond the threshold of an `Overflow` detector becomes. At least 0.
        budget: Longest run of faulty steps that is mended. At least 0.

    Raises:
        ValueError: An argument is out of its range.

    Cost:
        As `ZeroBad`.

    Example:
        >>> fault, stats = Fault(Kind.INF, Place.GRADIENT), StepStats(loss=2.0, grad_norm=float("inf"))
        >>> ReplaceBad(inf=100.0).decide((fault,), stats, 0)[0].mends[0][1]
        Replace(nan=0.0, inf=100.0, overflow=1000000.0)
    """

    refusal: ClassVar[Refusal] = Refusal.SOMETIMES

    nan: float = 0.0
    inf: float = 1e6
    overflow: float = 1e6
    budget: int = 10

    def __post_init__(self) -> None:
        check_number("ReplaceBad", nan=self.nan, inf=self.inf, overflow=self.overflow)
        if not math.isfinite(self.nan):
            raise ValueError(f"ReplaceBad(nan={self.nan}): expected a finite number.")
        for name in ("inf", "overflow"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"ReplaceBad({name}={getattr(self, name)}): expected a finite number >= 0.")
        check_budget("ReplaceBad", self.budget)

    def init(self) -> int:
        """Number of faulty steps in a row so far."""
        return 0

    def decide(self, faults: Sequence[Fault], stats: StepStats[float], state: int) -> tuple[Decision, int]:
        """Mend while the budget lasts."""
        del stats
        mend = Replace(self.nan, self.inf, self.overflow)
        return _mended(faults, mend, "bad elements replaced", self.budget, state)


@final
@dataclass(frozen=True, slots=True)
class RescaleBad:
    """Scale offending gradients into range and apply the step, then as `ZeroBad` with its budget.

    A gradient with finite elements beyond an `Overflow` threshold is multiplied so that its largest
    element is at the threshold; a spike of the norm, so that the norm is at the detector's bound.
    Elements that are not finite have no direction to keep: they become 0, and the reason says so.

    Args:
        budget: Longest run of faulty steps that is mended. At least 0.

    Raises:
        ValueError: `budget` is not a whole number of at least 0.

    Cost:
        As `ZeroBad`.

    Example:
        >>> fault = Fault(Kind.OVERFLOW, Place.GRADIENT, threshold=1e6)
        >>> RescaleBad().decide((fault,), StepStats(loss=2.0, grad_norm=3e7), 0)[0].reason
        'scaled into range; 1 of 10 faulty steps in a row'
    """

    refusal: ClassVar[Refusal] = Refusal.SOMETIMES

    budget: int = 10

    def __post_init__(self) -> None:
        check_budget("RescaleBad", self.budget)

    def init(self) -> int:
        """Number of faulty steps in a row so far."""
        return 0

    def decide(self, faults: Sequence[Fault], stats: StepStats[float], state: int) -> tuple[Decision, int]:
        """Mend while the budget lasts."""
        del stats
        num_zeroed = sum(
            culprit.count(fault.kind)
            for fault in faults
            if fault.kind in (Kind.NAN, Kind.INF) and fault.place is Place.GRADIENT
            for culprit in fault.culprits
        )
        said = "scaled into range" + (f", {num_zeroed} non-finite elements set to 0" if num_zeroed else "")
        return _mended(faults, RescaleTensors(), said, self.budget, state)


_MENDABLE = frozenset({Place.GRADIENT, Place.LOSS})


def _mended(faults: Sequence[Fault], mend: Mend, said: str, budget: int, state: int) -> tuple[Decision, int]:
    """Mend the gradients, unless the budget is spent or the fault is elsewhere."""
    if not faults:
        return Decision(Action.APPLY), 0
    state += 1
    elsewhere = sorted({f.place.value for f in faults if f.place not in _MENDABLE})
    if elsewhere:
        reason = f"the fault is in the {' and the '.join(elsewhere)} too, and only gradients are mended"
        return Decision(Action.RAISE, reason), state
    if state > budget:
        return Decision(Action.RAISE, f"{state} faulty steps in a row, {budget} allowed"), state
    count = f"{state} of {budget} faulty steps in a row"
    if all(f.kind is Kind.SPIKE for f in faults) and not isinstance(mend, RescaleTensors):
        return Decision(Action.APPLY, f"a spike has no bad elements; {count}"), state
    return Decision(Action.MEND, f"{said}; {count}", mends=((Place.GRADIENT, mend),)), state
