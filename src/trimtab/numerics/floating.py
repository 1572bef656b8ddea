"""What each floating-point format can hold, in one table."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch


@final
@dataclass(frozen=True, slots=True)
class FloatFormat:
    """The facts of one binary floating-point format.

    Attributes:
        name: "float32", "tf32", ...
        dtype: The torch type that stores it; None for tf32, which is a mode of matrix products only.
        exponent_bits: Bits of the exponent.
        mantissa_bits: Stored bits of the fraction, without the leading one.
        eps: Distance from 1 to the next number: 2**-mantissa_bits.
        largest: Largest finite number.
        smallest_normal: Smallest number with full precision; `finfo.tiny`.
        smallest_subnormal: Smallest number above 0.
        has_inf: Whether the format knows infinity; float8_e4m3fn has only NaN.
    """

    name: str
    dtype: torch.dtype | None
    exponent_bits: int
    mantissa_bits: int
    eps: float
    largest: float
    smallest_normal: float
    smallest_subnormal: float
    has_inf: bool

    @property
    def unit_roundoff(self) -> float:
        """Largest relative error of one rounding to nearest: eps / 2."""
        return self.eps / 2

    @property
    def decimal_digits(self) -> float:
        """Decimal digits that the format carries: -log10(eps)."""
        return -math.log10(self.eps)


def _of(dtype: torch.dtype, exponent_bits: int, *, has_inf: bool = True) -> FloatFormat:
    info = torch.finfo(dtype)
    return FloatFormat(
        name=str(dtype).removeprefix("torch."),
        dtype=dtype,
        exponent_bits=exponent_bits,
        mantissa_bits=round(-math.log2(info.eps)),
        eps=info.eps,
        largest=info.max,
        smallest_normal=info.smallest_normal,
        smallest_subnormal=info.smallest_normal * info.eps,
        has_inf=has_inf,
    )


# tf32 keeps the range of float32 and the fraction of float16 (NVIDIA A100 white paper, 2020)
_TF32 = FloatFormat(
    name="tf32",
    dtype=None,
    exponent_bits=8,
    mantissa_bits=10,
    eps=2.0**-10,
    largest=(2 - 2.0**-10) * 2.0**127,
    smallest_normal=2.0**-126,
    smallest_subnormal=2.0**-136,
    has_inf=True,
)

FLOAT_FORMATS: tuple[FloatFormat, ...] = (
    _of(torch.float64, 11),
    _of(torch.float32, 8),
    _TF32,
    _of(torch.bfloat16, 8),
    _of(torch.float16, 5),
    _of(torch.float8_e4m3fn, 4, has_inf=False),
    _of(torch.float8_e5m2, 5),
)
"""Every format of this table, widest first."""


def float_format(dtype: torch.dtype | str) -> FloatFormat:
    """The facts of a format.

    Args:
        dtype: A torch type, or a name: "float64", "float32", "tf32", "bfloat16", "float16",
            "float8_e4m3fn", "float8_e5m2".

    Returns:
        One row of `FLOAT_FORMATS`.

    Raises:
        ValueError: No such format in the table.

    Example:
        >>> from trimtab.numerics import float_format
        >>> half = float_format(torch.float16)
        >>> half.largest, half.smallest_subnormal, round(half.decimal_digits, 2)
        (65504.0, 5.960464477539063e-08, 3.01)

    References:
        IEEE 754-2019; Micikevicius et al., "FP8 formats for deep learning", 2022, arXiv:2209.05433.
    """
    for row in FLOAT_FORMATS:
        if dtype in (row.dtype, row.name):
            return row
    known = ", ".join(row.name for row in FLOAT_FORMATS)
    raise ValueError(f"float_format({dtype}): expected a floating-point format, one of {known}.")


def machine_epsilon(dtype: torch.dtype | str = torch.float32) -> float:
    """Distance from 1 to the next larger number of a format.

    Args:
        dtype: As for `float_format`.

    Returns:
        2**-mantissa_bits. One rounding to nearest errs by half of it at most, relative.

    Raises:
        ValueError: No such format in the table.

    Example:
        >>> from trimtab.numerics import machine_epsilon
        >>> machine_epsilon(torch.bfloat16), machine_epsilon("tf32")
        (0.0078125, 0.0009765625)
    """
    return float_format(dtype).eps
