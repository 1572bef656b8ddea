"""The course of a loss: where it began, the best it reached, where it ended, and how noisy it is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from trimtab.diagnose.statistics import Blocks, FloatArray, Trend, blocks, middle, trend

# Blocks: enough to see a course, and wide enough for a median
_MIN_BLOCKS, _MAX_BLOCKS, _BLOCK_STEPS = 4, 40, 8
MIN_STEPS = 16
# Below this share of the early level a loss is as good as gone: what it does there harms nobody
_FLOOR_SHARE = 0.01
_EARLY_SHARE = 0.1
_HUGE = 1e150
# On the log scale, in the second half
_ON_ITS_WAY = -0.3


@dataclass(frozen=True)
class Course:
    """A loss over the steps at which it was finite.

    It is judged on a scale on which noise is even: the logarithm, with 1 % of the early level added, so
    that tiny losses are not blown up; or, when some of it is negative, in units of what was gained.

    Attributes:
        steps: Step numbers.
        values: The loss.
    """

    steps: NDArray[np.int64]
    values: FloatArray

    def __len__(self) -> int:
        return len(self.values)

    @cached_property
    def is_positive(self) -> bool:
        """Whether the loss is judged by its logarithm."""
        return bool(np.all(self.values >= 0) and np.any(self.values > 0))

    @cached_property
    def early(self) -> float:
        """Typical loss of the first tenth."""
        return middle(self.values[: max(3, int(_EARLY_SHARE * len(self)))])

    @cached_property
    def start(self) -> float:
        """Loss before anything was learned: the first few steps."""
        number = 1 if len(self) < 50 else 3 if len(self) < 300 else 5
        return middle(self.values[:number])

    @cached_property
    def scale(self) -> float:
        """What one unit of `judged` is when the loss can be negative; else the floor of the logarithm."""
        if self.is_positive:
            return max(_FLOOR_SHARE * min(self.start, self.early), np.finfo(np.float64).tiny)
        low, high = np.quantile(self.values, [0.02, 0.98])
        gained = self.start - float(np.quantile(self.values, 0.1))
        return max(gained, 0.1 * float(high - low), 1e-12 * float(np.abs(self.values).max()), 1e-300)

    @cached_property
    def judged(self) -> FloatArray:
        """The loss on the scale on which it is judged."""
        if self.is_positive:
            return np.log(self.values + self.scale)
        apart = self.values / self.scale - self.start / self.scale
        # differences of numbers near the end of the range
        return np.nan_to_num(apart, nan=0.0, posinf=_HUGE, neginf=-_HUGE)

    @cached_property
    def blocks(self) -> Blocks:
        """Blocks of `judged`."""
        number = int(np.clip(len(self) // _BLOCK_STEPS, _MIN_BLOCKS, _MAX_BLOCKS))
        return blocks(self.judged, number)

    @cached_property
    def late(self) -> Trend:
        """The trend of the second half, on the judged scale."""
        return trend(self.blocks.medians[len(self.blocks) // 2 :])

    @property
    def still_falls(self) -> bool:
        """Whether it fell by a quarter or more in the second half: the run is on its way."""
        return self.late.change < _ON_ITS_WAY

    @cached_property
    def best_block(self) -> int:
        """Index of the block with the lowest median."""
        return int(np.argmin(self.blocks.medians))

    @cached_property
    def best(self) -> float:
        """Median loss of the best block."""
        return self.level(self.best_block)

    @cached_property
    def end(self) -> float:
        """Median loss of the last tenth."""
        return middle(self._tail)

    @cached_property
    def mean_end(self) -> float:
        """Mean loss of the last tenth: of single samples a few make most of it."""
        return float(np.mean(self._tail)) if len(self) else math.nan

    @property
    def _tail(self) -> FloatArray:
        """The last tenth."""
        return self.values[-max(3, len(self) // 10) :]

    @cached_property
    def noise(self) -> float:
        """Scatter from step to step on the judged scale, whatever the course."""
        steps = np.diff(self.judged)
        return float(np.median(np.abs(steps))) * 1.4826 / np.sqrt(2) if len(steps) else 0.0

    @cached_property
    def peak(self) -> float:
        """The highest three losses in a row, by the lowest of them."""
        if len(self) < 3:
            return float(self.values.max())
        three = np.minimum(np.minimum(self.values[:-2], self.values[1:-1]), self.values[2:])
        return float(three.max())

    def level(self, block: int) -> float:
        """Median loss of a block.

        Args:
            block: Its index.
        """
        edges = self.blocks.edges
        return float(np.median(self.values[edges[block] : edges[block + 1]]))

    def step_of(self, block: int) -> int:
        """First step of a block.

        Args:
            block: Its index.
        """
        return int(self.steps[self.blocks.edges[block]])

    @cached_property
    def progress(self) -> float:
        """Share of the initial loss that was gone at the end; of a loss that can be negative, 1 or 0."""
        if self.is_positive:
            return 1.0 - self.end / self.start if self.start > 0 else 0.0
        drop = self.blocks.medians[0] - self.blocks.medians[-2:].mean()
        return 1.0 if drop > 4 * self.blocks.noise and drop > 0.1 else 0.0

    def lost(self, level: float) -> float:
        """Share of what was gained that is lost at a level.

        Args:
            level: A loss.
        """
        gained = max(self.start, self.level(0)) - self.best
        return (level - self.best) / gained if gained > 0 else float("inf")
