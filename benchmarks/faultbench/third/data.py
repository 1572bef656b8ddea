"""Data of the third suite: simulated, but for the digits and the source text, so that each task is new."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np
import torch
from data import Split, _split, digits, source_text
from sklearn import datasets
from torch import Tensor

MASK = 96  # the token that hides another one
_LENGTH = 48


@functools.cache
def waveforms() -> Split:
    """Six kinds of short series, three of which are the other three run backwards: direction matters."""
    rng = np.random.default_rng(11)
    num = 2000
    y, t = rng.integers(0, 6, num), np.linspace(0, 1, _LENGTH)[None, :]
    phase, size = rng.uniform(0, 1, (num, 1)), rng.uniform(0.7, 1.3, (num, 1))
    chirp = np.sin(2 * np.pi * (phase + 2 * t + 4 * t**2))
    saw = 2 * ((phase + 3 * t) % 1) - 1
    echo = np.exp(-6 * t) * np.sin(2 * np.pi * (phase + 5 * t)) * 1.8
    kinds = [chirp, chirp[:, ::-1], saw, saw[:, ::-1], echo, echo[:, ::-1]]
    x = size * np.choose(y[:, None], kinds) + 0.5 * rng.normal(size=(num, _LENGTH))
    return _split(x / x.std(), y, classes=True)


@functools.cache
def clouds() -> Split:
    """Sets of 12 points in space; the target mixes their spread with the farthest of them."""
    rng = np.random.default_rng(12)
    x = rng.normal(size=(2400, 12, 3)) * rng.uniform(0.4, 1.6, (2400, 1, 3))
    far = np.sqrt((x**2).sum(-1)).max(1)
    y = far + (x[..., 0] * x[..., 1]).mean(1) + x[..., 2].std(1)
    return _split(x, ((y - y.mean()) / y.std())[:, None], classes=False)


@functools.cache
def pendulum() -> Split:
    """Angle, speed and friction of a pendulum, and its angle and speed 1.5 seconds later."""
    rng = np.random.default_rng(13)
    angle, speed = rng.uniform(-2.5, 2.5, 2400), rng.uniform(-2, 2, 2400)
    friction = rng.uniform(0, 1, 2400)
    x = np.stack([angle / 1.45, speed / 1.15, (friction - 0.5) * 12**0.5], 1)
    for _ in range(150):
        speed = speed - 0.01 * (4 * np.sin(angle) + friction * speed)
        angle = angle + 0.01 * speed
    y = np.stack([angle, speed], 1)
    return _split(x, (y - y.mean(0)) / y.std(0), classes=False)


@functools.cache
def customers() -> Split:
    """Four columns of categories, five of numbers, and whether a customer buys (one in four does)."""
    rng = np.random.default_rng(14)
    sizes = (12, 30, 7, 50)
    codes = np.stack([rng.integers(0, n, 4800) for n in sizes], 1)
    numbers = rng.normal(size=(4800, 5))
    effects = [rng.normal(size=n) for n in sizes]
    score = sum(e[c] for e, c in zip(effects, codes.T, strict=True))
    score = score + numbers[:, 0] * effects[0][codes[:, 0]] * 1.5 + np.abs(numbers[:, 1]) - numbers[:, 2]
    buys = rng.random(4800) < 1 / (1 + np.exp(-1.5 * (score - np.quantile(score, 0.77))))
    return _split(np.concatenate([codes, numbers], 1), buys[:, None].astype(float), classes=False)


@functools.cache
def grades() -> Split:
    """Five ordered grades of Friedman's first function, as four answers: is it better than this grade?"""
    x, y = datasets.make_friedman1(2400, noise=0.7, random_state=15)
    edges = np.quantile(y, (0.2, 0.4, 0.6, 0.8))
    return _split((x - 0.5) * 12**0.5, (y[:, None] > edges).astype(float), classes=False)


@functools.cache
def digits_and_ink() -> Split:
    """Digits; their class and, in a second column, how much ink they took."""
    split = digits()
    shift, scale = split.x.mean(1).mean(), split.x.mean(1).std()

    def both(x: Tensor, y: Tensor) -> Tensor:
        return torch.stack([y.float(), (x.mean(1) - shift) / scale], 1)

    return Split(split.x, both(split.x, split.y), split.val_x, both(split.val_x, split.val_y))


@functools.cache
def picture() -> Split:
    """Places in a picture of rings and blobs with sharp edges, and its brightness there."""
    rng = np.random.default_rng(16)
    x = rng.uniform(-1, 1, (5000, 2))
    bright = np.sin(14 * np.sqrt((x**2).sum(1)))
    for center in rng.uniform(-0.8, 0.8, (6, 2)):
        bright = bright + 1.5 * (((x - center) ** 2).sum(1) < 0.04)
    return _split(x, ((bright - bright.mean()) / bright.std())[:, None], classes=False)


@functools.cache
def demand() -> Split:
    """24 hours of a noisy demand with two seasons and a level that wanders; the next 4 are asked for."""
    rng = np.random.default_rng(17)
    hour = np.arange(6000)
    level = np.cumsum(rng.normal(size=6000)) * 0.02
    level = level - np.convolve(level, np.ones(400) / 400, mode="same")
    wave = np.sin(2 * np.pi * hour / 12) * (1 + 0.5 * np.sin(2 * np.pi * hour / 84))
    value = wave + 0.4 * np.sin(2 * np.pi * hour / 5) + level + 0.15 * rng.normal(size=6000)
    value = (value - value.mean()) / value.std()
    rows = np.arange(0, 6000 - 28, 2)[:, None] + np.arange(28)[None, :]
    part = value[rows]
    return _split(part[:, :24, None], part[:, 24:], classes=False)


def reversals(size: int, seed: int, shortest: int = 3, longest: int = 6) -> Iterator[tuple[Tensor, Tensor]]:
    """Words of 3 to 6 letters with padding (0) behind, and the same words backwards."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        length = torch.randint(shortest, longest + 1, (size, 1), generator=generator)
        place = torch.arange(6)[None, :]
        x = torch.randint(1, 13, (size, 6), generator=generator) * (place < length)
        turned = x.gather(1, (length - 1 - place).clamp(min=0))
        yield x, turned * (place < length)


def masked_text(size: int, seed: int, *, held_out: bool = False) -> Iterator[tuple[Tensor, Tensor]]:
    """Stretches of source with a fifth of the letters hidden; the answers are -100 where nothing is hidden."""
    tokens = source_text()[1 if held_out else 0]
    generator = torch.Generator().manual_seed(seed)
    while True:
        starts = torch.randint(len(tokens) - 24, (size,), generator=generator)
        part = tokens[starts[:, None] + torch.arange(24)]
        hidden = torch.rand(part.shape, generator=generator) < 0.2
        yield part.masked_fill(hidden, MASK), part.masked_fill(~hidden, -100)


def noised(size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Points of two spirals under noise of a random strength, that strength, and the noise."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        turn = 3 * torch.rand(size, 1, generator=generator) ** 0.5
        side = 2.0 * torch.randint(2, (size, 1), generator=generator) - 1
        x = side * turn / 1.6 * torch.cat([torch.cos(2 * turn), torch.sin(2 * turn)], 1)
        time = torch.rand(size, 1, generator=generator)
        noise = torch.randn(size, 2, generator=generator)
        keep = torch.cos(0.5 * torch.pi * time)
        yield torch.cat([keep * x + (1 - keep**2).sqrt() * noise, 2 * time - 1], 1), noise


def triplets(size: int, seed: int, *, held_out: bool = False) -> Iterator[tuple[Tensor, Tensor]]:
    """An image, one of the same class and one of another class; and the two classes."""
    split = digits()
    x, y = (split.val_x, split.val_y) if held_out else (split.x, split.y)
    members = [(y == c).nonzero()[:, 0] for c in range(10)]
    generator = torch.Generator().manual_seed(seed)

    def draw(classes: Tensor) -> Tensor:
        share = torch.rand(len(classes), generator=generator)
        return torch.stack(
            [members[c][int(s * len(members[c]))] for c, s in zip(classes, share, strict=True)]
        )

    while True:
        own = torch.randint(10, (size,), generator=generator)
        other = (own + torch.randint(1, 10, (size,), generator=generator)) % 10
        rows = torch.stack([draw(own), draw(own), draw(other)], 1)
        yield x[rows], torch.stack([own, other], 1)
