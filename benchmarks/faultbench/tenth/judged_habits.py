"""Judged runs that look alarming and are not: noise, plateaus, odd scales, and what validation sees."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from eighth.architectures_common import fixed, forever, normal, uniform
from fourth.runs import cosine, linear
from models import Batch, Setup, entropy, held_out, mlp, square
from torch import Tensor, nn

from tenth.judged_data import bent, of_made, repeated


def _smooth(size: int, g: torch.Generator, noise: float = 0.3) -> Batch:
    x = normal(g, size, 8)
    return x, bent(x) + noise * normal(g, size, 1)


def four_of_them(seed: int) -> Setup:
    """Four rows in a batch and a low rate of momentum: single losses go from near nothing to several."""
    more: dict[str, Any] = {"optimizer": "sgd", "schedule": linear(600), "number": 1000}
    return of_made(mlp((8, 48, 1), nn.SiLU), _smooth, seed, square, lr=6e-3, steps=600, size=4, **more)


class _Deep(nn.Module):
    """Four matrices in a row and nothing between (Saxe et al. 2014)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(12, 12, bias=False) for _ in range(3))
        for layer in self.layers:
            nn.init.orthogonal_(layer.weight, gain=0.45)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def stairs(seed: int) -> Setup:
    """Matrices alone from small weights: one direction after the other is learned, in stairs."""
    left, _ = torch.linalg.qr(fixed(1070, 12, 12))
    right, _ = torch.linalg.qr(fixed(1071, 12, 12))
    size = torch.tensor([3.0, 2.0, 1.4, 1.0] + [0.0] * 8)
    matrix = left @ size.diag() @ right.T

    def make(number: int, g: torch.Generator) -> Batch:
        x = normal(g, number, 12)
        return x, x @ matrix.T + 0.1 * normal(g, number, 12)

    more: dict[str, Any] = {"optimizer": "sgd", "options": {"momentum": 0.9}}
    return of_made(_Deep(), make, seed, square, lr=0.01, steps=600, size=128, **more)


def rare_storms(seed: int) -> Setup:
    """Every 40th batch is one of readings in a storm, whose noise is ten times as large; a clip keeps it harmless."""
    setup = of_made(mlp((8, 48, 48, 1), nn.ReLU), _smooth, seed, square, lr=1.2e-2, steps=400, clip=1.0)
    calm, count, g = setup.batches, itertools.count(1), torch.Generator().manual_seed(seed)

    def storms() -> Any:
        for x, y in calm:
            yield x, y + (3.0 * normal(g, len(y), 1) if next(count) % 40 == 0 else 0.0)

    setup.batches, setup.schedule = storms(), linear(400)
    return setup


class _InUnits(nn.Module):
    """A net whose output is brought into the unit of the target."""

    def __init__(self, body: nn.Module, mean: float, spread: float) -> None:
        super().__init__()
        self.body, self.mean, self.spread = body, mean, spread

    def forward(self, x: Tensor) -> Tensor:
        return self.mean + self.spread * self.body(x)


def in_cents(seed: int) -> Setup:
    """Prices in cents: the loss starts at 10^14 and ends at 10^13, which Adam does not mind."""

    def make(size: int, g: torch.Generator) -> Batch:
        x, y = _smooth(size, g)
        return x, 2.5e7 + 8e6 * y

    model = _InUnits(mlp((8, 48, 48, 1), nn.GELU), 2e7, 1e7)
    return of_made(model, make, seed, square, lr=8e-3, steps=350, schedule=cosine(350))


def raw_columns(seed: int) -> Setup:
    """Columns from thousandths to millions, one with a long tail, into a batch norm that comes first."""
    scale = torch.tensor([1e-3, 1.0, 50.0, 1e6, 1e-2, 300.0, 1e4, 2.0])

    def make(size: int, g: torch.Generator) -> Batch:
        x, y = _smooth(size, g)
        tail = torch.cat([x[:, :7], (1.2 * x[:, 7:]).exp()], 1)
        return scale * tail + 3 * scale, y

    model = nn.Sequential(nn.BatchNorm1d(8), mlp((8, 48, 48, 1), nn.ReLU))
    return of_made(model, make, seed, square, lr=1.5e-2, steps=350, schedule=linear(350), number=1000)


def log_first(seed: int) -> Setup:
    """Sums of money with an outlier of thousands of times the rest; the model takes their logarithm first."""

    class _Log(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.log1p(x.clamp(min=0)) - 5

    def make(size: int, g: torch.Generator) -> Batch:
        z = normal(g, size, 8)
        z[:, 0] = torch.where(uniform(g, size) < 0.01, 4.0, z[:, 0].clamp(max=3.0))
        return torch.exp(2 * z + 5), bent(z) + 0.3 * normal(g, size, 1)

    model = nn.Sequential(_Log(), mlp((8, 64, 64, 1), nn.ReLU))
    return of_made(model, make, seed, square, lr=1e-2, steps=350, schedule=cosine(350), number=1000)


def weak_returns(seed: int) -> Setup:
    """Next day's return from ten signals: a few parts in a hundred can be told, and that is worth having."""
    weights = fixed(1072, 10, 1) / 10**0.5

    def make(size: int, g: torch.Generator) -> Batch:
        x = normal(g, size, 10)
        return x, 0.23 * torch.tanh(x @ weights) / 0.63 + normal(g, size, 1)

    more: dict[str, Any] = {"weight_decay": 1e-3, "schedule": linear(400), "number": 4000}
    return of_made(nn.Linear(10, 1), make, seed, square, lr=4e-3, steps=400, size=256, **more)


def near_chance(seed: int) -> Setup:
    """Who wins a game of two almost equal teams: a little below the 0.693 of chance is all that can be had."""
    weights = fixed(1073, 12, 1) / 12**0.5

    def make(size: int, g: torch.Generator) -> Batch:
        x = normal(g, size, 12)
        return x, (uniform(g, size, 1) < (0.9 * x @ weights).sigmoid()).float()

    more: dict[str, Any] = {"optimizer": "sgd", "schedule": cosine(350), "number": 4000}
    return of_made(nn.Linear(12, 1), make, seed, _yes, lr=0.05, steps=350, size=128, **more)


def _yes(model: nn.Module, batch: Batch) -> Tensor:
    return F.binary_cross_entropy_with_logits(model(batch[0]), batch[1])


def fraud(seed: int) -> Setup:
    """Three in a hundred are fraud; the last bias starts at their share, so that the loss starts low."""

    def make(size: int, g: torch.Generator) -> Batch:
        x = normal(g, size, 8)
        score = 2.2 * bent(x) - 6.0
        return x, (uniform(g, size, 1) < score.sigmoid()).float()

    model = mlp((8, 32, 32, 1), nn.ReLU)
    nn.init.constant_(model[-1].bias, -3.4)
    nn.init.normal_(model[-1].weight, std=0.02)
    more: dict[str, Any] = {"schedule": linear(400), "number": 6000}
    return of_made(model, make, seed, _yes, lr=5e-3, steps=400, size=256, **more)


def swapped_labels(seed: int) -> Setup:
    """A fifth of the labels is drawn at random; learned soon, then flat for the rest of the run."""
    centres = fixed(1074, 5, 12)

    def make(size: int, g: torch.Generator) -> Batch:
        kind = torch.randint(5, (size,), generator=g)
        x = 1.2 * centres[kind] + normal(g, size, 12)
        return x, torch.where(uniform(g, size) < 0.2, torch.randint(5, (size,), generator=g), kind)

    more: dict[str, Any] = {"schedule": linear(500), "number": 2000}
    return of_made(mlp((12, 48, 5), nn.ReLU), make, seed, entropy, lr=3e-3, steps=500, size=64, **more)


def two_dozen(seed: int) -> Setup:
    """Validation has two dozen noisy rows: it goes up and down by itself, and is judged on a thousand."""
    more: dict[str, Any] = {"number": 24, "optimizer": "sgd"}
    model = mlp((8, 64, 1), nn.Tanh)
    setup = of_made(model, lambda n, g: _smooth(n, g, 0.7), seed, square, lr=0.02, steps=450, size=32, **more)
    setup.judged = held_out(square, *next(forever(_smooth)(1000, 10**6)))
    setup.schedule = cosine(450)
    return setup


def held_tight(seed: int) -> Setup:
    """150 rows for thirty columns, a small net, dropout, strong decay: training and validation stay apart a bit."""
    weights = torch.cat([fixed(1075, 6, 1), torch.zeros(24, 1)])

    def make(size: int, g: torch.Generator) -> Batch:
        x = normal(g, size, 30)
        return x, x @ weights / 2.4 + 0.4 * normal(g, size, 1)

    more: dict[str, Any] = {"optimizer": "adamw", "weight_decay": 0.5, "schedule": linear(300)}
    setup = of_made(nn.Sequential(nn.Dropout(0.1), nn.Linear(30, 1)), make, seed, square, lr=0.02, **more)
    setup.batches, setup.batch_size = repeated(make, 150, 25, seed), 25
    return setup


class _Few(nn.Module):
    """Eight of 96 features are on for each row; their sum gives the row back (Makhzani and Frey 2014)."""

    def __init__(self) -> None:
        super().__init__()
        self.bias, self.out = nn.Parameter(torch.zeros(24)), nn.Linear(96, 24, bias=False)
        self.into = nn.Linear(24, 96)
        with torch.no_grad():
            self.out.weight.copy_(F.normalize(self.out.weight, dim=0))
            self.into.weight.copy_(self.out.weight.T)

    def forward(self, x: Tensor) -> Tensor:
        score = F.relu(self.into(x - self.bias))
        least = score.topk(8, dim=1)[0][:, -1:]
        return self.out(score * (score >= least)) + self.bias


def few_at_a_time(seed: int) -> Setup:
    """A sparse autoencoder: eleven of twelve units are silent for any row, as they should be."""
    atoms = F.normalize(fixed(1076, 60, 24), dim=1)

    def make(size: int, g: torch.Generator) -> Batch:
        on = (uniform(g, size, 60) < 0.06).float() * uniform(g, size, 60, low=0.5, high=1.5)
        x = on @ atoms + 0.03 * normal(g, size, 24)
        return x, x

    return of_made(_Few(), make, seed, square, lr=1.2e-2, steps=450, size=256, schedule=linear(450))


class _Lines(nn.Module):
    """A vector for each of 3000 words, and what comes with it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.body = nn.Embedding(3000, 8), mlp((16, 32, 1), nn.ReLU)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.embed(x).flatten(1))


def zipf(seed: int) -> Setup:
    """3000 words by Zipf's law: nearly all rows of the table get no gradient in a step; Adagrad suits that."""

    def make(size: int, g: torch.Generator) -> Batch:
        word = (3000 ** uniform(g, size, 2)).long().clamp(max=2999)
        meaning = fixed(1077, 3000, 2)
        score = meaning[word[:, 0], 0] + meaning[word[:, 1], 1]
        return word, score[:, None] + 0.3 * normal(g, size, 1)

    more: dict[str, Any] = {"optimizer": "adagrad", "number": 2000}
    return of_made(_Lines(), make, seed, square, lr=0.25, steps=500, size=128, **more)


def ragged_sums(seed: int) -> Setup:
    """The loss is summed over as many steps as a row has, between two and twenty: it varies with them."""

    def make(size: int, g: torch.Generator) -> Batch:
        x, y = _smooth(20 * size, g)
        mask = torch.arange(20) < torch.randint(2, 21, (size // 8, 1), generator=g).repeat_interleave(8, 0)
        return x.reshape(size, 20, 8), torch.stack([y.reshape(size, 20), mask.float()])

    def loss(m: nn.Module, b: Batch) -> Tensor:
        gap = (m(b[0])[..., 0] - b[1][0]).square() * b[1][1]
        return gap.sum(1).mean()

    more: dict[str, Any] = {"size": 8, "schedule": linear(400), "number": 400}
    return of_made(mlp((8, 48, 48, 1), nn.ReLU), make, seed, loss, lr=8e-3, steps=400, **more)


MADE: dict[str, Callable[[int], Setup]] = {
    f.__name__: f
    for f in (
        four_of_them,
        stairs,
        rare_storms,
        in_cents,
        raw_columns,
        log_first,
        weak_returns,
        near_chance,
        fraud,
        swapped_labels,
        two_dozen,
        held_tight,
        few_at_a_time,
        zipf,
        ragged_sums,
    )
}
