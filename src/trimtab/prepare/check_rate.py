"""The check of the learning rate: steps with the optimizer as it is, and a few at each of other rates."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from torch import Tensor
from torch.optim import Optimizer

from trimtab.measure import needs_closure
from trimtab.prepare.checks import Check, Number, nothing, ok, problem, unsure
from trimtab.prepare.learning import OUT_OF_TIME, Deadline, fit
from trimtab.prepare.range_test import Interval
from trimtab.prepare.restoring import Beginning

_NUM_STEPS, _TRIAL_STEPS = 30, 8
_RATES = tuple(10.0 ** (exponent / 2) for exponent in range(-13, 5))  # 3e-7 to 100
_MIN_SHARE = 0.1  # of the largest fall, for a rate to count as one that works
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
    if deadline.is_over:
        return unsure(name, OUT_OF_TIME)
    beginning.restore_()
    begun = time.monotonic()
    trial = fit(loss_of, optimizer, _NUM_STEPS, deadline.part(0.4))
    a_step = (time.monotonic() - begun) / (trial.num_steps + 1)
    if not trial.num_steps:
        return unsure(name, OUT_OF_TIME)
    lr = max(float(group["lr"]) for group in optimizer.param_groups)
    beginning.restore_()
    has_time = deadline.allows(len(_RATES) * (_TRIAL_STEPS + 1) * a_step)
    interval = _interval(loss_of, optimizer, beginning, deadline) if has_time else None
    beginning.restore_()
    numbers = [Number("lr", lr), Number("first loss", trial.first), Number("last loss", trial.last)]
    numbers += [] if interval is None else [Number("works from", interval.low), Number("to", interval.high)]
    span = "" if interval is None else f"; on this batch {interval.low:.2g} to {interval.high:.2g} work"
    span = span if has_time else "; no time to try other rates"
    told = f"lr {lr:g}: loss {trial.first:.3g} -> {trial.last:.3g} in {trial.num_steps} steps{span}"
    rise = trial.last - trial.first
    if not math.isfinite(trial.last) or rise > _MIN_RISE * abs(trial.first):
        below = "" if interval is None else f" Take one of at most {interval.high / 3:.1g}."
        return problem(name, told, *numbers, advice="The learning rate is too high." + below)
    if lr == 0:
        return problem(name, told, *numbers, advice="With a learning rate of 0 nothing is learned.")
    moved = abs(rise) > _MIN_MOVE * abs(trial.first)
    if interval is not None and lr * _FAR_BELOW < interval.low and not moved:
        advice = (
            f"The learning rate is too low. Take one of about {math.sqrt(interval.low * interval.high):.1g}."
        )
        return problem(name, told, *numbers, advice=advice)
    return ok(name, told, *numbers)


def _interval(
    loss_of: Callable[[], Tensor], optimizer: Optimizer, beginning: Beginning, deadline: Deadline
) -> Interval | None:
    """Where a few steps, each time from the beginning, make the loss clearly smaller; None if nowhere.

    A sweep that goes on from rate to rate would learn the one batch on its way, and then bear any rate.
    """
    rates = [float(group["lr"]) for group in optimizer.param_groups]
    largest = max(rates)
    ratios = [rate / largest if largest > 0 else 1.0 for rate in rates]
    falls = []
    for lr in _RATES:
        if deadline.is_over:
            return None
        for group, ratio in zip(optimizer.param_groups, ratios, strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(lr * ratio)
            else:
                group["lr"] = lr * ratio
        trial = fit(loss_of, optimizer, _TRIAL_STEPS, deadline)
        beginning.restore_()
        falls.append(trial.first - trial.last if math.isfinite(trial.last) else -math.inf)
    best = max(range(len(falls)), key=falls.__getitem__)
    good = [fall > _MIN_SHARE * falls[best] for fall in falls]
    if not falls[best] > 0:
        return None
    low = high = best
    while low > 0 and good[low - 1]:
        low -= 1
    while high + 1 < len(good) and good[high + 1]:
        high += 1
    return Interval(_RATES[low], _RATES[high])
