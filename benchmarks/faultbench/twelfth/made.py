"""Hard negatives of the twelfth suite that are settings of their own."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from data import Split, cut
from fourth.runs import custom, judged, linear
from models import Batch, Setup, entropy, mlp, square
from torch import Tensor, nn

from twelfth import data


class _Margin(nn.Module):
    """Cosines to one direction for each class, sixteen times as large."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(16, 60), nn.ReLU(), nn.Linear(60, 24))
        self.directions = nn.Parameter(torch.randn(5, 24))

    def forward(self, x: Tensor) -> Tensor:
        return 16 * F.normalize(self.body(x), dim=-1) @ F.normalize(self.directions, dim=-1).T


def margin_head(seed: int) -> Setup:
    """The right one must win by a margin while it trains (Wang et al. 2018): the loss is above validation."""
    split = data.soils()

    def loss(m: nn.Module, b: Batch) -> Tensor:
        out = m(b[0])
        by = 16 * 0.08 if m.training else 0.0
        return F.cross_entropy(out - by * F.one_hot(b[1], 5), b[1])

    more = {"optimizer": "adam", "schedule": linear(300)}
    setup = custom(_Margin(), split, seed, 64, loss, lr=4e-3, steps=300, **more)
    return judged(setup, entropy, split.val_x, split.val_y)


def empty_columns(seed: int) -> Setup:
    """Four codes as 80 columns of zeros and ones, a third of which are never one."""
    rng = np.random.default_rng(1250)
    codes = rng.integers(0, 13, (5000, 4))
    worth = rng.normal(size=(4, 13))
    y = sum(worth[i][codes[:, i]] for i in range(4)) / 2 + 0.4 * worth[0][codes[:, 0]] * worth[1][codes[:, 1]]
    x = np.zeros((5000, 4, 20))
    np.put_along_axis(x, codes[..., None], 1.0, 2)
    split = cut(x.reshape(5000, 80), (y + 0.15 * rng.normal(size=5000))[:, None])
    more = {"optimizer": "adam", "schedule": linear(300)}
    return custom(mlp((80, 48, 1), nn.ReLU), split, seed, 64, square, lr=8e-3, steps=300, **more)


def hidden_columns(seed: int) -> Setup:
    """Two of five genes are hidden while it trains, and all of the row is asked for."""
    split, generator = data.genes(), torch.Generator().manual_seed(seed + 41)

    def loss(m: nn.Module, b: Batch) -> Tensor:
        x = b[0]
        if m.training:
            x = x * (torch.rand(x.shape, generator=generator) > 0.4) / 0.6
        return F.mse_loss(m(x), b[0])

    model = mlp((60, 64, 64, 60), nn.ReLU)
    more = {"optimizer": "adam", "schedule": linear(320)}
    return custom(model, split, seed, 64, loss, lr=4e-3, steps=320, **more)


def residual_of_linear(seed: int) -> Setup:
    """A linear rule is there already; the net adds what it misses, so that the loss starts low."""
    split = data.alloys()
    ones = torch.ones(len(split.x), 1)
    rule = torch.linalg.lstsq(torch.cat([split.x, ones], 1), split.y).solution

    def left(x: Tensor, y: Tensor) -> Tensor:
        return y - x @ rule[:-1] - rule[-1]

    rest = Split(split.x, left(split.x, split.y), split.val_x, left(split.val_x, split.val_y))
    model = mlp((9, 52, 52, 1), nn.GELU)
    nn.init.zeros_(model[-1].weight)
    more = {"optimizer": "adam", "schedule": linear(280)}
    return custom(model, rest, seed, 64, square, lr=0.015, steps=280, **more)


def laplace(seed: int) -> Setup:
    """A place and a width for each push: the likelihood's loss goes below zero, and its gradients grow."""
    split = data.drones()

    def loss(m: nn.Module, b: Batch) -> Tensor:
        place, width = m(b[0]).chunk(2, -1)
        width = width.clamp(-4, 4)
        return ((b[1] - place).abs() * (-width).exp() + width + math.log(2)).mean()

    setup = custom(mlp((6, 48, 48, 4), nn.Tanh), split, seed, 64, loss, lr=5e-3, steps=320, optimizer="adam")
    setup.schedule = linear(320)
    return judged(setup, lambda m, b: (m(b[0])[:, :2] - b[1]).abs().mean(), split.val_x, split.val_y)


def logit_adjusted(seed: int) -> Setup:
    """Two classes of five are rare; their shares are added while it trains (Menon et al. 2021)."""
    split = data.soils()
    keep = (split.y < 3) | (torch.rand(len(split.y), generator=torch.Generator().manual_seed(42)) < 0.3)
    rare = Split(split.x[keep], split.y[keep], split.val_x, split.val_y)
    usual = torch.bincount(split.y, minlength=5).float()
    shares = (torch.bincount(rare.y, minlength=5) / usual).log()

    def loss(m: nn.Module, b: Batch) -> Tensor:
        out = m(b[0])
        return F.cross_entropy(out + shares if m.training else out, b[1])

    more = {"optimizer": "adam", "schedule": linear(280)}
    return custom(mlp((16, 56, 5), nn.ReLU), rare, seed, 64, loss, lr=6e-3, steps=280, **more)


MADE: dict[str, Callable[[int], Setup]] = {
    "margin_head": margin_head,
    "empty_columns": empty_columns,
    "hidden_columns": hidden_columns,
    "residual_of_linear": residual_of_linear,
    "laplace": laplace,
    "logit_adjusted": logit_adjusted,
}
