"""Data of the thirteenth suite's records: tables, series, rows of signs and logs; all are simulated."""

from __future__ import annotations

import functools

import numpy as np
import torch
from data import Split, cut, unit
from torch import Tensor


@functools.cache
def crops() -> Split:
    """Eighteen readings of six things about a field, each crop with a best place among them; which will do?"""
    rng = np.random.default_rng(1300)
    inner = rng.normal(size=(6400, 6))
    x = inner @ rng.normal(size=(6, 18)) / 2 + 0.15 * rng.normal(size=(6400, 18))
    best, need = 1.1 * rng.normal(size=(6, 6)), rng.uniform(0.5, 1.2, (6, 6))
    score = -(need * (inner[:, None, :] - best) ** 2).sum(-1)
    return cut(unit(x), (score + 0.2 * rng.gumbel(size=score.shape)).argmax(1), classes=True)


@functools.cache
def kilns() -> Split:
    """How hard a tile comes out, from seven settings of its kiln."""
    rng = np.random.default_rng(1301)
    x = rng.normal(size=(5600, 7))
    near = 2.0 * np.exp(-0.7 * (x[:, 0] - 0.8 * x[:, 1]) ** 2)
    soak = 0.7 * np.sin(1.4 * x[:, 2]) * (1 + 0.5 * x[:, 3])
    y = near + soak + 0.5 * np.abs(x[:, 4]) - 0.3 * x[:, 5] * x[:, 6]
    return cut(x, unit(y + 0.25 * rng.normal(size=5600))[:, None])


@functools.cache
def comets() -> Split:
    """Twenty-two measures of a thing in the sky; its kind hangs on how far out it is and on which side."""
    rng = np.random.default_rng(1302)
    x = rng.normal(size=(6200, 22))
    along, across = x[:, :4] @ np.array([0.7, -0.4, 0.5, 0.3]), x[:, 4:8] @ np.array([0.6, 0.6, -0.3, 0.4])
    far = np.hypot(along, across) + 0.1 * rng.normal(size=6200) > 1.15
    side = along + 0.7 * np.sin(1.5 * across) + 0.5 * x[:, 8] + 0.15 * rng.normal(size=6200) > 0
    return cut(x, 2 * far.astype(np.int64) + side, classes=True)


@functools.cache
def joints() -> Split:
    """Angles, speeds and pushes of an arm of two parts, and what it holds; the moments at both joints."""
    rng = np.random.default_rng(1303)
    angle, speed, push = rng.uniform(-2, 2, (6000, 2)), rng.normal(size=(6000, 2)), rng.normal(size=(6000, 2))
    load = rng.uniform(0, 1, 6000)
    b = 0.5 * (1 + load) * np.cos(angle[:, 1])
    turn = 0.5 * (1 + load) * np.sin(angle[:, 1])
    weight = (1 + load) * np.cos(angle.sum(1))
    one = (1.6 + 2 * b) * push[:, 0] + (0.5 + b) * push[:, 1] + 1.5 * np.cos(angle[:, 0]) + weight
    one -= turn * (2 * speed[:, 0] * speed[:, 1] + speed[:, 1] ** 2)
    two = (0.5 + b) * push[:, 0] + 0.6 * push[:, 1] + turn * speed[:, 0] ** 2 + weight
    y = np.stack([one, two], 1) + 0.1 * rng.normal(size=(6000, 2))
    return cut(unit(np.concatenate([angle, speed, push, load[:, None]], 1)), unit(y))


@functools.cache
def parcels() -> Split:
    """Carrier, kind, where from and where to as codes, weight and haste as numbers; what did it cost?"""
    rng = np.random.default_rng(1304)
    codes = np.stack([rng.integers(0, n, 12000) for n in (9, 14, 22, 22)], 1)
    numbers = rng.normal(size=(12000, 2))
    house, kind, place = 0.6 * rng.normal(size=9), rng.uniform(0.2, 1.0, 14), rng.normal(size=(22, 2))
    way = np.linalg.norm(place[codes[:, 2]] - place[codes[:, 3]], axis=1)
    y = (
        house[codes[:, 0]]
        + 0.6 * way
        + kind[codes[:, 1]] * numbers[:, 0]
        + 0.4 * np.maximum(numbers[:, 1], 0)
    )
    y = unit(y + 0.3 * rng.normal(size=12000))
    return cut(np.concatenate([codes, numbers], 1), y[:, None])


@functools.cache
def vineyards() -> Split:
    """Sixteen columns on a slope: how good (one of three), blight or none, and how sweet the grapes are."""
    rng = np.random.default_rng(1305)
    x = rng.normal(size=(6000, 16))
    sun, rain = x[:, 0] + 0.6 * np.abs(x[:, 1]) - 0.5, 0.8 * x[:, 2] + 0.7 * x[:, 3] * x[:, 4]
    good = 1.3 * sun - rain + 0.5 * np.sin(2 * x[:, 5]) + 0.2 * rng.normal(size=6000)
    blight = 1.2 * rain - 0.6 * sun + 0.8 * x[:, 6] + 0.3 * rng.logistic(size=6000) > 0.4
    sweet = np.tanh(sun) + 0.4 * x[:, 7] - 0.3 * np.maximum(rain, 0) + 0.1 * rng.normal(size=6000)
    grade = np.digitize(good, np.quantile(good, (0.35, 0.7)))
    return cut(x, np.stack([grade, blight, unit(sweet)], 1))


@functools.cache
def depots() -> Split:
    """Nine numbers on a depot; which of four things was done there by chance and habit, and what it is worth."""
    rng = np.random.default_rng(1306)
    x = rng.normal(size=(9000, 9))
    gain = np.stack(
        [x[:, 0] - 0.5 * x[:, 1], np.abs(x[:, 2]) - 0.6, x[:, 3] * x[:, 4], -x[:, 0] + 0.7 * x[:, 5]], 1
    )
    habit = 0.5 * gain + 0.6 * x[:, 5:] + rng.gumbel(size=gain.shape)
    action = habit.argmax(1)
    paid = gain[np.arange(9000), action] + 0.2 * rng.normal(size=9000)
    worth = np.exp(np.minimum(2.0 * (paid - gain.mean(1)), 2.5))
    return cut(x, np.stack([action, worth / worth.mean()], 1))


@functools.cache
def presses() -> Split:
    """Four gauges of a press at 22 moments; sound, lagging, rising, doubled or knocking?"""
    rng = np.random.default_rng(1310)
    y, t = rng.integers(0, 5, 3800), np.arange(22)
    pace, start = rng.uniform(0.45, 0.75, (3800, 1)), rng.uniform(0, 2 * np.pi, (3800, 1))
    at = pace * t + start
    kind = y[:, None]
    rise = np.where(kind == 2, 0.5 + 0.05 * t, 1.1)
    late = np.where(kind == 1, -0.5, 0.7)
    knock = np.exp(-0.8 * np.abs(t - rng.uniform(3, 19, (3800, 1)))) * (kind == 4)
    x = np.stack(
        [
            rise * np.sin(at),
            rise * np.sin(at - late),
            np.cos(at) + 0.8 * np.cos(2 * at) * (kind == 3),
            0.4 * np.sin(0.5 * at) + 1.8 * knock,
        ],
        -1,
    )
    told = np.where(rng.random(3800) < 0.06, rng.integers(0, 5, 3800), y)
    return cut(x + 0.25 * rng.normal(size=x.shape), told, classes=True)


@functools.cache
def tanks() -> Split:
    """What runs into a tank and whether its valve is open at 16 moments; how full is it in the end?"""
    rng = np.random.default_rng(1311)
    flow = rng.gamma(2.0, 0.25, (4200, 16))
    valve = np.cumsum(rng.random((4200, 16)) < 0.25, 1) % 2
    level = rng.uniform(0, 2, 4200)
    first = np.repeat(level[:, None], 16, 1) * (np.arange(16) == 0)
    for k in range(16):
        level = np.clip(level + flow[:, k] - valve[:, k] * (0.4 + 0.4 * level), 0, 4)
    x = np.stack([2 * (flow - 0.5), valve - 0.5, first], -1)
    return cut(x, unit(level + 0.15 * rng.normal(size=4200))[:, None])


@functools.cache
def queries() -> Split:
    """One of four questions and seven words: one of each of four sorts, and three that say nothing; which is asked?"""
    rng = np.random.default_rng(1312)
    answer = rng.integers(0, 5, (6000, 4))
    asked = rng.integers(0, 4, 6000)
    words = np.concatenate([4 + 5 * np.arange(4) + answer, rng.integers(24, 32, (6000, 3))], 1)
    x = np.concatenate([asked[:, None], rng.permuted(words, axis=1)], 1)
    y = np.where(rng.random(6000) < 0.06, rng.integers(0, 5, 6000), answer[np.arange(6000), asked])
    return cut(x, y, classes=True, tokens=True)


# words of the made-up language: articles, adjectives, nouns, verbs, and the stop
ARTICLE, ADJECTIVE, NOUN, VERB, STOP, NUM_WORDS = 0, 3, 12, 30, 39, 40


@functools.cache
def dialect() -> Split:
    """Stretches of 18 words of a made-up language: three genders agree, and a verb hangs on who acts."""
    rng = np.random.default_rng(1313)
    often = 1 / np.arange(1, 7)
    often /= often.sum()
    words: list[int] = []
    while len(words) < 19 * 3200:
        actor = 0
        for part in range(2):
            gender = int(rng.integers(3))
            words.append(ARTICLE + gender)
            words += [ADJECTIVE + 3 * int(rng.integers(3)) + gender] * int(rng.random() < 0.4)
            which = int(rng.choice(6, p=often))
            words.append(NOUN + 6 * gender + which)
            actor = which % 3 if part == 0 else actor
            if part == 0:
                words.append(VERB + 3 * actor + int(rng.choice(3, p=(0.7, 0.2, 0.1))))
                if rng.random() < 0.25:
                    break
        words.append(STOP)
    x = np.array(words[: 19 * 3200]).reshape(3200, 19)
    return cut(x[:, :-1], x[:, 1:], classes=True, tokens=True)


@functools.cache
def playlists() -> Split:
    """Six songs of 80 that were heard one after the other, and the next one: near in style, or a hit."""
    rng = np.random.default_rng(1314)
    style, hit = rng.normal(size=(80, 3)), 0.7 * rng.normal(size=80)
    mood = rng.normal(size=(9000, 3))
    songs = np.zeros((9000, 7), dtype=np.int64)
    for k in range(7):
        score = -2.5 * ((mood[:, None, :] - style) ** 2).sum(-1) + hit
        songs[:, k] = (score + rng.gumbel(size=score.shape)).argmax(1)
        mood = 0.8 * mood + 0.2 * style[songs[:, k]]
    return cut(songs[:, :6], songs[:, 6], classes=True, tokens=True)


@functools.cache
def kiosks() -> Split:
    """Four weeks of a kiosk in its own unit and which days are fairs, and the week that comes."""
    rng = np.random.default_rng(1315)
    day, kind = np.arange(240), rng.integers(0, 4, 60)
    week = rng.normal(size=(4, 7))[kind][:, day % 7]
    drift = np.cumsum(0.06 * rng.normal(size=(60, 240)), 1)
    year = np.sin(2 * np.pi * (day / 60 + rng.random((60, 1))))
    fair = rng.random((60, 240)) < 0.08
    sold = week + 0.7 * year + drift + 1.5 * fair + 0.2 * rng.normal(size=(60, 240))

    def take(first: int, last: int) -> tuple[Tensor, Tensor]:
        starts = np.arange(first, last - 35, 2)
        rows = starts[:, None] + np.arange(35)
        part, fairs = sold[:, rows].reshape(-1, 35), fair[:, rows].reshape(-1, 35)
        part = (part - part[:, :28].mean(1, keepdims=True)) / part[:, :28].std(1, keepdims=True)
        x = np.concatenate([part[:, :28], fairs[:, 28:]], 1)
        return torch.tensor(x, dtype=torch.float32), torch.tensor(part[:, 28:], dtype=torch.float32)

    return Split(*take(0, 190), *take(190, 240))
