"""Generative, self-supervised, acting and physical settings of the tenth suite."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from data import digits
from eighth.architectures_common import fixed, forever, normal, of_stream, uniform
from eighth.habits_data import letters, made
from fourth.runs import cosine, linear
from models import Batch, Setup, mlp, square
from torch import Tensor, nn


class _Filler(nn.Module):
    """Tells hidden letters from all that are seen, on both sides."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(11, 32), nn.Parameter(0.1 * torch.randn(12, 32))
        self.read, self.head = nn.GRU(32, 48, batch_first=True, bidirectional=True), nn.Linear(96, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.read(self.embed(x) + self.place)[0])


def masked_diffusion(seed: int) -> Setup:
    """Any share of the letters is hidden, and what is told weighs by one over it (Sahoo et al. 2024)."""
    g = torch.Generator().manual_seed(seed)

    def loss(m: nn.Module, b: Batch) -> Tensor:
        x, own = b[0], g if m.training else torch.Generator().manual_seed(1021)
        share = 0.05 + 0.95 * torch.rand(len(x), 1, generator=own)
        hidden = torch.rand(x.shape, generator=own) < share
        costs = F.cross_entropy(m(x.masked_fill(hidden, 10)).transpose(1, 2), x, reduction="none")
        return (costs * hidden / share).mean()

    return made(_Filler(), letters(), seed, loss, lr=1e-2, size=64, steps=250, schedule=cosine(250))


class _Scalars(nn.Module):
    """A code of six numbers that are rounded to five levels each."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = mlp((64, 64, 6), nn.ReLU), mlp((6, 64, 64), nn.ReLU)

    def forward(self, x: Tensor) -> Tensor:
        code = 2 * self.encode(x).tanh()
        return self.decode(code + (code.round() - code).detach())


def rounded(seed: int) -> Setup:
    """Codes of whole numbers without a codebook (Mentzer et al. 2024), slopes straight through."""

    def loss(m: nn.Module, b: Batch) -> Tensor:
        return square(m, (b[0], b[0]))

    return made(_Scalars(), digits(), seed, loss, lr=8e-3, steps=300, schedule=cosine(300))


class _Few(nn.Module):
    """128 features of which the eight largest are kept."""

    def __init__(self) -> None:
        super().__init__()
        self.shift, self.encode = nn.Parameter(torch.zeros(32)), nn.Linear(32, 128)
        self.decode = nn.Linear(128, 32, bias=False)
        with torch.no_grad():
            self.decode.weight.copy_(F.normalize(self.encode.weight.T, dim=0))

    def forward(self, x: Tensor) -> Tensor:
        code = self.encode(x - self.shift)
        most = code.topk(8, dim=1)
        return self.decode(torch.zeros_like(code).scatter(1, most.indices, most.values.relu())) + self.shift


@forever
def _activity(size: int, g: torch.Generator) -> Batch:
    """Five of eighty directions at a time, each as strong as it likes."""
    on = torch.rand(size, 80, generator=g).argsort(1) < 5
    return (on * uniform(g, size, 80, low=0.5, high=1.5)) @ F.normalize(fixed(1022, 80, 32), dim=1) + 0.3, on


def dictionary(seed: int) -> Setup:
    """A sparse dictionary of a layer's activity (Gao et al. 2024): most features are off for most rows."""

    def loss(m: nn.Module, b: Batch) -> Tensor:
        return (m(b[0]) - b[0]).square().sum(1).mean()

    more = {"lr": 1e-2, "steps": 400, "schedule": linear(400), "optimizer": "adam"}
    return of_stream(_Few, _activity, loss, 256, 1000, **more)(seed)


class _Nested(nn.Module):
    """A code whose first 2, 4, 8 and 16 numbers each tell the class by themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp((64, 96, 16), nn.ReLU)
        self.heads = nn.ModuleList(nn.Linear(size, 10) for size in (2, 4, 8, 16))

    def forward(self, x: Tensor) -> list[Tensor]:
        code = self.body(x)
        return [head(code[:, : head.in_features]) for head in self.heads]


def nested(seed: int) -> Setup:
    """Codes in codes (Kusupati et al. 2022): the sum of four losses."""

    def loss(m: nn.Module, b: Batch) -> Tensor:
        return sum(F.cross_entropy(out, b[1]) for out in m(b[0]))

    return made(_Nested(), digits(), seed, loss, lr=1.2e-2, schedule=cosine(220))


def _seen_twice(x: Tensor, g: torch.Generator) -> tuple[Tensor, Tensor]:
    pictures = x.reshape(-1, 8, 8)
    views = []
    for _ in range(2):
        moved = pictures.roll(int(torch.randint(-1, 2, (1,), generator=g)), 2)
        views.append(
            (moved + 0.4 * normal(g, *moved.shape)).flatten(1) * uniform(g, len(x), 1, low=0.8, high=1.2)
        )
    return views[0], views[1]


def variances(seed: int) -> Setup:
    """Views alike, each number of the code with a spread, none like another (Bardes et al. 2022): a loss of tens."""
    g = torch.Generator().manual_seed(seed)
    net = nn.Sequential(nn.Linear(64, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 24))

    def loss(m: nn.Module, b: Batch) -> Tensor:
        one, two = (m(v) for v in _seen_twice(b[0], g if m.training else torch.Generator().manual_seed(1023)))
        cost = 25 * F.mse_loss(one, two)
        for code in (one, two):
            centered = code - code.mean(0)
            shared = centered.T @ centered / (len(code) - 1)
            spread = (1 - (shared.diagonal() + 1e-4).sqrt()).relu().mean()
            cost = cost + 12.5 * spread + (shared - shared.diagonal().diag()).square().sum() / 24
        return cost

    return made(net, digits(), seed, loss, lr=4e-3, size=128, steps=220, schedule=cosine(220, 10))


class _Both(nn.Module):
    """A maker of points and a judge of them."""

    def __init__(self) -> None:
        super().__init__()
        self.maker, self.judge = mlp((4, 48, 48, 2), nn.LeakyReLU), mlp((2, 64, 64, 1), nn.LeakyReLU)


@forever
def _arcs(size: int, g: torch.Generator) -> Batch:
    """Noise, and points of half a ring."""
    a = 3.14 * torch.rand(size, 1, generator=g)
    return normal(g, size, 4), 1.5 * torch.cat([a.cos(), a.sin()], 1) + 0.1 * normal(g, size, 2)


def _energy_distance(model: nn.Module, batch: Batch) -> Tensor:
    made_, true = model.maker(batch[0]), batch[1]
    return (
        2 * torch.cdist(made_, true).mean()
        - torch.cdist(made_, made_).mean()
        - torch.cdist(true, true).mean()
    )


def adversaries(seed: int) -> Setup:
    """Maker and judge take turns (Goodfellow et al. 2014), the judge under a slope penalty (Mescheder 2018)."""
    count = [0]

    def loss(m: nn.Module, b: Batch) -> Tensor:
        count[0] += 1
        if count[0] % 2:
            true = b[1].clone().requires_grad_()
            right, wrong = m.judge(true), m.judge(m.maker(b[0]).detach())
            slope = torch.autograd.grad(right.sum(), true, create_graph=True)[0].square().sum(1).mean()
            return F.softplus(-right).mean() + F.softplus(wrong).mean() + 0.1 * slope
        return F.softplus(-m.judge(m.maker(b[0]))).mean()

    def own(m: nn.Module, step: int) -> None:
        for p in (m.maker if step % 2 == 0 else m.judge).parameters():
            p.grad = None

    more = {"check": _energy_distance, "after_backward": own, "options": {"betas": (0.0, 0.99)}, "steps": 600}
    setup = of_stream(_Both, _arcs, loss, 96, 500, lr=3e-3, optimizer="adam", schedule=linear(600), **more)(
        seed
    )
    setup.metric = "val_distance"
    return setup


class _Wave(nn.Module):
    """The logarithm of a wave function of two numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp((2, 24, 24, 1), nn.Tanh)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)[:, 0] - 0.25 * x.square().sum(1)


def _local_energy(model: nn.Module, x: Tensor) -> Tensor:
    with torch.enable_grad():
        x = x.detach().clone().requires_grad_()
        slope = torch.autograd.grad(model(x).sum(), x, create_graph=True)[0]
        bend = sum(torch.autograd.grad(slope[:, k].sum(), x, retain_graph=True)[0][:, k] for k in range(2))
    pull = 0.5 * x.square().sum(1) + 0.4 * (x[:, 0] * x[:, 1]) + 0.1 * x.pow(4).sum(1)
    return (pull - 0.5 * (bend + slope.square().sum(1))).detach()


def ground_state(seed: int) -> Setup:
    """Walkers follow a wave function that learns from them (Carleo and Troyer 2017); the loss is an energy."""
    g, model = torch.Generator().manual_seed(seed), _Wave()
    at = [torch.randn(256, 2, generator=g)]

    def walk() -> Iterator[Batch]:
        while True:
            for _ in range(8):
                to = at[0] + 0.8 * torch.randn(256, 2, generator=g)
                with torch.no_grad():
                    gain = 2 * (model(to) - model(at[0]))
                go = torch.rand(256, generator=g).log() < gain
                at[0] = torch.where(go[:, None], to, at[0])
            yield at[0], at[0]

    def loss(m: nn.Module, b: Batch) -> Tensor:
        energy = _local_energy(m, b[0])
        pulled = 2 * ((energy - energy.mean()).clamp(-5, 5) * m(b[0])).mean()
        return pulled + (energy.mean() - pulled).detach()

    grid = torch.linspace(-4, 4, 41)
    places = torch.cartesian_prod(grid, grid)

    def energy(m: nn.Module) -> float:
        with torch.no_grad():
            weight = (2 * m(places)).softmax(0)
        return float((weight * _local_energy(m, places)).sum())

    more = {"lr": 5e-3, "steps": 300, "schedule": linear(300), "optimizer": "adam"}
    return Setup(model, walk(), loss, energy, batch_size=256, seed=seed, **more)


class _Splats(nn.Module):
    """A picture as a sum of forty soft spots of any form and shade."""

    def __init__(self) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(1025)
        self.at = nn.Parameter(torch.rand(40, 2, generator=g) * 2 - 1)
        self.form = nn.Parameter(torch.tensor([3.0, 0.0, 3.0]).repeat(40, 1))
        self.shade, self.ground = nn.Parameter(torch.zeros(40)), nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        a, b = (x[:, None] - self.at).unbind(2)
        one, mixed, two = self.form.unbind(1)
        spot = (-0.5 * ((one * a + mixed * b).square() + (two * b).square())).exp()
        return (spot @ self.shade + self.ground)[:, None]


@forever
def _painting(size: int, g: torch.Generator) -> Batch:
    """Places of a picture and how bright it is there."""
    x = uniform(g, size, 2, low=-1.0)
    disc = torch.sigmoid(12 * (0.5 - (x - torch.tensor([0.2, -0.1])).norm(dim=1)))
    bar = torch.sigmoid(15 * (0.15 - (x[:, 0] + x[:, 1] - 0.5).abs()))
    return x, (disc - 0.7 * bar + 0.3 * (3 * x[:, 1]).sin())[:, None]


def spots(seed: int) -> Setup:
    """A picture made of soft spots that move and grow (Kerbl et al. 2023)."""
    more = {"lr": 3e-2, "steps": 350, "schedule": cosine(350), "optimizer": "adam"}
    return of_stream(_Splats, _painting, square, 256, 1500, **more)(seed)


class _Arm(nn.Module):
    """Says three angles by which an arm gets to a place."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp((2, 64, 64, 3), nn.SiLU)

    def forward(self, x: Tensor) -> Tensor:
        angles = (1.5 * self.net(x)).cumsum(1)
        lengths = torch.tensor([1.0, 0.8, 0.5])
        return torch.stack([(lengths * angles.cos()).sum(1), (lengths * angles.sin()).sum(1)], 1)


@forever
def _places(size: int, g: torch.Generator) -> Batch:
    """Places in front of the arm, which are their own targets."""
    a, r = uniform(g, size, low=-1.4, high=1.4), uniform(g, size, low=0.6, high=2.1)
    x = torch.stack([r * a.cos(), r * a.sin()], 1)
    return x, x


def arm(seed: int) -> Setup:
    """Angles for an arm, by way of where the hand gets to."""

    def far(m: nn.Module, b: Batch) -> Tensor:
        return ((m(b[0]) - b[1]).square().sum(1) + 1e-4).sqrt().mean()

    more = {"lr": 1e-2, "steps": 400, "schedule": cosine(400), "optimizer": "adam"}
    return of_stream(_Arm, _places, far, 128, 800, **more)(seed)


@forever
def _offers(size: int, g: torch.Generator) -> Batch:
    """Questions, and eight answers' worth each."""
    x = normal(g, size, 6)
    return x, (x @ fixed(1026, 6, 32)).tanh() @ fixed(1027, 32, 8) / 3


def grouped(seed: int) -> Setup:
    """Six tries for each question, judged against their own mean (Shao et al. 2024): the loss is about zero."""
    g = torch.Generator().manual_seed(seed)

    def loss(m: nn.Module, b: Batch) -> Tensor:
        logs = m(b[0]).log_softmax(1)
        done = torch.multinomial(logs.detach().exp(), 6, replacement=True, generator=g)
        worth = b[1].gather(1, done)
        better = (worth - worth.mean(1, keepdim=True)) / (worth.std(1, keepdim=True) + 0.1)
        return -(better * logs.gather(1, done)).mean()

    def given_away(m: nn.Module, b: Batch) -> Tensor:
        return (b[1].amax(1) - (m(b[0]).softmax(1) * b[1]).sum(1)).mean()

    more = {"check": given_away, "steps": 400, "schedule": linear(400), "optimizer": "adam", "lr": 1.5e-2}
    setup = of_stream(lambda: mlp((6, 64, 8), nn.Tanh), _offers, loss, 64, 800, **more)(seed)
    setup.metric = "val_regret"
    return setup


def told_apart(seed: int) -> Setup:
    """Which of two answers people like, by the difference of two rewards (Christiano et al. 2017)."""

    @forever
    def pairs(size: int, g: torch.Generator) -> Batch:
        x = normal(g, size, 2, 10)
        worth = 2 * (x[..., 0] * x[..., 1]).tanh() + x[..., 2] - x[..., 3].abs()
        return x, (torch.rand(size, generator=g) < (2 * (worth[:, 0] - worth[:, 1])).sigmoid()).float()

    def loss(m: nn.Module, b: Batch) -> Tensor:
        one, two = m(b[0])[..., 0].unbind(1)
        return F.binary_cross_entropy_with_logits(one - two, b[1])

    more = {"steps": 300, "schedule": cosine(300), "optimizer": "adam", "lr": 1.2e-2}
    return of_stream(lambda: mlp((10, 64, 64, 1), nn.ReLU), pairs, loss, 96, 1500, **more)(seed)


MADE: dict[str, Callable[[int], Setup]] = {
    f.__name__: f
    for f in (
        masked_diffusion,
        rounded,
        dictionary,
        nested,
        variances,
        adversaries,
        ground_state,
        spots,
        arm,
        grouped,
        told_apart,
    )
}
