"""Detectors: what is suspicious about a step, told from the statistics that clipping needs anyway."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, final

from trimtab.decide.checks import check_number
from trimtab.types import Fault, Kind, Needs, Place, StepStats


@final
@dataclass(frozen=True, slots=True)
class NonFinite:
    """NaN or Inf in the loss or in any gradient.

    One bad element makes the global norm bad, so the norm is all it looks at. A guard always has
    this detector.

    Cost:
        Nothing beyond the norm.

    Example:
        >>> stats = StepStats(loss=2.0, grad_norm=float("nan"))
        >>> faults, _ = NonFinite().detect(stats, None)
        >>> [(fault.kind, fault.place) for fault in faults]
        [(<Kind.NAN: 'NaN'>, <Place.GRADIENT: 'gradient'>)]
    """

    needs: ClassVar[Needs] = Needs.NOTHING

    def init(self) -> None:
        """No state."""

    def detect(self, stats: StepStats[float], state: None) -> tuple[tuple[Fault, ...], None]:
        """Faults suspected in this step."""
        measured = ((Place.LOSS, stats.loss), (Place.GRADIENT, stats.grad_norm))
        return (
            tuple(
                Fault(Kind.NAN if math.isnan(value) else Kind.INF, place)
                for place, value in measured
                if value is not None and not math.isfinite(value)
            ),
            state,
        )


@final
@dataclass(frozen=True, slots=True)
class Overflow:
    """A finite loss, or a finite element of a gradient, whose magnitude is above `threshold`.

    No element is larger than the norm, so nothing is looked at until the norm itself exceeds the
    threshold; the elements are then counted exactly, and the fault is dropped if none does.

    Args:
        threshold: Largest magnitude that is not a fault. Finite and > 0.

    Raises:
        ValueError: `threshold` is not finite or not > 0.

    Cost:
        Nothing beyond the norm while the norm is below the threshold; then see `measure.census`.

    Example:
        >>> faults, _ = Overflow(1e6).detect(StepStats(loss=2.0, grad_norm=3e6), None)
        >>> faults[0].summary
        'overflow in the gradient (above 1e+06)'
    """

    needs: ClassVar[Needs] = Needs.NOTHING

    threshold: float = 1e6

    def __post_init__(self) -> None:
        check_number("Overflow", threshold=self.threshold)
        if not (math.isfinite(self.threshold) and self.threshold > 0):
            raise ValueError(
                f"Overflow(threshold={self.threshold}): expected a finite number > 0. "
                "To look for NaN and Inf only, leave it out: NonFinite is always on."
            )

    def init(self) -> None:
        """No state."""

    def detect(self, stats: StepStats[float], state: None) -> tuple[tuple[Fault, ...], None]:
        """Faults suspected in this step."""
        measured = ((Place.LOSS, stats.loss), (Place.GRADIENT, stats.grad_norm))
        return (
            tuple(
                Fault(Kind.OVERFLOW, place, threshold=self.threshold)
                for place, value in measured
                # a NaN or Inf norm may hide finite overflow, which the census then counts as well
                if value is not None and not abs(value) <= self.threshold
            ),
            state,
        )
