"""How the fault operators of the ninth suite spoil optimizer, loop, model and weights of a run."""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from models import Batch, Setup
from torch import Tensor, nn

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d)


def layers(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if isinstance(m, _LAYERS)]


def maximize(s: Setup, _: float) -> None:
    """The optimizer's line was copied from where a reward is made large."""
    s.options = {**s.options, "maximize": True}


def momentum_missing(s: Setup, _: float) -> None:
    """SGD as it comes, without the momentum that its rate was chosen for."""
    s.options = {**s.options, "momentum": 0.0}


def sgd_with_adam_rate(s: Setup, by: float) -> None:
    """The optimizer was changed to plain SGD, its rate was not."""
    s.optimizer, s.options, s.lr = "sgd", {"momentum": 0.0}, s.lr * by


def warmup_restarts(s: Setup, epochs: float) -> None:
    """The scheduler is made anew in each epoch, so its long warm-up starts again and again."""
    before = s.schedule
    s.schedule = lambda k: before(k) * (k % 20 + 1) / (20 * epochs)


def plateau_mode_max(s: Setup, patience: float) -> None:
    """ReduceLROnPlateau waits for the loss to grow: it takes each improvement for standing still."""
    before, own = s.schedule, s.val
    state = {"best": -math.inf, "bad": 0.0, "factor": 1.0}

    def val(m: nn.Module) -> float:
        value = own(m)
        state["bad"] = 0.0 if value > state["best"] else state["bad"] + 1
        state["best"] = max(value, state["best"])
        if state["bad"] > patience:
            state.update(bad=0.0, factor=state["factor"] * 0.1)
        return value

    s.val, s.schedule = val, lambda k: before(k) * state["factor"]


def few_epochs(s: Setup, share: float) -> None:
    """The number of epochs from a quick try was left in."""
    s.steps = max(30, int(share * s.steps))


def resume_of_nothing(s: Setup, at: float) -> None:
    """After a break `strict=False` finds no name it knows: the weights are new ones, and it goes on."""
    own, count = s.loss, itertools.count()
    fresh = {k: v.detach().clone() for k, v in s.model.state_dict().items()}

    def loss(m: nn.Module, b: Batch) -> Tensor:
        if next(count) == int(at * s.steps):
            m.load_state_dict(fresh)
        return own(m, b)

    s.loss = loss


def unfrozen_not_added(s: Setup, at: float) -> None:
    """The optimizer has only what was not frozen when it was made; the rest thaws later and is not added."""
    head = {id(p) for p in layers(s.model)[-1].parameters()}
    body = [p for p in s.model.parameters() if id(p) not in head]
    for p in body:
        p.requires_grad_(False)
    own, count = s.loss, itertools.count()

    def loss(m: nn.Module, b: Batch) -> Tensor:
        if next(count) == int(at * s.steps):
            for p in body:
                p.requires_grad_(True)
        return own(m, b)

    s.loss, s.parameters = loss, lambda m: [p for p in m.parameters() if p.requires_grad]


def never_unscaled(s: Setup, scale: float) -> None:
    """The loss is scaled for half precision, and the step is the optimizer's own, not the scaler's."""

    def keep(model: nn.Module, step: int) -> None:
        for p in model.parameters():
            if p.grad is not None:
                p.grad.mul_(scale)

    s.after_backward = keep


class _Reversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return -grad


def reversal_left_in(s: Setup, _: float) -> None:
    """A layer that turns gradients round, from domain adaptation, was left in front of the head."""
    layers(s.model)[-1].register_forward_pre_hook(lambda m, a: (_Reversal.apply(a[0]), *a[1:]))


def tanh_logits(s: Setup, _: float) -> None:
    """The model ends in a tanh, and the cross entropy takes that for logits."""
    s.model.register_forward_hook(lambda m, a, out: out.tanh())


def keep_for_drop(s: Setup, _: float) -> None:
    """The share to keep was given where PyTorch wants the share to drop."""
    for m in s.model.modules():
        if isinstance(m, nn.Dropout) and m.p < 0.5:
            m.p = 1 - m.p


def pooled_too_early(s: Setup, _: float) -> None:
    """Global pooling right behind the first layer: nothing is left of where things are."""
    first = next(m for m in s.model.modules() if isinstance(m, nn.Conv2d))
    first.register_forward_hook(lambda m, a, out: out.mean((2, 3), keepdim=True).expand_as(out))


def norm_erases(s: Setup, _: float) -> None:
    """A group normalization with as many groups as features: each is normalized by itself, to nothing."""
    index = [i for i, m in enumerate(s.model) if isinstance(m, nn.Linear)][-2]
    width = s.model[index].out_features
    s.model[index] = nn.Sequential(s.model[index], nn.GroupNorm(width, width))


def norm_weights_drawn(s: Setup, std: float) -> None:
    """The loop that draws the weights of all modules draws those of the normalizations too, about zero."""
    for m in s.model.modules():
        if isinstance(m, nn.LayerNorm):
            nn.init.normal_(m.weight, std=std)
