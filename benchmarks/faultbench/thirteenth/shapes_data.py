"""Data of the thirteenth suite for pictures, signals, sets and graphs; all are simulated."""

from __future__ import annotations

import functools

import numpy as np
from data import Split, cut, unit


def _grid(rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    return np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")


def _soft(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _mistold(rng: np.random.Generator, y: np.ndarray, share: float) -> np.ndarray:
    """Some labels are drawn at random, as in any data that people have labeled."""
    return np.where(rng.random(len(y)) < share, rng.integers(0, y.max() + 1, len(y)), y)


# where the strokes of each sign begin and end
_STROKES = (
    ((-1, -1, 1, -1), (1, -1, 1, 1)),
    ((-1, -1, -1, 1), (-1, 0, 1, 0)),
    ((-1, -1, 1, 1), (-1, 1, 1, -1)),
    ((-1, -1, 1, 0), (1, 0, -1, 1)),
    ((-1, -1, -1, 1), (-1, 1, 1, -1), (1, -1, 1, 1)),
    ((-1, -1, 1, -1), (0, -1, 0, 1), (-1, 1, 1, 1)),
)


@functools.cache
def glyphs() -> Split:
    """One of six signs of two or three strokes on 16 x 16 pixels, turned, sheared and moved a little."""
    rng = np.random.default_rng(1300)
    y = rng.integers(0, 6, 3000)
    rows, columns = _grid(16, 16)
    turn, shear = rng.uniform(-0.45, 0.45, (2, 3000, 1, 1))
    size, place = rng.uniform(4.0, 5.6, (2, 3000, 1, 1)), rng.uniform(6.3, 8.7, (2, 3000, 1, 1))
    down, right = rows - place[0], columns - place[1]
    a = (np.cos(turn) * down + np.sin(turn) * right) / size[0]
    b = (np.cos(turn) * right - np.sin(turn) * down) / size[1] + shear * a
    far = np.full((6, 3000, 16, 16), np.inf)
    for kind, strokes in enumerate(_STROKES):
        for r, c, r2, c2 in strokes:
            along = ((a - r) * (r2 - r) + (b - c) * (c2 - c)) / ((r2 - r) ** 2 + (c2 - c) ** 2)
            along = along.clip(0, 1)
            near = np.hypot(a - r - along * (r2 - r), b - c - along * (c2 - c))
            far[kind] = np.minimum(far[kind], near)
    x = np.exp(-0.5 * (far[y, np.arange(3000)] / 0.18) ** 2) * rng.uniform(0.7, 1.3, (3000, 1, 1))
    x = x + 0.25 * rng.normal(size=x.shape)
    return cut(((x - x.mean()) / x.std())[:, None], _mistold(rng, y, 0.05), classes=True)


@functools.cache
def horizons() -> Split:
    """A gray view of 12 x 18 pixels out of a plane, with clouds and fields; how far it leans and looks down."""
    rng = np.random.default_rng(1301)
    rows, columns = _grid(12, 18)
    lean, high = rng.uniform(-0.5, 0.5, 3000), rng.uniform(-3.5, 3.5, 3000)
    lift = rows - 5.5 - high[:, None, None] - np.tan(lean)[:, None, None] * (columns - 8.5)
    ground, wave = _soft(2.5 * lift), rng.uniform(0, 6, (2, 3000, 1, 1))
    field = 0.35 * np.sin(0.9 * columns + wave[0]) * np.cos(1.1 * rows + wave[1])
    cloud = 0.3 * np.sin(0.4 * columns + 0.7 * rows + wave[1])
    x = ground * (field - rng.uniform(0.5, 1.2, (3000, 1, 1))) + (1 - ground) * (0.4 + cloud)
    x = x + 0.15 * rng.normal(size=x.shape)
    y = unit(np.stack([lean, high], 1)) + 0.15 * rng.normal(size=(3000, 2))
    return cut(((x - x.mean()) / x.std())[:, None], y)


@functools.cache
def defects() -> Split:
    """Three colors on 14 x 14 pixels of a tile with a grain: whole, or with a scratch, a dent or a stain."""
    rng = np.random.default_rng(1302)
    n = 3000
    y = rng.integers(0, 4, n)
    rows, columns = _grid(14, 14)
    wave, place = rng.uniform(0, 6, (2, n, 1, 1)), rng.uniform(3.5, 9.5, (2, n, 1, 1))
    down, right, turn = rows - place[0], columns - place[1], rng.uniform(0, np.pi, (n, 1, 1))
    grain = 0.4 * np.sin(0.8 * rows + 0.5 * columns + wave[0]) + 0.3 * np.sin(1.3 * columns + wave[1])
    across, along = down * np.cos(turn) + right * np.sin(turn), right * np.cos(turn) - down * np.sin(turn)
    scratch = -1.8 * np.exp(-0.5 * (across / 0.6) ** 2) * _soft(4 - np.abs(along))
    far, size = np.hypot(down, right), rng.uniform(1.4, 2.6, (n, 1, 1))
    dent = 1.8 * across / size * np.exp(-0.5 * (far / size) ** 2)
    stain = _soft(2.5 * (size - far + 0.4 * np.sin(4 * np.arctan2(down, right) + wave[0])))
    tint = np.where(y[:, None] == 3, rng.uniform(-1.4, -0.3, (n, 3)), 1.0)[..., None, None]
    mark = np.stack([0 * scratch, scratch, dent, stain], 1)[np.arange(n), y]
    strength = rng.uniform(0.9, 1.4, (n, 1, 1, 1))
    x = (grain + rng.uniform(-0.3, 0.3, (n, 1, 1)))[:, None] + strength * tint * mark[:, None]
    x = x + 0.2 * rng.normal(size=(n, 3, 14, 14))
    return cut((x - x.mean()) / x.std(), _mistold(rng, y, 0.05), classes=True)


@functools.cache
def cells() -> Split:
    """Three cells under a microscope on 16 x 16 pixels; for each: ground, body or kernel."""
    rng = np.random.default_rng(1303)
    rows, columns = _grid(16, 16)
    kind, shade = np.zeros((1200, 16, 16), dtype=np.int64), np.zeros((1200, 16, 16))
    for _ in range(3):
        place, size = rng.uniform(2, 14, (2, 1200, 1, 1)), rng.uniform(2.4, 3.8, (2, 1200, 1, 1))
        off = rng.uniform(-0.6, 0.6, (2, 1200, 1, 1))
        far = np.hypot((rows - place[0]) / size[0], (columns - place[1]) / size[1])
        inner = np.hypot((rows - place[0] - off[0]) / size[0], (columns - place[1] - off[1]) / size[1])
        here = np.where(inner < 0.48, 2, np.where(far < 1, 1, 0))
        kind = np.maximum(kind, here)
    for number, value in enumerate((0.0, 0.8, 1.9)):
        shade += value * (kind == number)
    light = 0.5 * np.sin(rows / 5 + rng.uniform(0, 6, (1200, 1, 1))) * np.cos(columns / 6)
    x = shade + light + 0.45 * rng.normal(size=shade.shape)
    return cut(((x - x.mean()) / x.std())[:, None], kind, classes=True)


@functools.cache
def haze() -> Split:
    """Three colors of a street on 14 x 14 pixels in a haze that gets thicker upwards, and without it."""
    rng = np.random.default_rng(1304)
    n = 1600
    rows, columns = _grid(14, 14)
    clear = rng.uniform(-0.5, 0.5, (n, 3, 1, 1)) + np.zeros((n, 3, 14, 14))
    for _ in range(5):
        place, size = rng.uniform(0, 14, (2, n, 1, 1, 1)), rng.uniform(1.5, 4, (2, n, 1, 1, 1))
        inside = (np.abs(rows - place[0]) < size[0]) & (np.abs(columns - place[1]) < size[1])
        clear = np.where(inside, rng.uniform(-1, 1, (n, 3, 1, 1)), clear)
    clear = clear + 0.25 * np.sin(1.7 * columns) * np.sin(1.3 * rows)
    far = 1.2 - rows / 14 + rng.uniform(-0.1, 0.1, (n, 1, 1, 1)) * (columns - 6.5) / 7
    through = np.exp(-rng.uniform(0.5, 1.8, (n, 1, 1, 1)) * far)
    air = rng.uniform(0.6, 1.2, (n, 1, 1, 1)) + rng.uniform(-0.1, 0.1, (n, 3, 1, 1))
    x = clear * through + air * (1 - through) + 0.03 * rng.normal(size=clear.shape)
    return cut(2 * (x - x.mean()) / x.std(), (clear - clear.mean()) / clear.std())


@functools.cache
def bearings() -> Split:
    """Eighty readings of how a machine shakes: sound, out of balance, or with a worn ring outside or inside."""
    rng = np.random.default_rng(1305)
    n, t = 3600, np.arange(80)
    y = rng.integers(0, 4, n)
    pace, phase = rng.uniform(0.9, 1.1, (n, 1)), rng.uniform(0, 2 * np.pi, (3, n, 1))
    turning = 0.25 * pace * t + phase[0]
    rings = np.array([14.0, 14.0, 12.0, 8.0])[y][:, None] / pace
    since = (t + rng.uniform(0, 14, (n, 1))) % rings
    hits = np.exp(-since / 2.5) * np.sin(1.9 * since + 0.3)
    hits = hits * np.where(y == 3, 1.0, 0.0)[:, None] * (1 + 0.8 * np.sin(turning)) + hits * (y == 2)[:, None]
    heavy = np.where(y == 1, 1.2, 0.5)[:, None] * rng.uniform(0.75, 1.25, (n, 1))
    x = heavy * np.sin(turning) + 0.3 * np.sin(2 * turning + phase[1]) + 1.6 * hits
    x = x + 0.35 * rng.normal(size=(n, 80))
    return cut(((x - x.mean()) / x.std())[:, None], _mistold(rng, y, 0.06), classes=True)


@functools.cache
def moons() -> Split:
    """A moon of any place, size and phase on 12 x 12 pixels before a sky with a glow."""
    rng = np.random.default_rng(1306)
    rows, columns = _grid(12, 12)
    place, size = rng.uniform(4.0, 7.0, (2, 3200, 1, 1)), rng.uniform(2.2, 3.6, (3200, 1, 1))
    down, right = rows - place[0], columns - place[1]
    turn, phase = rng.uniform(0, 2 * np.pi, (3200, 1, 1)), rng.uniform(-0.8, 0.8, (3200, 1, 1))
    disc = _soft(3 * (size - np.hypot(down, right)))
    lit = _soft(2.5 * (down * np.cos(turn) + right * np.sin(turn) - phase * size))
    glow = rng.uniform(-0.4, 0.4, (3200, 1, 1)) * (rows - 5.5) / 5.5
    x = disc * lit + glow + 0.04 * rng.normal(size=(3200, 12, 12))
    return cut(((x - x.mean()) / x.std())[:, None], np.zeros(3200), classes=True)


@functools.cache
def meters() -> Split:
    """Thirty-six readings of one of three meters: a pace, a rise or a number of peaks is what it says."""
    rng = np.random.default_rng(1307)
    n, t = 4500, np.arange(36)
    kind = rng.integers(0, 3, n)[:, None]
    told, phase = rng.uniform(-1, 1, (n, 1)), rng.uniform(0, 2 * np.pi, (n, 1))
    swing = np.sin((0.55 + 0.3 * told) * t + phase)
    at = rng.uniform(8, 28, (n, 1))
    step = 1.5 * told * (_soft(1.5 * (t - at)) - 0.5) + 0.6 * rng.uniform(-1, 1, (n, 1))
    peaks = np.zeros((n, 36))
    for number in range(6):
        there = number < 3.5 + 2.5 * told
        center = (rng.uniform(0, 36, (n, 1)) + 6 * number) % 36
        peaks += there * np.exp(-0.5 * ((t - center) / 0.9) ** 2)
    y = np.where(kind == 0, told, np.where(kind == 1, -told, np.round(3.5 + 2.5 * told) / 2.5 - 1.4))
    x = np.where(kind == 0, swing, np.where(kind == 1, step, 1.6 * peaks - 0.4))
    x = x + 0.1 * rng.normal(size=x.shape)
    return cut(((x - x.mean()) / x.std())[:, None], unit(y) + 0.2 * rng.normal(size=y.shape))


@functools.cache
def compounds() -> Split:
    """Twelve atoms (each row: bonds to all, then which of four kinds), and how much they hold together."""
    rng = np.random.default_rng(1308)
    n = 4000
    kinds = rng.integers(0, 4, (n, 12))
    bonds = np.triu(rng.random((n, 12, 12)) < rng.uniform(0.12, 0.3, (n, 1, 1)), 1)
    bonds = bonds | bonds.transpose(0, 2, 1)
    pull = rng.normal(size=(4, 4))
    pull = (pull + pull.T) / 2
    number = bonds.sum(2)
    hold = (bonds * pull[kinds[:, :, None], kinds[:, None, :]]).sum((1, 2)) / 4
    crowd = (np.maximum(number - 2, 0) * np.array([0.5, -0.3, 0.2, -0.6])[kinds]).sum(1)
    y = hold + crowd + 0.5 * rng.normal(size=n)
    x = np.concatenate([bonds, 1.5 * np.eye(4)[kinds]], 2).astype(float)
    return cut(x, unit(y)[:, None])


@functools.cache
def swarms() -> Split:
    """Eighteen birds, each with two numbers for its place and a weight; how wide and how long the swarm is."""
    rng = np.random.default_rng(1309)
    n = 4500
    size, long = rng.uniform(0.4, 1.3, (n, 1, 1)), rng.uniform(0, 0.8, (n, 1))
    angle, weight = rng.uniform(0, np.pi, (n, 1)), rng.exponential(size=(n, 18)) + 0.1
    flat = size * rng.normal(size=(n, 18, 2)) * np.stack([np.exp(long), np.exp(-long)], -1)
    turned = np.stack(
        [
            flat[..., 0] * np.cos(angle) - flat[..., 1] * np.sin(angle),
            flat[..., 0] * np.sin(angle) + flat[..., 1] * np.cos(angle),
        ],
        -1,
    )
    place = turned + 0.4 * rng.normal(size=(n, 1, 2))
    share = weight[..., None] / weight.sum(1)[:, None, None]
    away = place - (share * place).sum(1, keepdims=True)
    across = (share[..., 0] * away[..., 0] * away[..., 1]).sum(1)
    wide = np.log((share * away**2).sum((1, 2)))
    drawn = across / (share * away**2).sum((1, 2))
    x = np.concatenate([place, weight[..., None] - 1], 2)
    return cut(x, unit(np.stack([wide, drawn], 1)) + 0.15 * rng.normal(size=(n, 2)))


@functools.cache
def views() -> Split:
    """Two photographs of the same rock on 12 x 12 pixels: moved, lit from elsewhere, and with grain."""
    rng = np.random.default_rng(1310)
    n = 3000
    rows, columns = _grid(12, 12)
    place, size = rng.uniform(2, 10, (5, 2, n, 1, 1)), rng.uniform(1.0, 2.2, (5, n, 1, 1))
    height = rng.choice([-1.0, 1.0], (5, n, 1, 1))

    def view() -> np.ndarray:
        move = rng.uniform(-0.8, 0.8, (2, n, 1, 1))
        x = rng.uniform(-0.5, 0.5, (n, 1, 1)) * (columns - 5.5) / 5.5 + 0.2 * rng.normal(size=(n, 12, 12))
        for (down, right), wide, high in zip(place, size, height, strict=True):
            far = (rows - down - move[0]) ** 2 + (columns - right - move[1]) ** 2
            x = x + high * np.exp(-0.5 * far / wide**2) * rng.uniform(0.7, 1.3, (n, 1, 1))
        return x

    x = np.stack([view(), view()], 1)[:, :, None]
    return cut((x - x.mean()) / x.std(), np.zeros(n))


@functools.cache
def fields() -> Split:
    """Two of four crops from above on 16 x 16 pixels in two colors, with an edge anywhere; which two?"""
    rng = np.random.default_rng(1311)
    n = 3200
    rows, columns = _grid(16, 16)
    pairs = np.array([(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)])
    y = rng.integers(0, 6, n)
    a, b, turn = rng.uniform(0, 2 * np.pi, (3, n, 1, 1))
    crops = np.stack(
        np.broadcast_arrays(
            np.sin(1.6 * rows + a),
            np.sin(1.6 * columns + b),
            np.sin(0.9 * (rows + columns) + a),
            np.sin(1.2 * rows + a) * np.sin(1.2 * columns + b) * 1.4,
        ),
        1,
    )
    one, other = crops[np.arange(n), pairs[y, 0]], crops[np.arange(n), pairs[y, 1]]
    off = rng.uniform(-2.0, 2.0, (n, 1, 1))
    side = _soft(3 * ((rows - 7.5) * np.cos(turn) + (columns - 7.5) * np.sin(turn) - off))
    shape = side * one + (1 - side) * other
    x = shape[:, None] * rng.uniform(0.5, 1.2, (n, 2, 1, 1)) + 0.4 * rng.normal(size=(n, 2, 16, 16))
    return cut((x - x.mean()) / x.std(), _mistold(rng, y, 0.05), classes=True)
