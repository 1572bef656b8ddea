"""Simulated data of the fifth suite: tables, waves, sequences, and streams that never repeat."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np
import torch
from data import Split, cut
from torch import Tensor

Pairs = Iterator[tuple[Tensor, Tensor]]


@functools.cache
def spirals() -> Split:
    """Three arms that wind about each other."""
    rng = np.random.default_rng(70)
    y = rng.integers(0, 3, 5000)
    along = rng.random(5000) ** 0.5
    angle = 4.0 * along + y * 2 * np.pi / 3 + 0.12 * rng.normal(size=5000)
    return cut(2.0 * along[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1), y, classes=True)


def _shape(kind: np.ndarray, turn: np.ndarray) -> np.ndarray:
    turn = turn % 1.0
    saw = 2 * turn - 1
    shapes = np.stack([1.2 * np.sin(2 * np.pi * turn), np.sign(saw), 1.6 * saw, 3.2 * np.abs(saw) - 1.6])
    return np.take_along_axis(shapes, kind[None, :, None], 0)[0]


@functools.cache
def waves() -> Split:
    """Sines, squares, saws and triangles of any pace and phase, in noise."""
    rng = np.random.default_rng(71)
    y = rng.integers(0, 4, 3000)
    pace, phase = rng.uniform(2, 5, (3000, 1)), rng.random((3000, 1))
    x = _shape(y, pace * np.arange(48) / 48 + phase)
    return cut((x + 0.35 * rng.normal(size=x.shape))[:, None, :], y, classes=True)


@functools.cache
def tides() -> Split:
    """Two tides of varying pace; the target is the next level at each place."""
    rng = np.random.default_rng(72)
    slow, fast = rng.uniform(0.15, 0.3, (2000, 1)), rng.uniform(0.6, 0.9, (2000, 1))
    first, second = rng.uniform(0, 2 * np.pi, (2, 2000, 1))
    at = np.arange(19)
    level = np.sin(slow * at + first) + 0.6 * np.sin(fast * at + second) + 0.1 * rng.normal(size=(2000, 19))
    return cut(level[:, :-1, None], level[:, 1:, None])


@functools.cache
def between() -> Split:
    """Tokens, and for each whether the one before is lower, equal or higher than the one after."""
    rng = np.random.default_rng(73)
    x = rng.integers(0, 10, (2000, 10))
    y = 1 + np.sign(x[:, :-2] - x[:, 2:])
    ends = np.zeros((2000, 1), dtype=np.int64)
    return cut(x, np.concatenate([ends, y, ends], 1), classes=True, tokens=True)


@functools.cache
def labels() -> Split:
    """Six labels that may all hold at once."""
    rng = np.random.default_rng(74)
    x = rng.normal(size=(5000, 16))
    score = 1.5 * x @ rng.normal(size=(16, 6)) / 2 + 1.5 * x[:, :6] * x[:, 6:12] - 0.8
    return cut(x, score + rng.logistic(size=score.shape) > 0)


@functools.cache
def spread() -> Split:
    """A number whose noise depends on the inputs as well."""
    rng = np.random.default_rng(75)
    x = rng.uniform(-2, 2, (5000, 4))
    y = (
        np.sin(2 * x[:, 0])
        + x[:, 1] * x[:, 2]
        + (0.1 + 0.5 / (1 + np.exp(-2 * x[:, 3]))) * rng.normal(size=5000)
    )
    return cut(x, y[:, None])


@functools.cache
def taxonomy(noise: float = 1.0, val_noise: float = 1.0) -> Split:
    """Twelve kinds in four families."""
    rng = np.random.default_rng(76)
    families, kinds = 1.2 * rng.normal(size=(4, 14)), 0.9 * rng.normal(size=(12, 14))
    y = rng.integers(0, 12, 4000)
    amount = np.where(np.arange(4000) < 3200, noise, val_noise)[:, None]
    return cut(families[y // 3] + kinds[y] + amount * rng.normal(size=(4000, 14)), y, classes=True)


@functools.cache
def claims() -> Split:
    """Costs of claims: positive, with a long tail."""
    rng = np.random.default_rng(77)
    x = rng.normal(size=(6000, 8))
    mean = np.exp(2.2 + 0.6 * x[:, 0] - 0.5 * np.abs(x[:, 1]) + 0.4 * x[:, 2] * x[:, 3])
    return cut(x, rng.gamma(3.0, mean / 3.0)[:, None])


@functools.cache
def contexts() -> Split:
    """A function of three numbers that four others choose."""
    rng = np.random.default_rng(78)
    c, z = rng.normal(size=(5000, 4)), rng.uniform(-1, 1, (5000, 3))
    weights = np.tanh(c @ rng.normal(size=(4, 3)) / 1.5)
    y = np.tanh(2 * (weights * z).sum(1)) + 0.3 * c[:, 0] + 0.05 * rng.normal(size=5000)
    return cut(np.concatenate([c, z], 1), y[:, None])


@functools.cache
def hazards() -> Split:
    """In which of eight intervals something happened, and whether it was seen to."""
    rng = np.random.default_rng(79)
    x = rng.normal(size=(5000, 9))
    odds = -2.0 + x[:, 0] - 0.8 * x[:, 1] + 0.7 * x[:, 2] * x[:, 3]
    chance = 1 / (1 + np.exp(-(odds[:, None] + 0.15 * np.arange(8))))
    hits = rng.random((5000, 8)) < chance
    time = np.where(hits.any(1), hits.argmax(1), 7)
    leaves = rng.integers(2, 14, 5000)
    return cut(x, np.stack([np.minimum(time, leaves), hits.any(1) & (time <= leaves)], 1), classes=True)


@functools.cache
def outliers() -> Split:
    """A smooth surface; one target in twenty is far off."""
    rng = np.random.default_rng(80)
    x = rng.normal(size=(5000, 6))
    y = np.abs(x[:, 0]) + x[:, 1] - np.maximum(x[:, 2], x[:, 3]) + 0.1 * rng.normal(size=5000)
    y += (rng.random(5000) < 0.05) * rng.normal(size=5000) * 8
    return cut(x, y[:, None])


@functools.cache
def captions() -> Split:
    """Two views of the same hidden thing, side by side."""
    rng = np.random.default_rng(81)
    z = rng.normal(size=(6000, 6))
    views = [np.tanh(z @ rng.normal(size=(6, d)) / 2) + 0.2 * rng.normal(size=(6000, d)) for d in (24, 16)]
    return cut(np.concatenate(views, 1), np.zeros(6000))


@functools.cache
def engines() -> Split:
    """Three readings of a machine with ten knobs."""
    rng = np.random.default_rng(82)
    x = rng.normal(size=(5000, 10))
    hidden = np.maximum(x @ rng.normal(size=(10, 8)) / 2, 0)
    y = hidden @ rng.normal(size=(8, 3)) / 2 + 0.5 * np.sin(2 * x[:, :3])
    y = (y - y.mean(0)) / y.std(0)
    return cut(x, y + 0.15 * rng.normal(size=y.shape))


def verses(size: int, seed: int, length: int = 16) -> Pairs:
    """A language of two-letter syllables, where the vowel follows the consonants before it."""
    rng = np.random.default_rng(seed)
    while True:
        letters = np.zeros((size, length + 2), dtype=np.int64)
        letters[:, 0] = rng.integers(0, 8, size)
        for at in range(1, length + 1):
            if at % 2:
                letters[:, at] = 8 + (letters[:, at - 1] + (letters[:, at - 2] if at > 1 else 0)) % 5
            else:
                near = (letters[:, at - 2] * 3 + rng.integers(0, 3, size)) % 8
                letters[:, at] = np.where(rng.random(size) < 0.1, rng.integers(0, 8, size), near)
        rows = torch.tensor(letters)
        yield rows[:, :length], rows[:, 1 : length + 1]


def diffused(size: int, seed: int) -> Pairs:
    """Points of a moon, noised to some degree that comes along; the target is the noise."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        angle = 4.0 * torch.rand(size, 1, generator=generator)
        points = torch.cat([angle.cos(), angle.sin()], 1) * 1.4
        points += 0.05 * torch.randn(size, 2, generator=generator)
        share = torch.rand(size, 1, generator=generator)
        noise = torch.randn(size, 2, generator=generator)
        noised = (0.5 * torch.pi * share).cos() * points + (0.5 * torch.pi * share).sin() * noise
        yield torch.cat([noised, share], 1), noise


def contexts_of_words(size: int, seed: int) -> Pairs:
    """A word, one that stood near it, and five from anywhere; words belong to ten topics."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        topic = torch.randint(10, (size, 1), generator=generator)
        pair = topic * 12 + torch.randint(12, (size, 2), generator=generator)
        other = torch.randint(120, (size, 5), generator=generator)
        astray = torch.rand(size, 1, generator=generator) < 0.1
        pair[:, 1:] = torch.where(astray, other[:, :1], pair[:, 1:])
        yield torch.cat([pair, other.roll(1, 0)], 1), torch.zeros(size)
