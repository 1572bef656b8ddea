"""Quite ordinary settings of the tenth suite, and series, graphs and tables beside them."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from data import Split, cut, digits, table
from eighth.architectures_common import fixed, forever, normal, of_stream, uniform
from eighth.habits_data import glyphs, kinds, letters, made, sensors
from fourth.runs import cosine, linear
from models import Batch, Setup, mlp, square
from torch import Tensor, nn


@functools.cache
def _loans() -> Split:
    """Eight numbers of a borrower, three of them skewed, and whether the loan was paid back."""
    rng = np.random.default_rng(1031)
    x = rng.normal(size=(6000, 8))
    x[:, :3] = np.log1p(np.exp(x[:, :3] * 1.5))
    score = 1.5 * x[:, 0] - x[:, 1] * (x[:, 3] > 0) + x[:, 4] * x[:, 5] + 0.7 * x[:, 6] - 0.4
    y = rng.random(6000) < 1 / (1 + np.exp(-1.5 * score))
    return cut((x - x.mean(0)) / x.std(0), y, classes=True)


def loans(seed: int) -> Setup:
    """Whether a loan is paid back: two layers, AdamW and dropout."""
    net = mlp((8, 48, 48, 2), nn.ReLU, dropout=0.1)
    return made(net, _loans(), seed, lr=5e-3, optimizer="adamw", weight_decay=0.01, schedule=cosine(220))


def plain_digits(seed: int) -> Setup:
    """Digits by one hidden layer, with momentum."""
    return made(mlp((64, 64, 10), nn.ReLU), digits(), seed, lr=0.1, optimizer="sgd", schedule=linear(220))


def plain_filters(seed: int) -> Setup:
    """Signs by two convolutions and two layers, with Adam."""
    net = nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 12, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(12, 24, 2),
        nn.ReLU(), nn.Flatten(), nn.Linear(96, 48), nn.ReLU(), nn.Linear(48, 6),
    )  # fmt: skip
    return made(net, glyphs(), seed, lr=1.2e-2, size=48, schedule=linear(220))


def plain_line(seed: int) -> Setup:
    """Diabetes by a linear rule, with plain descent."""
    return made(
        nn.Linear(10, 1),
        table("diabetes"),
        seed,
        square,
        lr=0.03,
        size=48,
        optimizer="sgd",
        options={"momentum": 0.0},
    )


def plain_wide(seed: int) -> Setup:
    """A quantity from ten readings by a wide net with batch normalization."""
    net = nn.Sequential(
        nn.Linear(10, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 1)
    )
    return made(net, sensors(), seed, square, lr=1.5e-2, steps=280, schedule=cosine(280))


class _Reader(nn.Module):
    """An LSTM over letters, and the next one."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.cell, self.head = (
            nn.Embedding(10, 20),
            nn.LSTM(20, 40, batch_first=True),
            nn.Linear(40, 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(self.embed(x))[0])


def plain_lstm(seed: int) -> Setup:
    """The next letter by an LSTM, with AdamW, clipping and a warm-up."""
    more = {"optimizer": "adamw", "weight_decay": 0.01, "clip": 1.0, "schedule": cosine(240, 15)}
    return made(_Reader(), letters(), seed, lr=2e-2, size=32, steps=240, **more)


def plain_code(seed: int) -> Setup:
    """Digits through a code of twelve and back."""

    def loss(m: nn.Module, b: Batch) -> Tensor:
        return square(m, (b[0], b[0]))

    return made(
        mlp((64, 96, 12, 96, 64), nn.GELU), digits(), seed, loss, lr=1e-2, steps=260, schedule=cosine(260)
    )


def plain_groups(seed: int) -> Setup:
    """Kinds by three layers with layer norms, with RMSprop."""
    net = mlp((16, 64, 64, 64, 6), nn.ReLU, norm=True)
    return made(net, kinds(), seed, lr=5e-3, optimizer="rmsprop", schedule=linear(220))


@forever
def _loads(size: int, g: torch.Generator) -> Batch:
    """48 hours of a load of any size and level, and the twelve that come."""
    t, phase = torch.arange(60.0), 6.28 * torch.rand(size, 1, generator=g)
    size_, level = normal(g, size, 1).exp(), 3 * normal(g, size, 1)
    wave = (
        (0.5236 * t + phase).sin()
        + 0.5 * (0.2618 * t + 2 * phase).cos()
        + uniform(g, size, 1, low=-0.03, high=0.03) * t
    )
    x = size_ * (wave + 0.15 * normal(g, size, 60)) + level
    return x[:, :48], x[:, 48:]


class _Leveled(nn.Module):
    """Takes mean and spread from a series, tells the rest by two linear maps, and gives both back."""

    def __init__(self) -> None:
        super().__init__()
        self.trend, self.season = nn.Linear(48, 12), nn.Linear(48, 12)
        for part in (self.trend, self.season):
            nn.init.constant_(part.weight, 1 / 48)

    def forward(self, x: Tensor) -> Tensor:
        mean, spread = x.mean(1, keepdim=True), x.std(1, keepdim=True) + 1e-3
        unit = (x - mean) / spread
        smooth = F.avg_pool1d(F.pad(unit[:, None], (6, 6), mode="replicate"), 13, 1)[:, 0]
        return (self.trend(smooth) + self.season(unit - smooth)) * spread + mean


def leveled(seed: int) -> Setup:
    """Trend and season by linear maps (Zeng et al. 2023) in a unit of each series' own (Kim et al. 2022)."""

    def loss(m: nn.Module, b: Batch) -> Tensor:
        spread = b[0].std(1, keepdim=True) + 1e-3
        return ((m(b[0]) - b[1]) / spread).square().mean()

    more = {"lr": 1e-2, "steps": 300, "schedule": cosine(300), "optimizer": "adam"}
    return of_stream(_Leveled, _loads, loss, 64, 500, **more)(seed)


class _Answers(nn.Module):
    """How able each of 150 pupils is, how hard each of 60 questions, and how well it tells."""

    def __init__(self) -> None:
        super().__init__()
        self.able, self.hard, self.telling = (nn.Embedding(n, 1) for n in (150, 60, 60))
        for part in (self.able, self.hard, self.telling):
            nn.init.zeros_(part.weight)

    def forward(self, x: Tensor) -> Tensor:
        clear = F.softplus(self.telling(x[:, 1]) + 0.54)
        return (clear * (self.able(x[:, 0]) - self.hard(x[:, 1])))[:, 0]


@functools.cache
def _tests() -> Split:
    """A pupil and a question, in order of chance, and whether the answer was right."""
    rng = np.random.default_rng(1032)
    pupil, question = (a.ravel() for a in np.meshgrid(np.arange(150), np.arange(60)))
    able, hard, clear = rng.normal(size=150), rng.normal(size=60), rng.uniform(0.6, 2, 60)
    y = rng.random(9000) < 1 / (1 + np.exp(-1.7 * clear[question] * (able[pupil] - hard[question])))
    order = rng.permutation(9000)
    return cut(np.stack([pupil, question], 1)[order], y[order].astype(float), tokens=True)


def answers(seed: int) -> Setup:
    """Item response theory: all numbers begin at zero, and no net is in it (Birnbaum 1968)."""

    def loss(m: nn.Module, b: Batch) -> Tensor:
        return F.binary_cross_entropy_with_logits(m(b[0]), b[1])

    return made(_Answers(), _tests(), seed, loss, lr=0.05, size=256, steps=220, schedule=cosine(220))


class _Spread(nn.Module):
    """Scores of each node by itself, which then spread over the graph ten times."""

    def __init__(self) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(1033)
        self.kind = torch.randint(5, (300,), generator=g)
        chance = torch.where(self.kind[:, None] == self.kind, 0.05, 0.006)
        links = (torch.rand(300, 300, generator=g) < chance).float().triu(1)
        links = links + links.T + torch.eye(300)
        root = links.sum(1).rsqrt()
        self.register_buffer("links", root[:, None] * links * root)
        self.register_buffer("known", 0.6 * F.one_hot(self.kind, 5) @ fixed(1034, 5, 20) + normal(g, 300, 20))
        self.net = mlp((20, 32, 5), nn.ReLU, dropout=0.3)

    def forward(self, rows: Tensor) -> Tensor:
        scores = self.net(self.known)
        state = scores
        for _ in range(10):
            state = 0.85 * self.links @ state + 0.15 * scores
        return state[rows]


def spread(seed: int) -> Setup:
    """First each node by itself, then the graph (Klicpera et al. 2019); all known nodes in each step."""
    model, rows = _Spread(), torch.arange(300)
    kind = model.kind
    split = Split(rows[:180], kind[:180], rows[180:], kind[180:])
    return made(model, split, seed, lr=2e-2, size=180, steps=200, weight_decay=2e-3)


class _Pieces(nn.Module):
    """Each number as how far it has come through each of twelve bins of its own."""

    def __init__(self, edges: Tensor) -> None:
        super().__init__()
        self.register_buffer("low", edges[:-1].T)
        self.register_buffer("wide", (edges[1:] - edges[:-1]).T)
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(96, 48), nn.ReLU(), nn.Linear(48, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(((x[:, :, None] - self.low) / self.wide).clamp(0, 1))


def pieces(seed: int) -> Setup:
    """Skewed numbers of many units in bins by quantiles (Gorishniy et al. 2022): values of a millionth to millions."""
    rng = np.random.default_rng(1035)
    z = rng.normal(size=(5000, 8))
    y = np.sin(2 * z[:, 0]) + np.abs(z[:, 1]) + z[:, 2] * (z[:, 3] > 0) + 0.2 * rng.normal(size=5000)
    x = np.exp(z * np.array([1, 0.5, 2, 1, 1, 2, 0.3, 1])) * 10.0 ** np.array([-6, -2, 0, 3, 6, 1, -3, 4])
    split = cut(x, (y - y.mean())[:, None])
    edges = torch.quantile(split.x, torch.linspace(0, 1, 13), dim=0)
    return made(_Pieces(edges), split, seed, square, lr=1.5e-2, steps=280, schedule=cosine(280))


class _Neighbors(nn.Module):
    """Users and things that are the mean of what they are linked with, over two rounds."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(0.1 * torch.randn(260, 16))
        links = torch.zeros(260, 260)
        links[:100, 100:] = _likes()[0]
        links = links + links.T
        root = links.sum(1).clamp(min=1).rsqrt()
        self.register_buffer("links", root[:, None] * links * root)

    def forward(self) -> tuple[Tensor, Tensor]:
        one = self.links @ self.table
        mean = (self.table + one + self.links @ one) / 3
        return mean[:100], mean[100:]


@functools.cache
def _likes() -> tuple[Tensor, Tensor]:
    """Who likes what: what is known, and four things of each user that are held back."""
    g = torch.Generator().manual_seed(1036)
    score = (
        1.2 * normal(g, 100, 4) @ normal(g, 4, 160)
        + normal(g, 160)
        - torch.rand(100, 160, generator=g).logit()
    )
    liked = score.topk(24, dim=1).indices
    held = torch.stack([row[torch.randperm(24, generator=g)[:4]] for row in liked])
    known = torch.zeros(100, 160).scatter(1, liked, 1.0).scatter(1, held, 0.0)
    return known, held


def linked(seed: int) -> Setup:
    """Nothing but embeddings and the graph of who likes what (He et al. 2020), by pairs."""
    known, held = _likes()
    users, things = known.nonzero().T
    back = torch.arange(100).repeat_interleave(4)
    split = Split(users, things, back, held.flatten())
    g = torch.Generator().manual_seed(seed)

    def loss(m: nn.Module, b: Batch) -> Tensor:
        own = g if m.training else torch.Generator().manual_seed(1037)
        who, what = m()
        other = torch.multinomial(1.0 - known[b[0]], 1, generator=own)[:, 0]
        gap = (who[b[0]] * (what[b[1]] - what[other])).sum(1)
        return F.softplus(-gap).mean() + (1e-3 * m.table.square().sum() / 260 if m.training else 0.0)

    return made(_Neighbors(), split, seed, loss, lr=4e-2, size=256, steps=220, schedule=linear(220))


MADE: dict[str, Callable[[int], Setup]] = {
    f.__name__: f
    for f in (
        loans,
        plain_digits,
        plain_filters,
        plain_line,
        plain_wide,
        plain_lstm,
        plain_code,
        plain_groups,
        leveled,
        answers,
        spread,
        pieces,
        linked,
    )
}
