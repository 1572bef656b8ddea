"""How the fault operators of the twelfth suite spoil optimizer, schedule and loop of a run."""

from __future__ import annotations

import copy
import itertools
import math

import torch
from models import Batch, Setup
from ninth.changes import layers
from parts import gradients_of
from torch import Tensor, nn


def one_cycle_peak(s: Setup, by: float) -> None:
    """One cycle up and down again, with the largest rate of another model."""
    rise = 0.3 * s.steps

    def factor(k: int) -> float:
        if k < rise:
            return by * (0.04 + 0.96 * 0.5 * (1 - math.cos(math.pi * k / rise)))
        return by * (1e-4 + 0.5 * (1 + math.cos(math.pi * (k - rise) / (s.steps - rise))))

    s.schedule = factor


def schedule_inverted(s: Setup, least: float) -> None:
    """The rate is divided by the schedule's factor instead of multiplied."""
    before = s.schedule
    s.schedule = lambda k: 1.0 / max(before(k), least)


def lambda_gives_rate(s: Setup, _: float) -> None:
    """The function of LambdaLR gives the rate itself, where a factor of it is asked for."""
    before, rate = s.schedule, s.lr
    s.schedule = lambda k: before(k) * rate


def inverse_time_decay(s: Setup, by: float) -> None:
    """A decay by 1 / (1 + k), with batches where epochs were meant."""
    before = s.schedule
    s.schedule = lambda k: before(k) / (1 + by * k)


def amsgrad_remembers(s: Setup, by: float) -> None:
    """AMSGrad keeps the largest second moment for good, and one early batch was broken."""
    s.options = {**s.options, "amsgrad": True}

    def spoil(model: nn.Module, step: int) -> None:
        if step == s.steps // 20:
            for grad in gradients_of(model):
                grad.mul_(by)

    s.after_backward = spoil


def clipped_to_weights(s: Setup, bound: float) -> None:
    """Gradients are clipped relative to the size of their weights, with a bound far too low."""

    def clip(model: nn.Module, step: int) -> None:
        for p in model.parameters():
            if p.grad is not None:
                most = bound * p.detach().norm().clamp(min=1e-3)
                p.grad.mul_((most / (p.grad.norm() + 1e-12)).clamp(max=1.0))

    s.after_backward = clip


def buffer_not_cleared(s: Setup, _: float) -> None:
    """A buffer of one's own adds gradients up for a larger batch, and is not emptied after the step."""
    kept: dict[str, Tensor] = {}

    def add(model: nn.Module, step: int) -> None:
        for name, p in model.named_parameters():
            if p.grad is not None:
                kept[name] = kept.get(name, torch.zeros_like(p.grad)) + p.grad
                p.grad.copy_(kept[name])

    s.after_backward = add


def children_overwritten(s: Setup, _: float) -> None:
    """A loop over the children sets the list of parameters anew each time: only the last stay."""

    def last(model: nn.Module) -> list[nn.Parameter]:
        found: list[nn.Parameter] = []
        for child in model.children():
            found = list(child.parameters()) or found
        return found

    s.parameters = last


def hooks_zero(s: Setup, share: float) -> None:
    """Hooks that were to keep a few rows fixed set the whole gradient to zero."""
    found = [p for p in s.model.parameters() if p.requires_grad]
    for p in found[: min(int(share * len(found)), len(found) - 2)]:
        p.register_hook(torch.zeros_like)


def _replace(model: nn.Module) -> None:
    for name, layer in [(n, m) for n, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))]:
        other = copy.deepcopy(layer)
        for p in other.parameters():
            p.grad = None
        above, _, last = name.rpartition(".")
        setattr(model.get_submodule(above), last, other)


def replaced_midway(s: Setup, at: float) -> None:
    """After a while the layers are converted to others with the same weights; the optimizer keeps the old."""
    own, count = s.loss, itertools.count()

    def loss(m: nn.Module, b: Batch) -> Tensor:
        if next(count) == int(at * s.steps):
            _replace(m)
        return own(m, b)

    s.loss = loss


def repeated_for_each_fold(s: Setup, folds: float) -> None:
    """The list of parameters is made once and grows with each fold: each of them is in it many times."""
    s.parameters = lambda m: [p for p in m.parameters() if p.requires_grad] * int(folds)


def best_is_worst(s: Setup, _: float) -> None:
    """The best weights are put back after a bad validation, and the best is the highest loss."""
    own, best = s.val, [-math.inf]
    saved: dict[str, Tensor] = {}

    def val(m: nn.Module) -> float:
        value = own(m)
        if value > best[0] or not saved:
            best[0] = value
            saved.update({k: v.detach().clone() for k, v in m.state_dict().items()})
        else:
            m.load_state_dict(saved)
        return value

    s.val = val


def unscaled_twice(s: Setup, scale: float) -> None:
    """Gradients in half precision are divided by the scale in the loop and once more in the step."""

    def unscale(model: nn.Module, step: int) -> None:
        for grad in gradients_of(model):
            grad.copy_((grad / scale).half().float())

    s.after_backward = unscale


def grad_scale_compounds(s: Setup, by: float) -> None:
    """A hook that makes gradients larger was meant for one layer and sits on the inputs of all."""

    def hook(m: nn.Module, a: tuple[Tensor, ...]) -> None:
        if a[0].requires_grad:
            a[0].register_hook(lambda grad: by * grad)

    for layer in layers(s.model):
        layer.register_forward_pre_hook(hook)


def equalized_rate(s: Setup, by: float) -> None:
    """Weights are kept small and made larger in use, so that each step counts for far more than before."""
    for layer in layers(s.model):
        with torch.no_grad():
            layer.weight.div_(by)
        layer.register_forward_pre_hook(lambda m, a: (by * a[0], *a[1:]))
