"""Turns what other tools hand over (lists, NumPy arrays, tensors) into the columns of a run log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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


def check_lengths(lengths: dict[str, int]) -> int:
    """The one length that all columns have.

    Args:
        lengths: Column name to its length.

    Raises:
        ValueError: No column, or columns of different lengths.
    """
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
