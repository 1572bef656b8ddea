"""Robust statistics on curves: block medians, rank tests, trends with intervals. NumPy only."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

# Makes the median absolute deviation of a normal distribution its standard deviation
MAD_TO_SIGMA = 1.4826
# Of fewer jumps between blocks the scatter is not known
_MIN_JUMPS = 6
# Standard error of a median over that of a mean, for a normal distribution
_MEDIAN_LOSS = math.sqrt(math.pi / 2)


def spread(values: FloatArray) -> float:
    """Robust standard deviation: the median absolute deviation, scaled; 0 for fewer than two values.

    Args:
        values: Finite numbers.

    Example:
        >>> round(spread(np.array([1.0, 2.0, 3.0, 4.0, 1000.0])), 3)
        1.483
    """
    if len(values) < 2:
        return 0.0
    return float(MAD_TO_SIGMA * np.median(np.abs(values - np.median(values))))


def middle(values: NDArray[np.floating]) -> float:
    """Median of the finite numbers; nan if there are none."""
    seen = values[np.isfinite(values)]
    return float(np.median(seen)) if len(seen) else math.nan


class Blocks(NamedTuple):
    """A curve in blocks of neighboring values that do not overlap.

    Attributes:
        medians: Median of each block.
        edges: Index of the first value of each block, and the length of the curve.
        noise: Standard error of a block's median: from the scatter within blocks and, since neighbors
            depend on each other, from the jumps between blocks; the larger one.
    """

    medians: FloatArray
    edges: NDArray[np.int64]
    noise: float

    def __len__(self) -> int:
        return len(self.medians)


def blocks(values: FloatArray, number: int) -> Blocks:
    """Cut a curve into blocks.

    Args:
        values: Finite numbers, at least two per block.
        number: Number of blocks.

    Example:
        >>> blocks(np.arange(12.0), 3).medians.tolist()
        [1.5, 5.5, 9.5]
    """
    edges = np.linspace(0, len(values), number + 1).astype(np.int64)
    parts = np.split(values, edges[1:-1])
    medians = np.array([np.median(part) for part in parts])
    # a block is detrended by its own straight line: a steep curve is not a noisy one
    within = [spread(_detrended(part)) / math.sqrt(len(part)) for part in parts]
    jumps = np.diff(medians, 2) if number >= _MIN_JUMPS + 2 else np.zeros(1)
    # the second difference of independent medians has six times their variance
    between = spread(jumps) / math.sqrt(6)
    noise = max(_MEDIAN_LOSS * float(np.median(within)), between)
    return Blocks(medians, edges, noise)


def _detrended(part: FloatArray) -> FloatArray:
    if len(part) < 4:
        return part
    half = len(part) // 2
    slope = (np.median(part[half:]) - np.median(part[:half])) / (len(part) / 2)
    return np.asarray(part - slope * np.arange(len(part)), dtype=np.float64)


def rank_test(low: FloatArray, high: FloatArray) -> float:
    """One-sided p-value of the Mann-Whitney test that `high` tends to be larger than `low`.

    Normal approximation with correction for ties, fine from eight values on each side.

    Args:
        low: Finite numbers.
        high: Finite numbers.

    References:
        Mann and Whitney, "On a test of whether one of two random variables is stochastically larger
        than the other", Annals of Mathematical Statistics 18, 1947.

    Example:
        >>> rank_test(np.arange(20.0), np.arange(20.0) + 50) < 1e-6
        True
    """
    n, m = len(low), len(high)
    if n == 0 or m == 0:
        return 1.0
    both = np.concatenate([low, high])
    _, inverse, counts = np.unique(both, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks = (last - (counts - 1) / 2)[inverse]
    u = ranks[n:].sum() - m * (m + 1) / 2
    total = n + m
    ties = float((counts.astype(np.float64) ** 3 - counts).sum()) / max(total * (total - 1), 1)
    variance = n * m / 12 * (total + 1 - ties)
    if variance <= 0:
        return 1.0
    z = (u - n * m / 2 - 0.5) / math.sqrt(variance)
    return 0.5 * math.erfc(z / math.sqrt(2))


class Trend(NamedTuple):
    """Theil-Sen line through a curve, in units of the curve per whole length.

    Attributes:
        change: Change from one end to the other.
        low: Lower end of the 95 % interval of `change`.
        high: Upper end.
    """

    change: float
    low: float
    high: float


def trend(medians: FloatArray) -> Trend:
    """The trend of block medians, with Sen's interval.

    Args:
        medians: Medians of blocks that do not overlap, so that they depend little on each other.

    References:
        Sen, "Estimates of the regression coefficient based on Kendall's tau", JASA 63, 1968.

    Example:
        >>> trend(np.array([0.0, 1.0, 2.0, 3.0, 4.0])).change
        4.0
    """
    n = len(medians)
    if n < 3:
        return Trend(0.0, -math.inf, math.inf)
    i, j = np.triu_indices(n, 1)
    slopes = np.sort((medians[j] - medians[i]) / (j - i)) * (n - 1)
    half = 1.96 * math.sqrt(n * (n - 1) * (2 * n + 5) / 18)
    low = max(int((len(slopes) - half) / 2), 0)
    high = min(int((len(slopes) + half) / 2), len(slopes) - 1)
    return Trend(float(np.median(slopes)), float(slopes[low]), float(slopes[high]))


def autocorrelation(values: FloatArray, lag: int) -> float:
    """Correlation of a series with itself `lag` values later; 0 for a constant one.

    Args:
        values: Finite numbers.
        lag: How much later.
    """
    if len(values) <= lag + 2:
        return 0.0
    centered = values - values.mean()
    power = float(centered @ centered)
    return float(centered[lag:] @ centered[:-lag]) / power if power > 0 else 0.0
