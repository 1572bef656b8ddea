"""The learning-rate range test, for any framework, for a torch model, and for each of its layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, final

import numpy as np
from torch import Tensor, nn
from torch.optim import Optimizer

from trimtab.measure import as_number
from trimtab.prepare.calling import LossFunction
from trimtab.prepare.range_test import FloatArray, Method, RangeTest, read_sweeps
from trimtab.prepare.trial_steps import Steps, stepping

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
        numbers = f"min_lr={self.min_lr!r}, max_lr={self.max_lr!r}, num_steps={self.num_steps!r}"
        given = f"LearningRateFinder({numbers})"
        are_numbers = all(isinstance(rate, (int, float)) for rate in (self.min_lr, self.max_lr))
        if not are_numbers or not 0 < self.min_lr < self.max_lr < math.inf:
            raise ValueError(f"{given}: expected 0 < min_lr < max_lr, both finite.")
        if not isinstance(self.num_steps, int) or self.num_steps < 10:
            raise ValueError(f"{given}: expected a whole number of 10 steps or more: fewer show no curve.")
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
            ValueError: Several sweeps are asked for without `restart`, or the loss has several elements.
            TypeError: `train_fn` is no function, or returns no number.
        """
        if not callable(train_fn):
            raise TypeError(
                f"range_test() got {type(train_fn).__name__}: expected a function that makes one step with "
                "the learning rate it is given, and returns the loss."
            )
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
        loss = as_number("what train_fn returned", train_fn(float(lr)))
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
        ValueError: There is no batch, an argument is out of its range, or the optimizer holds no parameter of
            this model.
        TypeError: The optimizer needs a closure, as LBFGS; or an argument is of another kind, as one batch
            instead of several.

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
    with stepping(model, optimizer, loss_fn, batches, num_steps) as steps_with:
        return _run(finder, steps_with(()), num_sweeps)


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
    layers: Sequence[str] | str | None = None,
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
    found = []
    with stepping(model, optimizer, loss_fn, batches, num_steps) as steps_with:
        groups = _by_layer(model, layers)
        held = [p for group in optimizer.param_groups for p in group["params"]]
        for layer, own in groups.items():
            still = [p for p in held if id(p) not in {id(q) for q in own}]
            found.append(LayerRate(layer, _run(finder, steps_with(still), num_sweeps)))
    return tuple(found)


def _run(finder: LearningRateFinder, steps: Steps, num_sweeps: int) -> RangeTest:
    if not isinstance(num_sweeps, int) or num_sweeps < 1:
        raise ValueError(f"num_sweeps={num_sweeps!r}: expected a whole number >= 1.")
    sweeps = np.full((num_sweeps, finder.num_steps), np.nan)
    # the loss before a step is what the step before it has left: one more step, and one shift
    lrs = np.append(finder.lrs, finder.max_lr)
    for index, row in enumerate(sweeps):
        steps.restart(index)
        losses = np.full(len(lrs), np.nan)
        sweep(steps, lrs, losses)
        row[:] = losses[1:]
    return read_sweeps(finder.lrs, sweeps, finder.method)


def _by_layer(model: nn.Module, layers: Sequence[str] | str | None) -> dict[str, list[Tensor]]:
    if isinstance(layers, str):
        layers = [layers]
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
