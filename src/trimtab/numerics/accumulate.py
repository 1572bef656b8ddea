"""Adding many small numbers into float16 and bfloat16 without losing them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor

from trimtab.numerics.error_free import BLOCK, HALF, wide
from trimtab.numerics.floating import float_format

_STOCHASTIC = frozenset({torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2})


def index_add(input: Tensor, dim: int, index: Tensor, source: Tensor, *, alpha: float = 1.0) -> Tensor:
    """`torch.index_add` whose repeated indices add up in float32.

    torch adds bfloat16 and float16 one after the other, each sum rounded: 4096 ones end at 256 and 2048.

    Args:
        input: What is added to.
        dim: The dimension that `index` refers to.
        index: Index of the slice for each slice of `source`.
        source: The slices to add, in the type of `input`.
        alpha: Factor of `source`.

    Returns:
        A new tensor in the type and shape of `input`, rounded once.

    Cost:
        For half types a float32 copy of both tensors; otherwise none. Twice differentiable.

    Example:
        >>> from trimtab.numerics import index_add
        >>> ones, index = torch.ones(4096, dtype=torch.bfloat16), torch.zeros(4096, dtype=torch.long)
        >>> index_add(torch.zeros(1, dtype=torch.bfloat16), 0, index, ones).item()
        4096.0
    """
    return torch.index_add(wide(input), dim, index, wide(source), alpha=alpha).to(input.dtype)


def index_put(input: Tensor, indices: tuple[Tensor, ...], values: Tensor) -> Tensor:
    """`torch.index_put(..., accumulate=True)` whose repeated indices add up in float32.

    Args:
        input: What is added to.
        indices: One index tensor for each leading dimension.
        values: What to add, in the type of `input`.

    Returns:
        A new tensor in the type and shape of `input`, rounded once.

    Cost:
        For half types a float32 copy of both tensors; otherwise none. Twice differentiable.

    Example:
        >>> from trimtab.numerics import index_put
        >>> zeros, index = torch.zeros(2, dtype=torch.float16), torch.zeros(5000, dtype=torch.long)
        >>> index_put(zeros, (index,), torch.ones(5000, dtype=torch.float16)).tolist()
        [5000.0, 0.0]
    """
    return torch.index_put(wide(input), indices, wide(values), accumulate=True).to(input.dtype)


def segment_sum(values: Tensor, lengths: Tensor) -> Tensor:
    """Sums of consecutive segments of the first dimension, added up in float32 at least.

    Args:
        values: Shape (n, ...).
        lengths: Length of each segment, shape (k,), with sum n.

    Returns:
        Shape (k, ...), in the type of `values`.

    Cost:
        For half types a float32 copy of `values`. Twice differentiable.

    Example:
        >>> from trimtab.numerics import segment_sum
        >>> segment_sum(torch.ones(5000, dtype=torch.bfloat16), torch.tensor([4096, 904])).tolist()
        [4096.0, 904.0]
    """
    segment = torch.repeat_interleave(
        torch.arange(lengths.shape[0], device=values.device), lengths, output_size=values.shape[0]
    )
    return index_add(values.new_zeros(lengths.shape[0], *values.shape[1:]), 0, segment, values)


def take_rows(weight: Tensor, index: Tensor) -> Tensor:
    """`weight[index]` along the first dimension, whose gradient adds up in float32.

    Args:
        weight: Shape (n, ...).
        index: Integer indices of any shape; negative ones count from the end.

    Returns:
        Shape of `index`, then that of a row of `weight`.

    Cost:
        The forward pass is torch's own. The gradient of a half type is summed in a float32 copy of the
        whole of `weight`, which is freed again. Twice differentiable.

    Example:
        >>> from trimtab.numerics import take_rows
        >>> weight = torch.zeros(3, 1, dtype=torch.bfloat16, requires_grad=True)
        >>> take_rows(weight, torch.zeros(4096, dtype=torch.long)).sum().backward()
        >>> weight.grad.flatten().tolist()
        [4096.0, 0.0, 0.0]
    """
    if weight.dtype not in HALF:
        return weight[index]
    rows: Tensor = _Rows.apply(weight, index)  # type: ignore[no-untyped-call]
    return rows


def embedding(input: Tensor, weight: Tensor, padding_idx: int | None = None) -> Tensor:
    """`torch.nn.functional.embedding` whose gradient adds up in float32.

    Args:
        input: Integer indices of any shape.
        weight: Shape (num_embeddings, dim).
        padding_idx: A row that gets no gradient; negative counts from the end.

    Returns:
        Shape `(*input.shape, dim)`.

    Raises:
        ValueError: `padding_idx` is not a row of `weight`.

    Cost:
        As `take_rows`.

    Example:
        >>> from trimtab.numerics import embedding
        >>> weight = torch.ones(4, 2, dtype=torch.float16, requires_grad=True)
        >>> embedding(torch.tensor([0, 1, 1]), weight, padding_idx=0).sum().backward()
        >>> weight.grad[:, 0].tolist()
        [0.0, 2.0, 0.0, 0.0]
    """
    if padding_idx is None:
        return take_rows(weight, input)
    size = weight.shape[0]
    if not -size <= padding_idx < size:
        raise ValueError(
            f"embedding(padding_idx={padding_idx}): expected a row of the weight, from {-size} to {size - 1}."
        )
    rows = take_rows(weight, input)
    is_padding = (input == padding_idx % size).unsqueeze(-1)
    return torch.where(is_padding, rows.detach(), rows)


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(weight: Tensor, index: Tensor) -> Tensor:
        return weight[index]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])
        ctx.shape = inputs[0].shape

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        index = torch.where(index < 0, index + ctx.shape[0], index).reshape(-1)
        rows = grad.reshape(index.shape[0], *ctx.shape[1:])
        return index_add(grad.new_zeros(ctx.shape), 0, index, rows), None


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
