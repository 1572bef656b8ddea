"""What the fourth suite learns from: small generated worlds with real structure, and scikit-learn's makers."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np
import torch
from data import Split
from sklearn import datasets
from torch import Tensor

Pairs = Iterator[tuple[Tensor, Tensor]]


def _cut(x: np.ndarray, y: np.ndarray, *, classes: bool = False, tokens: bool = False) -> Split:
    """Rows are drawn independently, so that the first quarter is as good a held-out part as any."""
    inputs = torch.tensor(x, dtype=torch.long if tokens else torch.float32)
    targets = torch.tensor(y, dtype=torch.long if classes else torch.float32)
    n = len(x) // 4
    return Split(inputs[n:], targets[n:], inputs[:n], targets[:n])


@functools.cache
def segments() -> Split:
    """Seven-segment numerals on 12 x 8 pixels, moved about, some of the ink missing, in noise."""
    lit = [
        "1110111",
        "0010010",
        "1011101",
        "1011011",
        "0111010",
        "1101011",
        "1101111",
        "1010010",
        "1111111",
        "1111011",
    ]
    strokes = np.zeros((7, 9, 5))
    for place, (rows, columns) in enumerate(
        (
            (0, slice(0, 5)),
            (slice(0, 5), 0),
            (slice(0, 5), 4),
            (4, slice(0, 5)),
            (slice(4, 9), 0),
            (slice(4, 9), 4),
            (8, slice(0, 5)),
        )
    ):
        strokes[place, rows, columns] = 1.0
    rng = np.random.default_rng(41)
    y = rng.integers(0, 10, 2800)
    x = 0.3 * rng.normal(size=(2800, 12, 8))
    for row, digit in enumerate(y):
        ink = np.array([float(c) for c in lit[digit]]) * rng.uniform(0.7, 1.2, 7)
        top, left = rng.integers(0, 2), rng.integers(0, 2)
        x[row, top : top + 9, left : left + 5] += np.minimum((ink[:, None, None] * strokes).max(0), 1.2)
    return _cut(((x - x.mean()) / x.std()).reshape(-1, 96), y, classes=True)


@functools.cache
def gratings() -> Split:
    """Colour pictures of 12 x 12: stripes of four directions and two widths, any phase, any tint, noise."""
    rng = np.random.default_rng(42)
    y = rng.integers(0, 8, 2000)
    angle, wide = (y % 4) * np.pi / 4 + rng.normal(scale=0.1, size=2000), np.where(y < 4, 0.9, 1.8)
    grid = np.arange(12)
    along = np.cos(angle)[:, None, None] * grid[:, None] + np.sin(angle)[:, None, None] * grid
    wave = np.sin(wide[:, None, None] * along + rng.uniform(0, 7, (2000, 1, 1)))
    x = wave[:, None] * rng.uniform(0.4, 1.0, (2000, 3, 1, 1)) + 0.5 * rng.normal(size=(2000, 3, 12, 12))
    return _cut(x, y, classes=True)


@functools.cache
def clusters() -> Split:
    """Four classes of two clusters each among 20 features, of which half tell nothing."""
    x, y = datasets.make_classification(
        4000,
        20,
        n_informative=8,
        n_redundant=2,
        n_classes=4,
        n_clusters_per_class=2,
        class_sep=1.4,
        random_state=43,
    )
    return _cut((x - x.mean(0)) / x.std(0), y, classes=True)


@functools.cache
def friedman() -> Split:
    """Friedman's first regression problem, five of ten features in play."""
    x, y = datasets.make_friedman1(3200, 10, noise=1.0, random_state=44)
    return _cut((x - 0.5) / 0.29, ((y - y.mean()) / y.std())[:, None])


@functools.cache
def shells() -> Split:
    """Classes are shells around two centres, with a switch feature that says around which."""
    rng = np.random.default_rng(45)
    x = rng.normal(size=(3600, 8))
    switch = rng.random(3600) < 0.5
    x[:, 7] = np.where(switch, 1.0, -1.0)
    radius = np.linalg.norm(x[:, :3] - np.where(switch, 0.8, -0.8)[:, None], axis=1)
    return _cut(x, np.digitize(radius, (1.4, 2.2)), classes=True)


@functools.cache
def regimes() -> Split:
    """A number that follows another law in each of four regions."""
    rng = np.random.default_rng(46)
    x = rng.uniform(-1.5, 1.5, (3200, 6))
    region = 2 * (x[:, 0] > 0) + (x[:, 1] > 0)
    laws = np.stack(
        [np.sin(2 * x[:, 2]), x[:, 3] * x[:, 4], x[:, 5] - x[:, 2], np.abs(x[:, 3]) - 0.7], axis=1
    )
    y = laws[np.arange(3200), region] + 0.1 * rng.normal(size=3200)
    return _cut(x, ((y - y.mean()) / y.std())[:, None])


@functools.cache
def formula() -> Split:
    """A closed formula of four variables, as such nets are shown on."""
    rng = np.random.default_rng(47)
    x = rng.uniform(-1, 1, (2800, 4))
    y = np.exp(0.6 * np.sin(np.pi * x[:, 0]) + x[:, 1] ** 2) + np.tanh(3 * x[:, 2]) * np.abs(x[:, 3])
    y = y + 0.1 * rng.normal(size=2800)
    return _cut(x, ((y - y.mean()) / y.std())[:, None])


@functools.cache
def integrals() -> Split:
    """Smooth random functions at 20 places and a point: what is the integral up to there?"""
    rng = np.random.default_rng(48)
    places, end = np.linspace(0, 1, 20), rng.random(4000)
    waves = np.arange(1, 5)
    size, phase = rng.normal(size=(4000, 4)) / waves**0.5, rng.uniform(0, 6.28, (4000, 4))
    f = (size[:, None] * np.sin(waves * 2 * places[None, :, None] + phase[:, None])).sum(-1)
    whole = size / (2 * waves) * (np.cos(phase) - np.cos(waves * 2 * end[:, None] + phase))
    y = whole.sum(-1)
    return _cut(np.column_stack([f, 2 * end - 1]), ((y - y.mean()) / y.std())[:, None])


@functools.cache
def additions() -> Split:
    """The adding problem: two of 16 numbers are marked; what is their sum?"""
    rng = np.random.default_rng(49)
    value, mark = rng.uniform(-1, 1, (3200, 16)), np.zeros((3200, 16))
    rows = np.arange(3200)
    for low, high in ((0, 8), (8, 16)):
        mark[rows, rng.integers(low, high, 3200)] = 1.0
    return _cut(np.stack([value, mark], axis=-1), (value * mark).sum(1)[:, None])


@functools.cache
def majorities() -> Split:
    """Sentences of 5 to 14 words, padded with 0: which of four groups of words comes up most?"""
    rng = np.random.default_rng(50)
    x, y = np.zeros((3200, 14), dtype=np.int64), rng.integers(0, 4, 3200)
    for row, group in enumerate(y):
        length = rng.integers(5, 15)
        own = rng.random(length) < 0.6
        words = np.where(own, 1 + group * 8 + rng.integers(0, 8, length), rng.integers(1, 41, length))
        x[row, :length] = words
    return _cut(x, y, classes=True, tokens=True)


@functools.cache
def spoken() -> Split:
    """Frames of two to four sounds, each held for some frames; the target is which, padded with 0."""
    rng = np.random.default_rng(51)
    sounds = rng.normal(size=(7, 10))
    x, y = np.zeros((2000, 16, 10)), np.zeros((2000, 4), dtype=np.int64)
    for row in range(2000):
        at = rng.integers(0, 3)
        for place in range(rng.integers(2, 5)):
            held, sound = rng.integers(2, 4), rng.integers(1, 7)
            x[row, at : at + held] = sounds[sound]
            y[row, place] = sound
            at += held + 1
    return _cut(x + 0.5 * rng.normal(size=x.shape), y, classes=True)


@functools.cache
def visits() -> Split:
    """What 3,000 visitors looked at (six things) and what they took then, of 120 things of 12 kinds."""
    rng = np.random.default_rng(52)
    kind = rng.permutation(np.arange(120) % 12)
    things = [np.flatnonzero(kind == k) for k in range(12)]
    fame = rng.gamma(1.0, size=120) + 0.2
    x, y = np.zeros((4800, 6), dtype=np.int64), np.zeros(4800, dtype=np.int64)
    for row in range(4800):
        tastes = rng.choice(12, 2, replace=False)
        for place in range(7):
            pool = things[tastes[int(rng.random() < 0.25)]] if rng.random() < 0.9 else np.arange(120)
            got = rng.choice(pool, p=fame[pool] / fame[pool].sum())
            if place < 6:
                x[row, place] = got
            else:
                y[row] = got
    return _cut(x, y, classes=True, tokens=True)


@functools.cache
def patients() -> Split:
    """Features, and the time until an event that is seen or cut off: time and whether seen."""
    rng = np.random.default_rng(53)
    x = rng.normal(size=(3200, 10))
    risk = 1.5 * x[:, 0] - 1.2 * x[:, 1] + 1.2 * np.abs(x[:, 2])
    time, cut = rng.exponential(np.exp(-risk)), rng.exponential(5.0, 3200)
    return _cut(x, np.column_stack([np.minimum(time, cut), time <= cut]))


@functools.cache
def families() -> Split:
    """Graphs of twelve nodes in any order, some edges added: ring, star of stars, two cliques or ladder."""
    rng = np.random.default_rng(54)
    plain = np.zeros((4, 12, 12))
    for i in range(12):
        plain[0, i, (i + 1) % 12] = 1
        plain[1, i, 0 if i in (4, 8) else i // 4 * 4] = 1
        plain[2, i, i // 4 * 4 : i // 4 * 4 + 4] = 1
        plain[3, i, (i + 2) % 12] = 1
        plain[3, i, i ^ 1] = 1
    y = rng.integers(0, 4, 2000)
    x = np.zeros((2000, 12, 12))
    for row, family in enumerate(y):
        order = rng.permutation(12)
        edges = plain[family] + (rng.random((12, 12)) < 0.03)
        x[row] = np.clip(edges + edges.T, 0, 1)[order][:, order] * (1 - np.eye(12))
    return _cut(x, y, classes=True)


@functools.cache
def scenes() -> Split:
    """A square, a ring or a plus somewhere on 14 x 14 pixels: its kind, middle and size."""
    rng = np.random.default_rng(55)
    x, y = 0.15 * rng.normal(size=(3600, 14, 14)), np.zeros((3600, 4))
    for row in range(3600):
        size, kind = rng.integers(4, 8), rng.integers(0, 3)
        top, left = rng.integers(0, 14 - size, 2)
        shape = np.ones((size, size))
        if kind == 1:
            shape[1:-1, 1:-1] = 0
        elif kind == 2:
            arm = np.abs(np.arange(size) - (size - 1) / 2) < 1.1
            shape = (arm[:, None] | arm[None, :]).astype(float)
        x[row, top : top + size, left : left + size] += shape
        y[row] = kind, (top + size / 2) / 7 - 1, (left + size / 2) / 7 - 1, size / 7
    return _cut(x, y)


@functools.cache
def results() -> Split:
    """Ten results for each of 1,600 questions, with features and a grade of 0 to 3."""
    rng = np.random.default_rng(56)
    x = rng.normal(size=(1600, 10, 8))
    score = x[..., 0] + 0.7 * x[..., 1] * x[..., 2] - 0.5 * x[..., 3] ** 2 + 0.4 * rng.normal(size=(1600, 10))
    rank = score.argsort(1).argsort(1)
    return _cut(x, np.digitize(rank, (5, 7, 9)).astype(float))


def sentences(size: int, seed: int, length: int = 20) -> Pairs:
    """Stretches of a toy language: subject and verb agree, objects suit the verb, clauses may be nested."""
    rng = np.random.default_rng(seed)
    while True:
        rows = np.array([_babble(rng, length + 1) for _ in range(size)])
        tokens = torch.tensor(rows)
        yield tokens[:, :-1], tokens[:, 1:]


def _babble(rng: np.random.Generator, length: int) -> list[int]:
    words: list[int] = []
    while len(words) < length:
        many, topic = int(rng.integers(2)), int(rng.integers(4))
        words += [1 + many, 4 + 2 * topic + many]
        if rng.random() < 0.3:
            words += [3, 12 + int(rng.integers(3)), 1, 4 + 2 * topic]
        words += [15 + 2 * topic + many, 23 + topic + 4 * int(rng.random() < 0.2), 0]
    return words[:length]


def couples(size: int, seed: int, *, held_out: bool = False) -> Pairs:
    """Two numerals side by side and whether they are the same; half of them are."""
    whole = segments()
    x, y = (whole.val_x, whole.val_y) if held_out else (whole.x, whole.y)
    generator = torch.Generator().manual_seed(seed)
    while True:
        first = torch.randint(len(x), (size,), generator=generator)
        other = torch.randint(len(x), (size, 12), generator=generator)
        wanted = torch.rand(size, 1, generator=generator) < 0.5
        suits = ((y[other] == y[first][:, None]) == wanted).float()
        second = other.gather(1, suits.argmax(1, keepdim=True))[:, 0]
        yield torch.stack([x[first], x[second]], dim=1), (y[first] == y[second]).float()


def curves(size: int, seed: int) -> Pairs:
    """24 points of a random wave, of which the first eight are told."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        t = 4 * torch.rand(size, 24, generator=generator) - 2
        height, phase = torch.rand(2, size, 1, generator=generator)
        y = (0.5 + height) * torch.sin(1.5 * t + 6.28 * phase)
        y = y + 0.05 * torch.randn(size, 24, generator=generator)
        yield torch.stack([t, y], dim=-1), y[:, 8:]
