"""A matrix of layer norms as the cells of a picture, evenly over the steps of the run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.record.columns import BoolArray, FloatArray

# A row stands for the steps around it up to this many times the usual distance between rows: further
# away nothing is known. Faulty rows that are missing from the cadence do not change the percentile.
_REACH, _CADENCE_PERCENTILE = 2, 90


@dataclass(frozen=True, eq=False, slots=True)
class Cells:
    """What to draw, each of shape (columns of the picture, rows of the picture): steps by layers.

    Attributes:
        norms: Largest finite norm, nan where there is none.
        has_nan: Whether any norm is NaN.
        has_inf: Whether any norm is infinite.
        is_absent: Whether there is nothing: no gradient, or no record near.
    """

    norms: FloatArray
    has_nan: BoolArray
    has_inf: BoolArray
    is_absent: BoolArray


def layer_cells(
    norms: np.ma.MaskedArray[Any, Any],
    steps: NDArray[np.int64],
    is_faulty: BoolArray,
    *,
    max_columns: int,
    max_rows: int,
) -> Cells:
    """Shrink, or stretch, recorded rows to even columns of steps.

    Healthy rows, those of the cadence, stand for the steps around them. Faulty rows are recorded
    besides the cadence and stand for their own column only: there they are laid over the rest, so
    that none gets lost and none takes more room than one column.

    Args:
        norms: Shape (recorded steps, layers), masked where there was no gradient.
        steps: The recorded steps.
        is_faulty: Which of them were faulty.
        max_columns: Upper bound of the columns.
        max_rows: Upper bound of the rows: neighboring layers share one, the largest norm counts.

    Cost:
        O(norms.size), vectorized.
    """
    order = np.argsort(steps, kind="stable")
    places = (steps[order] - steps[order[0]]).astype(np.float64)
    span = places[-1] + 1.0
    num_columns = int(min(span, max_columns))
    column = np.minimum(places * (num_columns / span), num_columns - 1).astype(np.int64)
    layers = _bucket_starts(norms.shape[1], max_rows)
    marked = is_faulty[order]
    healthy, at = _gathered(norms[order[~marked]], column[~marked], layers)
    nearest, distance = _nearest(at, num_columns)
    is_known = distance <= _reach(places[~marked]) * (num_columns / span)
    cells = _stretched(healthy, nearest, is_known)
    faulty, at = _gathered(norms[order[marked]], column[marked], layers)
    cells.norms[at] = np.fmax(cells.norms[at], faulty.norms)
    cells.has_nan[at] |= faulty.has_nan
    cells.has_inf[at] |= faulty.has_inf
    cells.is_absent[at] &= faulty.is_absent
    return cells


def _gathered(
    norms: np.ma.MaskedArray[Any, Any], column: NDArray[np.int64], layers: NDArray[np.int64]
) -> tuple[Cells, NDArray[np.int64]]:
    """The rows that fall into the same column as one, and which columns these are."""
    values, absent = np.asarray(norms.data), np.ma.getmaskarray(norms)
    at, starts = np.unique(column, return_index=True)
    finite = np.where(np.isfinite(values) & ~absent, values, -1.0)
    largest = _reduce(np.maximum, finite, starts, layers).astype(np.float64)
    cells = Cells(
        norms=np.where(largest < 0, np.nan, largest),
        has_nan=_reduce(np.logical_or, np.isnan(values) & ~absent, starts, layers),
        has_inf=_reduce(np.logical_or, np.isinf(values) & ~absent, starts, layers),
        is_absent=_reduce(np.logical_and, absent, starts, layers),
    )
    return cells, at


def _nearest(at: NDArray[np.int64], num_columns: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each column the index of the nearest of the columns `at`, and how far it is."""
    if len(at) == 0:
        return np.zeros(num_columns, dtype=np.int64), np.full(num_columns, np.iinfo(np.int64).max)
    columns = np.arange(num_columns)
    right = np.searchsorted(at, columns).clip(0, len(at) - 1)
    left = (right - 1).clip(0)
    nearest = np.where(np.abs(at[left] - columns) <= np.abs(at[right] - columns), left, right)
    return nearest, np.abs(at[nearest] - columns)


def _reach(places: FloatArray) -> float:
    """How many steps a row stands for on each side."""
    if len(places) < 2:
        return 0.0
    return float(_REACH * np.percentile(np.diff(places), _CADENCE_PERCENTILE))


def _stretched(cells: Cells, nearest: NDArray[np.int64], is_known: BoolArray) -> Cells:
    """Cells with a column for each of `nearest`, empty where nothing is known."""
    if len(cells.norms) == 0:
        shape = (len(nearest), cells.norms.shape[1])
        no = np.zeros(shape, dtype=bool)
        return Cells(np.full(shape, np.nan), no, no.copy(), ~no)
    known = is_known[:, None]
    return Cells(
        norms=np.where(known, cells.norms[nearest], np.nan),
        has_nan=cells.has_nan[nearest] & known,
        has_inf=cells.has_inf[nearest] & known,
        is_absent=cells.is_absent[nearest] | ~known,
    )


def _bucket_starts(length: int, num_buckets: int) -> NDArray[np.int64]:
    return np.unique(np.linspace(0, length, min(length, num_buckets), endpoint=False).astype(np.int64))


def _reduce(
    function: np.ufunc, table: NDArray[Any], rows: NDArray[np.int64], columns: NDArray[np.int64]
) -> NDArray[Any]:
    return np.asarray(function.reduceat(function.reduceat(table, rows, axis=0), columns, axis=1))
