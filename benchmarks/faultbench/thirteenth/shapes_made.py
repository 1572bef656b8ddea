"""Hard negatives of the thirteenth suite on pictures and sets that are settings of their own."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from data import Split, cut
from fourth.runs import cosine, custom, linear
from models import Batch, Setup, entropy, mlp
from torch import Tensor, nn

from thirteenth import shapes_data as data
from thirteenth import shapes_nets as nets


@functools.cache
def stars() -> Split:
    """A sky of 16 x 16 pixels with mist and a few stars, and where these are: one pixel in sixty."""
    rng = np.random.default_rng(1320)
    rows, columns = np.meshgrid(np.arange(16), np.arange(16), indexing="ij")
    y = rng.random((1500, 16, 16)) < 1 / 60
    light = np.pad(y * rng.uniform(1.0, 2.4, y.shape), ((0, 0), (1, 1), (1, 1)))
    shine = light[:, 1:-1, 1:-1] + 0.4 * (
        light[:, 2:, 1:-1] + light[:, :-2, 1:-1] + light[:, 1:-1, 2:] + light[:, 1:-1, :-2]
    )
    a, b = rng.uniform(0, 6, (2, 1500, 1, 1))
    mist = np.sin(rows / 3 + a) * np.cos(columns / 2.5 + b) + 0.4 * rng.normal(size=y.shape)
    return cut((shine + 0.8 * mist)[:, None], y[:, None].astype(float))


def few_pixels(seed: int) -> Setup:
    """Nearly all pixels are dark: the loss starts to crawl at less than a tenth, where it has yet to learn."""
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 1, 1),
    )
    nn.init.constant_(model[-1].bias, -4.0)

    def loss(m: nn.Module, b: Batch) -> Tensor:
        return F.binary_cross_entropy_with_logits(m(b[0]), b[1])

    more = {"optimizer": "adam", "schedule": cosine(220)}
    return custom(model, stars(), seed, 16, loss, lr=0.01, steps=220, **more)


def feature_loss(seed: int) -> Setup:
    """Training compares what fixed filters see in both pictures (Johnson et al. 2016), validation pixels."""
    split, generator = data.moons(), torch.Generator().manual_seed(43)
    first = torch.randn(16, 1, 3, 3, generator=generator) / 3
    second = torch.randn(24, 16, 3, 3, generator=generator) / 12

    def seen(x: Tensor) -> Tensor:
        return F.conv2d(F.relu(F.conv2d(x, first)), second, stride=2)

    def loss(m: nn.Module, b: Batch) -> Tensor:
        out = m(b[0])
        if not m.training:
            return F.mse_loss(out, b[0])
        return 4 * F.mse_loss(seen(out), seen(b[0])) + 0.1 * F.mse_loss(out, b[0])

    more = {"optimizer": "adam", "schedule": linear(300)}
    return custom(nets.moon_net(), split, seed, 48, loss, lr=8e-3, steps=300, **more)


class _Waves(nn.Module):
    """How strong sixteen waves of four paces and four ways are at four by four places; none is learned."""

    def __init__(self) -> None:
        super().__init__()
        self.even, self.odd = (nn.Conv2d(2, 16, 7, padding=3, bias=False) for _ in range(2))
        at = torch.arange(7.0) - 3
        near = torch.exp(-(at[:, None] ** 2 + at[None, :] ** 2) / 8)
        waves = [
            pace * (at[:, None] * math.cos(turn) + at[None, :] * math.sin(turn))
            for pace in (0.8, 1.2, 1.6, 2.0)
            for turn in (0.0, math.pi / 4, math.pi / 2, 3 * math.pi / 4)
        ]
        for layer, wave in ((self.even, torch.cos), (self.odd, torch.sin)):
            kernels = torch.stack([near * wave(w) for w in waves])
            kernels = (kernels - kernels.mean((1, 2), keepdim=True)) / 8
            layer.weight.data.copy_(kernels[:, None].expand(-1, 2, -1, -1))
            layer.weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(torch.hypot(self.even(x), self.odd(x)), 4)


def fixed_filters(seed: int) -> Setup:
    """The first layer is a bank of waves that stays as it is (Bruna and Mallat 2013)."""
    model = nn.Sequential(_Waves(), nn.Flatten(), nn.Linear(256, 48), nn.ReLU(), nn.Linear(48, 6))
    more = {"optimizer": "adamw", "schedule": cosine(240), "weight_decay": 0.02}
    setup = custom(model, data.fields(), seed, 48, entropy, lr=4e-3, steps=240, **more)
    setup.parameters = lambda m: [p for p in m.parameters() if p.requires_grad]
    return setup


@functools.cache
def baskets() -> Split:
    """Up to thirty things of three numbers, most rows of which are empty; what it costs to carry them."""
    rng = np.random.default_rng(1321)
    there = np.arange(30) < rng.integers(2, 18, (4500, 1))
    x = rng.normal(size=(4500, 30, 3)) * there[..., None]
    each = np.maximum(x[..., 0], 0) + 0.5 * np.abs(x[..., 1]) * np.tanh(x[..., 2]) + 0.2
    y = (each * there).sum(1)
    y = (y - y.mean()) / y.std() + 0.15 * rng.normal(size=4500)
    return cut(np.concatenate([x, there[..., None]], 2), y[:, None])


class _Baskets(nn.Module):
    """Adds up what each thing says that is there, and thinks about the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.head = mlp((3, 32, 24), nn.ReLU), mlp((24, 32, 1), nn.ReLU)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((self.one(x[..., :3]) * x[..., 3:]).sum(1) / 10)


def padded_sets(seed: int) -> Setup:
    """Two rows of three are padding: zeros that the net looks at and then leaves out."""

    def loss(m: nn.Module, b: Batch) -> Tensor:
        return F.mse_loss(m(b[0]), b[1])

    more = {"optimizer": "adam", "schedule": linear(280)}
    return custom(_Baskets(), baskets(), seed, 64, loss, lr=8e-3, steps=280, **more)


MADE: dict[str, Callable[[int], Setup]] = {
    "few_pixels": few_pixels,
    "feature_loss": feature_loss,
    "fixed_filters": fixed_filters,
    "padded_sets": padded_sets,
}
