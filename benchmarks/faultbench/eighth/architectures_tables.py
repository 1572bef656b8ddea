"""Tables and their losses in the eighth suite."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from data import Split, cut, digits
from fourth.runs import cosine, linear
from models import Batch, entropy, mlp, square
from settings import ADAM, ADAMW, SGD, Build, of_custom, of_table
from torch import Tensor, nn

from eighth.architectures_common import fixed, forever, normal, of_stream, uniform


def columns() -> Split:
    """Ten columns, six of which matter for a noisy number."""
    rng = np.random.default_rng(801)
    x = rng.normal(size=(6000, 10))
    y = np.sin(2 * x[:, 0]) + x[:, 1] * (x[:, 2] > 0) + 0.5 * np.abs(x[:, 3]) - 0.4 * x[:, 4] * x[:, 5]
    return cut(x, (y + 0.5 * rng.normal(size=6000))[:, None])


class Additive(nn.Module):
    """A small network for each column, whose outputs add up (Agarwal et al. 2021)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(8, 8 * 16, 1, groups=8)
        self.second = nn.Conv1d(8 * 16, 8 * 8, 1, groups=8)
        self.last = nn.Conv1d(8 * 8, 8, 1, groups=8)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.relu(self.second(F.relu(self.first(x[:, :, None]))))
        return self.last(hidden).sum(1)


@forever
def sums(size: int, g: torch.Generator) -> Batch:
    """A sum of one curve for each column, and noise."""
    x = uniform(g, size, 8, low=-2, high=2)
    curves = [
        x[:, 0].sin() * 2,
        x[:, 1] ** 2 - 1,
        x[:, 2].abs(),
        (3 * x[:, 3]).tanh(),
        x[:, 4],
        x[:, 5].exp() / 3,
    ]
    return x, (sum(curves) + 0.4 * normal(g, size))[:, None]


def sparsemax(scores: Tensor) -> Tensor:
    """The nearest point of the simplex (Martins and Astudillo 2016)."""
    ordered = scores.sort(-1, descending=True).values
    total, place = ordered.cumsum(-1) - 1, torch.arange(1, scores.shape[-1] + 1)
    kept = (place * ordered > total).sum(-1, keepdim=True)
    return (scores - total.gather(-1, kept - 1) / kept).clamp(min=0)


class Selecting(nn.Module):
    """Two steps that each look at a few of the columns (after Arik and Pfister 2021)."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(16)
        self.masks = nn.ModuleList(nn.Linear(16, 16) for _ in range(2))
        self.parts = nn.ModuleList(mlp((16, 32, 32), nn.ReLU) for _ in range(2))
        self.head = nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        x, total = self.norm(x), 0.0
        for mask, part in zip(self.masks, self.parts, strict=True):
            total = total + F.relu(part(16 * sparsemax(mask(x)) * x / 4))
        return self.head(total)


@forever
def chosen(size: int, g: torch.Generator) -> Batch:
    """The sign of one column says which of two others decides among three classes."""
    x = normal(g, size, 16)
    value = torch.where(x[:, 0] > 0, x[:, 1] + x[:, 2], x[:, 3] - x[:, 4]) + 0.3 * normal(g, size)
    return x, (value > -0.6).long() + (value > 0.6).long()


class Uncertain(nn.Module):
    """A linear layer whose weights are normal distributions (Blundell et al. 2015)."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.randn(b, a) / a**0.5)
        self.log, self.bias = nn.Parameter(torch.full((b, a), -4.0)), nn.Parameter(torch.zeros(b))

    def forward(self, x: Tensor) -> Tensor:
        out = F.linear(x, self.mean, self.bias)
        if self.training:
            spread = F.linear(x.square(), (2 * self.log).exp()) + 1e-8
            out = out + spread.sqrt() * torch.randn_like(out)
        return out

    def cost(self) -> Tensor:
        return (0.5 * (self.mean.square() + (2 * self.log).exp() - 1) - self.log).sum()


def bayes(model: nn.Module, batch: Batch) -> Tensor:
    """What the digits cost, and a share of what the weights cost."""
    cost = sum(part.cost() for part in model if isinstance(part, Uncertain))
    return entropy(model, batch) + (cost / 20_000 if model.training else 0.0)


class Bottleneck(nn.Module):
    """A class through a noisy code that should tell little of its input (Alemi et al. 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.code, self.head = mlp((64, 64, 24), nn.ReLU), nn.Linear(12, 10)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log = self.code(x).chunk(2, 1)
        noise = torch.randn_like(mean) if self.training else 0.0
        return self.head(mean + noise * F.softplus(log - 1)), mean, F.softplus(log - 1)


def told_little(model: nn.Module, batch: Batch) -> Tensor:
    out, mean, spread = model(batch[0])
    cost = (0.5 * (mean.square() + spread.square() - 1) - (spread + 1e-6).log()).sum(1).mean()
    return F.cross_entropy(out, batch[1]) + 0.01 * cost


class Convex(nn.Module):
    """Convex in its inputs, as inner weights are kept positive by a softplus (Amos et al. 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.straight = nn.ModuleList(nn.Linear(5, n) for n in (32, 32, 1))
        self.inner = nn.ParameterList(nn.Parameter(torch.randn(n, 32) - 4.0) for n in (32, 1))

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.softplus(self.straight[0](x))
        for at, weight in enumerate(self.inner):
            hidden = F.linear(hidden, F.softplus(weight)) + self.straight[at + 1](x)
            hidden = F.softplus(hidden) if at == 0 else hidden
        return hidden


@forever
def bowl(size: int, g: torch.Generator) -> Batch:
    """A convex function of five numbers, and noise."""
    x = normal(g, size, 5)
    y = (x @ fixed(802, 5, 6)).logsumexp(1) + 0.3 * x[:, :2].square().sum(1)
    return x, (y - 2 + 0.4 * normal(g, size))[:, None]


@forever
def lifetimes(size: int, g: torch.Generator) -> Batch:
    """How long each machine lasted, and whether that is known or it still runs."""
    x = normal(g, size, 7)
    scale = (0.6 * x[:, 0] - 0.5 * x[:, 1] * x[:, 2] + 0.4 * (2 * x[:, 3]).sin()).exp()
    time = scale * (-uniform(g, size, low=1e-4).log()) ** (1 / 1.7)
    until = uniform(g, size, low=0.3, high=4)
    return x, torch.stack([time.minimum(until), (time <= until).float()], 1)


def weibull(model: nn.Module, batch: Batch) -> Tensor:
    """Likelihood of a Weibull distribution with censoring."""
    scale, shape = model(batch[0]).unbind(1)
    log, seen, power = batch[1][:, 0].clamp(min=1e-3).log() - scale, batch[1][:, 1], F.softplus(shape + 0.5)
    return ((power * log).exp() - seen * (power.log() + (power - 1) * log - scale)).mean()


@forever
def found(size: int, g: torch.Generator) -> Batch:
    """Half of the rows are known to be of a kind; the other half is of this kind in two of five cases."""
    kind = torch.cat([torch.ones(size), (uniform(g, size) < 0.4).float()])
    x = normal(g, 2 * size, 8)
    x[:, 0] = torch.where(kind > 0, 2 + 0.4 * x[:, 0], 1.0 * x[:, 0])
    x[:, 1] = torch.where(kind > 0, x[:, 0].square() - 3 + 0.5 * x[:, 1], x[:, 1])
    known = torch.cat([torch.ones(size), torch.zeros(size)])
    return x, torch.stack([known, kind], 1)


def unlabeled(model: nn.Module, batch: Batch) -> Tensor:
    """Risk from known and unknown rows, never below zero in its second part (Kiryo et al. 2017)."""
    out, known = model(batch[0])[:, 0], batch[1][:, 0] > 0
    positive = 0.4 * torch.sigmoid(-out[known]).mean()
    negative = torch.sigmoid(out[~known]).mean() - 0.4 * torch.sigmoid(out[known]).mean()
    return positive + negative.clamp(min=0)


def wrong_kinds(model: nn.Module, batch: Batch) -> Tensor:
    unknown = batch[1][:, 0] == 0
    return (((model(batch[0])[:, 0] > 0).float() != batch[1][:, 1]) & unknown).sum() / unknown.sum()


class Weighing(nn.Module):
    """Two numbers whose losses are weighed by learned uncertainties (Kendall et al. 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.logs = mlp((9, 48, 48, 2), nn.GELU), nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


@forever
def two_numbers(size: int, g: torch.Generator) -> Batch:
    """One number in fine steps, one that is mostly noise."""
    x = normal(g, size, 9)
    fine = 0.4 * (x[:, 0] * x[:, 1]).tanh() + 0.2 * x[:, 2].sin() + 0.12 * normal(g, size)
    coarse = x[:, 3] + x[:, 4].abs() + 1.5 * normal(g, size)
    return x, torch.stack([fine, coarse], 1)


def weighed(model: nn.Module, batch: Batch) -> Tensor:
    errors = (model(batch[0]) - batch[1]).square().mean(0)
    return (0.5 * errors * (-2 * model.logs).exp() + model.logs).sum()


class Ensemble(nn.Module):
    """Numbers drawn from noise and inputs together."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp((6 + 2, 48, 48, 2), nn.ReLU)
        self.register_buffer("noise", fixed(803, 8, 2))

    def forward(self, x: Tensor) -> Tensor:
        noise = torch.randn(len(x), 8, 2) if self.training else self.noise.expand(len(x), 8, 2)
        return self.net(torch.cat([x[:, None].expand(-1, 8, -1), noise], -1))


@forever
def drifts(size: int, g: torch.Generator) -> Batch:
    """Two numbers that depend on each other and on six others."""
    x, noise = normal(g, size, 6), normal(g, size, 2)
    first = x[:, 0] + 0.5 * x[:, 1].square() + 0.5 * noise[:, 0]
    return x, torch.stack([first, 0.7 * first * x[:, 2].tanh() + 0.3 * noise[:, 1]], 1)


def energy_score(model: nn.Module, batch: Batch) -> Tensor:
    """Far from each other and near to the truth (Gneiting and Raftery 2007)."""
    drawn = model(batch[0])
    near = (drawn - batch[1][:, None]).square().sum(-1).add(1e-6).sqrt().mean()
    apart = (drawn[:, :, None] - drawn[:, None]).square().sum(-1).add(1e-6).sqrt().sum((1, 2)).mean() / 56
    return near - apart / 2


def _mean_error(model: nn.Module, batch: Batch) -> Tensor:
    return (model(batch[0]) - batch[1]).square().mean()


RUNS: dict[str, dict[str, Build]] = {
    "columns": {
        "adam": of_table(
            lambda: mlp((10, 64, 64, 1), nn.ReLU), columns, square, 64, lr=6e-3, steps=250, **ADAM
        ),
        "sgd": of_table(
            lambda: mlp((10, 64, 64, 1), nn.ReLU),
            columns,
            square,
            64,
            lr=0.03,
            steps=300,
            schedule=cosine(300),
            **SGD,
        ),
    },
    "additive": {
        "adam": of_stream(Additive, sums, square, 64, lr=8e-3, steps=300, schedule=linear(300), **ADAM),
    },
    "selecting": {
        "adam": of_stream(Selecting, chosen, entropy, 128, 1000, lr=0.01, steps=300, **ADAM),
    },
    "bayes": {
        "adam": of_custom(
            lambda: nn.Sequential(Uncertain(64, 48), nn.ReLU(), Uncertain(48, 10)),
            digits,
            bayes,
            64,
            lr=4e-3,
            steps=300,
            **ADAM,
        ),
    },
    "bottleneck": {
        "adamw": of_custom(
            Bottleneck, digits, told_little, 64, lr=0.01, steps=250, weight_decay=0.01, **ADAMW
        ),
    },
    "convex": {
        "adam": of_stream(Convex, bowl, square, 64, lr=0.08, steps=300, schedule=cosine(300), **ADAM),
    },
    "lifetimes": {
        "adam": of_stream(
            lambda: mlp((7, 48, 48, 2), nn.SiLU), lifetimes, weibull, 96, 1500, lr=6e-3, steps=250, **ADAM
        ),
    },
    "unlabeled": {
        "adam": of_stream(
            lambda: mlp((8, 48, 48, 1), nn.ReLU),
            found,
            unlabeled,
            128,
            1500,
            judge=wrong_kinds,
            lr=2e-3,
            steps=250,
            **ADAM,
        ),
    },
    "weighing": {
        "adam": of_stream(
            Weighing,
            two_numbers,
            weighed,
            64,
            1000,
            judge=_mean_error,
            lr=0.01,
            steps=350,
            schedule=linear(350),
            **ADAM,
        ),
    },
    "energy_score": {
        "adam": of_stream(Ensemble, drifts, energy_score, 64, 600, lr=5e-3, steps=250, **ADAM),
    },
}
