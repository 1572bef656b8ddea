"""Trial training on one batch, in steps that leave nothing behind once the state is put back."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from trimtab.prepare.restoring import Beginning

_NOISES = (nn.modules.dropout._DropoutNd,)
_NUM_LAST = 5
OUT_OF_TIME = "out of time: give a larger budget_sec"


class Deadline:
    """How much of a time budget is left.

    Args:
        seconds: The budget.
    """

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def part(self, share: float, *, less: float = 0.0) -> Deadline:
        """A budget of its own out of what is left.

        Args:
            share: In (0, 1].
            less: Seconds that are taken off before.
        """
        return Deadline(share * max(self._end - time.monotonic() - less, 0.0))

    def allows(self, seconds: float) -> bool:
        """Whether so much time is left.

        Args:
            seconds: What something is expected to take.
        """
        return time.monotonic() + seconds <= self._end

    @property
    def is_over(self) -> bool:
        """Whether it is used up."""
        return time.monotonic() >= self._end


class Trial(NamedTuple):
    """How one batch was learned.

    Attributes:
        first: Loss before the first step.
        last: Median of the last losses; nan if it was not finite.
        lr: Learning rate of the trial.
        num_steps: Steps made.
    """

    first: float
    last: float
    lr: float
    num_steps: int


@contextmanager
def without_noise(model: nn.Module) -> Iterator[None]:
    """Training mode with dropout at rest, in this context.

    Args:
        model: The model.
    """
    modes = [(m, m.training) for m in model.modules()]
    model.train()
    for module in model.modules():
        if isinstance(module, _NOISES):
            module.eval()
        elif isinstance(module, (nn.RNNBase, nn.MultiheadAttention)):
            # these hold dropout of their own, and no other noise; cuDNN needs recurrences in training mode
            module.training = isinstance(module, nn.RNNBase) and not module.dropout
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def fit(
    loss_of: Callable[[], Tensor],
    optimizer: Optimizer,
    num_steps: int,
    deadline: Deadline,
    *,
    is_enough: Callable[[float], bool] = lambda loss: False,
) -> Trial:
    """Make steps on one batch.

    Args:
        loss_of: The loss of that batch, with its graph.
        optimizer: Steps.
        num_steps: At most so many.
        deadline: Ends it sooner: no step is begun that would not end in time.
        is_enough: Ends it as soon as a loss is good.

    Cost:
        One host read for each step.
    """
    losses: list[float] = []
    begun = time.monotonic()
    for _ in range(num_steps + 1):
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of()
        losses.append(float(loss.detach()))
        a_step = (time.monotonic() - begun) / len(losses) if len(losses) > 1 else 0.0
        is_over = len(losses) > num_steps or not deadline.allows(a_step)
        if is_over or not math.isfinite(losses[-1]) or is_enough(losses[-1]):
            break
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    lr = float(optimizer.param_groups[0]["lr"])
    return Trial(losses[0], _end_of(losses), lr, len(losses) - 1)


def _end_of(losses: Sequence[float]) -> float:
    if not math.isfinite(losses[-1]):
        return math.nan
    last = sorted(losses[-_NUM_LAST:]) if len(losses) > 2 * _NUM_LAST else [losses[-1]]
    return last[len(last) // 2]


# Adam moves each weight by about the learning rate whatever the scale of the loss: from fast to careful
_RATES = (1e-2, 1e-3, 1e-1)


def _adam(parameters: Sequence[Tensor], lr: float) -> Optimizer:
    """Adam that takes the sparse gradients of an embedding as well."""

    def densify(*args: object) -> None:
        del args
        for parameter in parameters:
            if parameter.grad is not None and parameter.grad.is_sparse:
                parameter.grad = parameter.grad.to_dense()

    optimizer = torch.optim.Adam(parameters, lr=lr)
    optimizer.register_step_pre_hook(densify)
    return optimizer


def learn_one_batch(
    loss_of: Callable[[], Tensor],
    parameters: Sequence[Tensor],
    beginning: Beginning,
    is_learned: Callable[[float], bool],
    is_fine: Callable[[float], bool],
    deadline: Deadline,
) -> Trial:
    """Learn one batch with Adam; the model is left as the best trial left it.

    Args:
        loss_of: The loss of that batch.
        parameters: What may change.
        beginning: The state that each trial begins with.
        is_learned: Whether a loss is good enough to stop at once.
        is_fine: Whether the loss at the end of a trial is good enough to try no other rate.
        deadline: When to end.
    """
    trials: list[Trial] = []
    again = 0.0  # what it takes to repeat the best trial so far, which the model is to be left by
    for index, rate in enumerate(_RATES):
        begun = time.monotonic()
        if index and not deadline.allows(again + _few_steps(trials, again)):
            break
        beginning.restore_()
        part = deadline.part(0.9 / (len(_RATES) - index), less=again)
        optimizer = _adam(parameters, rate)
        trials.append(fit(loss_of, optimizer, 150, part, is_enough=is_learned))
        if is_fine(trials[-1].last):
            return trials[-1]
        if _best(trials) is trials[-1]:
            again = time.monotonic() - begun
    best = _best(trials)
    if best is not trials[-1]:
        beginning.restore_()
        optimizer = _adam(parameters, best.lr)
        fit(loss_of, optimizer, best.num_steps, Deadline(math.inf))
    return best


def _best(trials: Sequence[Trial]) -> Trial:
    return min(trials, key=lambda t: t.last if math.isfinite(t.last) else math.inf)


def _few_steps(trials: Sequence[Trial], seconds: float) -> float:
    """How long so few steps take that another rate is not worth its try."""
    return _NUM_LAST * seconds / max(_best(trials).num_steps + 1, 1)
