"""Data of the ninth suite for rows of columns, pictures and sets; all but the wines are simulated."""

from __future__ import annotations

import functools

import numpy as np
import torch
from data import Split, cut, unit
from sklearn import datasets
from torch import Tensor


@functools.cache
def loans() -> Split:
    """Thirteen columns on people who borrow, and whether they pay in time, late, or not at all."""
    rng = np.random.default_rng(900)
    x = rng.normal(size=(7000, 13))
    debt = x[:, 0] - 0.8 * x[:, 1] + 0.9 * x[:, 2] * x[:, 3] + 0.6 * np.abs(x[:, 4])
    age = np.cos(1.6 * x[:, 5]) + 0.7 * np.maximum(x[:, 6], x[:, 7])
    score = 2.0 * debt - 1.5 * age + 0.5 * rng.logistic(size=7000)
    return cut(x, np.digitize(score, np.quantile(score, (0.4, 0.75))), classes=True)


@functools.cache
def heating() -> Split:
    """What a building needs for its heating, from eleven columns on it and on the weather."""
    rng = np.random.default_rng(901)
    x = rng.normal(size=(5500, 11))
    loss = np.exp(0.35 * x[:, 0]) * np.log1p(np.exp(1.0 - x[:, 1] + 0.5 * x[:, 2]))
    sun = 0.5 * np.maximum(x[:, 3], 0) * np.sin(x[:, 4]) + 0.25 * x[:, 5] ** 2
    y = loss - sun + 0.3 * np.tanh(x[:, 6] * x[:, 7]) + 0.15 * rng.normal(size=5500)
    return cut(x, unit(y)[:, None])


@functools.cache
def pilot() -> Split:
    """Where a cart and its pole are and how fast, and which of three pushes a good driver gave."""
    rng = np.random.default_rng(902)
    x = rng.normal(size=(6000, 4)) * np.array([1.0, 0.8, 0.25, 0.7])
    force = 1.0 * x[:, 0] + 1.5 * x[:, 1] + 10.0 * np.sin(x[:, 2]) + 2.5 * x[:, 3] * np.cos(2 * x[:, 0])
    force = force + 0.25 * rng.normal(size=6000)
    return cut(x / x.std(0), np.digitize(force, (-1.2, 1.2)), classes=True)


@functools.cache
def vintages() -> Split:
    """Thirteen readings of real wines, each three times with an error of its own, and the cultivar."""
    rng = np.random.default_rng(903)
    x, y = datasets.load_wine(return_X_y=True)
    order = rng.permutation(len(x))
    x, y = unit(x)[order], y[order]
    train = len(x) * 3 // 4
    x, y = np.concatenate([x[:train]] * 3 + [x[train:]]), np.concatenate([y[:train]] * 3 + [y[train:]])
    x = x + 0.3 * rng.normal(size=x.shape)
    inputs, targets = torch.tensor(x, dtype=torch.float32), torch.tensor(y)
    mixed = torch.tensor(rng.permutation(3 * train))
    rest = slice(3 * train, None)
    return Split(inputs[mixed], targets[mixed], inputs[rest], targets[rest])


@functools.cache
def spectra() -> Split:
    """Forty-eight wavelengths of a mixture of six substances, with noise; they are told from themselves."""
    rng = np.random.default_rng(904)
    wave = np.linspace(0, 1, 48)
    middle, width = rng.uniform(0.05, 0.95, (6, 3)), rng.uniform(0.02, 0.09, (6, 3))
    pure = np.exp(-0.5 * ((wave - middle[..., None]) / width[..., None]) ** 2).sum(1)
    part = rng.dirichlet(np.full(6, 0.7), 4000)
    x = np.log1p(3 * part @ pure) + 0.04 * rng.normal(size=(4000, 48))
    x = (x - x.mean()) / x.std()
    return cut(x, np.zeros(4000), classes=True)


@functools.cache
def engines() -> Split:
    """Twelve readings of an engine; the kind of its wear (first column) and how long it will run."""
    rng = np.random.default_rng(905)
    x = rng.normal(size=(6000, 12))
    scores = np.stack(
        [x[:, 0] + x[:, 1] * x[:, 2], 1.4 * np.sin(1.5 * x[:, 3]) - x[:, 4], 0.8 * x[:, 5] - x[:, 0]], 1
    )
    kind = (2 * scores + 0.4 * rng.gumbel(size=(6000, 3))).argmax(1)
    life = np.tanh(x[:, 6]) + 0.6 * x[:, 7] * x[:, 1] + 0.8 * np.abs(x[:, 0]) + 0.15 * rng.normal(size=6000)
    return cut(x, np.stack([kind.astype(float), unit(life)], 1))


@functools.cache
def climates() -> Split:
    """Ten columns and a number that follows another rule in each of four climates."""
    rng = np.random.default_rng(906)
    x = rng.normal(size=(7000, 10))
    zone = (x[:, 0] > 0).astype(int) * 2 + (x[:, 1] > 0).astype(int)
    rules = rng.normal(size=(4, 8)) * 0.6
    y = (x[:, 2:] * rules[zone]).sum(1) + 0.5 * zone + 0.15 * rng.normal(size=7000)
    return cut(x, unit(y)[:, None])


@functools.cache
def adverts() -> Split:
    """A shop, an hour, a device and two numbers; whether there was a click."""
    rng = np.random.default_rng(907)
    sizes = (40, 24, 5)
    codes = np.stack([rng.integers(0, n, 9000) for n in sizes], 1)
    like = [rng.normal(size=n) * 1.3 for n in sizes]
    pair = rng.normal(size=(24, 5)) * 1.0
    numbers = rng.normal(size=(9000, 2))
    score = sum(table[codes[:, i]] for i, table in enumerate(like)) + pair[codes[:, 1], codes[:, 2]]
    score = 1.5 * score + numbers[:, 0] * 1.2 - np.abs(numbers[:, 1]) + 0.5
    y = score + 0.7 * rng.logistic(size=9000) > 0
    return cut(np.concatenate([codes, numbers], 1), y[:, None].astype(float))


@functools.cache
def arrows() -> Split:
    """Pictures of an arrow in two colors on 14 x 14 pixels; which of five ways does it point?"""
    rng = np.random.default_rng(908)
    rows, columns = np.meshgrid(np.arange(14), np.arange(14), indexing="ij")
    y = rng.integers(0, 5, 3000)
    angle = 2 * np.pi * y / 5 + 0.12 * rng.normal(size=3000)
    middle = rng.uniform(5.5, 7.5, (2, 3000, 1, 1))
    down, right = rows - middle[0], columns - middle[1]
    cos, sin = np.cos(angle)[:, None, None], np.sin(angle)[:, None, None]
    along, across = down * cos + right * sin, right * cos - down * sin
    shaft = (np.abs(across) < 0.8) & (np.abs(along) < 4.5)
    head = (along > 0.5) & (np.abs(across) < 0.8 * (5.0 - along)) & (along < 5.0)
    shape = (shaft | head).astype(float)
    color = rng.uniform(-1.2, 1.2, (3000, 3, 1, 1))
    color[:, 0] = np.abs(color[:, 0]) + 0.8
    x = shape[:, None] * color + 0.45 * rng.normal(size=(3000, 3, 14, 14))
    return cut((x - x.mean()) / x.std(), y, classes=True)


@functools.cache
def bottles() -> Split:
    """Gray pictures of a bottle of any width and place, and how full it is."""
    rng = np.random.default_rng(909)
    rows, columns = np.meshgrid(np.arange(12), np.arange(12), indexing="ij")
    middle, half = rng.uniform(4.5, 6.5, (2500, 1, 1)), rng.uniform(2.0, 4.0, (2500, 1, 1))
    top, full = rng.uniform(0.5, 2.5, (2500, 1, 1)), rng.uniform(0, 1, (2500, 1, 1))
    soft = 1 / (1 + np.exp(3 * (np.abs(columns - middle) - half)))
    glass = soft / (1 + np.exp(-3 * (rows - top)))
    level = 11.5 - full * (11.5 - top)
    x = 0.5 * glass + 0.9 * glass / (1 + np.exp(-3 * (rows - level))) + 0.12 * rng.normal(size=(2500, 12, 12))
    return cut(((x - x.mean()) / x.std())[:, None], unit(full[:, :, 0]))


@functools.cache
def roads() -> Split:
    """Pictures of a winding road in two channels, with bushes beside it, and where the road is."""
    rng = np.random.default_rng(910)
    rows, columns = np.meshgrid(np.arange(20), np.arange(20), indexing="ij")
    start, bend, phase, wide = rng.uniform((4, 0.5, 0, 1.2), (15, 4, 6.3, 2.4), (1200, 4)).T[..., None, None]
    at = start + bend * np.sin(rows / 4 + phase)
    y = np.abs(columns - at) < wide
    x = np.stack([1.0 * y, 0.6 * np.exp(-(((columns - at) / 3) ** 2))], 1)
    for _ in range(3):
        place = rng.uniform(0, 20, (2, 1200, 1, 1))
        x[:, 0] += 0.9 * ((rows - place[0]) ** 2 + (columns - place[1]) ** 2 < 4)
    x = x + 0.35 * rng.normal(size=x.shape)
    return cut((x - x.mean()) / x.std(), y[:, None].astype(float))


@functools.cache
def icons() -> Split:
    """Boxes and crosses of any size and place on 10 x 10 pixels, soft at their edges."""
    rng = np.random.default_rng(911)
    rows, columns = np.meshgrid(np.arange(10), np.arange(10), indexing="ij")
    place, size = rng.uniform(3, 6, (2, 3500, 1, 1)), rng.uniform(1.2, 3.2, (2, 3500, 1, 1))
    down, right = np.abs(rows - place[0]) - size[0], np.abs(columns - place[1]) - size[1]
    box = 1 / (1 + np.exp(3 * np.maximum(down, right)))
    thin = np.maximum(np.minimum(down + size[0], right + size[1]) - 0.7, np.maximum(down, right))
    kind = rng.integers(0, 2, 3500)
    x = np.where(kind[:, None, None] > 0, box, 1 / (1 + np.exp(3 * thin)))
    x = np.clip(x + 0.03 * rng.normal(size=x.shape), 0, 1)
    return cut(x.reshape(3500, 100), kind, classes=True)


@functools.cache
def baskets() -> Split:
    """Twelve things with a weight, a price and a discount each; what the basket costs to send."""
    rng = np.random.default_rng(912)
    x = rng.normal(size=(4500, 12, 4))
    x[..., 3] = rng.random((4500, 12)) < 0.7
    there = x[..., 3]
    cost = (there * np.exp(0.4 * x[..., 0]) * np.where(x[..., 2] > 0.5, 0.5, 1.0)).sum(1)
    dear = np.where(there > 0, x[..., 1], -9).max(1)
    y = cost / 3 + 0.8 * dear + 0.1 * rng.normal(size=4500)
    return cut(x, unit(y)[:, None])


@functools.cache
def writers() -> Split:
    """A sample of a hand, another of the same hand and one of another: 24 readings each, 60 hands."""
    rng = np.random.default_rng(913)
    mix = rng.normal(size=(12, 24)) / 3
    hands = rng.normal(size=(60, 6))

    def sample(who: np.ndarray) -> np.ndarray:
        inner = np.concatenate([hands[who], 1.3 * rng.normal(size=(len(who), 6))], 1)
        return np.tanh(1.2 * inner @ mix) + 0.1 * rng.normal(size=(len(who), 24))

    one = rng.integers(0, 60, 5000)
    other = (one + rng.integers(1, 60, 5000)) % 60
    x = np.stack([sample(one), sample(one), sample(other)], 1)
    return cut(x / x.std(), np.zeros(5000))


@functools.cache
def villages() -> tuple[Tensor, Tensor, Split]:
    """Who knows whom in five villages, what is known of each person, and where each one lives."""
    rng = np.random.default_rng(914)
    y = rng.integers(0, 5, 360)
    knows = np.triu(rng.random((360, 360)) < np.where(y[:, None] == y[None, :], 0.05, 0.01), 1)
    knows = (knows | knows.T).astype(np.float32)
    mean = knows / np.maximum(knows.sum(1, keepdims=True), 1)
    x = rng.normal(size=(360, 14)) + 0.5 * rng.normal(size=(5, 14))[y]
    people = torch.arange(360)
    labels = torch.tensor(y)
    split = Split(people[:260], labels[:260], people[260:], labels[260:])
    return torch.tensor(mean), torch.tensor(x, dtype=torch.float32), split


def neighbors() -> Split:
    return villages()[2]
