"""Arithmetic that keeps its digits: wide types, no autocast, and the rounding error as a number."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")

# 2**ceil(p/2) + 1 splits a p-bit fraction into two halves whose products are exact (Dekker 1971)
_SPLITTER = {torch.float32: 4097.0, torch.float64: 134217729.0}

HALF = frozenset({torch.float16, torch.bfloat16})

# Elements that are converted at once on the CPU: small enough to stay in the cache and to need no new pages
BLOCK = 1 << 16


def wide(x: Tensor) -> Tensor:
    """float16 and bfloat16 in float32, anything else as it is."""
    return x.float() if x.dtype in HALF else x


def widest(x: Tensor) -> Tensor:
    """In float64; in float32 where there is no float64."""
    return x.float() if x.device.type == "mps" else x.double()


def can_widen(x: Tensor) -> bool:
    """Whether float64 can carry the arithmetic of this tensor exactly."""
    return x.dtype is not torch.float64 and x.device.type != "mps"


def full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """The same function with autocast off: its matrix products keep the type of their inputs.

    The device is that of the first tensor among the arguments.
    """

    @functools.wraps(function)
    def in_full_precision(*args: P.args, **kwargs: P.kwargs) -> R:
        device = next((a.device.type for a in (*args, *kwargs.values()) if isinstance(a, Tensor)), "cpu")
        if not torch.is_autocast_enabled(device):
            return function(*args, **kwargs)
        with torch.autocast(device, enabled=False):
            return function(*args, **kwargs)

    return in_full_precision


def two_sum(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """A + b rounded, and the error of that rounding (Knuth 1969, no branch)."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def two_product(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """A * b rounded, and the error of that rounding (Veltkamp and Dekker 1971).

    float32 or float64. The splitting overflows within a factor of 2**13 or 2**28 of the largest number:
    the error is NaN there.
    """
    product = a * b
    splitter = _SPLITTER[product.dtype]
    a_high, b_high = splitter * a - (splitter * a - a), splitter * b - (splitter * b - b)
    a_low, b_low = a - a_high, b - b_high
    error = ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low
    return product, error


def scale_by_power(x: Tensor, exponent: Tensor) -> Tensor:
    """`x * 2**exponent` in two steps, so that the power itself does not overflow.

    torch's `ldexp` is this product with one power, and does not take a batched exponent under vmap.
    """
    half = torch.div(exponent, 2, rounding_mode="floor")
    return x * torch.pow(2.0, half.to(x.dtype)) * torch.pow(2.0, (exponent - half).to(x.dtype))
