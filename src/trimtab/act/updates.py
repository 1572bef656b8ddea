"""Clipping what an optimizer does to the parameters, rather than what it is given."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import TracebackType
from typing import Any, NamedTuple, final

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from trimtab.types import wide_dtype

# Updates are looked at so many elements at a time, which bounds the memory; on the CPU they also stay in
# the cache, where a norm in a wider type takes an eighth of the time (measured on 20M elements)
_BLOCK = 1 << 20
_BLOCK_ON_DEVICE = 1 << 25


class _Moving(NamedTuple):
    """Parameters of one group, device and type, what they are before the step, and the rate then."""

    group: dict[str, Any]
    lr: float | Tensor
    parameters: list[Tensor]
    before: list[Tensor]


@final
class UpdateClip:
    """Limits the root mean square of each tensor's update, for any optimizer.

    After each `optimizer.step()` the update u = after - before of a tensor becomes
    `u / max(1, rms(u) / (lr * max_rms))`. Adam's updates have an rms of about lr as long as the second
    moment is up to date, and more when it underestimates the gradient: that is when training becomes
    unstable, and clipping gradients does not see it.

    StableAdamW divides the learning rate by `max(1, rms(g / sqrt(max(v, eps^2))))` instead. The two are
    the same for Adam without a first moment, without weight decay and with `max_rms=1`, up to eps and
    bias correction. With a first moment this limits the update itself, as optax and Levanter do, and theirs
    limits what the newest gradient would have done alone. Here weight decay counts as part of the update.

    Works through step hooks with every optimizer that moves once in a step, alone, in a `Guard`, under
    a scheduler and with closures. A step that is refused or skipped changes nothing. An update that is not
    finite is left as it is: detection is the guard's work, and scaling would spread it. The moments of
    the optimizer are not touched. After a sparse gradient all rows count, those that did not move too.
    Parameters of half precision are judged by what arrived in them after rounding. Sharded parameters
    (DTensor) are not supported. It has no state to save. Not run on a GPU.

    Args:
        optimizer: The optimizer.
        max_rms: Largest root mean square of an update, in units of the learning rate.

    Raises:
        ValueError: `max_rms` is not finite or not > 0, or the optimizer searches along a line (LBFGS).
        TypeError: `optimizer` is none.

    Cost:
        Memory for one copy of all parameters that have a gradient. A pass over them before the step to
        copy and one after it to measure; one more over tensors that are clipped (on an accelerator, over
        all). No host read of device memory. Measured on one CPU core, healthy: 1.2 to 1.6 times the step of a
        foreach AdamW alone, and 3 times that of a fused one.

    Example:
        >>> weight = torch.nn.Parameter(torch.zeros(2))
        >>> optimizer = torch.optim.SGD([weight], lr=0.1)
        >>> with UpdateClip(optimizer, max_rms=1.0) as clip:
        ...     weight.grad = torch.tensor([5.0, -5.0])
        ...     optimizer.step()
        >>> weight.data, clip.last_scale
        (tensor([-0.1000,  0.1000]), tensor(0.2000, dtype=torch.float64))

    References:
        Shazeer and Stern, "Adafactor", 2018, arXiv:1804.04235, section 6: the rule and 1.0.
        Wortsman et al., "Stable and low-precision training for large-scale vision-language models", 2023,
        arXiv:2304.13013: StableAdamW.
    """

    def __init__(self, optimizer: Optimizer, *, max_rms: float = 1.0) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"UpdateClip({optimizer!r}): expected a torch.optim.Optimizer.")
        if isinstance(optimizer, torch.optim.LBFGS):
            raise ValueError(
                "UpdateClip(LBFGS): it moves several times in a step and judges each move by the loss there. "
                "Limit its step with lr or line_search_fn."
            )
        if isinstance(max_rms, bool) or not (math.isfinite(max_rms) and max_rms > 0):
            raise ValueError(f"UpdateClip(max_rms={max_rms}): expected a finite number > 0.")
        if any(group.get("lr") is None for group in optimizer.param_groups):
            raise ValueError(
                f"UpdateClip({type(optimizer).__name__}): its groups have no 'lr', the unit of max_rms."
            )
        if any(hasattr(p, "full_tensor") for group in optimizer.param_groups for p in group["params"]):
            raise ValueError(
                "UpdateClip(optimizer): a parameter is sharded (DTensor), and its rms here is only a part."
            )
        self._max_rms = float(max_rms)
        self._copies: dict[Tensor, Tensor] = {}
        self._moving: list[_Moving] = []
        self._last_scale: Tensor | None = None
        self._hooks = (
            optimizer.register_step_pre_hook(self._before),
            optimizer.register_step_post_hook(self._after),
        )

    @property
    def last_scale(self) -> Tensor | None:
        """Smallest factor of the last step that moved something, 0-dim, on the device; None before it."""
        return self._last_scale

    def close(self) -> None:
        """Leave the optimizer as it was found, and free the memory. Safe to call twice."""
        for hook in self._hooks:
            hook.remove()
        self._copies.clear()
        self._moving.clear()

    def __enter__(self) -> UpdateClip:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _before(self, optimizer: Optimizer, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        self._moving = []
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            self._remember(optimizer)
            return None

        def evaluated() -> Any:
            loss = closure()
            if not self._moving:  # only now is it known which parameters have a gradient
                self._remember(optimizer)
            return loss

        if len(args) > 1:
            return (args[0], evaluated, *args[2:]), kwargs
        return args, {**kwargs, "closure": evaluated}

    @torch.no_grad()
    def _remember(self, optimizer: Optimizer) -> None:
        """Copy the parameters that are about to move."""
        for group in optimizer.param_groups:
            lr = group["lr"]
            lr = lr.clone() if isinstance(lr, Tensor) else lr
            for alike in _alike([p for p in group["params"] if p.grad is not None and p.numel()]):
                self._moving.append(_Moving(group, lr, alike, self._copied(alike)))

    @torch.no_grad()
    def _after(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        del optimizer, args, kwargs
        moving, self._moving = self._moving, []
        smallest = []
        for moved in moving:
            scales = _scales(moved, self._max_rms)
            _shrink_(moved, scales)
            smallest.append(scales.min())
        if smallest:
            home = smallest[0].device
            self._last_scale = torch.stack([s.to(home, non_blocking=True) for s in smallest]).min()

    def _copied(self, parameters: Sequence[Tensor]) -> list[Tensor]:
        """What these parameters are now, in the memory of the last copies."""
        copies = []
        for parameter in parameters:
            copy = self._copies.get(parameter)
            if copy is None or (copy.shape, copy.dtype, copy.device) != (
                parameter.shape,
                parameter.dtype,
                parameter.device,
            ):
                copy = self._copies[parameter] = torch.empty_like(parameter)
            copies.append(copy)
        torch._foreach_copy_(copies, list(parameters))
        return copies


def _alike(parameters: Sequence[Tensor]) -> list[list[Tensor]]:
    """Parameters by device and type: what the fast foreach kernels take."""
    groups: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for parameter in parameters:
        groups.setdefault((parameter.device, parameter.dtype), []).append(parameter)
    return list(groups.values())


def _scales(moved: _Moving, max_rms: float) -> Tensor:
    """The factor of each update, shape (num_tensors,); 1 for one that is not finite."""
    roots = [math.sqrt(p.numel()) for p in moved.parameters]
    rms = torch.stack(torch._foreach_div(_distances(moved.parameters, moved.before), roots))
    most = _rate(moved) * max_rms
    if isinstance(most, Tensor):
        most = most.to(rms.device, rms.dtype, non_blocking=True)
    return torch.where((rms > most) & rms.isfinite(), most / rms, 1.0)


def _rate(moved: _Moving) -> float | Tensor:
    """The learning rate of the step. A rate lowered for it alone shows before the step or after it."""
    now = moved.group["lr"]
    if isinstance(now, Tensor) and isinstance(moved.lr, Tensor):
        return now.minimum(moved.lr)
    rate: float | Tensor = min(now, moved.lr)
    return rate


def _distances(tensors: Sequence[Tensor], others: Sequence[Tensor]) -> list[Tensor]:
    """The 2-norm of each difference, 0-dim, in the widest type of the device: no square leaves its range."""
    home = tensors[0].device
    size = _BLOCK if home.type == "cpu" else _BLOCK_ON_DEVICE
    split = [_blocks(t, size) for t in tensors]
    after = [block for blocks in split for block in blocks]
    before = [block for t in others for block in _blocks(t, size)]
    norms: list[Tensor] = []
    start = total = 0
    for end, block in enumerate(after, start=1):
        total += block.numel()
        if total >= size or end == len(after):
            differences = torch._foreach_sub(after[start:end], before[start:end])
            real = [torch.view_as_real(d) if d.is_complex() else d for d in differences]
            norms += torch._foreach_norm(real, 2, dtype=wide_dtype(home))
            start, total = end, 0
    if len(norms) == len(tensors):
        return norms
    own = iter(norms)
    return [torch.stack([next(own) for _ in blocks]).norm() for blocks in split]


def _blocks(tensor: Tensor, size: int) -> Sequence[Tensor]:
    """Views of about so many elements."""
    if tensor.numel() <= size:
        return (tensor,)
    blocks: Sequence[Tensor] = torch.split(tensor, max(1, size * len(tensor) // tensor.numel()))
    return blocks


def _shrink_(moved: _Moving, scales: Tensor) -> None:
    """Take back what is too much of each update; what is not clipped stays as it is, bit for bit."""
    if scales.device.type == "cpu":
        # host memory looked at from the host
        for index in np.flatnonzero(scales.numpy() < 1.0).tolist():
            after = moved.parameters[index]
            after.copy_(_between(moved.before[index], after, scales[index]))
        return
    for after, before, scale in zip(moved.parameters, moved.before, scales.unbind(), strict=True):
        after.copy_(torch.where(scale < 1.0, _between(before, after, scale), after))


def _between(before: Tensor, after: Tensor, scale: Tensor) -> Tensor:
    """The point that is this share of the way; in half precision the share itself would be 0.4 % off."""
    dtype = torch.float32 if before.dtype.itemsize < 4 else before.dtype
    return torch.lerp(before.to(dtype), after.to(dtype), scale.to(dtype))
