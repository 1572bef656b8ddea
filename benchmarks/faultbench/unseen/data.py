"""Data of the held-out suite: real where it is small enough, simulated for the rest."""

from __future__ import annotations

import functools
import keyword
import math
import re
from collections.abc import Iterator

import numpy as np
import torch
from data import Split, _split, digits, source_text
from sklearn import datasets
from torch import Tensor


@functools.cache
def shapes() -> Split:
    """Clouds of 20 points on a circle, a square, a triangle or a cross, turned and noisy."""
    rng = np.random.default_rng(5)
    y = rng.integers(0, 4, 1600)
    t = rng.random((1600, 20))
    angle = 2 * np.pi * t
    circle = np.stack([np.cos(angle), np.sin(angle)], -1)
    clouds = [circle, _polygon(t, 4), _polygon(t, 3), _cross(t)]
    points = np.choose(y[:, None, None], clouds)
    turn = rng.uniform(-0.5, 0.5, 1600)
    c, s = np.cos(turn), np.sin(turn)
    points = np.einsum("nij,npj->npi", np.stack([np.stack([c, -s], -1), np.stack([s, c], -1)], 1), points)
    return _split(points + 0.08 * rng.normal(size=points.shape), y, classes=True)


def _polygon(t: np.ndarray, sides: int) -> np.ndarray:
    corners = np.stack(
        [np.cos(2 * np.pi * np.arange(sides + 1) / sides), np.sin(2 * np.pi * np.arange(sides + 1) / sides)],
        -1,
    )
    side, along = np.divmod(t * sides, 1)
    side = side.astype(int)
    return corners[side] * (1 - along[..., None]) + corners[side + 1] * along[..., None]


def _cross(t: np.ndarray) -> np.ndarray:
    length = 4 * (t % 0.5) - 1
    flat = np.where(t < 0.5, 1.0, 0.0)
    return np.stack([length * flat, length * (1 - flat)], -1)


@functools.cache
def moons() -> Split:
    """Two half moons, so small that the density is above 1 and the loss below 0."""
    x, y = datasets.make_moons(2400, noise=0.06, random_state=0)
    return _split(0.25 * (x - x.mean(0)), y, classes=True)


@functools.cache
def inverse() -> Split:
    """The inverse of a wave: up to three answers to a question."""
    rng = np.random.default_rng(1)
    t = rng.random(2000)
    x = t + 0.3 * np.sin(2 * math.pi * t) + 0.03 * rng.normal(size=2000)
    return _split((x[:, None] - 0.5) * 3, (t[:, None] - 0.5), classes=False)


@functools.cache
def ratings() -> Split:
    """User, item and rating of a table of rank 3, a third of it seen."""
    rng = np.random.default_rng(2)
    user, item = rng.integers(0, 60, 4000), rng.integers(0, 80, 4000)
    a, b = rng.normal(size=(60, 3)), rng.normal(size=(80, 3))
    y = (a[user] * b[item]).sum(1) / 3**0.5 + 0.3 * rng.normal(size=4000)
    split = _split(np.stack([user, item], 1), y[:, None], classes=False)
    return Split(split.x.long(), split.y, split.val_x.long(), split.val_y)


@functools.cache
def labels() -> Split:
    """Ten labels at once, some of them rare."""
    x, y = datasets.make_multilabel_classification(2400, 30, n_classes=10, n_labels=2, random_state=4)
    split = _split((x - x.mean(0)) / x.std(0), y, classes=False)
    return split


@functools.cache
def counts() -> Split:
    """Poisson counts with the logarithm of their rate from Friedman's first function."""
    x, y = datasets.make_friedman1(2000, random_state=6)
    rate = np.exp((y - y.mean()) / y.std() * 0.8 + 0.7)
    return _split((x - 0.5) * 12**0.5, np.random.default_rng(7).poisson(rate)[:, None], classes=False)


@functools.cache
def noisy_digits() -> Split:
    """Digits under noise as strong as they are, and the digits."""
    split, generator = digits(), torch.Generator().manual_seed(8)
    x, val_x = (part + torch.randn(part.shape, generator=generator) for part in (split.x, split.val_x))
    return Split(x, split.x, val_x, split.val_x)


@functools.cache
def waves() -> Split:
    """Places in the plane and the height of five waves there."""
    rng = np.random.default_rng(9)
    x = rng.uniform(-1, 1, (2400, 2))
    k, phase = rng.normal(size=(2, 5)) * 5, rng.uniform(0, 6, 5)
    y = np.sin(x @ k + phase).sum(1)
    return _split(x, (y / y.std())[:, None], classes=False)


@functools.cache
def tagged_lines() -> Split:
    """Lines of source as 24 token ids; each is tagged: space or sign, keyword, called name, name, number."""
    tokens, _, _ = source_text()
    text = "".join(chr(31 + c) for c in tokens.tolist())
    lines = [line.strip() for line in text.split(chr(31)) if len(line.strip()) >= 16][:2500]
    x, y = np.zeros((len(lines), 24), dtype=np.int64), np.zeros((len(lines), 24), dtype=np.int64)
    for row, line in enumerate(lines):
        for found in re.finditer(r"[A-Za-z_]\w*(\(?)|\d+", line):
            word = found.group().rstrip("(")
            tag = 4 if word[0].isdigit() else 1 if word in keyword.kwlist else 2 if found.group(1) else 3
            y[row, found.start() : found.start() + len(word)] = tag
        codes = [ord(c) - 31 for c in line[:24]]
        x[row, : len(codes)] = codes
    split = _split(x, y, classes=True)
    return Split(split.x.long(), split.y, split.val_x.long(), split.val_y)


def sorting(size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Six numbers of ten and the same in order, without end."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        x = torch.randint(10, (size, 6), generator=generator)
        yield x, x.sort(1).values


def views(size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Two noisy views of the same digits, some pixels gone."""
    split, generator = digits(), torch.Generator().manual_seed(seed)
    while True:
        rows = torch.randint(len(split.x), (size,), generator=generator)
        yield _view(split.x[rows], generator), _view(split.x[rows], generator)


def _view(x: Tensor, generator: torch.Generator) -> Tensor:
    keep = torch.rand(x.shape, generator=generator) > 0.2
    return x * keep + 0.3 * torch.randn(x.shape, generator=generator)


def interior(size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Places in (0, 1) and the right side of -u'' = f there, for u = sin(pi x) + sin(3 pi x) / 3."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        x = torch.rand(size, 1, generator=generator)
        yield x, math.pi**2 * (torch.sin(math.pi * x) + 3 * torch.sin(3 * math.pi * x))
