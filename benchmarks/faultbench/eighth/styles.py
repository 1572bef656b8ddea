"""Optimizers, rates and steps of the eighth suite, next to quite ordinary runs."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from data import Split
from fourth.runs import cosine, linear
from models import Batch, Setup, entropy, mlp, square
from torch import Tensor, nn

from eighth.habits_data import glyphs, gradients, kinds, letters, made, sensors, strokes_net


def plain_cosine(seed: int) -> Setup:
    """Kinds from a table: two layers, AdamW, a warm-up and a cosine."""
    model = mlp((16, 64, 64, 6), nn.ReLU)
    more = {"optimizer": "adamw", "weight_decay": 0.01, "schedule": cosine(260, 15)}
    return made(model, kinds(), seed, lr=1e-2, steps=260, **more)


def plain_pictures(seed: int) -> Setup:
    """Signs on small pictures: convolutions, momentum, and the rate divided by ten twice."""

    def rate(k: int) -> float:
        return 1.0 if k < 110 else 0.1 if k < 180 else 0.01

    more = {"optimizer": "sgd", "weight_decay": 5e-4, "options": {"nesterov": True}}
    return made(strokes_net(), glyphs(), seed, lr=0.05, steps=220, schedule=rate, size=48, **more)


def plain_readings(seed: int) -> Setup:
    """A quantity from ten readings, with Adam at one rate all along."""
    return made(mlp((10, 64, 64, 1), nn.ReLU), sensors(), seed, square, lr=3e-3, steps=400)


class Speller(nn.Module):
    """A recurrent net that tells the next letter."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.cell, self.head = (
            nn.Embedding(10, 16),
            nn.GRU(16, 40, batch_first=True),
            nn.Linear(40, 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(self.embed(x))[0])


def plain_letters(seed: int) -> Setup:
    """The next letter of an invented language, with clipping and a rate that falls in a line."""
    return made(Speller(), letters(), seed, lr=1.2e-2, size=32, steps=280, clip=1.0, schedule=linear(280))


def triangles(seed: int) -> Setup:
    """The rate goes up and down in three triangles (Smith 2017), and so does the loss a little."""

    def rate(k: int) -> float:
        return 0.1 + 0.9 * (1 - abs((k % 90) / 45 - 1))

    return made(
        mlp((16, 64, 64, 6), nn.GELU), kinds(), seed, lr=0.12, optimizer="sgd", steps=270, schedule=rate
    )


def exponential_tail(seed: int) -> Setup:
    """The rate falls exponentially to a fiftieth, and stays there for the last two fifths."""
    more = {"steps": 320, "schedule": lambda k: max(0.02, 0.98**k)}
    return made(mlp((10, 48, 48, 1), nn.SiLU), sensors(), seed, square, lr=0.05, **more)


def no_momentum(seed: int) -> Setup:
    """Plain descent without momentum under a square of a falling line."""
    more = {
        "optimizer": "sgd",
        "options": {"momentum": 0.0},
        "schedule": lambda k: max(0.02, (1 - k / 260) ** 2),
    }
    return made(strokes_net(), glyphs(), seed, lr=0.3, size=64, steps=260, **more)


def rectified(seed: int) -> Setup:
    """RAdam, which needs no warm-up, on layers with norms (Liu et al. 2020)."""
    more = {"optimizer": "radam", "schedule": cosine(300)}
    return made(
        mlp((10, 48, 48, 1), nn.ReLU, norm=True), sensors(), seed, square, lr=0.045, steps=300, **more
    )


def no_first_moment(seed: int) -> Setup:
    """Adam without a mean of gradients, as is done for networks that play against each other."""
    more = {"options": {"betas": (0.0, 0.99)}, "schedule": linear(240)}
    return made(strokes_net(norm=False), glyphs(), seed, lr=1e-2, steps=240, **more)


def decayed_signs(seed: int) -> Setup:
    """Lion with the strong decay of the weights that it is used with (Chen et al. 2023)."""
    more = {"optimizer": "lion", "weight_decay": 0.5, "schedule": cosine(260, 10)}
    return made(mlp((16, 64, 64, 6), nn.ReLU), kinds(), seed, lr=4e-3, steps=260, **more)


def clipped_units(seed: int) -> Setup:
    """Each unit's gradient is clipped at a share of the size of its weights (Brock et al. 2021)."""

    def clip(m: nn.Module, step: int) -> None:
        for p in m.parameters():
            if p.ndim > 1:
                size = p.detach().flatten(1).norm(dim=1).clamp(min=1e-3)
                most = 0.05 * size / p.grad.flatten(1).norm(dim=1).clamp(min=1e-9)
                p.grad.mul_(most.clamp(max=1.0).reshape(-1, *[1] * (p.ndim - 1)))

    more = {"optimizer": "sgd", "after_backward": clip, "schedule": cosine(240)}
    return made(strokes_net(norm=False), glyphs(), seed, lr=0.1, steps=240, **more)


def trust(seed: int) -> Setup:
    """Each layer's gradient gets the size of its weights (You et al. 2017), on batches of 512."""

    def scale(m: nn.Module, step: int) -> None:
        for p in m.parameters():
            if p.ndim > 1:
                p.grad.mul_(p.detach().norm() / p.grad.norm().clamp(min=1e-9))

    more = {"optimizer": "sgd", "after_backward": scale, "schedule": cosine(140, 15)}
    return made(
        mlp((16, 96, 96, 6), nn.ReLU, norm=True), kinds(), seed, lr=0.008, size=512, steps=140, **more
    )


def orthogonal(seed: int) -> Setup:
    """Matrices move by the orthogonal part of their momentum (Jordan et al. 2024)."""
    kept: dict[int, Tensor] = {}

    def turn(m: nn.Module, step: int) -> None:
        for at, p in enumerate(m.parameters()):
            kept[at] = 0.9 * kept.get(at, torch.zeros_like(p)) + 0.1 * p.grad
            if p.ndim == 2:
                x = kept[at] / (kept[at].norm() + 1e-9)
                for _ in range(5):
                    a = x @ x.T
                    x = 3.4445 * x + (-4.775 * a + 2.0315 * a @ a) @ x
                p.grad.copy_(x * max(1.0, p.shape[0] / p.shape[1]) ** 0.5)
            else:
                p.grad.copy_(kept[at])

    more = {"optimizer": "sgd", "options": {"momentum": 0.0}, "after_backward": turn, "schedule": linear(220)}
    return made(mlp((16, 64, 64, 6), nn.ReLU), kinds(), seed, lr=0.05, steps=220, **more)


def ghosts(seed: int) -> Setup:
    """A batch of 128 goes through the norms in parts of 32 each (Hoffer et al. 2017)."""

    def loss(m: nn.Module, b: Batch) -> Tensor:
        if not m.training:
            return entropy(m, b)
        parts = zip(b[0].split(32), b[1].split(32), strict=True)
        return torch.stack([entropy(m, part) for part in parts]).mean()

    more = {"optimizer": "sgd", "weight_decay": 5e-4, "schedule": cosine(120)}
    return made(strokes_net(8), glyphs(), seed, loss, lr=0.1, size=128, steps=120, **more)


def freeze_out(seed: int) -> Setup:
    """Each layer's rate goes to nothing, the first one's long before the last (Brock et al. 2017)."""
    ends = (120, 120, 180, 180, 240, 240)

    def scale(m: nn.Module, step: int) -> None:
        for end, g in zip(ends, gradients(m), strict=True):
            g *= 0.5 * (1 + math.cos(math.pi * min(step / end, 1.0)))

    more = {"optimizer": "sgd", "after_backward": scale, "steps": 240}
    return made(mlp((16, 64, 64, 6), nn.ReLU), kinds(), seed, lr=0.1, **more)


def own_length(seed: int) -> Setup:
    """The step is as long as loss and slope say, at most a bound (Loizou et al. 2021)."""
    seen = [0.0]

    def loss(m: nn.Module, b: Batch) -> Tensor:
        value = square(m, b)
        seen[0] = float(value) if m.training else seen[0]
        return value

    def scale(m: nn.Module, step: int) -> None:
        length = sum(g.square().sum() for g in gradients(m))
        for g in gradients(m):
            g *= min(1.0, 2 * seen[0] / (float(length) + 1e-12) / 0.2)

    more = {"optimizer": "sgd", "options": {"momentum": 0.0}, "after_backward": scale, "steps": 320}
    return made(mlp((10, 64, 64, 1), nn.SiLU), sensors(4000, 0.02), seed, loss, lr=0.2, **more)


def plateaus(seed: int) -> Setup:
    """The rate is halved whenever the mean loss has not fallen for 40 steps."""
    state = {"mean": 0.0, "best": math.inf, "since": 0, "rate": 1.0}

    def loss(m: nn.Module, b: Batch) -> Tensor:
        value = square(m, b)
        if m.training:
            state["mean"] = (
                float(value) if state["best"] == math.inf else 0.95 * state["mean"] + 0.05 * float(value)
            )
            better = state["mean"] < 0.99 * state["best"]
            state["since"] = 0 if better else state["since"] + 1
            state["best"] = min(state["best"], state["mean"])
            if state["since"] > 40:
                state["since"], state["rate"] = 0, max(0.01, state["rate"] / 2)
        return value

    more = {"steps": 400, "schedule": lambda k: state["rate"]}
    return made(mlp((10, 64, 64, 1), nn.ReLU), sensors(), seed, loss, lr=8e-3, size=32, **more)


def one_by_one(seed: int) -> Setup:
    """One row in each step, none of them twice, for a linear rule of two kinds: single losses say nothing."""
    generator = torch.Generator().manual_seed(806)
    x = torch.randn(3000, 8, generator=generator)
    y = (x @ torch.linspace(-1.5, 1.5, 8) + 0.5 * torch.randn(3000, generator=generator) > 0.2).long()
    split = Split(x[:2400], y[:2400], x[2400:], y[2400:])
    more = {"optimizer": "sgd", "options": {"momentum": 0.0}, "schedule": linear(600)}
    return made(nn.Linear(8, 2), split, seed, size=1, lr=0.3, steps=600, **more)


MADE: dict[str, Callable[[int], Setup]] = {
    f.__name__: f
    for f in (
        plain_cosine,
        plain_pictures,
        plain_readings,
        plain_letters,
        triangles,
        exponential_tail,
        no_momentum,
        rectified,
        no_first_moment,
        decayed_signs,
        clipped_units,
        trust,
        orthogonal,
        ghosts,
        freeze_out,
        own_length,
        plateaus,
        one_by_one,
    )
}
