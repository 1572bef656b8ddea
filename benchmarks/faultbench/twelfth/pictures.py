"""Pictures of the twelfth suite: knots, stones, gauges, stamps and lakes."""

from __future__ import annotations

import functools

import numpy as np
from data import Split, cut, unit


def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    return np.meshgrid(np.arange(size), np.arange(size), indexing="ij")


@functools.cache
def knots() -> Split:
    """Gray pictures of a loop that is bent two, three, four or five times; how often?"""
    rng = np.random.default_rng(1220)
    rows, columns = _grid(14)
    y = rng.integers(0, 4, 3200)
    middle, turn = rng.uniform(5.8, 7.2, (2, 3200, 1, 1)), rng.uniform(0, 2 * np.pi, (3200, 1, 1))
    down, right = rows - middle[0], columns - middle[1]
    far, angle = np.hypot(down, right), np.arctan2(down, right)
    edge = rng.uniform(3.6, 4.4, (3200, 1, 1)) + 1.5 * np.cos((y + 2)[:, None, None] * angle + turn)
    x = np.exp(-0.5 * ((far - edge) / 0.9) ** 2) + 0.15 * rng.normal(size=(3200, 14, 14))
    return cut(((x - x.mean()) / x.std())[:, None], y, classes=True)


@functools.cache
def stones() -> Split:
    """Three colors on 12 x 12 pixels: grains, veins, layers, flakes or cracks, in any color."""
    rng = np.random.default_rng(1221)
    rows, columns = _grid(12)
    y = rng.integers(0, 5, 2600)
    a, b, c, d = rng.uniform(0, 2 * np.pi, (4, 2600, 1, 1))
    kinds = (
        np.sin(1.9 * rows + a) * np.sin(1.9 * columns + b),
        np.sin(0.9 * rows + 1.5 * np.sin(0.7 * columns + a) + b),
        np.sin(1.4 * columns + 0.15 * rows + a),
        np.sin(1.1 * (rows + columns) + a) * np.sin(1.1 * (rows - columns) + b),
        2.5 * np.exp(-np.abs(6 + 3 * np.sin(0.6 * rows + c) - columns)) - 0.8,
    )
    shape = np.stack(np.broadcast_arrays(*kinds), 1)[np.arange(2600), y]
    color = rng.uniform(0.4, 1.2, (2600, 3, 1, 1)) * np.where(rng.random((2600, 3, 1, 1)) < 0.5, 1, 0.3)
    x = shape[:, None] * color + 0.3 * np.sin(d)[:, None] + 0.4 * rng.normal(size=(2600, 3, 12, 12))
    return cut((x - x.mean()) / x.std(), y, classes=True)


@functools.cache
def gauges() -> Split:
    """A round gauge with a hand on 14 x 14 pixels, and what it shows."""
    rng = np.random.default_rng(1222)
    rows, columns = _grid(14)
    shown = rng.uniform(-1, 1, 2600)
    angle = (2.2 * shown)[:, None, None] + 0.02 * rng.normal(size=(2600, 1, 1))
    middle = rng.uniform(6.0, 7.0, (2, 2600, 1, 1))
    down, right = rows - middle[0], columns - middle[1]
    along = -down * np.cos(angle) + right * np.sin(angle)
    across = down * np.sin(angle) + right * np.cos(angle)
    hand = np.exp(-0.5 * (across / 0.8) ** 2) / (1 + np.exp(-3 * along)) / (1 + np.exp(3 * (along - 5)))
    rim = 0.5 * np.exp(-0.5 * ((np.hypot(down, right) - 5.6) / 0.6) ** 2)
    x = hand + rim + 0.1 * rng.normal(size=(2600, 14, 14))
    return cut(((x - x.mean()) / x.std())[:, None], unit(shown)[:, None])


@functools.cache
def stamps() -> Split:
    """Soft ovals with a bar across on 9 x 9 pixels: place, lengths and turn are free."""
    rng = np.random.default_rng(1223)
    rows, columns = _grid(9)
    place, long = rng.uniform(3.2, 4.8, (2, 3600, 1, 1)), rng.uniform(1.2, 3.4, (2, 3600, 1, 1))
    turn = rng.uniform(0, np.pi, (3600, 1, 1))
    down, right = rows - place[0], columns - place[1]
    along, across = down * np.cos(turn) + right * np.sin(turn), right * np.cos(turn) - down * np.sin(turn)
    oval = 1 / (1 + np.exp(4 * (np.hypot(along / long[0], across / long[1]) - 1)))
    x = oval - 0.8 * np.exp(-0.5 * (along / 0.7) ** 2) * oval + 0.03 * rng.normal(size=(3600, 9, 9))
    return cut(2.0 * ((x - x.mean()) / x.std()).reshape(3600, 81), np.zeros(3600), classes=True)


@functools.cache
def lakes() -> Split:
    """Three bands of light from above on 16 x 16 pixels, and where there is water."""
    rng = np.random.default_rng(1224)
    rows, columns = _grid(16)
    wet = np.zeros((1300, 16, 16), dtype=bool)
    for _ in range(2):
        place, size = rng.uniform(2, 14, (2, 1300, 1, 1)), rng.uniform(1.8, 4.5, (2, 1300, 1, 1))
        wet |= np.hypot((rows - place[0]) / size[0], (columns - place[1]) / size[1]) < 1
    hills = np.sin(rows / 3 + rng.uniform(0, 6, (1300, 1, 1))) * np.sin(columns / 4)
    wood = np.cos(columns / 2 + rng.uniform(0, 6, (1300, 1, 1)))
    x = np.stack([0.8 * wood - 0.9 * wet, hills + 0.7 * wood - 0.5 * wet, 1.0 * wet + 0.8 * hills], 1)
    x = x + 0.5 * rng.normal(size=x.shape)
    return cut((x - x.mean()) / x.std(), wet[:, None].astype(float))
