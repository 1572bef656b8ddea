"""The learning-rate range test, for any framework, for a torch model, and for each of its layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple, final

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from trimtab.act import hide_gradients_, show_gradients_
from trimtab.measure import needs_closure
from trimtab.prepare.calling import LossCall, LossFunction
from trimtab.prepare.range_test import FloatArray, Method, RangeTest, read_sweeps
from trimtab.prepare.restoring import kept

# A sweep ends once the loss has climbed above its start by as much as it had fallen, and by this share of it
_CLIMB = 1.0


@final
@dataclass(frozen=True, slots=True)
class LearningRateFinder:
    """A range test: the learning rate grows by a constant factor each step, and the losses are read.

    Args:
        min_lr: Where it begins.
        max_lr: Where it ends, unless the loss runs away before.
        num_steps: Learning rates in between, both ends counted.
        method: Which suggestion to take; all are in the result.

    Raises:
        ValueError: An argument is out of its range.

    Example:
        >>> noise, w = torch.randn(100).tolist(), 4.0
        >>> def train(lr):
        ...     global w
        ...     w -= lr * (2 * w + noise.pop())  # a parabola: a rate above 1 makes it worse
        ...     return w * w
        >>> test = LearningRateFinder(min_lr=1e-5, max_lr=10.0).range_test(train)
        >>> 1e-3 < test.suggested_lr < 0.5, 0.1 < test.interval.high < 2.0
        (True, True)

    References:
        L. N. Smith, "Cyclical learning rates for training neural networks", 2017, arXiv:1506.01186.
    """

    min_lr: float = 1e-7
    max_lr: float = 10.0
    num_steps: int = 100
    method: Method = Method.VALLEY

    def __post_init__(self) -> None:
        given = f"LearningRateFinder(min_lr={self.min_lr}, max_lr={self.max_lr}, num_steps={self.num_steps})"
        if not 0 < self.min_lr < self.max_lr < math.inf:
            raise ValueError(f"{given}: expected 0 < min_lr < max_lr, both finite.")
        if self.num_steps < 10:
            raise ValueError(f"{given}: expected at least 10 steps: fewer show no curve.")
        object.__setattr__(self, "method", Method(self.method))

    @property
    def lrs(self) -> FloatArray:
        """The learning rates that are tried."""
        return np.geomspace(self.min_lr, self.max_lr, self.num_steps)

    def range_test(
        self,
        train_fn: Callable[[float], Any],
        *,
        restart: Callable[[], Any] | None = None,
        num_sweeps: int = 1,
    ) -> RangeTest:
        """Run it with a function that makes one step.

        Args:
            train_fn: Makes one training step with the learning rate that it is given and returns the loss, as
                a number or anything that `float` takes: best the loss after that step.
            restart: Puts the model back to where it began: called before each sweep and after the last, also
                when a step fails. Needed for more than one sweep.
            num_sweeps: Sweeps to take the median of.

        Raises:
            ValueError: Several sweeps are asked for without `restart`.
        """
        if num_sweeps < 1 or (num_sweeps > 1 and restart is None):
            raise ValueError(
                f"range_test(num_sweeps={num_sweeps}): expected at least 1; several need restart=, which "
                "puts the model back."
            )
        sweeps = np.full((num_sweeps, self.num_steps), np.nan)
        try:
            for row in sweeps:
                if restart is not None:
                    restart()
                sweep(train_fn, self.lrs, row)
        finally:
            if restart is not None:
                restart()
        return read_sweeps(self.lrs, sweeps, self.method)


def sweep(train_fn: Callable[[float], Any], lrs: FloatArray, row: FloatArray) -> None:
    """One sweep, written into `row`; it ends when the loss is not finite or runs away.

    Args:
        train_fn: One step at this learning rate; returns the loss.
        lrs: The learning rates.
        row: Losses, as many.
    """
    lowest = first = math.inf
    largest_early = -math.inf
    for i, lr in enumerate(lrs):
        loss = float(train_fn(float(lr)))
        if not math.isfinite(loss):
            return
        row[i] = loss
        if i < max(3, len(lrs) // 10):
            first = float(np.median(row[: i + 1]))
            largest_early = max(largest_early, loss)
        lowest = min(lowest, float(np.median(row[max(0, i - 2) : i + 1])))
        climb = max(first - lowest, _CLIMB * abs(first), largest_early - first)
        if float(np.min(row[max(0, i - 2) : i + 1])) > first + climb and i >= 3:
            return


def find_lr(
    model: nn.Module,
    optimizer: Optimizer,
    loss_fn: LossFunction,
    batches: Iterable[Any],
    *,
    min_lr: float = 1e-7,
    max_lr: float = 10.0,
    num_steps: int = 100,
    num_sweeps: int = 3,
    method: Method = Method.VALLEY,
) -> RangeTest:
    """A range test of this model with this optimizer, which leaves both as they were.

    Each sweep begins with the state that the model has now, at another one of the batches. The loss that
    counts for a learning rate is that of the next batch, in training mode; what differs between batches
    before any step is taken out. A batch that comes again is remembered: give as many as `num_steps` if the
    model can learn them by heart.

    Args:
        model: The model.
        optimizer: Its optimizer; groups keep the ratios of their learning rates.
        loss_fn: `loss_fn(model, batch)`, or `loss_fn(output, target)` for batches that are pairs.
        batches: Some are enough; up to `num_steps` are kept in memory, and gone through again and again.
        min_lr: Where it begins.
        max_lr: Where it ends, unless the loss runs away before.
        num_steps: Learning rates in between.
        num_sweeps: Sweeps to take the median of.
        method: Which suggestion to take.

    Returns:
        The curve, an interval, and a learning rate, or None if the losses do not tell.

    Raises:
        ValueError: There is no batch, the optimizer has no learning rate other than 0, or it holds no
            parameter of this model.
        TypeError: The optimizer needs a closure, as LBFGS.

    Cost:
        One forward and backward pass for each step, and a host read; a copy of model and optimizer, and
        one forward pass over the batches.

    Example:
        >>> model = torch.nn.Linear(4, 1)
        >>> x = torch.randn(64, 4)
        >>> batches = [(x, x.sum(1, keepdim=True))]
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        >>> test = find_lr(model, optimizer, torch.nn.functional.mse_loss, batches, min_lr=1e-4)
        >>> test.interval.low < test.suggested_lr < test.interval.high
        True
    """
    finder = LearningRateFinder(min_lr, max_lr, num_steps, method)
    with _stepping(model, optimizer, loss_fn, batches, num_steps) as steps_with:
        return _run(finder, steps_with(()), num_sweeps)


@contextmanager
def _stepping(
    model: nn.Module, optimizer: Optimizer, loss_fn: LossFunction, batches: Iterable[Any], num: int
) -> Iterator[Callable[[Sequence[Tensor]], _Steps]]:
    """Steps of this model, that do not move the parameters given; all is put back in the end."""
    modules = [m for m in (model, loss_fn) if isinstance(m, nn.Module)]
    _check_own(modules, optimizer)
    with kept(modules, optimizer) as beginning:
        kept_batches = _some(batches, num)  # a loader that shuffles draws: that is taken back too
        model.train()
        call = LossCall(model, loss_fn, kept_batches[0])
        yield lambda still: _Steps(call, optimizer, kept_batches, beginning.restore_, still)


class LayerRate(NamedTuple):
    """The range test of one layer.

    Attributes:
        layer: Prefix of the names of its parameters.
        test: What was found with only this layer moving.
    """

    layer: str
    test: RangeTest


def find_layer_lrs(
    model: nn.Module,
    optimizer: Optimizer,
    loss_fn: LossFunction,
    batches: Iterable[Any],
    *,
    layers: Sequence[str] | None = None,
    min_lr: float = 1e-7,
    max_lr: float = 10.0,
    num_steps: int = 60,
    num_sweeps: int = 1,
    method: Method = Method.VALLEY,
) -> tuple[LayerRate, ...]:
    """A range test for each layer by itself: the others stand still while it moves.

    Args:
        model: The model.
        optimizer: Its optimizer.
        loss_fn: As in `find_lr`.
        batches: As in `find_lr`.
        layers: Prefixes of parameter names [default: each module that owns trainable parameters].
        min_lr: As in `find_lr`.
        max_lr: As in `find_lr`.
        num_steps: As in `find_lr`.
        num_sweeps: As in `find_lr`.
        method: As in `find_lr`.

    Raises:
        ValueError: No parameter begins with one of the prefixes; or as in `find_lr`.

    Cost:
        That of `find_lr` for each layer.
    """
    finder = LearningRateFinder(min_lr, max_lr, num_steps, method)
    groups = _by_layer(model, layers)
    held = [p for group in optimizer.param_groups for p in group["params"]]
    found = []
    with _stepping(model, optimizer, loss_fn, batches, num_steps) as steps_with:
        for layer, own in groups.items():
            still = [p for p in held if id(p) not in {id(q) for q in own}]
            found.append(LayerRate(layer, _run(finder, steps_with(still), num_sweeps)))
    return tuple(found)


def _run(finder: LearningRateFinder, steps: _Steps, num_sweeps: int) -> RangeTest:
    sweeps = np.full((max(num_sweeps, 1), finder.num_steps), np.nan)
    # the loss before a step is what the step before it has left: one more step, and one shift
    lrs = np.append(finder.lrs, finder.max_lr)
    for index, row in enumerate(sweeps):
        steps.restart(index)
        losses = np.full(len(lrs), np.nan)
        sweep(steps, lrs, losses)
        row[:] = losses[1:]
    return read_sweeps(finder.lrs, sweeps, finder.method)


class _Steps:
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
    found = list(islice(iter(batches), num))
    if not found:
        raise ValueError("batches is empty: expected at least one batch.")
    return found


def _by_layer(model: nn.Module, layers: Sequence[str] | None) -> dict[str, list[Tensor]]:
    named: list[tuple[str, Tensor]] = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    if layers is None:
        layers = list(dict.fromkeys(name.rpartition(".")[0] for name, _ in named))
        return {layer: [p for name, p in named if name.rpartition(".")[0] == layer] for layer in layers}
    groups: dict[str, list[Tensor]] = {
        layer: [p for name, p in named if name == layer or name.startswith(layer + ".")] for layer in layers
    }
    for layer, own in groups.items():
        if not own:
            names = sorted({name.rpartition(".")[0] for name, _ in named})
            raise ValueError(
                f"layers={list(layers)!r}: no trainable parameter is in {layer!r}. There are {names}."
            )
    return groups
