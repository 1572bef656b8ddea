"""Judged runs with habits of practice that bend the curves: decay, clips, means of weights, fresh starts."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from eighth.architectures_common import fixed, forever, normal
from fourth.runs import cosine, linear
from models import Batch, Setup, entropy, mlp, square
from torch import Tensor, nn

from tenth.judged_data import Loss, Make, bent, of_made, shape_masks


def _smooth(size: int, g: torch.Generator) -> Batch:
    x = normal(g, size, 8)
    return x, bent(x) + 0.3 * normal(g, size, 1)


def _kinds(size: int, g: torch.Generator) -> Batch:
    """Six kinds that overlap, each in two heaps."""
    kind, heap = torch.randint(6, (size,), generator=g), torch.randint(2, (size,), generator=g)
    return 1.1 * fixed(1080, 6, 2, 10)[kind, heap] + 0.8 * normal(g, size, 10), kind


def _trained(model: nn.Module, make: Make, loss: Loss, steps: int, lr: float, least: float = 0.0) -> None:
    """Some steps of Adam before the run, at a rate that falls in a line to the least share."""
    optimizer, stream = torch.optim.Adam(model.parameters(), lr=lr), forever(make)(64, 3)
    for k in range(steps):
        optimizer.param_groups[0]["lr"] = lr * max(least, 1 - k / steps)
        optimizer.zero_grad()
        loss(model, next(stream)).backward()
        optimizer.step()


def mean_weights(seed: int) -> Setup:
    """A constant rate, small batches; what is validated are the running means of the weights."""
    setup = of_made(mlp((8, 48, 48, 1), nn.SiLU), _smooth, seed, square, lr=8e-3, steps=450, size=16)
    mean, check = copy.deepcopy(setup.model).requires_grad_(False), setup.val

    def follow(m: nn.Module, step: int) -> None:
        with torch.no_grad():
            for p, q in zip(mean.parameters(), m.parameters(), strict=True):
                p.lerp_(q, max(0.03, 1 / (step + 1)))

    setup.after_backward, setup.val = follow, lambda m: check(mean)
    return setup


def needless_bias(seed: int) -> Setup:
    """Layers keep biases in front of batch norms, where they do nothing and get no gradient."""
    layers = [nn.Linear(10, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 64), nn.BatchNorm1d(64)]
    model = nn.Sequential(*layers, nn.ReLU(), nn.Linear(64, 6))
    more: dict[str, Any] = {"optimizer": "sgd", "schedule": cosine(300), "number": 1000}
    return of_made(model, _kinds, seed, entropy, lr=0.05, steps=300, **more)


def strong_decay(seed: int) -> Setup:
    """A decay of one in AdamW next to a cosine: weights get smaller all along, and norms do not mind."""
    more: dict[str, Any] = {"optimizer": "adamw", "weight_decay": 1.0, "schedule": cosine(350, 10)}
    model = mlp((10, 64, 64, 6), nn.ReLU, norm=True)
    return of_made(model, _kinds, seed, entropy, lr=6e-3, steps=350, number=1000, **more)


def always_clipped(seed: int) -> Setup:
    """Momentum with a clip that bites in most steps: the rate says how long a step is (Zhang et al. 2020)."""
    more: dict[str, Any] = {"optimizer": "sgd", "clip": 0.1, "schedule": linear(350), "number": 1000}
    return of_made(mlp((10, 64, 64, 6), nn.GELU), _kinds, seed, entropy, lr=0.4, steps=350, **more)


def at_the_floor(seed: int) -> Setup:
    """A linear rule that was learned yesterday goes on with new rows: nothing is left to learn but the noise."""
    weights = fixed(1081, 8, 1)

    def make(size: int, g: torch.Generator) -> Batch:
        x = normal(g, size, 8)
        return x, x @ weights + normal(g, size, 1)

    model = nn.Linear(8, 1)
    _trained(model, make, square, 500, 0.05)
    more: dict[str, Any] = {"optimizer": "sgd", "options": {"momentum": 0.0}, "number": 2000}
    return of_made(model, make, seed, square, lr=2e-3, steps=300, **more)


def second_half(seed: int) -> Setup:
    """A run that was stopped half way goes on: the rate is where it was, and falls to nothing."""
    model = mlp((10, 64, 64, 6), nn.ReLU)
    _trained(model, _kinds, entropy, 200, 4e-3, 0.5)
    return of_made(
        model, _kinds, seed, entropy, lr=2e-3, steps=250, number=1000, schedule=lambda k: 1 - k / 250
    )


def gentle_tuning(seed: int) -> Setup:
    """A good net is tuned with a tiny rate on a sensor that is a little off: a slow gain of a few parts."""

    def off(size: int, g: torch.Generator) -> Batch:
        x, y = _smooth(size, g)
        return x, y + 0.15

    model = mlp((8, 64, 64, 1), nn.ReLU)
    _trained(model, _smooth, square, 400, 4e-3)
    more: dict[str, Any] = {"optimizer": "adamw", "weight_decay": 0.01, "schedule": cosine(300, 20)}
    return of_made(model, off, seed, square, lr=2e-4, steps=300, number=1000, **more)


class _Bits(nn.Module):
    """Twelve switches that are half open while they learn (Jang et al. 2017), and pixels from them."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = mlp((64, 96, 12), nn.ReLU), mlp((12, 96, 64), nn.ReLU)
        self.heat = 1.0

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        odds = self.into(x)
        if not self.training:
            return self.out((odds > 0).float()), odds
        u = torch.rand_like(odds).clamp(1e-6, 1 - 1e-6)
        return self.out(((odds + u.log() - (1 - u).log()) / self.heat).sigmoid()), odds


def cooling_switches(seed: int) -> Setup:
    """A code of switches that get harder from step to step."""
    model, count = _Bits(), itertools.count()

    def make(size: int, g: torch.Generator) -> Batch:
        mask, kind = shape_masks(size, g, 8)
        return mask.flatten(1), kind

    def loss(m: nn.Module, b: Batch) -> Tensor:
        if m.training:
            model.heat = max(0.4, 1.0 - 0.6 * next(count) / 400)
        out, odds = m(b[0])
        cost = (odds.sigmoid() * F.logsigmoid(odds) + (-odds).sigmoid() * F.logsigmoid(-odds) + 0.6931).sum(1)
        told = F.binary_cross_entropy_with_logits(out, b[0], reduction="none").sum(1)
        return (told + cost).mean()

    return of_made(model, make, seed, loss, lr=4e-3, steps=500, schedule=linear(500))


class _Spread(nn.Module):
    """A code of four numbers for sixteen columns."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = mlp((16, 48, 8), nn.Tanh), mlp((4, 48, 16), nn.Tanh)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_var = self.into(x).chunk(2, 1)
        noise = torch.randn_like(mean) if self.training else 0.0
        return self.out(mean + noise * (0.5 * log_var).exp()), mean, log_var


def cycles_of_cost(seed: int) -> Setup:
    """What a code costs counts from nothing to full, three times over (Fu et al. 2019): so goes the loss."""
    count = itertools.count()

    def make(size: int, g: torch.Generator) -> Batch:
        z = normal(g, size, 3)
        x = torch.sin(z @ fixed(1082, 3, 16)) + 0.3 * normal(g, size, 16)
        return x, x

    def loss(m: nn.Module, b: Batch) -> Tensor:
        weight = min(1.0, (next(count) % 150) / 75) if m.training else 1.0
        out, mean, log_var = m(b[0])
        cost = -0.5 * (1 + log_var - mean.square() - log_var.exp()).sum(1).mean()
        return 5 * (out - b[0]).square().sum(1).mean() + weight * cost

    return of_made(_Spread(), make, seed, loss, lr=6e-3, steps=450)


class _TwoExits(nn.Module):
    """Six layers with one more exit in the middle (Szegedy et al. 2015)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = mlp((10, 48, 48, 48), nn.ReLU), mlp((48, 48, 48, 6), nn.ReLU)
        self.early = nn.Linear(48, 6)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        middle = F.relu(self.first(x))
        return self.last(middle), self.early(middle)


def fading_exit(seed: int) -> Setup:
    """A second exit helps at first and counts less and less; validation has the last one only."""
    count = itertools.count()

    def loss(m: nn.Module, b: Batch) -> Tensor:
        last, early = m(b[0])
        weight = max(0.0, 0.7 * (1 - next(count) / 200)) if m.training else 0.0
        return F.cross_entropy(last, b[1]) + weight * F.cross_entropy(early, b[1])

    more: dict[str, Any] = {"number": 1000, "schedule": linear(350)}
    return of_made(_TwoExits(), _kinds, seed, loss, lr=4e-3, steps=350, **more)


def longer_rows(seed: int) -> Setup:
    """Rows of four numbers first, then eight, then twelve: the running largest gap gets harder to tell."""
    count = itertools.count()

    class _Gap(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.GRU(1, 24, batch_first=True), nn.Linear(24, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.cell(x[..., None])[0])[..., 0]

    def make(size: int, g: torch.Generator, length: int = 12) -> Batch:
        x = normal(g, size, length)
        return x, x.cummax(1)[0] - x.cummin(1)[0]

    def grown(size: int, g: torch.Generator) -> Batch:
        return make(size, g, 4 + 4 * min(2, next(count) // 120))

    more: dict[str, Any] = {"clip": 1.0, "schedule": linear(450)}
    setup = of_made(_Gap(), make, seed, square, size=32, lr=2.5e-2, steps=450, **more)
    setup.batches = forever(grown)(32, seed)
    return setup


def sixteen_bits(seed: int) -> Setup:
    """Layers run in bfloat16, norms and losses in full precision; two numbers of three digits are all it has."""

    def loss(m: nn.Module, b: Batch) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = m(b[0])
        return F.cross_entropy(out.float(), b[1])

    more: dict[str, Any] = {"optimizer": "adamw", "weight_decay": 0.01, "schedule": linear(300)}
    return of_made(
        mlp((10, 64, 64, 6), nn.ReLU, norm=True), _kinds, seed, loss, lr=6e-3, steps=300, number=1000, **more
    )


def early_warm(seed: int) -> Setup:
    """The rate starts at a thousandth and grows by the same factor in each step: flat for long, then it falls."""
    steps = 400
    rate = lambda k: min(1.0, 10 ** (-3 + 3 * k / 120)) * min(1.0, 1.3 * (1 - k / steps))  # noqa: E731
    model = mlp((8, 64, 64, 1), nn.ReLU, norm=True)
    return of_made(model, _smooth, seed, square, lr=1e-2, steps=steps, number=1000, schedule=rate)


MADE: dict[str, Callable[[int], Setup]] = {
    f.__name__: f
    for f in (
        mean_weights,
        needless_bias,
        strong_decay,
        always_clipped,
        at_the_floor,
        second_half,
        gentle_tuning,
        cooling_switches,
        cycles_of_cost,
        fading_exit,
        longer_rows,
        sixteen_bits,
        early_warm,
    )
}
