"""A learning rate that is lowered for a while and returns by itself."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

from trimtab.decide.checks import check_budget, check_number


@final
@dataclass(frozen=True, slots=True)
class CoolDown:
    """Lower the learning rate after a rewind, or while clipping takes too much, and let it return.

    The rate of each step is multiplied by `factor ** (steps_left / steps)`: `factor` at first, 1 at the
    end. Only the step itself sees it, so that no scheduler does, and nothing is cut for good. A new
    occasion starts it afresh.

    Args:
        factor: What the rate is multiplied by at first, in (0, 1).
        steps: Number of applied steps until it is back.

    Raises:
        ValueError: An argument is out of its range.

    Example:
        >>> [round(CoolDown(factor=0.01, steps=2).factor_of(left), 2) for left in (2, 1, 0)]
        [0.01, 0.1, 1.0]
    """

    factor: float = 0.1
    steps: int = 100

    def __post_init__(self) -> None:
        check_number("CoolDown", factor=self.factor)
        if not (math.isfinite(self.factor) and 0 < self.factor < 1):
            raise ValueError(f"CoolDown(factor={self.factor}): expected a number in (0, 1).")
        check_budget("CoolDown", self.steps, name="steps", least=1)

    def factor_of(self, steps_left: int) -> float:
        """What the learning rate is multiplied by, with so many steps left."""
        return float(self.factor ** (steps_left / self.steps))
