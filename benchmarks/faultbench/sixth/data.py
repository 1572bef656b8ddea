"""Data of the sixth suite: two photographs, real digits and tables, source lines, and simulated worlds."""

from __future__ import annotations

import functools
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from data import Split, cut, digits, unit
from sklearn import datasets
from torch import Tensor

Pairs = Iterator[tuple[Tensor, Tensor]]


@functools.cache
def turned_digits() -> Split:
    """Digits turned by 0, 90, 180 or 270 degrees; the turn is asked for."""
    split = digits()

    def turn(x: Tensor) -> tuple[Tensor, Tensor]:
        pictures = x.reshape(-1, 1, 8, 8)
        turned = torch.cat([torch.rot90(pictures, k, (2, 3)) for k in range(4)])
        return turned, torch.arange(4).repeat_interleave(len(x))

    return Split(*turn(split.x), *turn(split.val_x))


@functools.cache
def _photo(name: str, by: int) -> Tensor:
    """A photograph made smaller, channels first."""
    picture = torch.tensor(datasets.load_sample_image(name) / 255.0, dtype=torch.float32)
    return F.avg_pool2d(picture.permute(2, 0, 1), by)


@functools.cache
def patches() -> Split:
    """Gray patches of two photographs at half the size, and the patches; validation is from the right."""
    rng = np.random.default_rng(600)
    kept: dict[bool, list[Tensor]] = {False: [], True: []}
    for name in ("china.jpg", "flower.jpg"):
        gray = _photo(name, 2).mean(0)
        gray = (gray - gray.mean()) / gray.std()
        for is_val, low, high, number in ((False, 0, 220, 1200), (True, 240, gray.shape[1] - 16, 250)):
            tops, lefts = rng.integers(0, gray.shape[0] - 16, number), rng.integers(low, high, number)
            kept[is_val] += [
                gray[None, t : t + 16, left : left + 16] for t, left in zip(tops, lefts, strict=True)
            ]
    train, val = torch.stack(kept[False]), torch.stack(kept[True])
    return Split(F.avg_pool2d(train, 2), train, F.avg_pool2d(val, 2), val)


@functools.cache
def photograph() -> Split:
    """Places in a photograph and their color."""
    picture = _photo("china.jpg", 4)
    high, wide = picture.shape[1:]
    at = torch.stack(
        torch.meshgrid(torch.linspace(-1, 1, high), torch.linspace(-1, 1, wide), indexing="ij"), -1
    )
    x, y = at.reshape(-1, 2).numpy(), picture.permute(1, 2, 0).reshape(-1, 3).numpy()
    order = np.random.default_rng(601).permutation(len(x))
    return cut(x[order], unit(y)[order])


@functools.cache
def sums() -> Split:
    """Two digits side by side, and their sum only."""
    split, rng = digits(), np.random.default_rng(602)

    def pairs(x: Tensor, y: Tensor, number: int) -> tuple[Tensor, Tensor]:
        rows = torch.tensor(rng.integers(0, len(x), (number, 2)))
        return x[rows].flatten(1), y[rows].sum(1)

    return Split(*pairs(split.x, split.y, 5000), *pairs(split.val_x, split.val_y, 800))


@functools.cache
def tumors() -> Split:
    """Means and errors of ten measures of cells; the worst values are asked for."""
    x, _ = datasets.load_breast_cancer(return_X_y=True)
    x = x[np.random.default_rng(603).permutation(len(x))]
    x = unit(np.log(x + 1e-3))
    return cut(x[:, :20], x[:, 20:])


@functools.cache
def churn() -> Split:
    """Who stays, takes less or leaves: 14 columns, three unequal classes."""
    rng = np.random.default_rng(604)
    x = rng.normal(size=(6000, 14))
    leave = 3.2 * x[:, 0] + 2.4 * x[:, 1] * x[:, 2] - 2.0 * np.abs(x[:, 3]) - 1.0
    less = 2.6 * np.sin(1.5 * x[:, 4]) + 2.2 * x[:, 5] - 1.5 * x[:, 0] - 1.0
    score = np.stack([np.full(6000, 1.0), less, leave], 1) + rng.gumbel(size=(6000, 3)) * 0.5
    return cut(x, score.argmax(1), classes=True)


@functools.cache
def prices() -> Split:
    """Logarithms of house prices from size, rooms, age, state, place and street."""
    rng = np.random.default_rng(605)
    x = rng.normal(size=(6000, 9))
    place = np.exp(-((x[:, 4] - 0.5) ** 2) - (x[:, 5] + 0.3) ** 2)
    y = 0.8 * x[:, 0] + 1.6 * place - 0.3 * x[:, 2] + 0.25 * x[:, 2] ** 2 + 0.4 * x[:, 3] * x[:, 0]
    y = y + 0.3 * np.maximum(x[:, 6], 0) * x[:, 7] + 0.15 * rng.normal(size=6000)
    return cut(x, unit(y)[:, None])


@functools.cache
def rentals() -> Split:
    """Hour, weather and day, and how many bicycles were taken; the station is closed now and then."""
    rng = np.random.default_rng(606)
    hour = rng.uniform(0, 2 * np.pi, 6000)
    warm, wet, wind, free, place = rng.normal(size=(5, 6000))
    rate = np.exp(1.2 + 0.8 * np.sin(hour) + 0.5 * warm - 0.3 * warm**2 - 0.4 * np.maximum(wet, 0))
    rate *= np.exp(0.4 * np.cos(2 * hour) * np.sign(free))
    closed = rng.random(6000) < 1 / (1 + np.exp(-(2.5 * wind - 2.0 + place)))
    y = np.where(closed, 0, rng.poisson(rate))
    return cut(np.stack([np.sin(hour), np.cos(hour), warm, wet, wind, free, place], 1), y[:, None])


@functools.cache
def bearings() -> Split:
    """Pressure at nine stations, and the direction of the wind as a unit vector."""
    rng = np.random.default_rng(607)
    x = rng.normal(size=(5000, 9))
    a = x @ rng.normal(size=(9, 2)) / 3 + 0.8 * np.tanh(2 * x[:, :2] * x[:, 2:4])
    angle = np.arctan2(a[:, 1], a[:, 0]) + 0.5 * np.tanh(x[:, 8]) + 0.1 * rng.normal(size=5000)
    return cut(x, np.stack([np.cos(angle), np.sin(angle)], 1))


@functools.cache
def cells() -> Split:
    """Pictures of one to four bright, blurred cells under an uneven light, and where the cells are."""
    rng = np.random.default_rng(608)
    grid = np.stack(np.meshgrid(np.arange(16), np.arange(16), indexing="ij"))
    x, y = np.zeros((1500, 1, 16, 16)), np.zeros((1500, 1, 16, 16))
    for row in range(1500):
        for _ in range(rng.integers(1, 5)):
            middle, radius = rng.uniform(2, 14, 2), rng.uniform(1.5, 3.0, 2)
            far = (((grid - middle[:, None, None]) / radius[:, None, None]) ** 2).sum(0)
            y[row, 0] = np.maximum(y[row, 0], far < 1)
            x[row, 0] += rng.uniform(0.8, 1.4) / (1 + far**2)
        slope = rng.normal(size=2) * 0.05
        x[row, 0] += (grid * slope[:, None, None]).sum(0) + 0.3 * rng.normal(size=(16, 16))
    return cut((x - x.mean()) / x.std(), y)


@functools.cache
def molecules() -> Split:
    """Bonds of nine atoms (each row: bonds to all, then the kind), and an energy."""
    rng = np.random.default_rng(609)
    strength = rng.uniform(0.3, 1.5, (4, 4))
    strength = strength + strength.T
    x, y = np.zeros((3000, 9, 13)), np.zeros((3000, 1))
    for row in range(3000):
        bonds, kinds = np.zeros((9, 9)), rng.integers(0, 4, 9)
        for atom in range(1, 9):
            bonds[atom, rng.integers(0, atom)] = rng.choice([1.0, 2.0], p=[0.7, 0.3])
        for a, b in rng.integers(0, 9, (2, 2)):
            bonds[max(a, b), min(a, b)] = 1.0 if a != b else 0.0
        bonds = bonds + bonds.T
        crowd = np.maximum(bonds.sum(1) - 3, 0) ** 1.5
        y[row] = (np.sqrt(bonds) * strength[kinds][:, kinds]).sum() / 2 - 0.6 * crowd.sum()
        x[row] = np.concatenate([bonds, np.eye(4)[kinds]], 1)
    return cut(x, unit(y))


@functools.cache
def arrivals() -> Split:
    """Logarithms of 20 waiting times that come in bursts; the next one is asked for at each place."""
    rng = np.random.default_rng(610)
    gaps, burst = np.zeros((2500, 21)), rng.random(2500) < 0.5
    last = rng.normal(size=2500)
    for at in range(21):
        burst = np.where(rng.random(2500) < 0.04, ~burst, burst)
        last = np.where(burst, -1.2 - 0.5 * last, 1.0 + 0.4 * np.sin(2 * last)) + 0.25 * rng.normal(size=2500)
        gaps[:, at] = last
    return cut(gaps[:, :-1, None], gaps[:, 1:, None])


@functools.cache
def springs() -> Split:
    """Places and momenta of a weight on two bent springs, and how both change."""
    rng = np.random.default_rng(611)
    q, p = rng.uniform(-1.5, 1.5, (4000, 2)), rng.uniform(-1.5, 1.5, (4000, 2))
    force = -np.stack([q[:, 0] + 2 * q[:, 0] * q[:, 1], q[:, 1] + q[:, 0] ** 2 - q[:, 1] ** 2], 1)
    y = np.concatenate([p, force], 1) + 0.05 * rng.normal(size=(4000, 4))
    return cut(np.concatenate([q, p], 1), y)


@functools.cache
def slides() -> Split:
    """Bags of ten pieces of tissue: none is odd, some are, or they are of both odd kinds."""
    rng = np.random.default_rng(612)
    y = rng.integers(0, 3, 4000)
    x = rng.normal(size=(4000, 10, 6))
    for row, kind in enumerate(y):
        first, second = rng.permutation(10)[:2]
        odd = rng.permutation(2)
        if kind > 0:
            x[row, first, 3 * odd[0]] += 3.5
        if kind > 1:
            x[row, second, 3 * odd[1]] += 3.5
    return cut(x, y, classes=True)


@functools.cache
def origins() -> Split:
    """Lines of Python's library as 40 letters each; which of four packages are they from?"""
    folder, rng = Path(sysconfig.get_paths()["stdlib"]), np.random.default_rng(613)
    lines: list[tuple[str, int]] = []
    for kind, package in enumerate(("email", "asyncio", "unittest", "multiprocessing")):
        text = "\n".join(f.read_text(encoding="utf-8") for f in sorted((folder / package).glob("*.py")))
        own = sorted({line.strip()[:40] for line in text.split("\n") if len(line.strip()) >= 20})
        lines += [(own[i], kind) for i in rng.permutation(len(own))[:1600]]
    x = np.zeros((len(lines), 40), dtype=np.int64)
    for row, (line, _) in enumerate(lines):
        codes = [ord(c) - 31 if 31 < ord(c) < 127 else 1 for c in line]
        x[row, : len(codes)] = codes
    order = rng.permutation(len(lines))
    return cut(x[order], np.array([k for _, k in lines])[order], classes=True, tokens=True)


@functools.cache
def vitals() -> Split:
    """Twelve readings of a patient; a length of stay, whether it is urgent, and which of three wards."""
    rng = np.random.default_rng(614)
    x = rng.normal(size=(6000, 12))
    stay = np.sin(1.5 * x[:, 0]) + 0.8 * x[:, 1] * x[:, 2] + 0.15 * rng.normal(size=6000)
    urgent = 3 * x[:, 3] + 2 * x[:, 1] * x[:, 4] + rng.logistic(size=6000) * 0.5 > 0.8
    ward = (2.5 * x[:, 5:8] + 2 * np.abs(x[:, 8:11]) + rng.gumbel(size=(6000, 3)) * 0.5).argmax(1)
    return cut(x, np.stack([stay / stay.std(), urgent, ward], 1))


def dates(size: int, seed: int, *, held_out: bool = False) -> Pairs:
    """Dates in one of three orders, the month as a sign of its own, and as eight figures."""
    rng = np.random.default_rng(seed)
    while True:
        year, month, day = (
            rng.integers(1950, 2050, size),
            rng.integers(1, 13, size),
            rng.integers(1, 29, size),
        )
        years = np.stack([year // 1000, year // 100 % 10, year // 10 % 10, year % 10], 1)
        days, months = np.stack([day // 10, day % 10], 1), np.stack([month // 10, month % 10], 1)
        sign = (9 + month)[:, None]
        ways = np.stack(
            [
                np.concatenate(way, 1)
                for way in ((days, sign, years), (sign, days, years), (years, sign, days))
            ]
        )
        rows = ways[rng.integers(0, 3, size), np.arange(size)]
        yield torch.tensor(rows), torch.tensor(np.concatenate([years, months, days], 1))


def episodes(size: int, seed: int, *, held_out: bool = False) -> Pairs:
    """Five digits of ten, three examples of each and eight more to be told, so many times."""
    split, generator = digits(), torch.Generator().manual_seed(seed)
    x, y = (split.val_x, split.val_y) if held_out else (split.x, split.y)
    rows_of = [(y == k).nonzero()[:, 0] for k in range(10)]
    while True:
        rows = []
        for _ in range(size):
            kinds = torch.randperm(10, generator=generator)[:5].tolist()
            rows += [rows_of[k][torch.randint(len(rows_of[k]), (11,), generator=generator)] for k in kinds]
        yield x[torch.stack(rows)].reshape(size, 5, 11, 64), torch.zeros(size)


def views(size: int, seed: int, *, held_out: bool = False) -> Pairs:
    """Two views of the same digits, moved, dimmed and noised."""
    split, generator = digits(), torch.Generator().manual_seed(seed)
    x = split.val_x if held_out else split.x

    def view(pictures: Tensor) -> Tensor:
        down, right = torch.randint(-1, 2, (2,), generator=generator).tolist()
        moved = pictures.reshape(-1, 8, 8).roll((down, right), (1, 2)).flatten(1)
        dim = 0.7 + 0.6 * torch.rand(len(pictures), 1, generator=generator)
        return moved * dim + 0.3 * torch.randn(moved.shape, generator=generator)

    while True:
        rows = torch.randperm(len(x), generator=generator)[:size]
        yield torch.cat([view(x[rows]), view(x[rows])], 1), torch.zeros(len(rows))


def starts(size: int, seed: int, *, held_out: bool = False) -> Pairs:
    """Angle and speed of a pole that is to be brought upright."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield 2.4 * torch.rand(size, 2, generator=generator) - 1.2, torch.zeros(size)
