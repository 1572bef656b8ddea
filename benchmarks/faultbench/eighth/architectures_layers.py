"""Layers and learners of unusual kinds in the eighth suite."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from data import digits
from fourth.runs import cosine, linear
from models import Batch, entropy, square
from settings import ADAM, SGD, Build, of_custom, of_table
from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal

from eighth.architectures_common import fixed, forever, normal, of_stream, uniform


class Learner(nn.Module):
    """Learns from eight points by one step of its own (Finn et al. 2017), with a rate that is learned."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterList(
            [
                torch.randn(32, 1),
                torch.randn(32),
                torch.randn(32, 32) / 5,
                torch.zeros(32),
                torch.randn(1, 32) / 6,
                torch.zeros(1),
            ]
        )
        self.rate = nn.Parameter(torch.tensor(0.05))

    def net(self, x: Tensor, w: list[Tensor]) -> Tensor:
        hidden = torch.tanh(x @ w[0].mT + w[1].unsqueeze(-2))
        return torch.tanh(hidden @ w[2].mT + w[3].unsqueeze(-2)) @ w[4].mT + w[5].unsqueeze(-2)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        w = [p.expand(len(x), *p.shape) for p in self.weights]
        with torch.enable_grad():
            w = [p if p.requires_grad else p.requires_grad_() for p in w]
            error = (self.net(x[:, :8], w) - y[:, :8]).square().mean((1, 2)).sum()
            slopes = torch.autograd.grad(error, w, create_graph=self.training)
        return self.net(x[:, 8:], [p - self.rate * s for p, s in zip(w, slopes, strict=True)])


@forever
def sines(size: int, g: torch.Generator) -> Batch:
    """Sixteen points each of sines of any height and phase."""
    x = uniform(g, size, 16, 1, low=-3, high=3)
    loud, turn = uniform(g, size, 1, 1, low=0.5, high=2), uniform(g, size, 1, 1, high=3.14)
    return x, loud * (x + turn).sin() + 0.1 * normal(g, size, 16, 1)


def learned(model: nn.Module, batch: Batch) -> Tensor:
    return F.mse_loss(model(*batch), batch[1][:, 8:])


class Rough(nn.Linear):
    """Weights of eight levels, whose step is learned as well (Esser et al. 2020)."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__(a, b)
        self.step = nn.Parameter(2 * self.weight.detach().abs().mean() / 3**0.5)

    def forward(self, x: Tensor) -> Tensor:
        scale = 1 / (self.weight.numel() * 3) ** 0.5
        step = self.step * scale + (self.step - self.step * scale).detach()
        level = (self.weight / step).clamp(-4, 3)
        return F.linear(x, (level + (level.round() - level).detach()) * step, self.bias)


class Sorted(nn.Module):
    """Puts pairs of units in order, which keeps all lengths (Anil et al. 2019)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, 2)).sort(-1).values.flatten(-2)


def keeping() -> nn.Sequential:
    """Layers that keep lengths, by parametrization, before a plain one."""
    return nn.Sequential(
        orthogonal(nn.Linear(64, 64)), Sorted(), orthogonal(nn.Linear(64, 64)), Sorted(), nn.Linear(64, 10)
    )


class Dense(nn.Module):
    """Each layer sees what all before it gave (Huang et al. 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 12, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(12 + 8 * k) for k in range(4))
        self.layers = nn.ModuleList(nn.Conv2d(12 + 8 * k, 8, 3, padding=1, bias=False) for k in range(4))
        self.head = nn.Linear(44 * 4, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.first(x.reshape(-1, 1, 8, 8)), 2)
        for norm, layer in zip(self.norms, self.layers, strict=True):
            x = torch.cat([x, layer(F.relu(norm(x)))], 1)
        return self.head(F.avg_pool2d(x, 2).flatten(1))


class Recall(nn.Module):
    """Learned patterns that a spoiled one is drawn to, twice (Ramsauer et al. 2021)."""

    def __init__(self) -> None:
        super().__init__()
        self.patterns, self.beta = nn.Parameter(0.3 * torch.randn(64, 64)), nn.Parameter(torch.tensor(0.5))
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        state = x
        for _ in range(2):
            state = 0.5 * x + (self.beta * state @ self.patterns.T / 4).softmax(-1) @ self.patterns
        return self.head(state)


class Reservoir(nn.Module):
    """A recurrent net drawn once and never trained, and what is read from it (Jaeger 2001)."""

    def __init__(self) -> None:
        super().__init__()
        inner = torch.randn(100, 100) * (torch.rand(100, 100) < 0.1)
        self.register_buffer("inner", 0.9 * inner / torch.linalg.eigvals(inner).abs().max())
        self.register_buffer("into", torch.rand(100, 1) * 2 - 1)
        self.head = nn.Linear(101, 1)

    def forward(self, x: Tensor) -> Tensor:
        state, said = x.new_zeros(len(x), 100), []
        for at in range(x.shape[1]):
            state = torch.tanh(state @ self.inner.T + x[:, at, None] @ self.into.T)
            said.append(torch.cat([state, x[:, at, None]], 1))
        return self.head(torch.stack(said, 1))[..., 0][:, 8:]


@forever
def moving(size: int, g: torch.Generator) -> Batch:
    """Noise, and a sum of what came up to five steps ago and of one product."""
    x = uniform(g, size, 24, low=-1, high=1)
    y = 0.6 * x.roll(1, 1) + 0.8 * x.roll(3, 1) - 0.7 * x.roll(5, 1) + x.roll(1, 1) * x.roll(2, 1)
    return x, y[:, 8:] + 0.2 * normal(g, size, 16)


class Composer(nn.Module):
    """Puts pairs of words together, and pairs of pairs, by the same cell (Tai et al. 2015)."""

    def __init__(self) -> None:
        super().__init__()
        self.leaf, self.cell, self.head = nn.Embedding(14, 48), nn.Linear(48, 24 * 5), nn.Linear(24, 1)

    def forward(self, x: Tensor) -> Tensor:
        hidden, memory = self.leaf(x).chunk(2, -1)
        hidden = hidden.tanh()
        while hidden.shape[1] > 1:
            pair = hidden.reshape(len(x), -1, 48)
            left, right, into, out, new = self.cell(pair).chunk(5, -1)
            kept = (left + 1).sigmoid() * memory[:, 0::2] + (right + 1).sigmoid() * memory[:, 1::2]
            memory = kept + into.sigmoid() * new.tanh()
            hidden = out.sigmoid() * memory.tanh()
        return self.head(hidden[:, 0])


@forever
def phrases(size: int, g: torch.Generator) -> Batch:
    """Eight words; a pair is worth the better one if its first word is even, else the mean; and so on."""
    words = torch.randint(14, (size, 8), generator=g)
    value, even = fixed(813, 14)[words], words % 2 == 0
    while value.shape[1] > 1:
        one, two = value[:, 0::2], value[:, 1::2]
        value = torch.where(even[:, 0::2], torch.maximum(one, two), (one + two) / 2)
        even = even[:, 0::2]
    return words, value + 0.3 * normal(g, size, 1)


RUNS: dict[str, dict[str, Build]] = {
    "learner": {
        "adam": of_stream(Learner, sines, learned, 16, 100, lr=8e-3, steps=220, slopes=True, clip=5.0, **ADAM)
    },
    "rough": {
        "adam": of_table(
            lambda: nn.Sequential(Rough(64, 48), nn.ReLU(), Rough(48, 48), nn.ReLU(), Rough(48, 10)),
            digits,
            entropy,
            64,
            lr=6e-3,
            steps=220,
            schedule=linear(220),
            **ADAM,
        ),
    },
    "keeping": {"sgd": of_custom(keeping, digits, entropy, 64, lr=0.05, steps=200, **SGD)},
    "dense": {
        "sgd": of_table(
            Dense,
            digits,
            entropy,
            48,
            lr=0.05,
            steps=200,
            options={"nesterov": True},
            schedule=cosine(200),
            **SGD,
        ),
    },
    "recall": {"adam": of_custom(Recall, digits, entropy, 48, lr=4e-3, steps=250, **ADAM)},
    "reservoir": {"adam": of_stream(Reservoir, moving, square, 32, lr=8e-3, steps=300, **ADAM)},
    "phrases": {"adam": of_stream(Composer, phrases, square, 64, 800, lr=8e-3, steps=250, **ADAM)},
}
