"""Worlds that the settings of the eighth suite by style and habit are drawn from."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import torch
from data import Split, cut
from fourth.runs import custom
from models import Setup, entropy
from torch import Tensor, nn


def made(
    model: nn.Module, split: Split, seed: int, loss: Callable = entropy, size: int = 64, **more
) -> Setup:
    """A setup with Adam and 220 steps where nothing else is said."""
    return custom(model, split, seed, size, loss, **{"optimizer": "adam", "steps": 220, **more})


@functools.cache
def kinds(number: int = 6000, noise: float = 1.0) -> Split:
    """Sixteen columns and six kinds, each in three heaps that lie apart from one another."""
    rng = np.random.default_rng(801)
    centers = 0.8 * rng.normal(size=(6, 3, 16))
    y = rng.integers(0, 6, number)
    x = centers[y, rng.integers(0, 3, number)] + noise * rng.normal(size=(number, 16))
    return cut(x / 1.25, y, classes=True)


def surface(x: np.ndarray) -> np.ndarray:
    """A bent function of five columns, of about unit size."""
    return np.sin(1.4 * x[:, 0]) + 0.6 * x[:, 1] * x[:, 2] + 0.4 * np.abs(x[:, 3]) - 0.5 * x[:, 4]


@functools.cache
def sensors(number: int = 4000, noise: float = 0.2) -> Split:
    """Ten readings, and a quantity that hangs on five of them."""
    rng = np.random.default_rng(802)
    x = rng.normal(size=(number, 10))
    return cut(x, (surface(x) + noise * rng.normal(size=number))[:, None])


@functools.cache
def glyphs(number: int = 3000, noise: float = 0.5) -> Split:
    """Six signs of a few strokes on 8 x 8 pixels, moved about, more or less dark, in noise."""
    rng = np.random.default_rng(803)
    signs = np.zeros((6, 5, 5))
    signs[0, 2], signs[1, :, 2], signs[2], signs[3] = 1, 1, np.eye(5), np.eye(5)[::-1]
    signs[4, [0, -1]] = signs[4, :, 0] = signs[4, :, -1] = 1
    signs[5, 2] = signs[5, :, 2] = 1
    y = rng.integers(0, 6, number)
    x = noise * rng.normal(size=(number, 8, 8))
    for row, (kind, top, left) in enumerate(zip(y, *rng.integers(0, 4, (2, number)), strict=True)):
        x[row, top : top + 5, left : left + 5] += rng.uniform(0.8, 1.6) * signs[kind]
    return cut(x.reshape(number, 64), y, classes=True)


@functools.cache
def letters(number: int = 4000, length: int = 12) -> Split:
    """Rows of a language of ten letters in which the last two letters decide what may follow."""
    rng = np.random.default_rng(804)
    chances = rng.dirichlet(np.full(10, 0.2), size=(10, 10))
    rows = np.zeros((number, length + 1), dtype=np.int64)
    rows[:, :2] = rng.integers(0, 10, (number, 2))
    for at in range(2, length + 1):
        sums = chances[rows[:, at - 2], rows[:, at - 1]].cumsum(1)
        rows[:, at] = (rng.random((number, 1)) > sums).sum(1).clip(0, 9)
    return cut(rows[:, :-1], rows[:, 1:], classes=True, tokens=True)


@functools.cache
def sites() -> tuple[Split, Split]:
    """Two sites with the same twelve readings: the second's are turned, and two kinds change places."""
    rng = np.random.default_rng(805)
    centers = 0.9 * rng.normal(size=(8, 12))
    turn = np.linalg.qr(np.eye(12) + 0.12 * rng.normal(size=(12, 12)))[0]
    turn = turn * np.sign(np.diag(turn))

    def draw(number: int, matrix: np.ndarray, swapped: bool) -> Split:
        place, at = rng.integers(0, 8, number), rng.normal(size=(number, 12))
        x = (centers[place] + at) @ matrix
        y = place % 4
        return cut(x / 1.3, np.array([1, 0, 2, 3])[y] if swapped else y, classes=True)

    return draw(4000, np.eye(12), False), draw(2500, turn, True)


def strokes_net(width: int = 12, norm: bool = True) -> nn.Sequential:
    """Two convolutions, the mean over places of a third part, six scores."""
    layers: list[nn.Module] = [nn.Unflatten(1, (1, 8, 8))]
    for before, after in ((1, width), (width, 2 * width)):
        layers += [nn.Conv2d(before, after, 3, padding=1), *([nn.BatchNorm2d(after)] if norm else [])]
        layers += [nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * width, 6))


def trained(model: nn.Module, split: Split, loss: Callable, seed: int, steps: int, lr: float = 3e-3) -> None:
    """Some steps of Adam before the run, whose rate falls in a straight line."""
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    generator = torch.Generator().manual_seed(seed + 7)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * (1 - 0.9 * step / steps)
        rows = torch.randint(len(split.x), (64,), generator=generator)
        optimizer.zero_grad()
        loss(model, (split.x[rows], split.y[rows])).backward()
        optimizer.step()


def gradients(model: nn.Module) -> list[Tensor]:
    """All gradients there are."""
    return [p.grad for p in model.parameters() if p.grad is not None]
