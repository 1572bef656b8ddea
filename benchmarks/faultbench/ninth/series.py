"""Data of the ninth suite that come one after the other: beats, loads, words, signs, films and views."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np
import torch
from data import Split, cut, unit
from torch import Tensor

Pairs = Iterator[tuple[Tensor, Tensor]]


@functools.cache
def beats() -> Split:
    """Four kinds of heartbeats of 40 readings with a drift; the last wave comes late, twice or not at all."""
    rng = np.random.default_rng(920)
    t = np.arange(40)[None, :]

    def wave(at: np.ndarray, width: float) -> np.ndarray:
        return np.exp(-0.5 * ((t - at) / width) ** 2)

    y, start = rng.integers(0, 4, 3200), rng.uniform(8, 14, (3200, 1))
    late = np.where(y[:, None] == 1, 15.0, 9.0)
    x = 1.5 * wave(start, 1.2) - 0.5 * wave(start + 2.5, 1.0)
    x = x + np.where(y[:, None] == 3, 0.0, 0.7) * wave(start + late, 2.2)
    x = x + np.where(y[:, None] == 2, 0.7, 0.0) * wave(start + 19, 2.2)
    x = x + 0.2 * np.sin(t / 15 + rng.uniform(0, 6.3, (3200, 1))) + 0.16 * rng.normal(size=(3200, 40))
    return cut(unit(x.reshape(-1)).reshape(3200, 40), y, classes=True)


@functools.cache
def loads() -> Split:
    """Load, warmth and day of the week for 24 hours, and the load of the next six."""
    rng = np.random.default_rng(921)
    hours = np.arange(24 * 260)
    warm = np.zeros(len(hours))
    for hour in hours[1:]:
        warm[hour] = 0.96 * warm[hour - 1] + 0.28 * rng.normal()
    free = (hours // 24) % 7 >= 5
    day = np.sin(2 * np.pi * hours / 24 - 1) + 0.5 * np.sin(4 * np.pi * hours / 24)
    load = np.where(free, 0.5, 1.2) * day + 0.5 * warm**2 - 0.4 * free + 0.12 * rng.normal(size=len(hours))
    x = np.stack([unit(load), unit(warm), free - 0.3], 1)
    starts = np.arange(0, len(hours) - 30)
    first = starts[: len(starts) * 4 // 5 - 30]
    last = starts[len(starts) * 4 // 5 :: 2]

    def take(at: np.ndarray) -> tuple[Tensor, Tensor]:
        rows = at[:, None] + np.arange(30)
        part = torch.tensor(x[rows], dtype=torch.float32)
        return part[:, :24], part[:, 24:, 0]

    return Split(*take(first), *take(last))


@functools.cache
def surnames() -> Split:
    """Names of nine letters at most from five invented tongues; each has its own habits of what follows."""
    rng = np.random.default_rng(922)
    follows = rng.dirichlet(np.full(18, 0.25), (5, 18))
    y, long = rng.integers(0, 5, 4500), rng.integers(5, 10, 4500)
    x = np.zeros((4500, 9), dtype=np.int64)
    at = rng.integers(0, 18, 4500)
    for place in range(9):
        x[:, place] = np.where(place < long, at + 1, 0)
        up = follows[y, at].cumsum(1)
        at = np.minimum((rng.random((4500, 1)) > up).sum(1), 17)
    return cut(x, y, classes=True, tokens=True)


@functools.cache
def parts_of_speech() -> Split:
    """Lines of fourteen words of 60; what a word is hangs on it and, for half of them, on the line's first."""
    rng = np.random.default_rng(923)
    x = rng.integers(3, 60, (3500, 14))
    x[:, 0] = rng.integers(0, 3, 3500)
    usual = rng.integers(0, 6, 60)
    y = (usual[x] + np.where(x % 2 == 0, 2 * x[:, :1], 0)) % 6
    wrong = rng.random(x.shape) < 0.02
    return cut(x, np.where(wrong, rng.integers(0, 6, x.shape), y), classes=True, tokens=True)


@functools.cache
def melodies() -> Split:
    """Tunes of 20 notes of 24 on a scale of their own, where a motif of four comes again; and the next notes."""
    rng = np.random.default_rng(924)
    scale = np.array([0, 2, 4, 5, 7, 9, 11, 12, 14, 16])
    key = rng.integers(0, 8, (3000, 1))
    motif = rng.integers(0, 10, (3000, 4))
    notes = np.zeros((3000, 21), dtype=np.int64)
    for bar in range(6):
        step = motif.copy()
        if bar:
            change = rng.random((3000, 4)) < 0.1
            step = np.where(change, rng.integers(0, 10, (3000, 4)), motif)
        high = min(bar * 4 + 4, 21)
        notes[:, bar * 4 : high] = (scale[step] + key)[:, : high - bar * 4]
    return cut(notes[:, :-1], notes[:, 1:], classes=True, tokens=True)


@functools.cache
def films() -> Split:
    """Stars that 150 people gave to 90 films, centered; taste has three sides."""
    rng = np.random.default_rng(925)
    people, works = rng.normal(size=(150, 3)), rng.normal(size=(90, 3))
    kind, good = 0.5 * rng.normal(size=150), 0.7 * rng.normal(size=90)
    rows = rng.permutation(150 * 90)[:9000]
    who, what = rows // 90, rows % 90
    y = (people[who] * works[what]).sum(1) * 0.7 + kind[who] + good[what] + 0.35 * rng.normal(size=9000)
    return cut(np.stack([who, what], 1), unit(y)[:, None], tokens=True)


def crops(size: int, seed: int) -> Pairs:
    """Two noisy readings of the same thing through two instruments, of which there are very many."""
    mix = torch.randn(2, 8, 20, generator=torch.Generator().manual_seed(926))
    generator = torch.Generator().manual_seed(seed)
    while True:
        inner = torch.randn(size, 8, generator=generator)
        noise = 0.25 * torch.randn(2, size, 20, generator=generator)
        one, other = torch.tanh(inner @ mix / 2.5) + noise
        yield one, other
