"""The clip that looks at each element alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from trimtab.decide.checks import check_number, check_positive
from trimtab.types import Clamp, Layout, Needs, StepStats


@final
@dataclass(frozen=True, slots=True)
class ValueClip:
    """Limit every element of every gradient to [`min_value`, `max_value`].

    What `torch.nn.utils.clip_grad_value_` does, with a lower bound of its own if wanted. The direction
    of the gradient changes. An infinite element becomes the bound, as in torch; with a remedy such a
    step is refused before. NaN stays NaN. What a step's outcome calls the clipped share is that of
    elements, and of a complex one the real and the imaginary part are limited each.

    For bounds that differ by parameter group or by layer see `ByName`.

    Args:
        max_value: Upper bound, >= 0; infinite for none.
        min_value: Lower bound, <= 0; None for `-max_value`.
        norm_type: p of the norm that is measured and recorded; the rule does not use it.

    Raises:
        ValueError: The bounds do not enclose 0, are equal, or are both infinite.

    Cost:
        Two passes over the gradients, no host read.

    Example:
        >>> ValueClip(1.0).rescale(StepStats(None, torch.tensor(4.0)), None)
        (Clamp(low=-1.0, high=1.0), None)
    """

    needs: ClassVar[Needs] = Needs.ELEMENTS

    max_value: float = 1.0
    min_value: float | None = None
    norm_type: float = 2.0

    def __post_init__(self) -> None:
        check_number("ValueClip", max_value=self.max_value)
        check_positive("ValueClip", norm_type=self.norm_type)
        if self.min_value is None:
            if not (self.max_value > 0 and math.isfinite(self.max_value)):
                raise ValueError(f"ValueClip(max_value={self.max_value}): expected a finite number > 0.")
            return
        check_number("ValueClip", min_value=self.min_value)
        # bounds on one side of 0 would make gradients out of zeros
        is_around_zero = self.min_value <= 0 <= self.max_value and self.min_value < self.max_value
        if not is_around_zero or (math.isinf(self.min_value) and math.isinf(self.max_value)):
            raise ValueError(
                f"ValueClip(max_value={self.max_value}, min_value={self.min_value}): expected min_value <= 0 "
                "<= max_value, not equal and not both infinite. To leave gradients alone, pass clip=None."
            )

    def init(self, layout: Layout) -> None:
        """No state."""
        del layout

    def rescale(self, stats: StepStats[Tensor], state: None) -> tuple[Clamp, None]:
        """The bounds, the same in every step."""
        del stats
        low = -self.max_value if self.min_value is None else self.min_value
        return Clamp(float(low), float(self.max_value)), state
