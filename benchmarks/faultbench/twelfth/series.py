"""Data of the twelfth suite that come one after the other: words, strokes, lines, chants and rivers."""

from __future__ import annotations

import functools

import numpy as np
import torch
from data import Split, cut, unit
from torch import Tensor


@functools.cache
def reviews() -> Split:
    """Twelve words of 50, some of them good or bad; one word turns what comes next. Is it praise?"""
    rng = np.random.default_rng(1230)
    x = rng.integers(2, 50, (5000, 12))
    x = np.where(rng.random(x.shape) < 0.15, 1, x)
    worth = np.where(np.arange(50) < 26, 0.0, rng.normal(size=50) + np.where(np.arange(50) < 38, 1, -1))
    worth[:2] = 0
    turned = np.concatenate([np.zeros((5000, 1), dtype=bool), x[:, :-1] == 1], 1)
    score = (worth[x] * np.where(turned, -1.5, 1.0)).sum(1)
    y = score + 0.3 * rng.normal(size=5000) > np.median(score)
    return cut(x, y.astype(np.int64), classes=True, tokens=True)


@functools.cache
def gestures() -> Split:
    """The way of a hand in two columns at 28 moments: which of five signs did it draw, at any pace?"""
    rng = np.random.default_rng(1231)
    y = rng.integers(0, 5, 3600)
    pace = np.cumsum(rng.uniform(0.4, 1.6, (3600, 28)), 1)
    t = 2 * np.pi * pace / pace[:, -1:] * rng.uniform(0.85, 1.0, (3600, 1))
    ways = (
        (np.cos(t), np.sin(t)),
        (np.cos(t), -np.sin(t)),
        (np.sin(t), np.sin(2 * t)),
        (t / 3 - 1, np.abs((t % np.pi) / np.pi - 0.5) * 3 - 0.7),
        (np.where(t < np.pi, t / 2 - 0.8, 0.8), np.where(t < np.pi, 0.8, 0.8 - (t - np.pi) / 2)),
    )
    x = np.stack([np.stack(way, -1) for way in ways], 1)[np.arange(3600), y]
    x = x * rng.uniform(0.7, 1.3, (3600, 1, 2)) + 0.2 * rng.normal(size=(3600, 1, 2))
    return cut(x + 0.15 * rng.normal(size=x.shape), y, classes=True)


@functools.cache
def recipes() -> Split:
    """Ten things of 40 in any order, and which of four kitchens they are from; pairs of things decide."""
    rng = np.random.default_rng(1232)
    x = np.argsort(rng.random((5000, 40)), 1)[:, :10]
    there = np.zeros((5000, 40))
    np.put_along_axis(there, x, 1.0, 1)
    alone, pairs = rng.normal(size=(40, 4)), rng.normal(size=(20, 4))
    score = 0.9 * there @ alone + 1.2 * (there[:, :20] * there[:, 20:]) @ pairs
    y = (score + 0.3 * rng.gumbel(size=score.shape)).argmax(1)
    return cut(x, y, classes=True, tokens=True)


@functools.cache
def verses() -> Split:
    """Lines of 22 signs of 32: each follows from the one before and a bit of the second before, or is any."""
    rng = np.random.default_rng(1233)
    table = rng.integers(0, 32, (32, 2))
    x = np.zeros((3200, 23), dtype=np.int64)
    x[:, :2] = rng.integers(0, 32, (3200, 2))
    for place in range(2, 23):
        told = table[x[:, place - 1], x[:, place - 2] % 2]
        x[:, place] = np.where(rng.random(3200) < 0.12, rng.integers(0, 32, 3200), told)
    return cut(x[:, :-1], x[:, 1:], classes=True, tokens=True)


@functools.cache
def chants() -> Split:
    """Songs of 20 signs of 14 in one of three moods that changes at times; the next sign is asked for."""
    rng = np.random.default_rng(1234)
    follows = rng.dirichlet(np.full(14, 0.12), (3, 14)).cumsum(-1)
    x, mood = np.zeros((3400, 21), dtype=np.int64), rng.integers(0, 3, 3400)
    x[:, 0] = rng.integers(0, 14, 3400)
    for place in range(1, 21):
        mood = np.where(rng.random(3400) < 0.04, rng.integers(0, 3, 3400), mood)
        x[:, place] = np.minimum((rng.random((3400, 1)) > follows[mood, x[:, place - 1]]).sum(1), 13)
    return cut(x[:, :-1], x[:, 1:], classes=True, tokens=True)


@functools.cache
def rivers() -> Split:
    """Height of a river and rain over 18 days, and the height on the next three; rain comes down late."""
    rng = np.random.default_rng(1235)
    days = 6000
    rain = np.where(rng.random(days) < 0.3, rng.gamma(1.5, 1.0, days), 0.0)
    ground, height = np.zeros(days), np.zeros(days)
    for day in range(1, days):
        ground[day] = 0.8 * ground[day - 1] + 0.3 * rain[day - 1]
        run = np.maximum(ground[day] - 0.6, 0)
        height[day] = 0.7 * height[day - 1] + 0.5 * run + 0.03 * rng.normal()
    x = np.stack([unit(height), unit(rain)], 1)

    def take(at: np.ndarray) -> tuple[Tensor, Tensor]:
        part = torch.tensor(x[at[:, None] + np.arange(21)], dtype=torch.float32)
        return part[:, :18], part[:, 18:, 0]

    return Split(*take(np.arange(0, 4700)), *take(np.arange(4730, 5970)))
