"""Turns what other tools hand over (lists, NumPy arrays, tensors) into the columns of a run log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
Values = Sequence[Any] | NDArray[Any] | Tensor


def float_column(name: str, values: Values) -> tuple[FloatArray, BoolArray]:
    """A float64 column, and where it was given: None in a list means "not given", NaN is a number.

    Args:
        name: Name of the argument, for messages.
        values: A list, an array or a tensor, one-dimensional.

    Raises:
        ValueError: It is not one-dimensional, or holds something that is not a number.
    """
    if isinstance(values, Tensor):
        values = np.asarray(values.detach().to(device="cpu", dtype=torch.float64))
    if not hasattr(values, "__iter__") or isinstance(values, (str, bytes)):
        raise ValueError(
            f"{name} is {type(values).__name__}: expected one number per step, as in [1.0, 0.9]."
        )
    given = np.array([value is not None for value in values], dtype=bool) if _has_none(values) else None
    try:
        column = np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: expected plain numbers (None where there is none): {error}") from error
    if column.ndim != 1:
        raise ValueError(f"{name} of shape {column.shape}: expected one number per step, shape (num_steps,).")
    return column, np.ones(len(column), dtype=bool) if given is None else given


def step_column(values: Values) -> NDArray[np.int64]:
    """A column of step numbers.

    Args:
        values: Whole numbers, one-dimensional.

    Raises:
        ValueError: Not one-dimensional, or not whole numbers.
    """
    column, given = float_column("step", values)
    if not given.all() or not np.array_equal(column, np.floor(column)):
        raise ValueError("step: expected whole numbers, one per row.")
    return column.astype(np.int64)


class Aligned(NamedTuple):
    """Columns of one length.

    Attributes:
        steps: Step numbers.
        numbers: Name to column; nan where nothing was given.
        gaps: Name to True where nothing was given.
        asides: Name to (column, where it was given).
        applied: Whether the parameters were updated.
    """

    steps: NDArray[np.int64]
    numbers: dict[str, FloatArray]
    gaps: dict[str, BoolArray]
    asides: dict[str, tuple[FloatArray, BoolArray]]
    applied: BoolArray


def aligned(
    step: Values | None,
    numbers: Mapping[str, Values | None],
    asides: Mapping[str, Values],
    applied: Values | None,
) -> Aligned:
    """Convert all columns and check that they fit each other.

    Args:
        step: Step numbers; None counts from 0.
        numbers: Name to column, or to None for a column that is absent.
        asides: Name to column, for numbers that are not measured at each step.
        applied: Whether the parameters were updated; None means always.

    Raises:
        ValueError: No column, columns of different lengths, steps that do not grow, not numbers.
    """
    given = {name: float_column(name, values) for name, values in numbers.items() if values is not None}
    others = {name: float_column(name, values) for name, values in asides.items()}
    updates = {} if applied is None else {"applied": float_column("applied", applied)}
    lengths = {name: len(column) for name, (column, _) in (given | others | updates).items()}
    steps = None if step is None else step_column(step)
    num = _one_length(lengths if steps is None else lengths | {"step": len(steps)})
    steps = np.arange(num, dtype=np.int64) if steps is None else steps
    if np.any(np.diff(steps) <= 0):
        raise ValueError("step: expected numbers that grow from row to row.")
    nothing = (np.full(num, np.nan), np.zeros(num, dtype=bool))
    return Aligned(
        steps=steps,
        numbers={name: given.get(name, nothing)[0] for name in numbers},
        gaps={name: ~given.get(name, nothing)[1] for name in numbers},
        asides=others,
        applied=updates["applied"][0] != 0 if updates else np.ones(num, dtype=bool),
    )


def _one_length(lengths: Mapping[str, int]) -> int:
    if not lengths:
        raise ValueError("from_arrays() got no column. Give at least one of loss, grad_norm, step.")
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise ValueError(f"All columns must have one value per step, but {told}.")
    return next(iter(lengths.values()))


def _has_none(values: Values) -> bool:
    if isinstance(values, np.ndarray):
        return values.dtype == object and any(value is None for value in values.flat)
    return any(value is None for value in values)
