"""The check of the learning rate: some steps with the optimizer as it is, and a range test on the batch."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from torch import Tensor
from torch.optim import Optimizer

from trimtab.measure import needs_closure
from trimtab.prepare.checks import Check, Number, nothing, ok, problem, unsure
from trimtab.prepare.finder import LearningRateFinder, sweep
from trimtab.prepare.learning import Deadline, fit
from trimtab.prepare.range_test import Interval, read_sweeps
from trimtab.prepare.restoring import Beginning

_NUM_STEPS, _SWEEP_STEPS = 30, 45
_FINDER = LearningRateFinder(1e-7, 30.0, _SWEEP_STEPS)
# One batch is easier than many, and warm-ups begin low: far below the interval only is too low
_FAR_BELOW = 300.0
_MIN_RISE = 0.1  # of the first loss, after which steps on one batch have made it worse
_MIN_MOVE = 1e-4


def check_learning_rate(
    loss_of: Callable[[], Tensor],
    optimizer: Optimizer | None,
    beginning: Beginning,
    num_parameters: int,
    deadline: Deadline,
) -> Check:
    """Whether steps at this learning rate make the loss of one batch smaller, and where that works at all.

    Args:
        loss_of: The loss of the batch.
        optimizer: As it is to be used.
        beginning: The state that each trial begins with.
        num_parameters: How many of the optimizer's parameters are trainable.
        deadline: When to end.
    """
    name = "learning rate"
    if optimizer is None:
        return nothing(name, "no optimizer was given")
    if needs_closure(optimizer) or not num_parameters:
        why = "the optimizer needs a closure" if num_parameters else "nothing is trainable"
        return unsure(name, why)
    beginning.restore_()
    trial = fit(loss_of, optimizer, _NUM_STEPS, deadline.part(0.4))
    lr = max(float(group["lr"]) for group in optimizer.param_groups)
    beginning.restore_()
    interval = _interval(loss_of, optimizer, deadline)
    beginning.restore_()
    numbers = [Number("lr", lr), Number("first loss", trial.first), Number("last loss", trial.last)]
    numbers += [] if interval is None else [Number("works from", interval.low), Number("to", interval.high)]
    span = "" if interval is None else f"; on this batch {interval.low:.2g} to {interval.high:.2g} work"
    told = f"lr {lr:g}: loss {trial.first:.3g} -> {trial.last:.3g} in {trial.num_steps} steps{span}"
    rise = trial.last - trial.first
    if not math.isfinite(trial.last) or rise > _MIN_RISE * abs(trial.first):
        below = "" if interval is None else f" Take one of at most {interval.high / 2:.2g}."
        return problem(name, told, *numbers, advice="The learning rate is too high." + below)
    if lr == 0:
        return problem(name, told, *numbers, advice="With a learning rate of 0 nothing is learned.")
    moved = abs(rise) > _MIN_MOVE * abs(trial.first)
    if interval is not None and lr * _FAR_BELOW < interval.low and not moved:
        advice = f"The learning rate is too low. Take one of about {math.sqrt(interval.low * interval.high / 2):.1g}."
        return problem(name, told, *numbers, advice=advice)
    return ok(name, told, *numbers)


def _interval(loss_of: Callable[[], Tensor], optimizer: Optimizer, deadline: Deadline) -> Interval | None:
    rates = [float(group["lr"]) for group in optimizer.param_groups]
    largest = max(rates)

    def step(lr: float) -> float:
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            new = lr * (rate / largest if largest > 0 else 1.0)
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(new)
            else:
                group["lr"] = new
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of()
        if deadline.is_over or not bool(loss.isfinite()):
            return math.nan
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return float(loss.detach())

    row = np.full(_SWEEP_STEPS + 1, np.nan)
    # the loss before a step is what the step before it has left
    sweep(step, np.append(_FINDER.lrs, _FINDER.max_lr), row)
    if deadline.is_over:
        return None
    return read_sweeps(_FINDER.lrs, row[None, 1:]).interval
