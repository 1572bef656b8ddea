"""Norms of many tensors in one pass: the one measurement that every step pays for."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trimtab.types import StepStats, wide_dtype

# On the CPU torch sums the squares of a whole tensor in a few float32 lanes: 5e-4 off at 12 million
# elements, 4e-3 at 50 million. Blocks of this size, combined in float64, stay within 2e-5 and cost
# nothing (measured on 50M normal elements; 2**18 would be 3e-6 and 5 %, 2**16 5e-7 and 25 %).
_BLOCK = 1 << 20
# Half precision and strided memory go through a slower kernel with one float32 sum: 2e-6 off here
_SERIAL_BLOCK = 1 << 15

# On the CPU a foreach norm is a call for each tensor, 1 us or more: from this many tensors of at most
# this many elements on, a joined copy is cheaper (5,000 tensors of 64 elements: 3 ms against 7 ms)
_SMALL, _MANY = 1024, 512

_HALF = frozenset({torch.float16, torch.bfloat16})
_PLAIN = _HALF | {torch.float32, torch.float64}


def step_stats(
    gradients: Sequence[Tensor],
    loss: Tensor | None = None,
    *,
    norm_type: float = 2.0,
    norms: Tensor | None = None,
) -> StepStats[Tensor]:
    """Measure one step: the norm of every gradient and the norm of them all.

    Args:
        gradients: Gradients in any mix of devices and floating, complex or sparse types.
        loss: 0-dim loss, or None.
        norm_type: p of the p-norm, in (0, inf].
        norms: What `tensor_norms` gives for these gradients and this p, if it is known.

    Returns:
        Statistics as 0-dim tensors, with `tensor_norms` of shape (num_gradients,). `grad_norm` is
        float64 (float32 on MPS) on the device of the first gradient.

    Cost:
        One pass over the gradients, no host read, O(num_gradients) memory.

    Example:
        >>> stats = step_stats([torch.tensor([3.0, 0.0]), torch.tensor([4.0])])
        >>> stats.grad_norm.item(), stats.tensor_norms.tolist()
        (5.0, [3.0, 4.0])
    """
    if norms is None:
        norms = tensor_norms(gradients, norm_type=norm_type)
    return StepStats(
        loss=None if loss is None else loss.detach(),
        grad_norm=total_norm(norms, norm_type=norm_type),
        tensor_norms=norms,
    )


@torch.no_grad()
def tensor_norms(tensors: Sequence[Tensor], *, norm_type: float = 2.0) -> Tensor:
    """Norm of each tensor, exact in range: finite elements never give an infinite norm.

    float16 and bfloat16 are summed in float32 at least. On accelerators the sum runs in float64,
    whose range holds the square of any float32. On the CPU, where a float64 pass costs ten times
    as much, float32 sums are taken and those that overflowed are taken again, scaled.

    Args:
        tensors: At least one tensor of a floating or complex type, dense or sparse COO.
        norm_type: p of the p-norm, in (0, inf].

    Returns:
        Shape (num_tensors,), float32 or wider, on the device of the first tensor.

    Raises:
        ValueError: `tensors` is empty.

    Cost:
        One pass over memory, no host read of device memory. A tensor with NaN, Inf or a sum out of
        range, if it lives on the CPU, is read a second time.

    Example:
        >>> tensor_norms([torch.full((4,), 2.0**100), torch.zeros(2)]).log2().tolist()
        [101.0, -inf]
    """
    if not tensors:
        raise ValueError("tensor_norms([]): expected at least one tensor. Did backward() run?")
    # sets of plain values take half the time of grouping, and nearly always there is one group
    if len({t.dtype for t in tensors}) == len({t.layout for t in tensors}) == 1 and (
        len({t.get_device() for t in tensors}) == 1
    ):
        return _group_norms(list(tensors), norm_type)
    groups: dict[tuple[torch.device, torch.dtype, torch.layout], list[int]] = {}
    for index, tensor in enumerate(tensors):
        groups.setdefault((tensor.device, tensor.dtype, tensor.layout), []).append(index)
    home = tensors[0].device
    norms: list[Tensor] = [tensors[0]] * len(tensors)
    for indices in groups.values():
        part = _group_norms([tensors[i] for i in indices], norm_type)
        part = part.to(home, wide_dtype(home), non_blocking=True)
        # views, not an index tensor: that would have to travel to the device, and the host with it
        for index, norm in zip(indices, part.unbind(), strict=True):
            norms[index] = norm
    return torch.stack(norms)


@torch.no_grad()
def total_norm(norms: Tensor, *, norm_type: float = 2.0) -> Tensor:
    """Norm of all tensors together from the norm of each.

    Args:
        norms: Shape (num_tensors,), from `tensor_norms` with the same `norm_type`.
        norm_type: p of the p-norm, in (0, inf].

    Returns:
        0-dim, float64 (float32 on MPS), so that no total of finite norms overflows.

    Cost:
        No host read, O(num_tensors).

    Example:
        >>> total_norm(torch.tensor([3e38, 4e38 / 2])).item() < float("inf")
        True
    """
    total: Tensor = torch.linalg.vector_norm(norms, norm_type, dtype=wide_dtype(norms.device))
    return total


def _group_norms(tensors: list[Tensor], p: float) -> Tensor:
    """Norms of tensors that share device, dtype and layout."""
    first = tensors[0]
    if first.layout is not torch.strided or first.dtype not in _PLAIN or math.isinf(p):
        tensors = [_as_plain(t, p) for t in tensors]
    if first.device.type == "cpu":
        return _host_norms(tensors, p)
    return torch.stack(torch._foreach_norm(tensors, p, dtype=wide_dtype(first.device)))


def _as_plain(tensor: Tensor, p: float) -> Tensor:
    """A dense real tensor with the same p-norm, for the types `_foreach_norm` does not take."""
    if tensor.layout is not torch.strided:
        tensor = tensor.coalesce().values()  # duplicate indices add up before they are squared
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj()) if p == 2 else tensor.abs()
    elif tensor.dtype not in _PLAIN:
        tensor = tensor.float()  # float8
    return tensor if tensor.numel() else tensor.new_zeros(1)  # the maximum over nothing


def _host_norms(tensors: list[Tensor], p: float) -> Tensor:
    """Norms of CPU tensors: by block or, for many small ones, joined; out-of-range ones again, scaled."""
    sizes = np.array([t.numel() for t in tensors])
    is_small = sizes <= _SMALL
    num_small = int(is_small.sum())
    if num_small < _MANY:
        norms = _block_norms(tensors, p)
    elif num_small == len(tensors):
        norms = _joined_norms(tensors, sizes, p)
    else:
        small, large = np.flatnonzero(is_small).tolist(), np.flatnonzero(~is_small).tolist()
        norms = torch.empty(len(tensors), dtype=torch.float64)
        norms[small] = _joined_norms([tensors[i] for i in small], sizes[small], p)
        norms[large] = _block_norms([tensors[i] for i in large], p).double()
    # Host memory looked at from the host: no device waits for this
    if math.isfinite(norms.sum(dtype=torch.float64).numpy()):
        return norms
    return _rescaled(tensors, norms.double(), p)


def _joined_norms(tensors: list[Tensor], sizes: NDArray[np.int64], p: float) -> Tensor:
    """Norms of many small tensors, copied into one: half the time of a call for each."""
    flat: Tensor = torch._utils._flatten_dense_tensors(tensors)  # type: ignore[no-untyped-call]
    flat = flat.double()
    lengths = torch.from_numpy(sizes)
    if math.isinf(p):
        return torch.segment_reduce(flat.abs(), "max", lengths=lengths)
    powers = flat.square() if p == 2 else flat.abs().pow(p)
    sums = torch.segment_reduce(powers, "sum", lengths=lengths)
    return sums.sqrt() if p == 2 else sums.pow(1.0 / p)


def _block_norms(tensors: list[Tensor], p: float) -> Tensor:
    """Norms of tensors in one foreach call, large ones in blocks."""
    blocks: list[Tensor] = []
    ends = []
    is_half = tensors[0].dtype in _HALF
    size = _SERIAL_BLOCK if is_half else _BLOCK
    for tensor in tensors:
        blocks += _blocks(tensor, size) if tensor.numel() > size else (tensor,)
        ends.append(len(blocks))
    norms = torch.stack(torch._foreach_norm(blocks, p, dtype=torch.float32 if is_half else None))
    if len(blocks) == len(tensors):
        return norms
    norms = norms.double()
    starts = [0, *ends[:-1]]
    whole = norms[starts]
    for index, (i, j) in enumerate(zip(starts, ends, strict=True)):
        if j > i + 1:
            whole[index] = torch.linalg.vector_norm(norms[i:j], p)
    return whole


def _blocks(tensor: Tensor, size: int) -> Sequence[Tensor]:
    """Views of the tensor, of about `size` elements or fewer, in the order of memory where it is dense."""
    strides = tensor.stride()
    ordered = tensor.permute(sorted(range(tensor.dim()), key=lambda d: -strides[d]))
    if ordered.is_contiguous():
        ordered = ordered.view(-1)
    else:
        size = _SERIAL_BLOCK
    rows = max(1, size * len(ordered) // ordered.numel())
    blocks: Sequence[Tensor] = torch.split(ordered, rows)
    return blocks


def _rescaled(tensors: Sequence[Tensor], norms: Tensor, p: float) -> Tensor:
    """Replace each non-finite norm by largest * ||x / largest||, unless an element is non-finite."""
    for index, norm in enumerate(norms.tolist()):
        if math.isfinite(norm) or not tensors[index].numel():
            continue
        largest = tensors[index].abs().max().double()
        if math.isfinite(largest.numpy()):
            scaled = tensors[index].double() / largest
            norms[index] = largest * torch.linalg.vector_norm(scaled, p)
    return norms
