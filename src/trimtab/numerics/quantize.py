"""Rounding to few bits and to narrow types: the scheme, the result, and what it did."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

from trimtab.numerics._exact import real
from trimtab.numerics.error_free import widest
from trimtab.numerics.floating import float_format


@final
@dataclass(frozen=True, slots=True)
class QuantScheme:
    """How to map numbers to integers.

    Args:
        bits: From 2 to 16.
        kind: "symmetric" maps 0 to 0 with integers of both signs; "affine" uses the whole range between
            the smallest and the largest number, and keeps 0 exact where it lies between.
        channel_dim: Dimension that has a scale for each slice; None for one scale.

    Raises:
        ValueError: A value is out of range.

    Example:
        >>> from trimtab.numerics import QuantScheme
        >>> QuantScheme(bits=4, channel_dim=0)
        QuantScheme(bits=4, kind='symmetric', channel_dim=0)
    """

    bits: int = 8
    kind: Literal["symmetric", "affine"] = "symmetric"
    channel_dim: int | None = None

    def __post_init__(self) -> None:
        if self.bits not in range(2, 17) or self.kind not in ("symmetric", "affine"):
            raise ValueError(
                f"QuantScheme(bits={self.bits}, kind={self.kind!r}): expected 2 to 16 bits, and 'symmetric'"
                " or 'affine'."
            )

    @property
    def limits(self) -> tuple[int, int]:
        """Smallest and largest integer: -127 to 127, or 0 to 255, for 8 bits."""
        if self.kind == "symmetric":
            return -(2 ** (self.bits - 1)) + 1, 2 ** (self.bits - 1) - 1
        return 0, 2**self.bits - 1


@final
@dataclass(frozen=True, slots=True, eq=False)
class Quantized:
    """Integers and what they stand for: `offset + scale * integers`.

    Attributes:
        integers: int32, in the shape of the tensor.
        scale: > 0, float64 (float32 where there is none); one, or one per channel, of a shape that
            broadcasts.
        offset: The number that integer 0 stands for; 0 for a symmetric scheme.
        dtype: Type of the tensor.
    """

    integers: Tensor
    scale: Tensor
    offset: Tensor
    dtype: torch.dtype

    @property
    def zero_point(self) -> Tensor:
        """The integer that stands for 0, if there were one: round(-offset / scale)."""
        return torch.round(-self.offset / self.scale)

    def dequantize(self) -> Tensor:
        """The numbers that the integers stand for."""
        return (self.offset + self.scale * self.integers).to(self.dtype)


def quantize(x: Tensor, scheme: QuantScheme) -> Quantized:
    """Round to integers.

    The error of each element is at most half a scale, plus the rounding of x's own type. A constant
    tensor comes back to the last digit.

    Args:
        x: Finite floating-point tensor.
        scheme: How.

    Returns:
        Integers with scale and offset.

    Raises:
        ValueError: x has NaN or Inf, or no dimension `channel_dim`.

    Cost:
        A few passes, one host read. No gradient: see `fake_quantize`.

    Example:
        >>> from trimtab.numerics import QuantScheme, quantize
        >>> quantize(torch.tensor([-1.0, 0.0, 0.5]), QuantScheme(bits=8)).integers.tolist()
        [-127, 0, 64]
        >>> quantize(torch.full((3,), 0.1), QuantScheme(kind="affine")).dequantize().tolist() == [
        ...     torch.tensor(0.1).item()] * 3
        True

    References:
        Jacob et al., "Quantization and training of neural networks for efficient integer-arithmetic-only
        inference", 2017, arXiv:1712.05877; Nagel et al., "A white paper on neural network quantization",
        2021, arXiv:2106.08295.
    """
    values = x.detach()
    if scheme.channel_dim is not None and not -x.dim() <= scheme.channel_dim < x.dim():
        raise ValueError(f"quantize(x of shape {tuple(x.shape)}, {scheme}): there is no such dimension.")
    if not bool(values.isfinite().all()):
        raise ValueError("quantize(x): expected finite numbers, found NaN or Inf.")
    # the difference of two float32 is exact enough, and in range, only there
    values = widest(values)
    dims = [d for d in range(x.dim()) if scheme.channel_dim is None or d != scheme.channel_dim % x.dim()]
    low_limit, high_limit = scheme.limits
    if not x.numel():
        scale, offset = values.new_ones(()), values.new_zeros(())
    elif scheme.kind == "symmetric":
        scale = _positive(_over(values.abs(), dims, "max") / high_limit)
        offset = torch.zeros_like(scale)
    else:
        low, high = _over(values, dims, "min"), _over(values, dims, "max")
        scale = _positive((high - low) / high_limit)
        straddles = (low < 0) & (high > 0)
        offset = torch.where(straddles, torch.round(low / scale) * scale, low)
    integers = torch.round((values - offset) / scale).clamp(low_limit, high_limit).to(torch.int32)
    return Quantized(integers, scale, offset, x.dtype)


def fake_quantize(x: Tensor, scheme: QuantScheme) -> Tensor:
    """Quantize and back, with the gradient of the identity (straight through): for sensitivity tests.

    Example:
        >>> from trimtab.numerics import QuantScheme, fake_quantize
        >>> fake_quantize(torch.tensor([0.0, 0.3, 1.0]), QuantScheme(bits=2, kind="affine")).tolist()
        [0.0, 0.333..., 1.0]

    References:
        Bengio, Leonard and Courville, 2013, arXiv:1308.3432 (straight-through estimator).
    """
    rounded = quantize(x, scheme).dequantize()
    return x + (rounded - x).detach() if x.requires_grad else rounded


@final
@dataclass(frozen=True, slots=True)
class CastReport:
    """What a cast to a narrower type does to a tensor, counted exactly.

    Attributes:
        dtype: The type that was cast to.
        num_elements: Elements of the tensor.
        num_nonfinite: Elements that were NaN or Inf before.
        num_overflow: Finite elements beyond the largest number of the type: Inf, NaN or clamped there.
        num_underflow: Elements that were not 0 and become 0.
        num_subnormal: Elements that stay above 0 with fewer digits than the type has.
        largest_relative_error: Over the finite elements that are none of these; at most eps / 2.
    """

    dtype: torch.dtype
    num_elements: int
    num_nonfinite: int
    num_overflow: int
    num_underflow: int
    num_subnormal: int
    largest_relative_error: float


@torch.no_grad()
def cast_report(x: Tensor, dtype: torch.dtype) -> CastReport:
    """Count what overflows, underflows and loses digits in a cast.

    Args:
        x: Floating-point tensor.
        dtype: float32, bfloat16, float16, float8_e4m3fn or float8_e5m2.

    Returns:
        Exact counts.

    Raises:
        ValueError: `dtype` is not a floating-point type of the table.

    Cost:
        About 10 passes, in float64 for float64; one packed copy to the host.

    Example:
        >>> from trimtab.numerics import cast_report
        >>> report = cast_report(torch.tensor([1.0, 1e5, 1e-9, 1e-6]), torch.float16)
        >>> report.num_overflow, report.num_underflow, report.num_subnormal
        (1, 1, 1)
    """
    info, x = float_format(dtype), real(x, "cast_report")
    values = x if x.dtype in (torch.float32, torch.float64) else x.float()
    cast = values.to(dtype).to(values.dtype)
    is_finite = values.isfinite()
    # beyond what rounds to the largest number: half a step above it
    edge = info.largest + math.ldexp(info.unit_roundoff, math.frexp(info.largest)[1] - 1)
    overflows = is_finite & ((values.abs() > edge) | ~cast.isfinite())
    underflows = is_finite & (values != 0) & (cast == 0)
    subnormal = is_finite & (cast != 0) & (cast.abs() < info.smallest_normal)
    is_plain = is_finite & (values != 0) & ~overflows & ~underflows & ~subnormal
    error = ((cast - values) / torch.where(is_plain, values, 1.0)).abs()
    error = torch.where(is_plain, error, 0.0).flatten()
    largest = error.max() if error.numel() else error.new_zeros(())
    counts = torch.stack([m.sum() for m in (~is_finite, overflows, underflows, subnormal)])
    nonfinite, overflow, underflow, sub, worst = torch.cat([counts.double(), largest.double()[None]]).tolist()
    return CastReport(dtype, x.numel(), int(nonfinite), int(overflow), int(underflow), int(sub), worst)


def _over(x: Tensor, dims: list[int], what: Literal["min", "max"]) -> Tensor:
    if not dims:  # a channel for each element
        return x.clone()
    return x.amax(dims, keepdim=True) if what == "max" else x.amin(dims, keepdim=True)


def _positive(scale: Tensor) -> Tensor:
    """1 where the range is 0, so that a constant does not become 0 / 0."""
    smallest = torch.finfo(scale.dtype).smallest_normal
    return torch.where(scale >= smallest, scale, torch.where(scale > 0, smallest, 1.0))
