"""Stepping an optimizer, or making sure that a step leaves no trace."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor
from torch.optim import Optimizer

from trimtab.act.gradients import rescale_grads_
from trimtab.types import Rescaling, Scale

# What torch.amp.GradScaler sets on an optimizer, and its fused kernel reads
_KERNEL_INPUTS = ("grad_scale", "found_inf")

# The kernel takes the inverse of the factor as a float32
SMALLEST_IN_KERNEL = 2.0**-120

Hidden = tuple[tuple[Tensor, Tensor | None], ...]

_HOSTS = frozenset({"cpu"})  # nothing is queued there, so there is nothing to run ahead of


def is_fused(optimizer: Optimizer) -> bool:
    """Whether the optimizer's own kernel takes a gradient scale and a skip flag.

    These are the two inputs that `torch.amp.GradScaler` hands to fused Adam, AdamW, SGD and Adagrad.
    """
    return bool(getattr(optimizer, "_step_supports_amp_scaling", False))


def check_unscaled(optimizer: Optimizer) -> None:
    """See that the gradients are not still multiplied by a loss scale.

    Raises:
        RuntimeError: A gradient scaler left it to the fused kernel to unscale them.
    """
    if vars(optimizer).get("grad_scale") is not None:
        raise RuntimeError(
            "this optimizer carries the grad_scale of a GradScaler, so its gradients are still scaled. "
            "Call scaler.unscale_(optimizer) before scaler.step(optimizer)."
        )


def gates_on_device(optimizer: Optimizer, gradients: Sequence[Tensor]) -> bool:
    """Whether the step may be queued before the host knows if it is a good one.

    The kernel leaves everything alone when told so, but creates missing state first, and fused SGD
    leaves a momentum it creates uninitialised. So every parameter must have its state already. On
    the CPU there is nothing to overlap with.
    """
    if not is_fused(optimizer) or gradients[0].device.type in _HOSTS:
        return False
    return len(optimizer.state) == sum(len(group["params"]) for group in optimizer.param_groups)


@contextmanager
def fused_inputs(
    optimizer: Optimizer, *, factor: Tensor | None = None, refuse: Tensor | None = None
) -> Iterator[None]:
    """Have the fused kernel clip and skip inside its own pass for the `step()` made in this context.

    Args:
        optimizer: One for which `is_fused` holds.
        factor: 0-dim clip factor; the kernel divides by its inverse, which is a float32, so that
            factors below `SMALLEST_IN_KERNEL` count as that. A factor of NaN or 0 came from a bad norm
            and counts as 1.
        refuse: 0-dim flag; non-zero means that parameters and state stay bit-identical.

    Cost:
        No pass of its own, no host read.
    """
    before = {name: value for name, value in vars(optimizer).items() if name in _KERNEL_INPUTS}
    if factor is not None:
        inverse = torch.where(factor > 0, factor, 1.0).reciprocal()
        vars(optimizer)["grad_scale"] = inverse.clamp(max=1 / SMALLEST_IN_KERNEL).float()
    if refuse is not None:
        # the kernel tests for exactly 1 in a 0-dim float32
        vars(optimizer)["found_inf"] = refuse.ne(0).float()
    try:
        yield
    finally:
        for name in _KERNEL_INPUTS:
            vars(optimizer).pop(name, None)
        vars(optimizer).update(before)


def clipped(
    optimizer: Optimizer, gradients: Sequence[Tensor], rescaling: Rescaling, *, known: float | None = None
) -> AbstractContextManager[None]:
    """Clip for the `step()` made within the returned context: at once, or inside a fused kernel.

    Args:
        optimizer: The optimizer about to step.
        gradients: Its gradients, rescaled in place now unless a fused kernel does.
        rescaling: What the clip decided.
        known: What is left of the norm, if the host has read it: one factor that is too small for a
            kernel is then applied at once.

    Cost:
        That of `rescale_grads_`, or nothing for one factor with a fused optimizer; no host read.
    """
    fits = is_fused(optimizer) and (known is None or known >= SMALLEST_IN_KERNEL)
    if fits and isinstance(rescaling, Scale) and rescaling.factor.dim() == 0:
        return fused_inputs(optimizer, factor=rescaling.factor)
    rescale_grads_(gradients, rescaling)
    return nullcontext()


@contextmanager
def scaled_lr(optimizer: Optimizer, factor: float) -> Iterator[None]:
    """Multiply every learning rate for the `step()` made in this context, and put it back.

    Schedulers, which compute the next rate from the current one, see nothing of it.

    Args:
        optimizer: The optimizer about to step.
        factor: At least 0; 1 changes nothing.

    Cost:
        No host read; a learning rate that is a tensor is multiplied on its device.
    """
    before = [group["lr"] for group in optimizer.param_groups]
    copies = [lr.clone() if isinstance(lr, Tensor) else lr for lr in before]
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].mul_(factor)  # in place: a captured graph reads this memory
        else:
            group["lr"] *= factor
    try:
        yield
    finally:
        for group, lr, copied in zip(optimizer.param_groups, before, copies, strict=True):
            group["lr"] = lr.copy_(copied) if isinstance(lr, Tensor) else lr


def hide_gradients_(parameters: Sequence[Tensor]) -> Hidden:
    """Take all gradients away, so that an `optimizer.step()` made by somebody else changes nothing.

    Every optimizer of torch passes over parameters without a gradient.

    Returns:
        What `show_gradients_` puts back.
    """
    hidden = tuple((p, p.grad) for p in parameters)
    for parameter in parameters:
        parameter.grad = None
    return hidden


def show_gradients_(hidden: Hidden) -> None:
    """Put back the gradients that `hide_gradients_` took."""
    for parameter, gradient in hidden:
        parameter.grad = gradient


class Rollback:
    """A copy of parameters and optimizer state, for optimizers that move before they know.

    LBFGS evaluates its closure several times within one step, at points it has already moved to.

    Args:
        optimizer: The optimizer about to step.

    Cost:
        Memory and one pass for a copy of parameters and state; no host read.
    """

    @torch.no_grad()
    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._parameters = [
            (p, p.detach().clone()) for group in optimizer.param_groups for p in group["params"]
        ]
        self._state = {p: copy.deepcopy(state) for p, state in optimizer.state.items()}

    @torch.no_grad()
    def restore_(self) -> None:
        """Put everything back, bit for bit."""
        for parameter, saved in self._parameters:
            parameter.copy_(saved)
        self._optimizer.state.clear()
        self._optimizer.state.update(self._state)
