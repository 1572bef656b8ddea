"""How the fault operators of the thirteenth suite spoil optimizer, schedule and loop of a run."""

from __future__ import annotations

import math

import torch
from models import Batch, LowRank, Setup
from ninth.changes import layers
from parts import gradients_of
from torch import Tensor, nn


def _norm(gradients: list[Tensor]) -> Tensor:
    return torch.stack([g.norm() for g in gradients]).norm()


def clip_upside_down(s: Setup, bound: float) -> None:
    """The norm is divided by the bound, not the bound by the norm: large gradients are made larger."""

    def clip(model: nn.Module, step: int) -> None:
        total = _norm(gradients_of(model))
        for grad in gradients_of(model):
            grad.mul_((total / bound).clamp(min=1.0))

    s.after_backward = clip


def lion_as_sgd(s: Setup, _: float) -> None:
    """Lion takes the place of SGD and keeps its rate, where each weight moves by all of it."""
    s.optimizer, s.options = "lion", {}


def adagrad_after_adam(s: Setup, _: float) -> None:
    """Adagrad takes the place of Adam and keeps its rate, which it divides by all that has been."""
    s.optimizer, s.options = "adagrad", {}


def polynomial_power_high(s: Setup, power: float) -> None:
    """The rate falls as a power of what is left, and the power was taken for the number of epochs."""
    before = s.schedule
    s.schedule = lambda k: before(k) * (1 - k / s.steps) ** power


def rmsprop_memory_inverted(s: Setup, keep: float) -> None:
    """RMSprop takes the place of Adam, and the share of the old that it keeps is given as that of the new."""
    s.optimizer, s.options = "rmsprop", {"alpha": keep, "momentum": 0.9, "centered": True}


def root_without_warmup(s: Setup, by: float) -> None:
    """The rate falls with the root of the step from the very first one on; the way up was left out."""
    s.schedule, s.clip = (lambda k: by / math.sqrt(k + 1)), None


def layer_decay_inverted(s: Setup, by: float) -> None:
    """Rates were to fall from the head to the first layer, and rise instead."""
    found = layers(s.model)[::-1]

    def scale(model: nn.Module, step: int) -> None:
        for depth, layer in enumerate(found):
            for p in layer.parameters():
                if p.grad is not None:
                    p.grad.mul_(by**depth)

    s.after_backward = scale


def clip_by_sum_of_sizes(s: Setup, bound: float) -> None:
    """Gradients are clipped by the sum of their sizes (`norm_type=1`), with a bound for the usual norm."""

    def clip(model: nn.Module, step: int) -> None:
        nn.utils.clip_grad_norm_(model.parameters(), bound, norm_type=1.0)

    s.after_backward = clip


def replicas_summed(s: Setup, times: float) -> None:
    """Weights of two workers are brought together now and then as a sum, where a mean was meant."""
    period = max(1, int(s.steps / times))

    def add(model: nn.Module, step: int) -> None:
        if step % period == period - 1:
            with torch.no_grad():
                for p in model.parameters():
                    p.mul_(2.0)

    s.after_backward = add


def gradients_delayed(s: Setup, by: float) -> None:
    """A worker's gradients are taken from a queue that is never emptied: they are many steps old."""
    queue: list[list[Tensor]] = []

    def swap(model: nn.Module, step: int) -> None:
        queue.append([g.clone() for g in gradients_of(model)])
        old = queue.pop(0) if len(queue) > by else queue[0]
        for grad, other in zip(gradients_of(model), old, strict=True):
            grad.copy_(other)

    s.after_backward = swap


def saliency_left_over(s: Setup, period: float) -> None:
    """A picture of what the outputs depend on is made now and then, and its gradients are not cleared."""
    own, seen = s.loss, {}

    def loss(m: nn.Module, b: Batch) -> Tensor:
        seen["x"] = b[0]
        return own(m, b)

    def look(model: nn.Module, step: int) -> None:
        if step % int(period) == int(period) - 1:
            model(seen["x"]).sum().backward()

    s.loss, s.after_backward = loss, look


def optimizers_pile_up(s: Setup, period: float) -> None:
    """Each epoch makes an optimizer and adds it to a list, all of which are stepped with every batch."""
    made: list[torch.optim.Optimizer] = []

    def make(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        if s.optimizer == "sgd":
            return torch.optim.SGD(parameters, lr=s.lr, momentum=0.9)
        return torch.optim.Adam(parameters, lr=s.lr)

    def step_all(model: nn.Module, step: int) -> None:
        if step and step % int(period) == 0:
            made.append(make([p for p in model.parameters() if p.requires_grad]))
        for optimizer in made:
            optimizer.step()

    s.after_backward = step_all


def vectors_not_zeroed(s: Setup, _: float) -> None:
    """A loop of one's own clears the gradients of matrices, and forgets biases and norms."""
    own = s.loss
    s.zeroes = lambda k: False

    def loss(m: nn.Module, b: Batch) -> Tensor:
        for p in m.parameters():
            if p.dim() >= 2:
                p.grad = None
        return own(m, b)

    s.loss = loss


def norm_overflows_in_half(s: Setup, scale: float) -> None:
    """The norm for the clip is summed up in half precision, is infinite, and all is divided by it."""

    def clip(model: nn.Module, step: int) -> None:
        parts = [(scale * g).half().square().sum() for g in gradients_of(model)]
        total = torch.stack(parts).sum().sqrt().float()
        for grad in gradients_of(model):
            grad.mul_((scale / (total + 1e-6)).clamp(max=1.0))

    s.after_backward = clip


def clip_taken_for_overflow(s: Setup, bound: float) -> None:
    """The scaler takes each norm above the clip for an overflow: it skips the step and halves its scale."""
    scale = [2.0**12]

    def unscale(model: nn.Module, step: int) -> None:
        found = gradients_of(model)
        for grad in found:
            grad.copy_((grad * scale[0]).half().float() / scale[0])
        if float(_norm(found)) > bound:
            scale[0] = max(0.5 * scale[0], 1e-30)
            for grad in found:
                grad.zero_()

    s.after_backward = unscale


def scores_in_half(s: Setup, by: float) -> None:
    """Outputs are in half precision, and the loss is divided by the rows of the whole file without a scale."""
    own = s.loss
    s.model.register_forward_hook(lambda m, a, out: out.half().float())
    s.loss = lambda m, b: own(m, b) / by


def only_linear_collected(s: Setup, _: float) -> None:
    """Parameters are collected from linear layers only; filters, cells and embeddings are forgotten."""
    s.parameters = lambda m: [
        p for part in m.modules() if isinstance(part, nn.Linear) for p in part.parameters()
    ]


def freezes_by_name(s: Setup, _: float) -> None:
    """All whose name has `weight` in it is frozen, where one table of weights was meant."""
    for name, p in s.model.named_parameters():
        if "weight" in name:
            p.requires_grad_(False)


def adapters_late(s: Setup, rank: float) -> None:
    """Adapters are put on frozen layers after the optimizer was built: of what it has, only the head learns."""
    names = [name for name, m in s.model.named_modules() if isinstance(m, nn.Linear)][:-1]

    def wrap(model: nn.Module) -> None:
        for name in names:
            above, _, last = name.rpartition(".")
            setattr(model.get_submodule(above), last, LowRank(model.get_submodule(name), int(rank)))

    s.after_optimizer = wrap
