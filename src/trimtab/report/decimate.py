"""Fewer points for the eye, without losing what the eye must see: spikes, and numbers that are not finite."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trimtab.record.columns import BoolArray, FloatArray

# A figure is some 1000 pixels wide: more buckets than that cannot be told apart.
NUM_BUCKETS = 800
# Sums and ratios of what is drawn must stay floats: beyond this, a point is drawn at this.
_LARGEST, _SMALLEST = 1e150, 1e-150


def drawable(values: FloatArray) -> FloatArray:
    """Finite values within +-1e150; the rest as they are."""
    return np.where(np.isfinite(values), np.clip(values, -_LARGEST, _LARGEST), values)


def positive(values: FloatArray) -> FloatArray:
    """What a log axis can show, within 1e-150 to 1e150; nan for the rest."""
    usable = np.isfinite(values) & (values > 0)
    return np.where(usable, np.clip(values, _SMALLEST, _LARGEST), np.nan)


def envelope(
    x: NDArray[np.int64], y: FloatArray, num_buckets: int = NUM_BUCKETS
) -> tuple[FloatArray, FloatArray]:
    """A line with the smallest and the largest point of each bucket: no spike gets lost.

    Points that are not finite are never mixed into others: the line is broken there by a nan.

    Args:
        x: Where the points are, growing.
        y: The points.
        num_buckets: Buckets of equally many points. Short lines come back whole.

    Returns:
        At most about 3 points per bucket; nan breaks the line.

    Cost:
        O(len(y)), vectorized.

    Example:
        >>> x, y = envelope(np.arange(10), np.array([0.0, 9, 1, 1, 1, 1, -7, 1, 1, 1]), num_buckets=2)
        >>> y
        array([ 0.,  9.,  1., -7.])
    """
    broken = np.where(np.isfinite(y), y, np.nan)
    if len(y) <= 3 * num_buckets:
        return x.astype(np.float64), broken
    size = -(-len(y) // num_buckets)
    padding = -len(y) % size
    table = np.concatenate((broken, np.full(padding, np.nan))).reshape(-1, size)
    real = np.arange(table.size).reshape(table.shape) < len(y)
    low = np.argmin(np.where(np.isnan(table), np.inf, table), axis=1)
    high = np.argmax(np.where(np.isnan(table), -np.inf, table), axis=1)
    start = np.arange(len(table)) * size
    first, second = start + np.minimum(low, high), start + np.maximum(low, high)
    breaks = (np.isnan(table) & real).any(axis=1)
    rows = np.stack((first, second, np.minimum(start + size - 1, len(y) - 1)), axis=1)
    values = np.stack((broken[first], broken[second], np.full(len(table), np.nan)), axis=1)
    wanted = np.stack((np.ones_like(breaks), first != second, breaks), axis=1)
    return x[rows[wanted]].astype(np.float64), values[wanted]


def spans(
    x: NDArray[np.int64], marked: BoolArray, *, num_slots: int = 400
) -> tuple[tuple[float, float], ...]:
    """Where `marked` is true, as (start, width) on the x axis; neighbors too close to tell are merged.

    Args:
        x: Where the points are, growing.
        marked: Which points count.
        num_slots: A span is at least this fraction of the axis wide, so that one step stays visible.
    """
    rows = np.flatnonzero(marked)
    if len(rows) == 0:
        return ()
    slot = max(float(x[-1] - x[0]), 1.0) / num_slots
    places = x[rows].astype(np.float64)
    # runs of neighboring rows have no gap, however far apart their step numbers are
    gaps = (np.diff(places) > 1.5 * slot) & (np.diff(rows) > 1)
    starts = places[np.concatenate(([True], gaps))]
    ends = places[np.concatenate((gaps, [True]))]
    half = slot / 2
    return tuple(
        (float(start - half), float(end - start + slot)) for start, end in zip(starts, ends, strict=True)
    )
