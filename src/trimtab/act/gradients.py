"""Writing to gradients."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from trimtab.types import Clamp, Each, Rescaling, Scale, wide_dtype


@torch.no_grad()
def rescale_grads_(gradients: Sequence[Tensor], rescaling: Rescaling) -> None:
    """Do to the gradients what a clip decided, in place.

    A factor of NaN or 0 leaves a gradient as it is: it came from a bad norm.

    Args:
        gradients: Gradients in any mix of devices and types, dense or sparse.
        rescaling: The decision for these gradients, in their order.

    Cost:
        One pass over the gradients that are changed (two to clamp), no host read. On an accelerator one
        kernel for all with one factor, one for each gradient otherwise.

    Example:
        >>> g, h = torch.tensor([3.0, 4.0]), torch.tensor([1.0])
        >>> rescale_grads_([g, h], Each((Clamp(-3.5, 3.5), None)))
        >>> g, h
        (tensor([3.0000, 3.5000]), tensor([1.]))
    """
    match rescaling:
        case Scale():
            scale_grads_(gradients, rescaling)
        case Clamp():
            _clamp(gradients, rescaling)
        case Each(parts=parts):
            whole: list[tuple[Tensor, Tensor]] = []
            for gradient, part in zip(gradients, parts, strict=True):
                if isinstance(part, Clamp):
                    _clamp([gradient], part)
                elif part is not None and part.factor.numel() == 1:
                    whole.append((gradient, part.factor.reshape(())))
                elif part is not None:
                    _scale_units(gradient, part.factor)
            if whole:
                _scale_each([g for g, _ in whole], [f for _, f in whole])


@torch.no_grad()
def scale_grads_(gradients: Sequence[Tensor], scale: Scale) -> None:
    """Multiply all gradients by one factor, or each by its own, in place.

    A factor of NaN or 0 leaves every gradient as it is: it came from a bad norm, and
    multiplying by it would carry one tensor's NaN into all others.

    Args:
        gradients: Gradients in any mix of devices and types, dense or sparse.
        scale: 0-dim factor, or factors of shape (num_gradients,).

    Cost:
        One pass over the gradients (read and write), no host read.

    Example:
        >>> g = torch.tensor([3.0, 4.0])
        >>> scale_grads_([g], Scale(torch.tensor(0.5)))
        >>> g
        tensor([1.5000, 2.0000])
    """
    if scale.factor.dim() > 0:
        _scale_each(gradients, scale.factor.unbind())
        return
    factor = _usable(scale.factor)
    groups: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for gradient in gradients:
        values = _memory(gradient)
        groups.setdefault((values.device, values.dtype), []).append(values)
    for (device, dtype), group in groups.items():
        # the fast foreach kernel wants the factor in the gradients' type
        torch._foreach_mul_(group, factor.to(device, _kept(dtype), non_blocking=True))


def _scale_each(gradients: Sequence[Tensor], factors: Sequence[Tensor]) -> None:
    """Multiply each gradient by its own 0-dim factor."""
    home = factors[0].device
    stacked = _usable(torch.stack([f.to(home, wide_dtype(home)) for f in factors]))
    groups: dict[torch.device, list[int]] = {}
    for index, gradient in enumerate(gradients):
        groups.setdefault(gradient.device, []).append(index)
    for device, indices in groups.items():
        ready = stacked.to(device, non_blocking=True).unbind()
        torch._foreach_mul_([_memory(gradients[i]) for i in indices], [ready[i] for i in indices])


def _scale_units(gradient: Tensor, factor: Tensor) -> None:
    """Multiply by a factor for each unit, that is of the gradient's rank and broadcasts against it."""
    # in float64, as norms come from accelerators, a whole pass over a half gradient would be
    factor = _usable(factor).to(_kept(gradient.dtype))
    if gradient.layout is torch.strided:
        gradient.mul_(factor)
        return
    rows = gradient._indices()[0]  # uncoalesced entries are multiplied one by one, which is the same
    if factor.shape[0] > 1:
        factor = factor.index_select(0, rows)
    gradient._values().mul_(factor)


def _clamp(gradients: Sequence[Tensor], clamp: Clamp) -> None:
    plain = []
    for gradient in gradients:
        coalesced_(gradient)
        plain.append(real_memory(gradient))
    if isinstance(clamp.low, Tensor) or isinstance(clamp.high, Tensor):
        for values in plain:
            values.clamp_(
                torch.as_tensor(clamp.low, device=values.device),
                torch.as_tensor(clamp.high, device=values.device),
            )
        return
    groups: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for values in plain:
        groups.setdefault((values.device, values.dtype), []).append(values)
    for group in groups.values():
        torch._foreach_clamp_min_(group, clamp.low)
        torch._foreach_clamp_max_(group, clamp.high)


def coalesced_(tensor: Tensor) -> None:
    """Add up duplicate indices of a sparse tensor, in place: limits hold for their sum."""
    if tensor.layout is not torch.strided and not tensor.is_coalesced():
        tensor.copy_(tensor.coalesce())


def real_memory(tensor: Tensor) -> Tensor:
    """The memory behind a sparse, complex or lazily conjugated tensor, as real numbers."""
    values = _memory(tensor)
    return torch.view_as_real(values) if values.is_complex() else values


def _usable(factor: Tensor) -> Tensor:
    """The factor, or 1 where it came from a bad norm: on the device there is no branch."""
    return torch.where(factor > 0, factor, 1.0)


def _kept(dtype: torch.dtype) -> torch.dtype:
    """The type a factor is applied in: rounded to half precision it would be 0.4 % off."""
    return torch.float64 if dtype in (torch.float64, torch.complex128) else torch.float32


def _memory(gradient: Tensor) -> Tensor:
    """The values behind a sparse or lazily conjugated gradient."""
    values = gradient if gradient.layout is torch.strided else gradient._values()
    return values.conj() if values.is_conj() else values
