"""What goes wrong in the demo besides the data itself: a failing data worker and a wrong learning rate.

Neither raises, warns or leaves a mark. The guard is not told about them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor


@final
@dataclass(frozen=True, slots=True)
class FailingWorker:
    """A data worker that for a few batches hands over a buffer it filled only halfway.

    The other half is memory that nobody wrote: random bits, read as float32. One value in 256 is
    NaN or Inf, and the finite ones reach from 1e-38 to 3e38.

    Attributes:
        first_step: Step of the first bad batch.
        num_steps: Number of bad batches in a row.
        seed: Which random bits.
    """

    first_step: int
    num_steps: int
    seed: int = 0

    def deliver(self, step: int, values: Tensor) -> Tensor:
        """The values of this step's batch as they arrive in the training process.

        Args:
            step: Number of the step, counted from 0.
            values: What the worker should deliver, float32.
        """
        if not self.first_step <= step < self.first_step + self.num_steps:
            return values
        generator = torch.Generator().manual_seed(self.seed + step)
        bits = torch.randint(-(2**31), 2**31, values.shape, dtype=torch.int32, generator=generator)
        num_filled = values.shape[0] // 2
        return torch.cat([values[:num_filled], bits.view(torch.float32)[num_filled:]])


@final
@dataclass(frozen=True, slots=True)
class RateStretch:
    """A stretch of steps with a far too large learning rate.

    Attributes:
        first_step: Step at which it begins.
        num_steps: Its length.
        factor: How many times too large the learning rate is.
    """

    first_step: int
    num_steps: int
    factor: float

    def at(self, step: int) -> float:
        """What the learning rate of this step is multiplied by."""
        return self.factor if self.first_step <= step < self.first_step + self.num_steps else 1.0
