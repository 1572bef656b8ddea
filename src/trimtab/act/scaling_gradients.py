"""The gradients of one optimizer in one step: brought back to their own size, checked, looked at."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

from trimtab.act.gradients import real_memory
from trimtab.types import wide_dtype

# Smallest normal number of the type whose range the scale is there for
_SMALLEST_HALF = torch.finfo(torch.float16).tiny


class Unscaled:
    """Divides the gradients of an optimizer by the loss scale, and knows what it saw.

    Args:
        optimizer: The optimizer.
        scale: What the loss was multiplied by.
        num_losses: How many losses have been scaled in this step so far.

    Attributes:
        gradients: The memory of the gradients.
        found: Above 0 if one of them is not finite: 0-dim float32, on the device of the first.
        num_small: How many elements underflowed, 0-dim, once they were counted.
        is_bad: Whether one is not finite, once `look` has read it.
        num_lost: How many underflowed, once `look` has read it.
        is_stepped: Whether the optimizer was stepped.

    Raises:
        RuntimeError: No parameter has a gradient.
        ValueError: A gradient is float16.

    Cost:
        One pass over the gradients, no host read.
    """

    @torch.no_grad()
    def __init__(self, optimizer: Optimizer, scale: float, *, num_losses: int) -> None:
        own = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if not own:
            raise RuntimeError("no parameter of the optimizer has a gradient. Was backward() called?")
        if any(gradient.dtype is torch.float16 for gradient in own):
            raise ValueError(
                "a gradient is float16, and unscaled it would underflow again. Keep the parameters in "
                "float32 under torch.autocast, or wrap a half model in MasterWeights(model)."
            )
        self.gradients = [real_memory(gradient) for gradient in own]
        self.found = _unscale_(self.gradients, 1.0 / scale)
        self.num_losses = num_losses
        self.num_small: Tensor | None = None
        self.is_bad: bool | None = None
        self.num_lost: float | None = None
        self.is_stepped = False
        self._scale = scale
        # a part of a sharded gradient says nothing about the other ranks' parts
        self._is_whole = all(getattr(gradient, "device_mesh", None) is None for gradient in own)

    @torch.no_grad()
    def count_small(self) -> None:
        """Count the elements that were zero or subnormal in float16 while they were scaled.

        Cost:
            Two passes over the gradients, no host read.
        """
        if self._is_whole:
            bound = _SMALLEST_HALF / self._scale
            counts = [(values.abs() < bound).sum().to(self.found.device) for values in self.gradients]
            self.num_small = torch.stack(counts).sum()


def share(turns: Sequence[Unscaled]) -> Tensor | None:
    """Share of the counted elements that underflowed, 0-dim on the device; None if none were counted."""
    nums = [turn.num_small for turn in turns if turn.num_small is not None]
    if not nums:
        return None
    home = nums[0].device
    total = sum(_size(turn) for turn in turns if turn.num_small is not None)
    return torch.stack([num.to(home) for num in nums]).sum().to(wide_dtype(home)) / max(total, 1)


def look(turns: Sequence[Unscaled]) -> None:
    """Read in one copy what is known of these."""
    known = [tensor for turn in turns for tensor in (turn.found, turn.num_small) if tensor is not None]
    numbers = iter(read(known))
    for turn in turns:
        turn.is_bad = next(numbers) > 0
        turn.num_lost = None if turn.num_small is None else next(numbers)


def seen_share(turns: Sequence[Unscaled]) -> float | None:
    """As `share`, of what `look` has read."""
    nums = [(turn.num_lost, _size(turn)) for turn in turns if turn.num_lost is not None]
    return sum(num for num, _ in nums) / max(sum(of for _, of in nums), 1) if nums else None


def read(tensors: Sequence[Tensor]) -> list[float]:
    """0-dim tensors as floats, in one copy."""
    if not tensors:
        return []
    home = tensors[0].device
    numbers: list[float] = torch.stack([x.to(home, wide_dtype(home)) for x in tensors]).tolist()
    return numbers


def _size(turn: Unscaled) -> int:
    return sum(gradient.numel() for gradient in turn.gradients)


def _unscale_(gradients: Sequence[Tensor], inverse: float) -> Tensor:
    """Multiply in place, and tell whether there was Inf or NaN."""
    groups: dict[torch.device, dict[torch.dtype, list[Tensor]]] = {}
    for gradient in gradients:
        groups.setdefault(gradient.device, {}).setdefault(gradient.dtype, []).append(gradient)
    flags = []
    for device, of_device in groups.items():
        flag = torch.zeros((), dtype=torch.float32, device=device)
        factor = torch.full((), inverse, dtype=torch.float32, device=device)
        for group in of_device.values():
            # the kernel of torch's own scaler: it checks and multiplies in one pass
            torch._amp_foreach_non_finite_check_and_unscale_(group, flag, factor)
        flags.append(flag)
    home = flags[0].device
    return torch.stack([flag.to(home, non_blocking=True) for flag in flags]).amax()
