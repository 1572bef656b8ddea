"""Judged runs on tables and pairs: plain regressions, distributions, recommenders, graphs and densities."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from eighth.architectures_common import fixed, forever, normal, uniform
from fourth.runs import cosine, linear
from models import Batch, Setup, entropy, held_out, mlp, square
from torch import Tensor, nn

from tenth.judged_data import bent, of_made, one_cycle, repeated


def _line(size: int, g: torch.Generator) -> Batch:
    x = normal(g, size, 15)
    return x, x @ fixed(1010, 15, 1) / 15**0.5 + 0.5 * normal(g, size, 1)


def straight_line(seed: int) -> Setup:
    """Linear regression by momentum, the rate divided by ten twice: a fifth of the variance is noise."""
    more: dict[str, Any] = {"optimizer": "sgd", "schedule": lambda k: 0.1 ** (k // 120)}
    return of_made(nn.Linear(15, 1), _line, seed, square, lr=0.02, steps=300, number=2000, **more)


def _six(size: int, g: torch.Generator) -> Batch:
    x = normal(g, size, 24)
    return x, torch.multinomial((x @ fixed(1011, 24, 6) / 2).softmax(1), 1, generator=g)[:, 0]


def six_kinds(seed: int) -> Setup:
    """Multinomial regression with Adagrad on labels that are drawn from what the model can say."""
    more: dict[str, Any] = {"optimizer": "adagrad", "weight_decay": 1e-4}
    return of_made(nn.Linear(24, 6), _six, seed, entropy, lr=0.1, steps=350, number=2000, **more)


def _smooth(size: int, g: torch.Generator) -> Batch:
    x = normal(g, size, 10)
    return x, bent(x) + 0.3 * normal(g, size, 1)


def six_layers(seed: int) -> Setup:
    """Six layers of GELU on a smooth function, with AdamW, a warm-up and a cosine."""
    more: dict[str, Any] = {"optimizer": "adamw", "weight_decay": 0.01, "schedule": cosine(350, 20)}
    model = mlp((10, 48, 48, 48, 48, 48, 1), nn.GELU)
    return of_made(model, _smooth, seed, square, lr=7e-3, steps=350, number=1000, **more)


def tanh_momentum(seed: int) -> Setup:
    """One wide layer of tanh, Nesterov's momentum, and a rate that falls once, on rows that come again."""
    rate = lambda k: 1.0 if k < 400 else 0.2  # noqa: E731
    more: dict[str, Any] = {"optimizer": "sgd", "options": {"nesterov": True}, "schedule": rate}
    setup = of_made(mlp((10, 64, 1), nn.Tanh), _smooth, seed, square, lr=0.02, steps=600, number=1000, **more)
    setup.batches = repeated(_smooth, 4000, 64, seed)
    return setup


class _Shop(nn.Module):
    """Vectors for four categories next to five numbers, batch norms behind (Cheng et al. 2016)."""

    def __init__(self) -> None:
        super().__init__()
        self.vectors = nn.ModuleList(nn.Embedding(n, 6) for n in (12, 40, 7, 25))
        self.wide = nn.ModuleList(nn.Embedding(n, 1) for n in (12, 40, 7, 25))
        deep = [nn.Linear(29, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Dropout(0.1)]
        self.deep = nn.Sequential(nn.BatchNorm1d(5), nn.Identity())
        self.body = nn.Sequential(*deep, nn.Linear(48, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 1))

    def forward(self, x: Tensor) -> Tensor:
        kinds = x[:, 5:].long()
        codes = [v(kinds[:, i]) for i, v in enumerate(self.vectors)]
        wide = sum(w(kinds[:, i]) for i, w in enumerate(self.wide))
        return self.body(torch.cat([self.deep(x[:, :5]), *codes], 1)) + wide


def yes_or_no(model: nn.Module, batch: Batch) -> Tensor:
    return F.binary_cross_entropy_with_logits(model(batch[0]), batch[1])


def _orders(size: int, g: torch.Generator) -> Batch:
    """Is an order sent back? It hangs on shop, thing, land and week, on the price, and on chance."""
    number = normal(g, size, 5)
    kinds = [torch.randint(n, (size,), generator=g) for n in (12, 40, 7, 25)]
    score = sum(fixed(1012 + i, 40)[k] for i, k in enumerate(kinds)) + 1.5 * number[:, 0].tanh()
    score = score + number[:, 1] * fixed(1019, 40)[kinds[2]] - 0.5
    x = torch.cat([torch.tensor([30.0, 2, 1, 5, 1]) * number + 10, torch.stack(kinds, 1)], 1)
    return x, (uniform(g, size) < score.sigmoid()).float()[:, None]


def shop(seed: int) -> Setup:
    """Wide and deep for a table with categories: Adam, one cycle, batch norms and a little dropout."""
    more: dict[str, Any] = {"schedule": one_cycle(350)}
    return of_made(_Shop(), _orders, seed, yes_or_no, lr=0.02, steps=350, size=128, number=2000, **more)


class _Taste(nn.Module):
    """Vectors of people and things, and layers that say how they go together (He et al. 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.people, self.things = nn.Embedding(300, 12), nn.Embedding(150, 12)
        self.body = mlp((36, 32, 1), nn.ReLU)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.people(x[:, 0]), self.things(x[:, 1])
        return self.body(torch.cat([a, b, a * b], 1))


def _likes(size: int, g: torch.Generator) -> Batch:
    """Does a person like a thing? Few people and things make most of the pairs."""
    who = (300 * uniform(g, size) ** 1.5).long()
    what = (150 * uniform(g, size) ** 2).long()
    score = (fixed(1030, 300, 2)[who] * fixed(1031, 150, 2)[what]).sum(1) + fixed(1032, 150)[what]
    return torch.stack([who, what], 1), (uniform(g, size) < (2 * score).sigmoid()).float()[:, None]


def likes(seed: int) -> Setup:
    """Neural collaborative filtering in batches of 256; rare people are seen a few times only."""
    more: dict[str, Any] = {"schedule": linear(500), "weight_decay": 1e-5}
    return of_made(_Taste(), _likes, seed, yes_or_no, lr=3e-2, steps=500, size=256, number=3000, **more)


def _plane(size: int, g: torch.Generator) -> Batch:
    """Two quantities that vary together, by how much and how closely hangs on the inputs."""
    x = normal(g, size, 4)
    spread = 0.15 * torch.exp(0.5 * x[:, :1])
    a, b = spread * normal(g, size, 1), spread * normal(g, size, 1)
    mean = torch.stack([torch.sin(1.5 * x[:, 1]), 0.7 * x[:, 2] * x[:, 3].tanh()], 1)
    close = x[:, 3:].tanh()
    return x, mean + torch.cat([a, close * a + (1 - close.square()).clamp(min=0.05).sqrt() * b], 1)


def _plane_likelihood(model: nn.Module, batch: Batch) -> Tensor:
    """Normal with a full matrix, by its triangular root; no constant is left out."""
    out = model(batch[0])
    first, second = out[:, 2].clamp(-6, 4), out[:, 3].clamp(-6, 4)
    gap = batch[1] - out[:, :2]
    u = gap[:, 0] * (-first).exp()
    v = (gap[:, 1] - out[:, 4] * u) * (-second).exp()
    return (0.5 * (u.square() + v.square()) + first + second).mean() + math.log(2 * math.pi)


def _plane_error(model: nn.Module, batch: Batch) -> Tensor:
    return F.mse_loss(model(batch[0])[:, :2], batch[1])


def together(seed: int) -> Setup:
    """Two quantities with their covariance: the loss goes below zero soon."""
    more: dict[str, Any] = {"judge": _plane_error, "clip": 5.0, "schedule": cosine(400)}
    model = mlp((4, 48, 48, 5), nn.SiLU)
    return of_made(model, _plane, seed, _plane_likelihood, lr=9e-3, steps=400, number=1000, **more)


def _crps(model: nn.Module, batch: Batch) -> Tensor:
    """How far a normal forecast is from what came, in closed form (Gneiting and Raftery 2007)."""
    mean, raw = model(batch[0]).chunk(2, 1)
    spread = F.softplus(raw) + 1e-3
    z = (batch[1] - mean) / spread
    below = 0.5 * (1 + torch.erf(z / 2**0.5))
    density = (-0.5 * z.square()).exp() / (2 * math.pi) ** 0.5
    return (spread * (z * (2 * below - 1) + 2 * density - math.pi**-0.5)).mean()


def forecasts(seed: int) -> Setup:
    """Forecasts with a spread, scored as weather services do."""

    def make(size: int, g: torch.Generator) -> Batch:
        x = normal(g, size, 6)
        return x, bent(x) + 0.2 * torch.exp(0.6 * x[:, :1]) * normal(g, size, 1)

    model = mlp((6, 48, 48, 2), nn.ReLU)
    return of_made(model, make, seed, _crps, lr=1e-2, steps=350, number=1000, schedule=linear(350))


def _lives(size: int, g: torch.Generator) -> Batch:
    """Life of a part, of which four in ten are still at work when one looks."""
    x = normal(g, size, 6)
    life = torch.exp(bent(x)) * (-torch.log(uniform(g, size, 1, low=1e-4))) ** 0.5
    end = 0.4 + 3 * uniform(g, size, 1)
    return x, torch.cat([torch.minimum(life, end), (life < end).float()], 1)


def _weibull(model: nn.Module, batch: Batch) -> Tensor:
    """Likelihood of lives that are over and of those that are not (Weibull 1951)."""
    scale, raw = model(batch[0]).chunk(2, 1)
    time, over = batch[1].chunk(2, 1)
    shape = F.softplus(raw + 0.5)
    z = shape * (time.log() - scale)
    return (z.clamp(max=8).exp() - over * (shape.log() + z - time.log())).mean()


def lives(seed: int) -> Setup:
    """When will a part fail, as some have not yet?"""
    model = mlp((6, 48, 48, 2), nn.Tanh)
    return of_made(
        model, _lives, seed, _weibull, lr=8e-3, steps=400, size=128, number=2000, schedule=linear(400)
    )


def _heaps(size: int, g: torch.Generator) -> Batch:
    """Ten kinds in eight bent directions, with noise."""
    kind = torch.randint(10, (size,), generator=g)
    x = 1.3 * fixed(1040, 10, 8)[kind] + 0.6 * normal(g, size, 8)
    x = torch.cat([x, x.square() - 1], 1) @ fixed(1041, 16, 16) / 4
    return x, kind


def _codes(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    code = F.normalize(model(batch[0]), dim=1)
    return code, batch[1][:, None] == batch[1]


def _alike(model: nn.Module, batch: Batch) -> Tensor:
    """All of the same kind against the rest (Khosla et al. 2020)."""
    code, same = _codes(model, batch)
    own = torch.eye(len(code), dtype=torch.bool)
    scores = (code @ code.T / 0.2).masked_fill(own, -1e9)
    told = scores.log_softmax(1)
    same = same & ~own
    return -((told * same).sum(1) / same.sum(1).clamp(min=1)).mean()


def alike(seed: int) -> Setup:
    """Supervised contrast over batches of 128 with momentum; its floor is far from zero."""
    more: dict[str, Any] = {"optimizer": "sgd", "schedule": cosine(300, 10)}
    model = mlp((16, 64, 16), nn.ReLU)
    return of_made(model, _heaps, seed, _alike, lr=0.3, steps=300, size=128, number=128, **more)


class _Friends(nn.Module):
    """Codes of nodes from features and neighbours; an edge is told by their product (Kipf, Welling 2016)."""

    def __init__(self) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(1050)
        kind = torch.randint(6, (240,), generator=g)
        chance = torch.where(kind[:, None] == kind, 0.3, 0.03)
        edges = torch.bernoulli(chance, generator=g).triu(1)
        held = torch.bernoulli(torch.full_like(edges, 0.15), generator=g).triu(1)
        seen = edges * (1 - held)
        seen = seen + seen.T + torch.eye(240)
        self.register_buffer("matrix", seen / seen.sum(1, keepdim=True))
        self.register_buffer("edges", edges)
        self.register_buffer("held", held)
        self.register_buffer("nodes", fixed(1051, 6, 12)[kind] * 0.5 + normal(g, 240, 12))
        self.first, self.second = nn.Linear(24, 32), nn.Linear(64, 12)
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        code = F.relu(self.first(torch.cat([self.nodes, self.matrix @ self.nodes], 1)))
        code = self.second(torch.cat([code, self.matrix @ code], 1))
        return (code[x[:, 0]] * code[x[:, 1]]).sum(1) + self.bias


def friends(seed: int) -> Setup:
    """Which nodes of a graph are linked? Three in ten of those of a kind are, few of the others."""
    model = _Friends()

    def draw(held: float, size: int, g: torch.Generator) -> Batch:
        upper = torch.ones(240, 240).triu(1).bool() & (model.held == held)
        pairs, is_edge = upper.nonzero(), model.edges[upper]
        rows = torch.multinomial(torch.where(is_edge > 0, 3.0, 1.0), size, generator=g)
        return pairs[rows], is_edge[rows]

    setup = of_made(model, lambda n, g: draw(0.0, n, g), seed, yes_or_no, lr=8e-3, steps=250, size=256)
    held = next(forever(lambda n, g: draw(1.0, n, g))(2000, 10**6))
    setup.val = held_out(yes_or_no, *held)
    return setup


RUNS = {
    "straight_line": {"sgd": straight_line},
    "six_kinds": {"adagrad": six_kinds},
    "six_layers": {"adamw": six_layers},
    "tanh_momentum": {"sgd": tanh_momentum},
    "shop": {"adam": shop},
    "likes": {"adam": likes},
    "together": {"adam": together},
    "forecasts": {"adam": forecasts},
    "lives": {"adam": lives},
    "alike": {"sgd": alike},
    "friends": {"adam": friends},
}
