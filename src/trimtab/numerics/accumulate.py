"""Adding many small numbers into float16 and bfloat16 without losing them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from trimtab.numerics.error_free import BLOCK, HALF, wide
from trimtab.numerics.floating import float_format

_STOCHASTIC = frozenset({torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2})


@torch.no_grad()
def stochastic_round(x: Tensor, dtype: torch.dtype, *, generator: torch.Generator | None = None) -> Tensor:
    """Round to a neighbor at random, the nearer one the likelier, so that the mean is exact.

    Where rounding to nearest loses every update that is below half a unit in the last place, this one
    keeps it on average: 1 + 1e-3 + 1e-3 ... in bfloat16 goes on growing.

    Args:
        x: float32 or float64.
        dtype: bfloat16, float16, float8_e4m3fn or float8_e5m2.
        generator: Source of randomness, on the device of `x`; torch's own by default.

    Returns:
        In `dtype`. What the type holds exactly stays as it is; beyond its largest number, and for NaN
        and Inf, the result is that of `x.to(dtype)`. No gradient.

    Raises:
        ValueError: `dtype` is none of the four.

    Cost:
        3 passes for bfloat16 from float32; about 10 in float64 otherwise. No host read.

    Example:
        >>> from trimtab.numerics import stochastic_round
        >>> x = torch.full((100_000,), 1 + 2.0**-9)   # a quarter of the way to the next bfloat16
        >>> round(stochastic_round(x, torch.bfloat16).double().sub(1).mean().item() * 2**9, 1)
        1.0

    References:
        Gupta et al., "Deep learning with limited numerical precision", 2015, arXiv:1502.02551; Zamirai et
        al., "Revisiting BFloat16 training", 2020, arXiv:2010.06192.
    """
    if dtype not in _STOCHASTIC:
        known = ", ".join(sorted(str(d) for d in _STOCHASTIC))
        raise ValueError(f"stochastic_round(dtype={dtype}): expected one of {known}.")
    if x.numel() <= BLOCK or x.device.type != "cpu" or torch.compiler.is_compiling():
        return _rounded(x, dtype, generator)
    rounded = torch.empty(x.shape, dtype=dtype)
    blocks, targets = torch.split(x.reshape(-1), BLOCK), torch.split(rounded.view(-1), BLOCK)
    for block, target in zip(blocks, targets, strict=True):
        target.copy_(_rounded(block, dtype, generator))
    return rounded


def _rounded(x: Tensor, dtype: torch.dtype, generator: torch.Generator | None) -> Tensor:
    info = float_format(dtype)
    if dtype is torch.bfloat16 and x.dtype is torch.float32:
        # the 16 bits that go, plus 16 random ones: the carry into the rest is the rounding
        rounded = (x.contiguous().view(torch.int32) + _random_16_bits(x, generator)) & -65536
        rounded = rounded.view(torch.float32)
    else:
        wide_x = x.double()
        exponent = torch.frexp(wide_x).exponent - 1 - info.mantissa_bits
        lowest = torch.full_like(exponent, math.frexp(info.smallest_subnormal)[1] - 1)
        spacing = torch.ldexp(torch.ones_like(wide_x), torch.maximum(exponent, lowest))
        noise = torch.randint(0, 1 << 30, x.shape, generator=generator, device=x.device) * 2.0**-30
        rounded = torch.floor(wide_x / spacing + noise) * spacing
    keep = x.isfinite() & (x.abs() <= info.largest)
    return torch.where(keep, rounded, x.to(rounded.dtype)).to(dtype)


def _random_16_bits(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """int32 from 0 to 2^16 - 1, four for each number drawn: drawing is most of the cost."""
    drawn = torch.empty((like.numel() + 3) // 4, dtype=torch.int64, device=like.device)
    drawn.random_(-(1 << 63), None, generator=generator)
    bits = drawn.view(torch.int16)[: like.numel()].view(like.shape)
    return bits.to(torch.int32) + (1 << 15)


@torch.no_grad()
def add_(
    total: Tensor,
    value: Tensor,
    *,
    compensation: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Add to a float16 or bfloat16 tensor in place, losing nothing on average.

    Args:
        total: What is added to; changed in place.
        value: What to add.
        compensation: A tensor like `total`, zeros at first, that carries what rounding lost into the next
            call (Kahan). Without it `total` is rounded at random, which needs no memory.
        generator: Source of randomness for the latter.

    Returns:
        `total`.

    Raises:
        ValueError: `compensation` differs from `total` in shape or type.

    Cost:
        A few passes in float32. float32 and float64 without a compensation are added as they are.

    Example:
        >>> from trimtab.numerics import add_
        >>> total, lost = torch.ones(1, dtype=torch.bfloat16), torch.zeros(1, dtype=torch.bfloat16)
        >>> for _ in range(1000):
        ...     _ = add_(total, torch.tensor([1e-3]), compensation=lost)
        >>> total.item()
        2.0

    References:
        Kahan, "Further remarks on reducing truncation errors", CACM 8, 1965; Zamirai et al., 2020.
    """
    if compensation is not None:
        if compensation.shape != total.shape or compensation.dtype != total.dtype:
            raise ValueError(
                f"add_(compensation of {compensation.dtype} {tuple(compensation.shape)}): expected a tensor"
                f" like `total`, {total.dtype} {tuple(total.shape)}. torch.zeros_like(total) is one."
            )
        addend = wide(compensation) + value.to(wide(total).dtype)
        old = wide(total).clone()
        total.copy_(old + addend)
        compensation.copy_(addend - (wide(total) - old))
        return total
    if total.dtype not in HALF:
        return total.add_(value)
    return total.copy_(stochastic_round(total.float() + value.float(), total.dtype, generator=generator))


@torch.no_grad()
def ema_(
    average: Tensor,
    value: Tensor,
    decay: float,
    *,
    compensation: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Exponential moving average in place: `average += (1 - decay) (value - average)`.

    In bfloat16 a plain one stops at half of the way for a decay of 0.999; this one does not.

    Args:
        average: The average so far; changed in place.
        value: The new value.
        decay: Weight of the old average, from 0 to 1.
        compensation: As for `add_`.
        generator: As for `add_`.

    Returns:
        `average`.

    Raises:
        ValueError: `decay` is outside of [0, 1].

    Cost:
        As `add_`.

    Example:
        >>> from trimtab.numerics import ema_
        >>> average, lost = torch.zeros(1, dtype=torch.bfloat16), torch.zeros(1, dtype=torch.bfloat16)
        >>> for _ in range(5_000):
        ...     _ = ema_(average, torch.ones(1), 0.999, compensation=lost)
        >>> round(average.item(), 2)
        0.99
    """
    if not 0.0 <= decay <= 1.0:
        raise ValueError(f"ema_(decay={decay}): expected a number from 0 to 1.")
    if compensation is None and average.dtype not in HALF:
        return average.lerp_(value.to(average.dtype), 1.0 - decay)
    old = wide(average) if compensation is None else wide(average) + wide(compensation)
    return add_(
        average, (value.to(old.dtype) - old) * (1.0 - decay), compensation=compensation, generator=generator
    )


@final
class RunningSum:
    """Sums of many lists of tensors, kept in float32 at least: gradient accumulation that loses nothing.

    bfloat16 gradients that are added up by `backward()` stop growing at 256 times a single one.

    Example:
        >>> from trimtab.numerics import RunningSum
        >>> total = RunningSum()
        >>> for _ in range(1000):
        ...     total.add([torch.ones(2, dtype=torch.bfloat16), None])
        >>> total.sums[0].tolist(), total.rounded()[0].dtype, total.rounded()[1]
        ([1000.0, 1000.0], torch.bfloat16, None)
    """

    def __init__(self) -> None:
        self.sums: list[Tensor | None] = []
        self._dtypes: list[torch.dtype | None] = []

    @torch.no_grad()
    def add(self, tensors: Sequence[Tensor | None]) -> None:
        """Add one list of tensors; None adds nothing.

        Raises:
            ValueError: The list is not as long as the first one.
        """
        if not self.sums:
            self.sums, self._dtypes = [None] * len(tensors), [None] * len(tensors)
        if len(tensors) != len(self.sums):
            raise ValueError(f"RunningSum.add({len(tensors)} tensors): expected {len(self.sums)}, as before.")
        for index, tensor in enumerate(tensors):
            if tensor is None:
                continue
            total = self.sums[index]
            if total is None:
                # a copy, also where there is nothing to widen
                self.sums[index] = wide(tensor.detach()).clone()
                self._dtypes[index] = tensor.dtype
            else:
                total.add_(tensor)

    def rounded(self) -> list[Tensor | None]:
        """The sums in the types that the tensors came in."""
        pairs = zip(self.sums, self._dtypes, strict=True)
        return [None if total is None else total.to(dtype) for total, dtype in pairs]

    def reset(self) -> None:
        """Start again from nothing."""
        self.sums, self._dtypes = [], []
