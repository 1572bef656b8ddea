"""Codes, embeddings and generative models of the eighth suite."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from data import Split, digits
from fourth.runs import cosine, linear
from models import Batch, entropy, mlp, square
from settings import ADAM, ADAMW, SGD, Build, of_custom
from torch import Tensor, nn

from eighth.architectures_common import fixed, forever, normal, of_stream, uniform


def bits() -> Split:
    """Digits in black and white."""
    s = digits()
    return Split((s.x > 0.2).float(), s.y, (s.val_x > 0.2).float(), s.val_y)


class Weighted(nn.Module):
    """A variational net that draws eight codes for each picture (Burda et al. 2016)."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = mlp((64, 64, 20), nn.Tanh), mlp((10, 64, 64), nn.Tanh)

    def forward(self, x: Tensor) -> Tensor:
        mean, log = self.encode(x).chunk(2, 1)
        noise = torch.randn(8, *mean.shape) if self.training else fixed(821, 8, *mean.shape)
        code = mean + noise * log.exp()
        out = self.decode(code)
        seen = -F.binary_cross_entropy_with_logits(out, x.expand_as(out), reduction="none").sum(-1)
        prior = (-0.5 * code.square() + 0.5 * noise.square() + log).sum(-1)
        return -(torch.logsumexp(seen + prior, 0) - math.log(8)).mean()


def bound(model: nn.Module, batch: Batch) -> Tensor:
    return model(batch[0])


class MaskedFilter(nn.Conv2d):
    """Sees only pixels above and to the left, and its own from the second layer on."""

    def __init__(self, a: int, b: int, own: bool) -> None:
        super().__init__(a, b, 5, padding=2)
        mask = torch.zeros(5, 5)
        mask[:2], mask[2, :2], mask[2, 2] = 1, 1, float(own)
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.mask, self.bias, padding=2)


class Pixels(nn.Module):
    """Each pixel from those before, by gated filters (van den Oord et al. 2016)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.layers = (
            MaskedFilter(1, 16, False),
            nn.ModuleList(MaskedFilter(16, 32, True) for _ in range(3)),
        )
        self.head = nn.Conv2d(16, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x.reshape(-1, 1, 8, 8))
        for layer in self.layers:
            a, b = layer(hidden).chunk(2, 1)
            hidden = hidden + a.tanh() * b.sigmoid()
        return self.head(hidden).flatten(1)


def next_pixel(model: nn.Module, batch: Batch) -> Tensor:
    return F.binary_cross_entropy_with_logits(model(batch[0]), batch[0], reduction="none").sum(1).mean()


class Velocity(nn.Module):
    """Where a point should go at a time, on its straight way from noise (Lipman et al. 2023)."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp((2 + 5, 64, 64, 2), nn.SiLU)

    def forward(self, x: Tensor) -> Tensor:
        t = x[:, 2:]
        return self.net(
            torch.cat(
                [x[:, :2], t, (3.14 * t).sin(), (3.14 * t).cos(), (6.28 * t).sin(), (6.28 * t).cos()], 1
            )
        )


@forever
def ways(size: int, g: torch.Generator) -> Batch:
    """Places between noise and a board of four squares, and the way from one to the other."""
    corner = 2.0 * torch.randint(2, (size, 2), generator=g) - 1
    point, noise, t = (
        1.2 * corner + uniform(g, size, 2, low=-0.5, high=0.5),
        normal(g, size, 2),
        uniform(g, size, 1),
    )
    return torch.cat([(1 - t) * noise + t * point, t], 1), point - noise


def _mix_score(x: Tensor) -> Tensor:
    centers = torch.tensor([[1.5, 0.0], [-1.0, 1.2], [-0.5, -1.5]])
    near = (-(x[:, None] - centers).square().sum(-1) / (2 * 0.36)).softmax(1)
    return -(near[..., None] * (x[:, None] - centers)).sum(1) / 0.36


@forever
def three_heaps(size: int, g: torch.Generator) -> Batch:
    """Points of three normal heaps, and the slope of the logarithm of their density."""
    centers = torch.tensor([[1.5, 0.0], [-1.0, 1.2], [-0.5, -1.5]])
    x = centers[torch.randint(3, (size,), generator=g)] + 0.6 * normal(g, size, 2)
    return x, _mix_score(x)


def sliced(model: nn.Module, batch: Batch) -> Tensor:
    """Score matching without a known score: the trace of a slope, and a square (Hyvarinen 2005)."""
    with torch.enable_grad():
        x = batch[0].detach().clone().requires_grad_()
        score = model(x)
        trace = sum(torch.autograd.grad(score[:, k].sum(), x, create_graph=True)[0][:, k] for k in range(2))
    return (trace + 0.5 * score.square().sum(1)).mean()


class Baskets(nn.Module):
    """What a person takes, from a noisy code of what was taken (Liang et al. 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode, self.drop = (
            mlp((150, 64, 32), nn.Tanh),
            mlp((16, 64, 150), nn.Tanh),
            nn.Dropout(0.5),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, log = self.encode(self.drop(F.normalize(x) * 4)).chunk(2, 1)
        cost = 0.5 * (mean.square() + log.exp() - 1 - log).sum(1).mean()
        code = mean + (torch.randn_like(mean) * (log / 2).exp() if self.training else 0.0)
        return self.decode(code), cost


@forever
def baskets(size: int, g: torch.Generator) -> Batch:
    """Counts of 150 things in baskets of some thirty; those held back are the second part."""
    taste = (1.2 * fixed(822, 6, 150)).softmax(-1)
    share = (2.0 * normal(g, size, 6)).softmax(-1) @ taste
    taken = torch.multinomial(share, 40, replacement=True, generator=g)
    return tuple(
        torch.zeros(size, 150).scatter_add_(1, part, torch.ones(part.shape)) for part in taken.split(30, 1)
    )


def all_taken(model: nn.Module, batch: Batch) -> Tensor:
    """Likelihood of the whole basket, and a fifth of what the code costs: a loss of more than a hundred."""
    out, cost = model(batch[0])
    return -(out.log_softmax(1) * batch[0]).sum(1).mean() + 0.2 * cost


def held_back(model: nn.Module, batch: Batch) -> Tensor:
    return -(model(batch[0])[0].log_softmax(1) * batch[1]).sum(1).mean() / 10


class Vectors(nn.Module):
    """Products of two vectors and two numbers tell a logarithm of a count (Pennington et al. 2014)."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Embedding(120, 9), nn.Embedding(120, 9)
        for part in (self.left, self.right):
            nn.init.uniform_(part.weight, -0.3, 0.3)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.left(x[:, 0]), self.right(x[:, 1])
        return (a[:, :8] * b[:, :8]).sum(1) + a[:, 8] + b[:, 8]


@forever
def pairs_of_words(size: int, g: torch.Generator) -> Batch:
    """Two words and how often they were seen together."""
    vectors, often = fixed(823, 120, 4), 0.7 * fixed(824, 120)
    x = torch.randint(120, (size, 2), generator=g)
    log = 2 + 0.5 * (vectors[x[:, 0]] * vectors[x[:, 1]]).sum(1) + often[x].sum(1)
    return x, (log + 0.3 * normal(g, size)).exp().clamp(0.1, 300)


def weighed_counts(model: nn.Module, batch: Batch) -> Tensor:
    weight = (batch[1] / 50).clamp(max=1) ** 0.75
    return (weight * (model(batch[0]) - batch[1].log()).square()).mean()


class Disc(nn.Module):
    """Places of 63 things in the hyperbolic disc (Nickel and Kiela 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.places, self.scale = nn.Parameter(0.1 * torch.randn(63, 3)), nn.Parameter(torch.tensor(1.0))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        length = self.places.norm(dim=1, keepdim=True)
        x = self.places * length.tanh() / (length + 1e-6) * 0.99
        apart, inner = (x[a] - x[b]).square().sum(-1), 1 - x.square().sum(-1)
        return -self.scale * torch.acosh(1 + 2 * apart / (inner[a] * inner[b]) + 1e-5)


@forever
def kinships(size: int, g: torch.Generator) -> Batch:
    """A thing of a tree, its parent, and nine others that are not."""
    child = torch.randint(1, 63, (size, 1), generator=g)
    other = torch.randint(63, (size, 9), generator=g)
    parent = (child - 1) // 2
    other = torch.where((other == parent) | (other == child), (child * 7 + 5) % 63, other)
    return child, torch.cat([parent, other], 1)


def parents(model: nn.Module, batch: Batch) -> Tensor:
    scores = model(batch[0].expand_as(batch[1]), batch[1])
    return F.cross_entropy(scores, torch.zeros(len(scores), dtype=torch.long))


class Reverse(torch.autograd.Function):
    """Nothing on the way there; the gradient turned round and made smaller on the way back."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx, slope: Tensor) -> Tensor:
        return -0.3 * slope


class TwoPlaces(nn.Module):
    """Classes by features that should not tell from where a row is (Ganin et al. 2016)."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.tell = (
            nn.Sequential(nn.Linear(12, 48), nn.ReLU(), nn.Linear(48, 24), nn.ReLU()),
            nn.Linear(24, 3),
        )
        self.where = mlp((24, 24, 1), nn.ReLU)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.body(x)
        return self.tell(hidden), self.where(Reverse.apply(hidden))[:, 0]


@forever
def two_places(size: int, g: torch.Generator) -> Batch:
    """Half of the rows from one place with labels, half from another whose readings are shifted."""
    kind, far = torch.randint(3, (size,), generator=g), torch.arange(size) % 2
    x = normal(g, size, 12) + 1.1 * fixed(825, 3, 12)[kind] + 0.7 * far[:, None] * fixed(826, 12)
    return x, torch.stack([kind, far], 1)


def both_ways(model: nn.Module, batch: Batch) -> Tensor:
    out, where = model(batch[0])
    kind, far = batch[1].unbind(1)
    return entropy(lambda x: out[far == 0], (batch[0], kind[far == 0])) + F.binary_cross_entropy_with_logits(
        where, far.float()
    )


def far_kinds(model: nn.Module, batch: Batch) -> Tensor:
    kind, far = batch[1].unbind(1)
    return F.cross_entropy(model(batch[0])[0][far == 1], kind[far == 1])


class Views(nn.Module):
    """Codes of two views whose correlation should be high (Andrew et al. 2013)."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = mlp((10, 48, 3), nn.Tanh), mlp((8, 48, 3), nn.Tanh)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.one(x[:, :10]), self.two(x[:, 10:])


@forever
def two_views(size: int, g: torch.Generator) -> Batch:
    """Three hidden numbers behind two bent and noisy sets of readings."""
    hidden = normal(g, size, 3)
    one = (hidden @ fixed(827, 3, 10)).tanh() + 0.25 * normal(g, size, 10)
    two = (hidden @ fixed(828, 3, 8) + 0.5).sin() + 0.25 * normal(g, size, 8)
    return torch.cat([one, two], 1), hidden


def correlation(model: nn.Module, batch: Batch) -> Tensor:
    """Less the sum of the canonical correlations: far below zero when all is well."""
    codes = [code - code.mean(0) for code in model(batch[0])]
    roots = [torch.linalg.cholesky(c.T @ c / len(c) + 1e-3 * torch.eye(3)) for c in codes]
    one, two = (torch.linalg.solve_triangular(r, c.T, upper=False) for r, c in zip(roots, codes, strict=True))
    return -torch.linalg.svdvals(one @ two.T / len(codes[0])).sum()


def not_correlated(model: nn.Module, batch: Batch) -> Tensor:
    return 3 + correlation(model, batch)


RUNS: dict[str, dict[str, Build]] = {
    "weighted_codes": {"adam": of_custom(Weighted, bits, bound, 48, lr=5e-3, steps=250, **ADAM)},
    "pixels": {
        "adam": of_custom(Pixels, bits, next_pixel, 24, lr=4e-3, steps=150, schedule=cosine(150), **ADAM)
    },
    "ways": {
        "adamw": of_stream(Velocity, ways, square, 128, 1500, lr=4e-3, steps=300, weight_decay=0.01, **ADAMW)
    },
    "heaps": {
        "adam": of_stream(
            lambda: mlp((2, 48, 48, 2), nn.Softplus),
            three_heaps,
            sliced,
            128,
            800,
            judge=square,
            slopes=True,
            lr=0.03,
            steps=300,
            schedule=linear(300),
            **ADAM,
        ),
    },
    "baskets": {
        "adam": of_stream(Baskets, baskets, all_taken, 64, judge=held_back, lr=4e-3, steps=250, **ADAM),
    },
    "word_vectors": {
        "adagrad": of_stream(
            Vectors, pairs_of_words, weighed_counts, 256, 2000, lr=0.4, steps=400, optimizer="adagrad"
        ),
    },
    "disc": {"adam": of_stream(Disc, kinships, parents, 64, 500, lr=0.03, steps=300, **ADAM)},
    "two_places": {
        "sgd": of_stream(
            TwoPlaces,
            two_places,
            both_ways,
            64,
            800,
            check=far_kinds,
            lr=0.02,
            steps=250,
            schedule=cosine(250),
            **SGD,
        ),
    },
    "two_views": {
        "adam": of_stream(
            Views, two_views, correlation, 200, 600, judge=not_correlated, lr=5e-3, steps=200, **ADAM
        ),
    },
}
