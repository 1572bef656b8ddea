"""How the fault operators of the fourth suite spoil optimizer, loop and weights of a run."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from models import Batch, Setup
from parts import gradients_of
from torch import Tensor, nn

ACTIVATIONS = (nn.ReLU, nn.ELU, nn.SiLU, nn.GELU, nn.SELU, nn.Mish, nn.Tanh, nn.LeakyReLU)
_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d)


def matrices(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.dim() >= 2]


def layers(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if isinstance(m, _LAYERS)]


def momentum_twice(s: Setup, keep: float) -> None:
    """A home-made momentum in front of an optimizer that has its own."""
    kept: dict[int, Tensor] = {}

    def heavier(model: nn.Module, step: int) -> None:
        for index, grad in enumerate(gradients_of(model)):
            kept[index] = keep * kept.get(index, torch.zeros_like(grad)) + grad
            grad.copy_(kept[index])

    s.after_backward = heavier


def decay_sign(s: Setup, by: float) -> None:
    """The penalty on the weights is subtracted."""
    own = s.loss
    s.loss = lambda m, b: own(m, b) - by * sum(p.square().sum() for p in matrices(m))


def lr_spikes(s: Setup, by: float) -> None:
    """A cyclical rate whose upper end is far too high."""
    before = s.schedule
    s.schedule = lambda k: before(k) * (by if k % 12 in (10, 11) else 1.0)


def burst_start(s: Setup, by: float) -> None:
    """The warm-up's formula gives by mistake more at the start, not less."""
    before = s.schedule
    s.schedule = lambda k: before(max(k, 20)) * by ** max(0.0, 1 - k / 12)


def lr_of_sgd(s: Setup, value: float) -> None:
    """Adam with a rate that would have suited SGD."""
    s.lr = value


def lr_divided(s: Setup, by: float) -> None:
    """The rate is divided by the batch size, as well as the loss is."""
    before, size = s.schedule, s.batch_size
    s.schedule = lambda k: before(k) / (size * by)


def epoch_as_step(s: Setup, every: float) -> None:
    """StepLR is stepped with every batch, where its step size counts epochs."""
    before = s.schedule
    s.schedule = lambda k: before(k) * 0.3 ** (k // int(every))


def misfires(s: Setup, patience: float) -> None:
    """ReduceLROnPlateau is stepped with the loss of each batch."""
    before, own = s.schedule, s.loss
    state = {"best": math.inf, "bad": 0.0, "factor": 1.0}

    def loss(m: nn.Module, b: Batch) -> Tensor:
        value = own(m, b)
        if float(value.detach()) < state["best"]:
            state.update(best=float(value.detach()), bad=0.0)
        else:
            state["bad"] += 1
            if state["bad"] > patience:
                state.update(bad=0.0, factor=state["factor"] * 0.2)
        return value

    s.loss = loss
    s.schedule = lambda k: before(k) * state["factor"]


def first_batch_huge(s: Setup, by: float) -> None:
    """One broken batch early on, which Adam does not forget with such a beta."""
    s.options = {**s.options, "betas": (0.9, 0.9999)}

    def huge(model: nn.Module, step: int) -> None:
        if step == 4:
            for grad in gradients_of(model):
                grad.mul_(by)

    s.after_backward = huge


def loss_tiny(s: Setup, by: float) -> None:
    """The loss is divided by the number of all pixels of the data set: gradients get below Adam's epsilon."""
    own = s.loss
    s.loss = lambda m, b: own(m, b) * by


def clip_each(s: Setup, bound: float) -> None:
    """Each gradient is clipped on its own, with a bound meant for something else."""

    def clip(model: nn.Module, step: int) -> None:
        for grad in gradients_of(model):
            grad.mul_((bound / (grad.norm() + 1e-12)).clamp(max=1.0))

    s.after_backward = clip


def norm_penalty(s: Setup, by: float) -> None:
    """A group lasso that is much too strong."""
    own = s.loss
    s.loss = lambda m, b: own(m, b) + by * sum(p.norm() for p in matrices(m))


def dropout_always(s: Setup, share: float) -> None:
    """F.dropout without `training=`: it drops in validation as well."""
    for module in layers(s.model)[1:]:
        module.register_forward_pre_hook(lambda m, a: (F.dropout(a[0], share), *a[1:]))


def only_vectors(s: Setup, _: float) -> None:
    """Of two groups, matrices and the rest, only the second one is passed on."""
    s.parameters = lambda m: [p for p in m.parameters() if p.dim() < 2]


def parameters_repeated(s: Setup, _: float) -> None:
    """Parameters are collected module by module, each of which lists those of its children again."""
    s.parameters = lambda m: [p for part in m.modules() for p in part.parameters()] * 8


def zero_each(s: Setup, every: float) -> None:
    """Gradients are zeroed as for accumulation, but a step is made with every batch."""
    s.zeroes = lambda k: k % int(every) == 0


def zero_head_only(s: Setup, _: float) -> None:
    """The gradients of the head are zeroed, those of the body pile up."""
    s.zeroes = lambda k: False
    own = s.loss

    def loss(m: nn.Module, b: Batch) -> Tensor:
        for p in list(m.parameters())[-2:]:
            p.grad = None
        return own(m, b)

    s.loss = loss


def no_grad_part(s: Setup, _: float) -> None:
    """What goes into the last layer was computed without a graph, as one does with a frozen encoder."""
    layers(s.model)[-1].register_forward_pre_hook(lambda m, a: (a[0].detach(), *a[1:]))


def left_frozen(s: Setup, share: float) -> None:
    """All but the last layer are frozen after a while and forgotten."""
    own, count = s.loss, itertools.count()

    def loss(m: nn.Module, b: Batch) -> Tensor:
        if next(count) == int(share * s.steps):
            for p in list(m.parameters())[:-2]:
                p.requires_grad_(False)
                p.grad = None
        return own(m, b)

    s.loss = loss


def body_copied(s: Setup, _: float) -> None:
    """The encoder in use is a copy, as `deepcopy` or a wrapper made one; only the head is the optimizer's."""
    own, other = s.loss, copy.deepcopy(s.model)
    name = [n for n, m in s.model.named_modules() if isinstance(m, _LAYERS)][-1]
    above, _, last = name.rpartition(".")
    setattr(other.get_submodule(above), last, s.model.get_submodule(name))
    s.loss = lambda m, b: own(other, b)


def norm_late(s: Setup, _: float) -> None:
    """Weight normalization is put on after the optimizer was built, and makes new parameters."""

    def wrap(model: nn.Module) -> None:
        for layer in layers(model):
            nn.utils.parametrizations.weight_norm(layer)

    s.after_optimizer = wrap


def micro_batches(s: Setup, size: float) -> None:
    """Batch normalization over two rows at a time."""
    own = s.loss
    s.loss = lambda m, b: torch.stack(
        [own(m, (x, y)) for x, y in zip(b[0][:16].split(int(size)), b[1][:16].split(int(size)), strict=True)]
    ).mean()


def half_activations(s: Setup, by: float) -> None:
    """Gradients flow back through float16, with a loss that is scaled down where it should be up."""

    def hook(module: nn.Module, a: tuple[Tensor, ...], out: Tensor) -> None:
        if out.requires_grad:
            out.register_hook(lambda g: (g * by).half().float() / by)

    for layer in layers(s.model):
        layer.register_forward_hook(hook)


def scale_collapses(s: Setup, share: float) -> None:
    """A masked 0 * inf spoils most gradients: the scaler skips those steps and halves its scale each time."""
    generator, scale = torch.Generator().manual_seed(s.seed), [2.0**10]

    def unscale(model: nn.Module, step: int) -> None:
        bad = float(torch.rand(1, generator=generator)) < share
        for grad in gradients_of(model):
            halved = (grad * scale[0]).half().float() / scale[0]
            grad.copy_(torch.zeros_like(grad) if bad else halved.nan_to_num(0.0, 0.0, 0.0))
        scale[0] = max(scale[0] * (0.5 if bad else 1.0), 1e-30)

    s.after_backward = unscale


def thin_deep(s: Setup, depth: float) -> None:
    """More layers in front of the last, all drawn as for a transformer, which this is not."""
    parts = list(s.model)
    width = parts[-1].in_features
    more = [m for _ in range(int(depth)) for m in (nn.Linear(width, width), nn.Tanh())]
    s.model = nn.Sequential(*parts[:-1], *more, parts[-1])
    for layer in layers(s.model):
        nn.init.normal_(layer.weight, std=0.02)
        nn.init.zeros_(layer.bias)


def randn_init(s: Setup, _: float) -> None:
    """Weights as `torch.randn` gives them, without a thought of the number of inputs."""
    for p in matrices(s.model):
        nn.init.normal_(p)


def steep(s: Setup, by: float) -> None:
    """An activation whose slope is far too high."""
    _swap(s.model, lambda: _Steep(by))


class _Steep(nn.Module):
    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = by

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.by * x)


def _swap(model: nn.Module, make: Callable[[], nn.Module]) -> None:
    for name, child in list(model.named_children()):
        if isinstance(child, ACTIVATIONS):
            setattr(model, name, make())
        else:
            _swap(child, make)


def thresholds(s: Setup, by: float) -> None:
    """ReLU behind a normalization or bias that leaves next to nothing above zero."""
    _swap(s.model, lambda: _Above(by))


class _Above(nn.Module):
    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = by

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x - self.by)


def copied_units(s: Setup, _: float) -> None:
    """All units of a layer start as the same one: one row was drawn and expanded."""
    with torch.no_grad():
        for layer in layers(s.model):
            layer.weight.copy_(layer.weight[:1].clone().expand_as(layer.weight))
            if layer.bias is not None:
                layer.bias.zero_()


def zeros_in_two(s: Setup, _: float) -> None:
    """Zero initialization, fine for one layer, on the last two of a branch: neither gets a gradient."""
    for layer in layers(s.model)[-2:]:
        nn.init.zeros_(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def ema_stays(s: Setup, keep: float) -> None:
    """An average of the weights is evaluated that hardly moves in so few steps."""
    slow = copy.deepcopy(s.model)
    check, judge = s.val, s.judged

    def follow(model: nn.Module, step: int) -> None:
        with torch.no_grad():
            for a, b in zip(slow.parameters(), model.parameters(), strict=True):
                a.lerp_(b, 1 - keep)

    s.after_backward = follow
    s.val = lambda m: check(slow)
    if judge is not None:
        s.judged = lambda m: judge(slow)


def embedding_small(s: Setup, bound: float) -> None:
    """`max_norm` holds the embeddings next to zero."""
    for module in s.model.modules():
        if isinstance(module, nn.Embedding):
            module.max_norm = bound
