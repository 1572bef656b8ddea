"""Training steps at given learning rates, on a model that is afterwards what it was before."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from trimtab.act import hide_gradients_, show_gradients_
from trimtab.measure import needs_closure
from trimtab.prepare.calling import LossCall, LossFunction
from trimtab.prepare.given import check_parts
from trimtab.prepare.restoring import kept


@contextmanager
def stepping(
    model: nn.Module, optimizer: Optimizer, loss_fn: LossFunction, batches: Iterable[Any], num: int
) -> Iterator[Callable[[Sequence[Tensor]], Steps]]:
    """Steps of this model, that do not move the parameters given; all is put back in the end.

    Args:
        model: The model.
        optimizer: Its optimizer.
        loss_fn: The loss, of either convention.
        batches: Some batches.
        num: How many of them to keep at most.

    Yields:
        A function that takes the parameters that are to stand still, and returns the steps.

    Raises:
        ValueError: There is no batch, or the optimizer holds no parameter of this model.
        TypeError: Something is of another kind than it should be.
    """
    check_parts(model, loss_fn, optimizer)
    if optimizer is None:
        raise TypeError(
            "optimizer is None: expected the torch.optim.Optimizer whose learning rate is sought."
        )
    modules = [m for m in (model, loss_fn) if isinstance(m, nn.Module)]
    _check_own(modules, optimizer)
    with kept(modules, optimizer) as beginning:
        kept_batches = _some(batches, num)  # a loader that shuffles draws: that is taken back too
        model.train()
        try:
            call = LossCall(model, loss_fn, kept_batches[0])
        except (TypeError, AttributeError) as error:
            if isinstance(batches, (tuple, list)) and all(isinstance(part, Tensor) for part in batches):
                raise TypeError(
                    f"batches may be one batch: expected several, as in [batch] ({error})."
                ) from error
            raise
        yield lambda still: Steps(call, optimizer, kept_batches, beginning.restore_, still)


class Steps:
    """Makes steps at given learning rates.

    Args:
        call: The loss of a batch.
        optimizer: Steps.
        batches: Gone through again and again.
        restore: Puts everything back.
        still: Parameters that must not move.
    """

    def __init__(
        self,
        call: LossCall,
        optimizer: Optimizer,
        batches: list[Any],
        restore: Callable[[], None],
        still: Sequence[Tensor],
    ) -> None:
        if needs_closure(optimizer):
            raise TypeError(
                f"{type(optimizer).__name__} needs a closure: its step has no single learning rate."
            )
        rates = [float(group["lr"]) for group in optimizer.param_groups]
        largest = max(rates)
        # groups that differ keep their ratios; all at 0 says nothing about ratios
        self._ratios = [rate / largest for rate in rates] if largest > 0 else [1.0] * len(rates)
        self._call = call
        self._optimizer = optimizer
        self._batches = batches
        self._restore = restore
        self._still = still
        self._next = 0
        self._level = math.nan
        self._levels = self._levels_of_batches()

    def restart(self, offset: int) -> None:
        """Begin a sweep.

        Args:
            offset: Which batch to begin with.
        """
        self._restore()
        self._next = offset

    def __call__(self, lr: float) -> float:
        """One step; returns the loss before it, on a batch that the last step did not see."""
        index = self._next % len(self._batches)
        self._next += 1
        batch = self._batches[index]
        self._set(lr)
        self._optimizer.zero_grad(set_to_none=True)
        loss = self._call(batch)
        value = float(loss.detach())
        if not math.isfinite(value):
            return math.nan
        loss.backward()  # type: ignore[no-untyped-call]
        hidden = hide_gradients_(self._still)
        self._optimizer.step()
        show_gradients_(hidden)
        return value - self._levels[index] + self._level

    def _set(self, lr: float) -> None:
        for group, ratio in zip(self._optimizer.param_groups, self._ratios, strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(lr * ratio)
            else:
                group["lr"] = lr * ratio

    def _levels_of_batches(self) -> list[float]:
        """Loss of each batch before any step."""
        self._restore()
        with torch.no_grad():
            levels = [float(self._call(batch)) for batch in self._batches]
        self._level = float(np.median(levels))
        return levels


def _check_own(modules: Sequence[nn.Module], optimizer: Optimizer) -> None:
    own = {id(p) for module in modules for p in module.parameters()}
    if not any(id(p) in own for group in optimizer.param_groups for p in group["params"]):
        raise ValueError(
            "the optimizer holds no parameter of this model: build it from model.parameters(), after the "
            "last change to the model."
        )


def _some(batches: Iterable[Any], num: int) -> list[Any]:
    if not isinstance(batches, Iterable):
        raise TypeError(f"batches is {type(batches).__name__}: expected a list of batches, or a loader.")
    found = list(islice(iter(batches), num))
    if not found:
        raise ValueError("batches is empty: expected at least one batch.")
    return found
