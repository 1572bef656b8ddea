"""Simulated data of the seventh suite's architectures: tables, sets, sequences, and streams without end."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np
from data import Split, cut, digits
from torch import Tensor

Pairs = Iterator[tuple[Tensor, Tensor]]


@functools.cache
def ink() -> Split:
    """Digits between zero and one, which are their own targets."""
    split = digits()
    low, high = split.x.min(), split.x.max()
    x, val_x = (split.x - low) / (high - low), (split.val_x - low) / (high - low)
    return Split(x, x, val_x, val_x)


@functools.cache
def weather() -> Split:
    """Tags that stay for a while, and the noisy sign that each of them gives."""
    rng = np.random.default_rng(170)
    y = np.zeros((2500, 14), dtype=np.int64)
    y[:, 0] = rng.integers(0, 5, 2500)
    for at in range(1, 14):
        moves = (y[:, at - 1] + rng.integers(1, 3, 2500)) % 5
        y[:, at] = np.where(rng.random(2500) < 0.75, y[:, at - 1], moves)
    x = np.where(
        rng.random(y.shape) < 0.55, 2 * y + rng.integers(0, 2, y.shape), rng.integers(0, 12, y.shape)
    )
    return cut(x, y, classes=True, tokens=True)


@functools.cache
def grades() -> Split:
    """Five ordered grades of a hidden score."""
    rng = np.random.default_rng(171)
    x = rng.normal(size=(5000, 10))
    score = (
        1.6 * x[:, 0] + np.abs(x[:, 1]) * 1.5 - x[:, 2] + x[:, 3] * x[:, 4] + rng.logistic(size=5000) * 0.6
    )
    return cut(x, np.digitize(score, [-1.5, 0.2, 1.6, 3.2]), classes=True)


@functools.cache
def visits() -> Split:
    """Counts that vary more than a Poisson distribution would."""
    rng = np.random.default_rng(173)
    x = rng.normal(size=(6000, 7))
    mean = np.exp(1.2 + 0.6 * x[:, 0] - 0.5 * x[:, 1] ** 2 + 0.5 * np.sin(2 * x[:, 2]) + 0.3 * x[:, 3])
    return cut(x, rng.poisson(mean * rng.gamma(2.0, 0.5, 6000))[:, None])


@functools.cache
def rain() -> Split:
    """Nothing on many days, else a sum of showers."""
    rng = np.random.default_rng(174)
    x = rng.normal(size=(6000, 8))
    mean = np.exp(0.6 + 0.7 * x[:, 0] + 0.5 * np.tanh(2 * x[:, 1]) - 0.4 * x[:, 2] * x[:, 3])
    showers = rng.poisson(mean)
    return cut(x, (rng.gamma(np.maximum(2 * showers, 1e-9), 0.5) * (showers > 0))[:, None])


@functools.cache
def winds() -> Split:
    """An angle whose noise depends on the inputs."""
    rng = np.random.default_rng(175)
    x = rng.normal(size=(5000, 6))
    angle = 2 * np.arctan2(x[:, 0] + 0.3 * x[:, 2], x[:, 1] + 0.2) + 0.5 * x[:, 3]
    return cut(x, rng.vonmises(0.0, 1.0 + 6 / (1 + np.exp(-2 * x[:, 4]))) + angle)


@functools.cache
def fields() -> Split:
    """Six categories of a click that matter in pairs."""
    rng = np.random.default_rng(176)
    kinds = rng.integers(0, 15, (12000, 6))
    hidden, alone = rng.normal(size=(6, 15, 3)), rng.normal(size=(6, 15)) * 0.6
    codes = hidden[np.arange(6), kinds]
    score = ((codes.sum(1) ** 2).sum(1) - (codes**2).sum((1, 2))) * 0.18
    score += alone[np.arange(6), kinds].sum(1)
    return cut(kinds + 15 * np.arange(6), rng.logistic(size=12000) < score, tokens=True)


@functools.cache
def products() -> Split:
    """A number that is a sum of products of two and three columns."""
    rng = np.random.default_rng(177)
    x = rng.uniform(-1.5, 1.5, (6000, 12))
    y = x[:, 0] * x[:, 1] + x[:, 2] * x[:, 3] * x[:, 4] + 0.7 * x[:, 5] * x[:, 6] + 0.5 * x[:, 7]
    return cut(x, (y / y.std() + 0.15 * rng.normal(size=6000))[:, None])


@functools.cache
def tags() -> Split:
    """Eight tags, each of them rare."""
    rng = np.random.default_rng(178)
    x = rng.normal(size=(6000, 20))
    score = 2.5 * np.tanh(x @ rng.normal(size=(20, 12)) / 3) @ rng.normal(size=(12, 8)) - 4.0
    return cut(x, score + rng.logistic(size=score.shape) > 0)


@functools.cache
def shares() -> Split:
    """A share between zero and one."""
    rng = np.random.default_rng(179)
    x = rng.normal(size=(5000, 6))
    mean = 1 / (1 + np.exp(-(0.3 + x[:, 0] - 0.8 * np.abs(x[:, 1]) + 0.7 * x[:, 2] * x[:, 3])))
    sharp = np.exp(2.3 + 0.5 * x[:, 4])
    return cut(x, np.clip(rng.beta(mean * sharp, (1 - mean) * sharp), 1e-3, 1 - 1e-3)[:, None])


@functools.cache
def patients() -> Split:
    """Who was treated, which was not by chance, and what became of it."""
    rng = np.random.default_rng(180)
    x = rng.normal(size=(6000, 10))
    treated = rng.random(6000) < 1 / (1 + np.exp(-x[:, 0] - 0.5 * x[:, 1]))
    effect = 1.0 + np.sin(2 * x[:, 2]) + 0.5 * x[:, 3]
    y = x[:, 0] + np.abs(x[:, 4]) - 0.5 * x[:, 5] * x[:, 1] + treated * effect + 0.3 * rng.normal(size=6000)
    return cut(x, np.stack([y, treated], 1))


@functools.cache
def mixtures() -> Split:
    """Thirty sums of the few of sixty sources that are on, and the sources."""
    rng = np.random.default_rng(181)
    sources = rng.normal(size=(6000, 60)) * (rng.random((6000, 60)) < 0.08)
    mixing = rng.normal(size=(60, 30))
    mixing /= np.linalg.norm(mixing, axis=1, keepdims=True)
    return cut(sources @ mixing + 0.02 * rng.normal(size=(6000, 30)), sources)


@functools.cache
def sales() -> Split:
    """Forty days with a trend and two seasons, and the eight that come."""
    rng = np.random.default_rng(182)
    at, n = np.arange(48), 3000
    first, second = rng.uniform(0, 2 * np.pi, (2, n, 1))
    level, slope, weekly = (
        rng.normal(size=(n, 1)),
        0.03 * rng.normal(size=(n, 1)),
        rng.uniform(0.3, 1, (n, 1)),
    )
    y = level + slope * at + weekly * np.sin(2 * np.pi * at / 7 + first) + 0.5 * np.sin(at / 5 + second)
    y += 0.12 * rng.normal(size=y.shape)
    return cut(y[:, :40], y[:, 40:])


@functools.cache
def outlines() -> Split:
    """Forty points each of circles, arcs, triangles and crosses of any size and turn."""
    rng = np.random.default_rng(183)
    y, t = rng.integers(0, 4, 2500), rng.random((2500, 40))
    corners = {2: 3}
    shapes = np.zeros((2500, 40, 2))
    for kind in range(4):
        part = t[y == kind]
        if kind in corners:
            k = corners[kind]
            side, along = np.floor(part * k), part * k % 1
            ends = [
                np.stack([np.cos(2 * np.pi * s / k), np.sin(2 * np.pi * s / k)], -1) for s in (side, side + 1)
            ]
            shapes[y == kind] = ends[0] * (1 - along[..., None]) + ends[1] * along[..., None]
        elif kind < 2:
            angle = (2 - kind) * np.pi * part
            shapes[y == kind] = 0.8 * np.stack([np.cos(angle), np.sin(angle)], -1)
        else:
            arm = np.where(part < 0.5, 4 * part - 1, 4 * part - 3)
            shapes[y == kind] = np.stack([arm * (part < 0.5), arm * (part >= 0.5)], -1)
    turn, size = rng.uniform(0, 2 * np.pi, 2500), rng.uniform(0.8, 1.3, (2500, 1, 1))
    spin = np.stack([np.cos(turn), -np.sin(turn), np.sin(turn), np.cos(turn)], 1).reshape(-1, 2, 2)
    return cut(size * (shapes @ spin) + 0.04 * rng.normal(size=shapes.shape), y, classes=True)


@functools.cache
def speakers() -> Split:
    """Recordings of thirty speakers."""
    rng = np.random.default_rng(185)
    y, voices = rng.integers(0, 30, 5000), rng.normal(size=(30, 10))
    hidden = voices[y] + 0.55 * rng.normal(size=(5000, 10))
    return cut(
        np.tanh(hidden @ rng.normal(size=(10, 24)) / 2) + 0.2 * rng.normal(size=(5000, 24)), y, classes=True
    )


@functools.cache
def frames() -> Split:
    """Five pictures of a blob that bounces; the target is the next of each."""
    rng, n = np.random.default_rng(186), 700
    place, speed = rng.uniform(2, 7, (n, 2)), rng.uniform(-1.2, 1.2, (n, 2))
    grid = np.stack(np.meshgrid(np.arange(10), np.arange(10), indexing="ij"), -1)
    film = []
    for _ in range(6):
        away = ((grid[None] - place[:, None, None]) ** 2).sum(-1)
        film.append(np.exp(-away / 2.5))
        place = place + speed
        speed = np.where((place < 1) | (place > 8), -speed, speed)
        place = np.clip(place, 1, 8)
    x = np.stack(film, 1)[:, :, None] * 2
    return cut(x[:, :-1], x[:, 1:])


@functools.cache
def filtered() -> Split:
    """Noise, and what a resonating circuit makes of it."""
    rng = np.random.default_rng(187)
    x, y = rng.normal(size=(1500, 48)), np.zeros((1500, 48))
    for at in range(48):
        y[:, at] = x[:, at] + 1.5 * y[:, max(at - 1, 0)] * (at > 0) - 0.75 * y[:, max(at - 2, 0)] * (at > 1)
    y = np.tanh(y / y.std())
    return cut(x[..., None], (y / y.std() + 0.1 * rng.normal(size=y.shape))[..., None])


@functools.cache
def trees() -> Split:
    """Steps at places of their own in some columns."""
    rng = np.random.default_rng(188)
    x = rng.normal(size=(6000, 10))
    y = 1.5 * (x[:, 0] > 0.3) + (x[:, 1] > -0.5) * (x[:, 2] > 0) * 2.0 - (x[:, 3] < 0) * (x[:, 4] > 0.5)
    y = (y - y.mean()) / y.std() + 0.2 * rng.normal(size=6000)
    return cut(x, y[:, None])


@functools.cache
def surface() -> Split:
    """A smooth surface over six columns."""
    rng = np.random.default_rng(189)
    x = rng.normal(size=(4000, 6))
    y = np.sin(2 * x[:, 0]) + x[:, 1] * np.tanh(x[:, 2]) + 0.5 * x[:, 3]
    return cut(x, ((y - y.mean()) / y.std() + 0.15 * rng.normal(size=4000))[:, None])
