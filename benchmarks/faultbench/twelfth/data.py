"""Data of the twelfth suite for rows of columns, sets of things and a graph; all are simulated."""

from __future__ import annotations

import functools

import numpy as np
import torch
from data import Split, cut, unit
from torch import Tensor


@functools.cache
def soils() -> Split:
    """Sixteen measures of a sample of earth, and which of five soils it is."""
    rng = np.random.default_rng(1200)
    x = rng.normal(size=(6500, 16))
    sand, lime = x[:, 0] + 0.7 * x[:, 1] * x[:, 2], np.abs(x[:, 3]) - 0.8 + 0.5 * x[:, 4]
    moist = np.sin(1.3 * x[:, 5]) + 0.6 * x[:, 6]
    score = np.stack([sand, -sand + 0.4 * lime, lime + moist, -moist, 0.8 * x[:, 7] - 0.5 * lime], 1)
    y = (2.2 * score + 0.5 * rng.gumbel(size=score.shape)).argmax(1)
    return cut(x, y, classes=True)


@functools.cache
def alloys() -> Split:
    """How hard an alloy is, from nine columns on what is in it and on how it was made."""
    rng = np.random.default_rng(1201)
    x = rng.normal(size=(5000, 9))
    grain = 1 / (0.6 + np.exp(0.8 * x[:, 0])) + 0.3 * x[:, 1]
    mix = 0.6 * x[:, 2] * np.tanh(x[:, 3]) - 0.4 * np.maximum(x[:, 4] - 0.5, 0) + 0.3 * np.cos(2 * x[:, 5])
    return cut(x, unit(grain + mix + 0.1 * rng.normal(size=5000))[:, None])


@functools.cache
def donors() -> Split:
    """Twenty columns on people who were written to, and whether they gave."""
    rng = np.random.default_rng(1202)
    x = rng.normal(size=(6000, 20))
    score = x[:, :6] @ rng.normal(size=6) * 0.7 + 1.2 * x[:, 6] * x[:, 7] + 0.8 * (np.abs(x[:, 8]) > 1)
    y = 1.8 * score - 0.4 + 0.6 * rng.logistic(size=6000) > 0
    return cut(x, y.astype(np.int64), classes=True)


@functools.cache
def genes() -> Split:
    """Sixty genes that five programs switch on and off, as logarithms; they are told from themselves."""
    rng = np.random.default_rng(1203)
    inner = rng.normal(size=(4200, 5))
    first = np.tanh(inner @ rng.normal(size=(5, 24)) / 1.5 + 0.5 * rng.normal(size=24))
    x = first @ rng.normal(size=(24, 60)) / 3 + 0.25 * rng.normal(size=(4200, 60))
    return cut((x - x.mean()) / x.std(), np.zeros(4200), classes=True)


@functools.cache
def ferries() -> Split:
    """Fourteen columns on a crossing; which of four berths it takes (first column), and how late it is."""
    rng = np.random.default_rng(1204)
    x = rng.normal(size=(6000, 14))
    wind, load = x[:, 0] - 0.6 * x[:, 1], np.abs(x[:, 2]) + 0.5 * x[:, 3]
    score = np.stack([wind, load - 0.5, -wind + 0.5 * x[:, 4], x[:, 5] * x[:, 6]], 1)
    berth = (2.2 * score + 0.5 * rng.gumbel(size=score.shape)).argmax(1)
    late = 0.7 * np.maximum(wind, 0) ** 1.5 + 0.5 * load * np.tanh(x[:, 7]) + 0.15 * rng.normal(size=6000)
    return cut(x, np.stack([berth.astype(float), unit(late)], 1))


@functools.cache
def shops() -> Split:
    """A buyer of 120, a thing of 70, the hour and two numbers; was it put in the basket?"""
    rng = np.random.default_rng(1205)
    sizes = (120, 70, 24)
    codes = np.stack([rng.integers(0, n, 16000) for n in sizes], 1)
    taste, kind = rng.normal(size=(120, 3)), rng.normal(size=(70, 3))
    fond, good = 0.5 * rng.normal(size=120), 0.9 * rng.normal(size=70)
    numbers = rng.normal(size=(16000, 2))
    score = 0.9 * (taste[codes[:, 0]] * kind[codes[:, 1]]).sum(1) + fond[codes[:, 0]] + good[codes[:, 1]]
    score = score + 0.8 * np.sin(2 * np.pi * codes[:, 2] / 24) - 0.9 * numbers[:, 0]
    y = 1.6 * score + 0.6 * rng.logistic(size=16000) > 0
    return cut(np.concatenate([codes, numbers], 1), y[:, None].astype(float))


@functools.cache
def visits() -> Split:
    """Seven columns on a day, and how many came; on some days the house is shut."""
    rng = np.random.default_rng(1206)
    x = rng.normal(size=(6000, 7))
    rate = np.exp(1.0 + 0.5 * x[:, 0] - 0.4 * np.abs(x[:, 1]) + 0.3 * np.sin(2 * x[:, 2]))
    shut = 1.5 * x[:, 3] + x[:, 4] * x[:, 5] - 1.2 + 0.4 * rng.logistic(size=6000) > 0
    y = np.where(shut, 0, rng.poisson(rate))
    return cut(x, y[:, None].astype(float))


@functools.cache
def rooms() -> Split:
    """Twelve columns and a rent that follows another rule in each of three parts of a town."""
    rng = np.random.default_rng(1207)
    x = rng.normal(size=(7000, 12))
    part = np.digitize(x[:, 0] + 0.3 * x[:, 1], (-0.5, 0.5))
    rules = rng.normal(size=(3, 10)) * 0.55
    y = (x[:, 2:] * rules[part]).sum(1) + 0.4 * np.maximum(x[:, 2] * x[:, 3], 0) + 0.7 * part
    return cut(x, unit(y + 0.2 * rng.normal(size=7000))[:, None])


@functools.cache
def drones() -> Split:
    """Place, speed and tilt of a drone, and the two pushes that a good pilot gave it."""
    rng = np.random.default_rng(1208)
    x = rng.normal(size=(6000, 6))
    up = 1.2 - 0.8 * x[:, 1] - 0.7 * x[:, 3] + 0.4 * x[:, 4] ** 2
    turn = -1.1 * np.sin(x[:, 4]) - 0.6 * x[:, 5] - 0.5 * np.tanh(x[:, 0] + 0.8 * x[:, 2])
    push = np.stack([np.tanh(0.8 * (up + turn)), np.tanh(0.8 * (up - turn))], 1)
    return cut(x, unit(push + 0.08 * rng.normal(size=push.shape)))


@functools.cache
def clouds() -> Split:
    """Twenty noisy points from a ball's skin, a can, a plate, a spring or a box; which is it?"""
    rng = np.random.default_rng(1209)
    y = rng.integers(0, 5, 3500)
    flat, angle = rng.uniform(-1, 1, (3500, 20)), rng.uniform(0, 2 * np.pi, (3500, 20))
    ring = np.stack([np.cos(angle), np.sin(angle)], -1)
    ball = np.concatenate([ring * np.sqrt(1 - flat**2)[..., None], flat[..., None]], -1)
    can = np.concatenate([0.7 * ring, flat[..., None]], -1)
    plate = np.concatenate([ring * np.sqrt(np.abs(flat))[..., None], 0 * flat[..., None]], -1)
    turns = 3.0 * flat[..., None]
    spring = np.concatenate([0.7 * np.cos(turns), 0.7 * np.sin(turns), flat[..., None]], -1)
    box = rng.uniform(-0.9, 0.9, (3500, 20, 3))
    x = np.stack([ball, can, plate, spring, box], 1)[np.arange(3500), y]
    x = x * rng.uniform(0.8, 1.2, (3500, 1, 1)) + 0.06 * rng.normal(size=x.shape)
    return cut(x / x.std(), y, classes=True)


@functools.cache
def signatures() -> Split:
    """Two samples of a pen of 30 readings each, and whether both are by the same of 50 people."""
    rng = np.random.default_rng(1210)
    mix = rng.normal(size=(13, 30)) / 3
    people = 1.2 * rng.normal(size=(50, 8))
    one = rng.integers(0, 50, 6000)
    same = rng.random(6000) < 0.5
    other = np.where(same, one, (one + rng.integers(1, 50, 6000)) % 50)

    def sample(who: np.ndarray) -> np.ndarray:
        inner = np.concatenate([people[who], 0.8 * rng.normal(size=(len(who), 5))], 1)
        return np.tanh(inner @ mix) + 0.1 * rng.normal(size=(len(who), 30))

    x = np.stack([sample(one), sample(other)], 1)
    return cut(x / x.std(), same.astype(float))


@functools.cache
def voices() -> Split:
    """Three short sounds of 32 readings: twice the same of 40 tones, moved and noised, and another one."""
    rng = np.random.default_rng(1211)
    t = np.arange(32)
    pitch, over = rng.uniform(0.2, 1.4, 40), rng.uniform(-1, 1, (40, 2))

    def sound(who: np.ndarray) -> np.ndarray:
        phase = rng.uniform(0, 2 * np.pi, (len(who), 1)) + pitch[who][:, None] * t
        x = np.sin(phase) + over[who, :1] * np.sin(2 * phase) + over[who, 1:] * np.sin(0.5 * phase)
        return x + 0.2 * rng.normal(size=x.shape)

    one = rng.integers(0, 40, 4000)
    other = (one + rng.integers(1, 40, 4000)) % 40
    return cut(np.stack([sound(one), sound(one), sound(other)], 1), np.zeros(4000))


@functools.cache
def papers() -> tuple[Tensor, Tensor, Split]:
    """Who cites whom among 420 papers of six fields: normalized links, words of each, and their fields."""
    rng = np.random.default_rng(1212)
    y = rng.integers(0, 6, 420)
    cites = np.triu(rng.random((420, 420)) < np.where(y[:, None] == y[None, :], 0.07, 0.006), 1)
    cites = (cites | cites.T) + np.eye(420)
    root = 1 / np.sqrt(cites.sum(1))
    words = rng.normal(size=(420, 20)) + 0.55 * rng.normal(size=(6, 20))[y]
    rows, labels = torch.arange(420), torch.tensor(y)
    split = Split(rows[:300], labels[:300], rows[300:], labels[300:])
    matrix = torch.tensor(root[:, None] * cites * root[None, :], dtype=torch.float32)
    return matrix, torch.tensor(words, dtype=torch.float32), split


def citations() -> Split:
    return papers()[2]
