"""Repeated indices that add up in float32: forwards in `index_add`, backwards in an embedding."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from trimtab.numerics.error_free import HALF, wide


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


def index_put(
    input: Tensor,
    indices: tuple[Tensor, ...],
    values: Tensor,
    accumulate: bool = False,  # noqa: FBT001, FBT002 - the signature is torch's
) -> Tensor:
    """`torch.index_put`, whose repeated indices add up in float32 where they are accumulated.

    Args:
        input: What is written to, or added to.
        indices: One index tensor for each leading dimension.
        values: What to write or add, in the type of `input`.
        accumulate: Add to what is there instead of replacing it, as in torch.

    Returns:
        A new tensor in the type and shape of `input`, rounded once.

    Cost:
        To accumulate in half types a float32 copy of both tensors; otherwise none. Twice differentiable.

    Example:
        >>> from trimtab.numerics import index_put
        >>> zeros, index = torch.zeros(2, dtype=torch.float16), torch.zeros(5000, dtype=torch.long)
        >>> index_put(zeros, (index,), torch.ones(5000, dtype=torch.float16), accumulate=True).tolist()
        [5000.0, 0.0]
    """
    if not accumulate:
        return torch.index_put(input, indices, values)
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


def embedding(
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,  # noqa: FBT001, FBT002 - the signature is torch's
    sparse: bool = False,  # noqa: FBT001, FBT002
) -> Tensor:
    """`torch.nn.functional.embedding` whose gradient adds up in float32.

    Args:
        input: Integer indices of any shape.
        weight: Shape (num_embeddings, dim).
        padding_idx: A row that gets no gradient; negative counts from the end.
        max_norm: Rows that are longer are shortened to this, in `weight` itself, as in torch.
        norm_type: Order of that norm.
        scale_grad_by_freq: Divide the gradient of a row by how often it was taken.
        sparse: A sparse gradient, which is torch's own: its entries are not added up before someone does.

    Returns:
        Shape `(*input.shape, dim)`.

    Raises:
        ValueError: `padding_idx` is not a row of `weight`.

    Cost:
        As `take_rows`; torch's own for float32 and float64.

    Example:
        >>> from trimtab.numerics import embedding
        >>> weight = torch.ones(4, 2, dtype=torch.float16, requires_grad=True)
        >>> embedding(torch.tensor([0, 1, 1]), weight, padding_idx=0).sum().backward()
        >>> weight.grad[:, 0].tolist()
        [0.0, 2.0, 0.0, 0.0]
    """
    size = weight.shape[0]
    if padding_idx is not None and not -size <= padding_idx < size:
        raise ValueError(
            f"embedding(padding_idx={padding_idx}): expected a row of the weight, from {-size} to {size - 1}."
        )
    if weight.dtype not in HALF or sparse:
        return F.embedding(input, weight, padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse)
    if max_norm is not None:
        torch.embedding_renorm_(weight.detach(), input.contiguous(), max_norm, norm_type)
    rows: Tensor = _Embedding.apply(weight, input, scale_grad_by_freq)  # type: ignore[no-untyped-call]
    if padding_idx is None:
        return rows
    is_padding = (input == padding_idx % size).unsqueeze(-1)
    return torch.where(is_padding, rows.detach(), rows)


class _Rows(torch.autograd.Function):
    generate_vmap_rule = True

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


class _Embedding(torch.autograd.Function):
    """torch's kernel, which refuses negative indices."""

    generate_vmap_rule = True

    @staticmethod
    def forward(weight: Tensor, index: Tensor, by_frequency: bool) -> Tensor:  # noqa: FBT001
        return torch.embedding(weight, index)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, bool], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])
        ctx.shape, ctx.by_frequency = inputs[0].shape, inputs[2]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        index = ctx.saved_tensors[0].reshape(-1)
        rows = wide(grad.reshape(index.shape[0], *ctx.shape[1:]))
        if ctx.by_frequency:
            counts = rows.new_zeros(ctx.shape[0]).index_add(0, index, rows.new_ones(index.shape[0]))
            rows = rows / counts[index.long()].unsqueeze(-1)
        return index_add(rows.new_zeros(ctx.shape), 0, index, rows).to(grad.dtype), None, None
