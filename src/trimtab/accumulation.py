"""One step from several micro-batches, of which a bad one is left out alone."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trimtab import act, measure
from trimtab.decide.checks import check_number
from trimtab.stepping import Dropped
from trimtab.types import wide_dtype

if TYPE_CHECKING:
    from trimtab.guard import Guard

_HALF = frozenset({torch.float16, torch.bfloat16})


class Accumulation:
    """Gathers the gradients of micro-batches. Made by `Guard.accumulate`, spent by `Guard.step`.

    Each micro-batch is run backward by itself, and its gradients are added only if its loss and all of
    them are finite. The step then gets the weighted mean of the good ones: a bad micro-batch neither
    enters the sum nor counts in its denominator, and what its forward pass did to buffers is taken back.
    An empty one, with a weight of 0, is left out the same way and counts as neither good nor bad.
    If all are bad, the gradients are NaN and the guard's remedy decides. If all are empty, the step is passed
    over without a fault. Gradients from before the first micro-batch are dropped.

    Cost:
        Memory for one more set of gradients (in float32 for halves); a norm and two passes over the
        gradients of each micro-batch. No host read.

    Example:
        >>> model = torch.nn.Linear(2, 1)
        >>> guard = Guard(model, torch.optim.SGD(model.parameters(), lr=0.1))
        >>> micro_batches = guard.accumulate()
        >>> for x in (1.0, float("nan"), 3.0):
        ...     micro_batches.backward(model(torch.full((1, 2), x)).mean())
        >>> outcome = guard.step(micro_batches)
        >>> outcome.applied, outcome.num_dropped, model.weight.grad
        (True, 1, tensor([[2., 2.]]))
    """

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        device = next(iter(guard._watched.names)).device
        self._sums: dict[Tensor, Tensor] = {}
        self._weight = torch.zeros((), dtype=wide_dtype(device), device=device)
        self._loss = torch.zeros_like(self._weight)
        # one of them may also be too large for a loss scale: its loss is finite
        self.dropped = Dropped(torch.zeros_like(self._weight), torch.zeros_like(self._weight))
        self._num = self._num_empty = 0
        self._buffers = act.BufferMemory(guard.model)

    def backward(self, loss: Tensor, *, weight: float | Tensor = 1.0) -> None:
        """Run one micro-batch backward and add its gradients if they are good.

        Args:
            loss: Its mean loss, a scalar with a graph; not divided by the number of micro-batches.
            weight: What it counts in the mean: 1 each, or its number of samples or valid tokens. With 0,
                as for a batch that is masked entirely, it is left out and not counted as bad. In a 0-dim
                tensor, as `mask.sum()`, it stays on its device; a weight there that is negative or not finite
                makes the micro-batch a bad one, and nothing but zeros a bad step.

        Raises:
            ValueError: The weight is negative or not finite, or the loss is no real scalar.
            TypeError: The weight is no number.
            RuntimeError: The step has been made already.
        """
        if isinstance(weight, Tensor) and weight.numel() == 1 and not weight.is_complex():
            weight = weight.detach().reshape(()).to(self._weight)
        else:
            check_number("backward", weight=weight)
            if not (math.isfinite(weight) and weight >= 0):
                raise ValueError(f"backward(weight={weight}): expected a finite number >= 0.")
        if self._num < 0:
            raise RuntimeError("this accumulation has made its step. Start the next with guard.accumulate().")
        value = measure.as_loss(loss)
        self._num += 1
        for group in self._guard.optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None
        self._guard._scaled(loss).backward()  # type: ignore[no-untyped-call]
        is_empty = not isinstance(weight, Tensor) and weight == 0
        if is_empty:
            self._num_empty += 1
            self._buffers.restore_()  # a mask over everything often means NaN
            return
        if value is None or not self._guard._watched.has_gradient():
            self._buffers.forget()
            return
        self._add(value, weight)

    @torch.no_grad()
    def _add(self, loss: Tensor, weight: float | Tensor) -> None:
        parameters, gradients = self._guard._watched.with_gradient()
        stats = measure.step_stats(gradients, loss)
        has_finite_loss = loss.isfinite().to(stats.grad_norm.device)
        is_good = stats.grad_norm.isfinite() & has_finite_loss
        is_empty = torch.zeros_like(is_good)
        if isinstance(weight, Tensor):
            is_empty = weight == 0
            is_good = is_good & (weight > 0) & weight.isfinite()
        for parameter, gradient in zip(parameters, gradients, strict=True):
            flag = is_good.to(gradient.device, non_blocking=True)
            # selected, never multiplied: 0 x NaN is NaN
            part = gradient.to_dense() if gradient.layout is not torch.strided else gradient
            part = torch.where(flag, part, torch.zeros((), dtype=part.dtype, device=part.device))
            part = part.float() if part.dtype in _HALF else part
            if isinstance(weight, Tensor):
                # where the weight is none it would spread: 0 x NaN is NaN
                counted = torch.where(is_good, weight, 0.0).to(part.device, part.dtype, non_blocking=True)
                part.mul_(counted)
            elif weight != 1:
                part.mul_(weight)
            if parameter in self._sums:
                self._sums[parameter].add_(part)
            else:
                self._sums[parameter] = part
            parameter.grad = None
        flag = is_good.to(self._weight.device)
        self._weight += torch.where(flag, weight, 0.0)
        self._loss += torch.where(flag, loss.to(self._loss) * weight, 0.0)
        is_bad = ~flag & ~is_empty.to(flag.device)
        self.dropped.num.add_(is_bad)
        self.dropped.num_overflowed.add_(is_bad & has_finite_loss.to(flag.device))
        self._buffers.keep_where_(is_good)

    @torch.no_grad()
    def finish(self) -> Tensor | None:
        """Leave the mean gradients in `.grad`.

        Returns:
            The mean loss, 0-dim; None if all micro-batches were empty, and no gradient is left.

        Raises:
            RuntimeError: There was no micro-batch, or the step has been made.
        """
        if self._num <= 0 or not (self._sums or self._num_empty):
            raise RuntimeError(
                "this accumulation holds no gradient. Call backward(loss) on it for each micro-batch, "
                "and step once."
            )
        self._num = -1
        self._buffers.close()
        if not self._sums:
            return None
        for parameter, total in self._sums.items():
            mean = total / self._weight.to(total.device, non_blocking=True)
            parameter.grad = mean.to(parameter.dtype)
        self._sums = {}
        return self._loss / self._weight
