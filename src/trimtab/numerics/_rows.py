"""Exponentials of a row, shifted so that no digit is lost: what all normalizers and losses share."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Largest exponent kept: exp(68 + 1) times 3e8 classes is still finite in float32
_TOP = {torch.float32: 68.0, torch.float64: 620.0}
# Rows from this length on are searched in two levels
_LONG = 256


def shifted_exp(x: Tensor, largest: Tensor) -> Tensor:
    """`exp(x - shift)` for a shift that makes the difference exact, so that all of it is within 1 ULP.

    The usual shift by the maximum rounds the difference, which costs 60 ULP at a gap of 80. Here it is
    0 for maxima up to 68 (620 in float64), and otherwise an integer towards which no difference grows.
    Entries are 0 in a row of -inf only; +inf stands for the largest exponent.

    Args:
        x: Rows along some dim.
        largest: Maximum of each row, with that dim kept.

    Returns:
        A fresh tensor of the shape of `x`. The entry of the maximum is >= 1.

    Cost:
        One tensor of the size of `x`, three passes.
    """
    # exp_ and clamp_max_ in place: a fresh tensor costs more than the arithmetic
    return (x - row_shift(largest)).clamp_max_(_TOP[x.dtype] + 1).exp_()


def row_shift(largest: Tensor) -> Tensor:
    """The shift of `shifted_exp`."""
    finite = torch.finfo(largest.dtype).max
    largest = largest.masked_fill(largest == -torch.inf, 0.0).clamp_max(finite)
    return (largest.floor() - _TOP[largest.dtype]).clamp_min(0) + largest.floor().clamp_max(0)


def or_one(total: Tensor) -> Tensor:
    """A divisor: the sum of a row, 1 where it is 0 (a row of -inf)."""
    return total.masked_fill(total == 0, 1.0)


def argmax(x: Tensor, dim: int) -> Tensor:
    """Index of a largest entry of each row, with that dim kept; of a NaN if there is one.

    torch's own takes ten times as long as its `amax` on a CPU. For a long row only the part that has the
    maximum is searched for its place.

    Args:
        x: Rows along some dim.
        dim: That dim, from the end.

    Returns:
        Indices, with size 1 along `dim`.
    """
    size = x.shape[dim]
    if size < _LONG or x.device.type != "cpu":
        return x.argmax(dim, keepdim=True)
    width = math.isqrt(size)
    num = size // width
    cut = x.narrow(dim, 0, num * width)
    axis = dim % x.dim()
    largest = cut.reshape(*cut.shape[:axis], num, width, *cut.shape[axis + 1 :]).amax(axis + 1)
    last = x.narrow(dim, size - width, width).amax(dim, keepdim=True)  # what is left over, and more
    start = (torch.cat([largest, last], dim).argmax(dim, keepdim=True) * width).clamp_max_(size - width)
    offsets = torch.arange(width, device=x.device).view([width] + [1] * (-1 - dim))
    index = start + offsets
    return start + x.gather(dim, index).argmax(dim, keepdim=True)
