"""What a decision about clipping amounts to, and how much of a gradient is lost to underflow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from trimtab.measure.norms import tensor_norms, total_norm
from trimtab.types import Clamp, Each, Rescaling, Scale, StepStats, wide_dtype


@torch.no_grad()
def with_clipping(
    stats: StepStats[Tensor],
    rescaling: Rescaling,
    gradients: Sequence[Tensor],
    *,
    norm_type: float = 2.0,
    unit_norms: Sequence[Tensor] | None = None,
) -> StepStats[Tensor]:
    """The statistics of a step, with what its clip is going to leave of the norm, and the share clipped.

    Args:
        stats: Statistics with the norms of these gradients.
        rescaling: What the clip decided for these gradients.
        gradients: The gradients, not clipped yet.
        norm_type: p of the norms.
        unit_norms: 2-norms of the units of each gradient, if they are known.

    Cost:
        No host read of device memory. Nothing for one factor; O(num_gradients) for a factor of each
        gradient; for factors of units O(num_units) if `unit_norms` are known and p is 2, else one pass over
        all; for clamping three passes over the tensors that may hold an element beyond the bound (on an
        accelerator, over all).

    Example:
        >>> g = torch.tensor([3.0, 0.0, 4.0, 0.0])
        >>> stats = StepStats(None, torch.tensor(5.0), tensor_norms=torch.tensor([5.0]))
        >>> with_clipping(stats, Clamp(-3.0, 3.0), [g]).clip_share.item()
        0.25
    """
    if rescaling is None:
        return stats
    if isinstance(rescaling, Scale) and rescaling.factor.dim() == 0:
        return replace(stats, clip_factor=rescaling.factor)
    norms = stats.tensor_norms
    if not isinstance(norms, Tensor):
        norms = tensor_norms(gradients, norm_type=norm_type)
    if isinstance(rescaling, Scale):
        factor = _usable(rescaling.factor)
        after, share = norms * factor, (factor < 1).to(wide_dtype(factor.device)).mean()
    else:
        parts = rescaling.parts if isinstance(rescaling, Each) else (rescaling,) * len(gradients)
        known = (None,) * len(parts) if unit_norms is None or norm_type != 2 else unit_norms
        after, share = _each(parts, gradients, norms, norm_type, known)
    total = total_norm(norms, norm_type=norm_type)
    left = torch.where(total == 0, 1.0, total_norm(after, norm_type=norm_type) / total)
    return replace(stats, clip_factor=left, clip_share=share)


def _each(
    parts: Sequence[Scale | Clamp | None],
    gradients: Sequence[Tensor],
    norms: Tensor,
    p: float,
    unit_norms: Sequence[Tensor | None],
) -> tuple[Tensor, Tensor]:
    """Norm of each gradient afterwards, and the share of tensors, units or elements that are changed."""
    home, wide = norms.device, wide_dtype(norms.device)
    after = list(norms.to(wide).unbind())
    nums: list[Tensor] = [torch.zeros((), dtype=wide, device=home)]
    total = 0
    may_clamp = _may_clamp(parts, norms)
    whole = []  # a thousand small tensors are judged in one go
    for index, (gradient, part) in enumerate(zip(gradients, parts, strict=True)):
        if isinstance(part, Scale) and part.factor.numel() == 1:
            whole.append(index)
        elif isinstance(part, Scale):
            factor, own = _usable(part.factor), unit_norms[index]
            after[index] = _norm_after(gradient, factor, own, p)
            nums.append((factor < 1).sum())
            total += factor.numel()
        elif isinstance(part, Clamp) and may_clamp[index]:
            after[index], num, of = _clamped(gradient, part, p)
            nums.append(num)
            total += of
        elif part is not None:
            total += _num_stored(gradient)
    if whole:
        chosen = [part.factor for i in whole if isinstance(part := parts[i], Scale)]
        plain = [factor if factor.dim() == 0 else factor.reshape(()) for factor in chosen]
        factors = _usable(torch.stack([factor.to(home, wide, non_blocking=True) for factor in plain]))
        nums.append((factors < 1).sum())
        total += len(whole)
        left = torch.stack([after[i] for i in whole]) * factors
        for index, norm in zip(whole, left.unbind(), strict=True):
            after[index] = norm
    changed = torch.stack([num.to(home, wide, non_blocking=True) for num in nums]).sum()
    return torch.stack([n.to(home, wide, non_blocking=True) for n in after]), changed / max(total, 1)


def _norm_after(gradient: Tensor, factor: Tensor, unit_norms: Tensor | None, p: float) -> Tensor:
    """Norm of a gradient after its units are multiplied by a factor each."""
    if unit_norms is not None:
        norm: Tensor = torch.linalg.vector_norm(unit_norms * factor, dtype=wide_dtype(factor.device))
        return norm
    if gradient.layout is not torch.strided:
        gradient = gradient.to_dense()
    return tensor_norms([gradient * factor], norm_type=p).reshape(())


def _may_clamp(parts: Sequence[Scale | Clamp | None], norms: Tensor) -> Sequence[bool]:
    """Which gradients may hold an element beyond their bound: no element is larger than the norm."""
    if norms.device.type != "cpu":
        return (True,) * len(parts)
    bounds = [
        min(-part.low, part.high)
        if isinstance(part, Clamp) and not isinstance(part.low, Tensor) and not isinstance(part.high, Tensor)
        else 0.0
        for part in parts
    ]
    # float32 sums are 2e-5 off at most; memory of the host is looked at from the host
    may_clamp: list[bool] = (~(norms.numpy() <= 0.999 * np.array(bounds))).tolist()
    return may_clamp


def _clamped(gradient: Tensor, part: Clamp, p: float) -> tuple[Tensor, Tensor, int]:
    """Norm after clamping, how many elements that changes (of a complex one each part), and of how many."""
    values = _stored(gradient)
    if values.is_complex():
        values = torch.view_as_real(values.resolve_conj())
    low, high = part.low, part.high
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        least, most = (torch.as_tensor(bound, device=values.device) for bound in (low, high))
        low, high, clamped = least, most, values.clamp(least, most)
    else:
        clamped = values.clamp(low, high)
    # NaN is no element that clamping changes
    num = ((values < low) | (values > high)).sum()
    if gradient.is_complex():
        clamped = torch.view_as_complex(clamped)
    return tensor_norms([clamped], norm_type=p).reshape(()), num, values.numel()


def _num_stored(gradient: Tensor) -> int:
    """Number of the elements that clamping looks at; of a complex one it looks at both parts."""
    num = gradient.numel() if gradient.layout is torch.strided else _stored(gradient).numel()
    return 2 * num if gradient.is_complex() else num


def _usable(factor: Tensor) -> Tensor:
    """The factor as `act` applies it: NaN and 0 came from a bad norm and change nothing."""
    return torch.where(factor > 0, factor, 1.0)


def _stored(gradient: Tensor) -> Tensor:
    """The elements of a gradient; of a sparse one those that are stored, duplicates added up."""
    return gradient if gradient.layout is torch.strided else gradient.coalesce().values()


@torch.no_grad()
def underflow_share(gradients: Sequence[Tensor]) -> Tensor:
    """Share of the elements that are zero or subnormal in their type, as underflow makes them.

    Args:
        gradients: At least one, of floating or complex types; of sparse ones the stored elements count.

    Returns:
        0-dim, on the device of the first gradient.

    Cost:
        Two passes over the gradients, no host read.

    Example:
        >>> underflow_share([torch.tensor([0.0, 1.0]), torch.tensor([1e-7, 1.0], dtype=torch.float16)])
        tensor(0.5000, dtype=torch.float64)
    """
    home = gradients[0].device
    nums, total = [], 0
    for gradient in gradients:
        values = _stored(gradient)
        values = values.float() if values.dtype.itemsize == 1 else values
        # compared in the tensor's own type: a kernel that flushes subnormals sees them as zero
        nums.append((values.abs() < torch.finfo(gradient.dtype).tiny).sum().to(home, non_blocking=True))
        total += values.numel()
    return torch.stack(nums).sum().to(wide_dtype(home)) / max(total, 1)
