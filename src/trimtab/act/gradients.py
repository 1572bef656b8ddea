"""Writing to gradients."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from trimtab.types import Scale


@torch.no_grad()
def scale_grads_(gradients: Sequence[Tensor], scale: Scale) -> None:
    """Multiply all gradients by one factor, in place.

    A factor of NaN or 0 leaves every gradient as it is: it came from a bad norm, and
    multiplying by it would carry one tensor's NaN into all others.

    Args:
        gradients: Gradients in any mix of devices and types, dense or sparse.
        scale: 0-dim factor.

    Cost:
        One pass over the gradients (read and write), no host read.

    Example:
        >>> g = torch.tensor([3.0, 4.0])
        >>> scale_grads_([g], Scale(torch.tensor(0.5)))
        >>> g
        tensor([1.5000, 2.0000])
    """
    # on the device there is no branch: a select on a 0-dim tensor instead
    factor = torch.where(scale.factor > 0, scale.factor, 1.0)
    groups: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for gradient in gradients:
        values = gradient if gradient.layout is torch.strided else gradient._values()
        values = values.conj() if values.is_conj() else values  # the memory behind a lazy conjugate
        groups.setdefault((values.device, values.dtype), []).append(values)
    for (device, dtype), group in groups.items():
        # the fast foreach kernel wants the factor in the gradients' type; a factor rounded to half
        # precision would be 0.4 % off, so halves take it in float32
        kept = torch.float64 if dtype in (torch.float64, torch.complex128) else torch.float32
        torch._foreach_mul_(group, factor.to(device, kept, non_blocking=True))
