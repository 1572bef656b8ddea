"""What a decision about clipping amounts to, and how much of a gradient is lost to underflow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from trimtab.measure.norms import tensor_norms, total_norm
from trimtab.types import Clamp, Each, Rescaling, Scale, StepStats, wide_dtype


@torch.no_grad()
def with_clipping(
    stats: StepStats[Tensor], rescaling: Rescaling, gradients: Sequence[Tensor], *, norm_type: float = 2.0
) -> StepStats[Tensor]:
    """The statistics of a step, with what its clip is going to leave of the norm, and the share clipped.

    Args:
        stats: Statistics with the norms of these gradients.
        rescaling: What the clip decided for these gradients.
        gradients: The gradients, not clipped yet.
        norm_type: p of the norms.

    Cost:
        No host read of device memory. Nothing for one factor; O(num_gradients) for a factor of each
        gradient; one pass over all for factors of units; for clamping three passes over the tensors that
        may hold an element beyond the bound (on an accelerator, over all).

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
        after, share = _each(rescaling, gradients, norms, norm_type)
    total = total_norm(norms, norm_type=norm_type)
    left = torch.where(total == 0, 1.0, total_norm(after, norm_type=norm_type) / total)
    return replace(stats, clip_factor=left, clip_share=share)


def _each(
    rescaling: Clamp | Each, gradients: Sequence[Tensor], norms: Tensor, p: float
) -> tuple[Tensor, Tensor]:
    """Norm of each gradient afterwards, and the share of tensors, units or elements that are changed."""
    parts = rescaling.parts if isinstance(rescaling, Each) else (rescaling,) * len(gradients)
    each = [_one(*of_one, p) for of_one in zip(gradients, parts, norms.unbind(), strict=True)]
    home, wide = norms.device, wide_dtype(norms.device)
    nums = torch.stack([num.to(home, wide, non_blocking=True) for _, num, _ in each])
    after = torch.stack([norm.to(home, wide, non_blocking=True) for norm, _, _ in each])
    return after, nums.sum() / max(sum(of for _, _, of in each), 1)


def _one(gradient: Tensor, part: Scale | Clamp | None, norm: Tensor, p: float) -> tuple[Tensor, Tensor, int]:
    """Norm of one gradient afterwards, how many parts of it are changed, and of how many."""
    if part is None:
        return norm, torch.zeros_like(norm), 0
    if isinstance(part, Clamp):
        return _clamped(gradient, part, norm, p)
    factor = _usable(part.factor)
    num = (factor < 1).sum()
    if factor.numel() == 1:
        return norm * factor.reshape(()).to(norm.device), num, 1
    if gradient.layout is not torch.strided:
        gradient = gradient.to_dense()
    return tensor_norms([gradient * factor], norm_type=p).reshape(()), num, factor.numel()


def _clamped(gradient: Tensor, part: Clamp, norm: Tensor, p: float) -> tuple[Tensor, Tensor, int]:
    """Norm after clamping, how many elements that changes (of a complex one each part), and of how many."""
    values = _stored(gradient)
    if values.is_complex():
        values = torch.view_as_real(values.resolve_conj())
    low, high = part.low, part.high
    if not isinstance(low, Tensor) and not isinstance(high, Tensor):
        # no element is larger than the norm, whose float32 sums are 2e-5 off at most; memory of the host is
        # looked at from the host
        if norm.device.type == "cpu" and norm.numpy() <= 0.999 * min(-low, high):
            return norm, torch.zeros_like(norm), values.numel()
        clamped = values.clamp(low, high)
    else:
        low, high = (torch.as_tensor(bound, device=values.device) for bound in (low, high))
        clamped = values.clamp(low, high)
    # NaN is no element that clamping changes
    num = ((values < low) | (values > high)).sum()
    if gradient.is_complex():
        clamped = torch.view_as_complex(clamped)
    return tensor_norms([clamped], norm_type=p).reshape(()), num, values.numel()


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
