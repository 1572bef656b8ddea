"""Physics, decisions and layers of unusual kinds in the eighth suite."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from fourth.runs import cosine, linear
from models import Batch, mlp, square
from settings import ADAM, ADAMW, Build
from torch import Tensor, nn

from eighth.architectures_common import fixed, forever, normal, of_stream, uniform


class Spectrum(nn.Module):
    """Layers that act on the lowest waves of a function (Li et al. 2021)."""

    def __init__(self) -> None:
        super().__init__()
        self.lift, self.head = (
            nn.Conv1d(2, 16, 1),
            nn.Sequential(nn.Conv1d(16, 24, 1), nn.GELU(), nn.Conv1d(24, 1, 1)),
        )
        self.waves = nn.ParameterList(nn.Parameter(torch.randn(16, 16, 8, 2) / 23) for _ in range(2))
        self.near = nn.ModuleList(nn.Conv1d(16, 16, 1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        place = torch.linspace(0, 1, 32).expand(len(x), 1, 32)
        hidden = self.lift(torch.cat([x[:, None], place], 1))
        for waves, near in zip(self.waves, self.near, strict=True):
            low = torch.einsum("bik,iok->bok", torch.fft.rfft(hidden)[..., :8], torch.view_as_complex(waves))
            hidden = F.gelu(torch.fft.irfft(low, n=32) + near(hidden))
        return self.head(hidden)[:, 0]


@forever
def burgers(size: int, g: torch.Generator) -> Batch:
    """A wave on a ring, and what has become of it a little later, read with noise."""
    t = 2 * math.pi * torch.arange(32) / 32
    turn, loud = (
        uniform(g, size, 3, 1, high=6.28),
        normal(g, size, 3, 1) / torch.tensor([1.0, 1.5, 2.0])[:, None],
    )
    start = (loud * (torch.tensor([1.0, 2.0, 3.0])[:, None] * t + turn).sin()).sum(1)
    u = start
    for _ in range(40):
        left, right = u.roll(1, 1), u.roll(-1, 1)
        u = u + 0.01 * (-(right.square() - left.square()) / 0.785 + 0.12 * (left + right - 2 * u) / 0.0386)
    return start, u + 0.1 * normal(g, size, 32)


class Sagging(nn.Module):
    """The form of a membrane that is held at its edge."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp((2, 40, 40, 1), nn.Tanh)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) * (x * (1 - x)).prod(1, keepdim=True) * 4


@forever
def inner_points(size: int, g: torch.Generator) -> Batch:
    x = uniform(g, size, 2)
    return x, (math.pi * x).sin().prod(1, keepdim=True)


def membrane_energy(model: nn.Module, batch: Batch) -> Tensor:
    """The energy that the true form makes smallest (E and Yu 2018), which is below zero."""
    with torch.enable_grad():
        x = batch[0].detach().clone().requires_grad_()
        u = model(x)
        slope = torch.autograd.grad(u.sum(), x, create_graph=True)[0]
    return (0.5 * slope.square().sum(1) - 2 * math.pi**2 * batch[1][:, 0] * u[:, 0]).mean()


class Trajectory(nn.Module):
    """A learned slope that is followed by a Runge-Kutta step for each reading (Chen et al. 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = mlp((2, 40, 40, 2), nn.Tanh)

    def forward(self, x: Tensor) -> Tensor:
        places = []
        for _ in range(6):
            a = self.slope(x)
            b = self.slope(x + 0.2 * a)
            c = self.slope(x + 0.2 * b)
            x = x + 0.4 / 6 * (a + 2 * b + 2 * c + self.slope(x + 0.4 * c))
            places.append(x)
        return torch.stack(places, 1)


@forever
def prey(size: int, g: torch.Generator) -> Batch:
    """Hares and foxes (logarithms), and their number at six later moments, counted with errors."""
    x = uniform(g, size, 2, low=-0.8, high=0.8)
    state, places = x, []
    for _ in range(6):
        for _ in range(20):
            hares, foxes = state.exp().unbind(1)
            state = state + 0.02 * torch.stack([1.2 - 1.2 * foxes, hares - 1], 1)
        places.append(state)
    return x, torch.stack(places, 1) + 0.1 * normal(g, size, 6, 2)


class Bodies(nn.Module):
    """Forces between five bodies that turn as the bodies turn (Satorras et al. 2021)."""

    def __init__(self) -> None:
        super().__init__()
        self.edge, self.force = mlp((3, 32, 24), nn.SiLU), nn.Linear(24, 1, bias=False)
        self.node, self.second = mlp((25, 32, 24), nn.SiLU), mlp((49, 32, 1), nn.SiLU)

    def forward(self, x: Tensor) -> Tensor:
        place, charge = x[..., :3], x[..., 3:]
        way = place[:, :, None] - place[:, None]
        far = way.square().sum(-1, keepdim=True)
        pair = torch.cat([far, charge[:, :, None].expand_as(far), charge[:, None].expand_as(far)], -1)
        told = F.silu(self.edge(pair)) * (1 - torch.eye(5))[..., None]
        node = self.node(torch.cat([told.sum(2), charge], -1))
        both = torch.cat([node[:, :, None] + node[:, None], told, far], -1)
        weight = self.force(told) + self.second(both)
        return (way / (1 + far) * weight).sum(2)


@forever
def bodies(size: int, g: torch.Generator) -> Batch:
    """Places and charges of five bodies; the forces on them, measured with noise."""
    place, charge = normal(g, size, 5, 3), torch.randint(2, (size, 5, 1), generator=g) * 2.0 - 1
    way = place[:, :, None] - place[:, None]
    far = way.square().sum(-1, keepdim=True)
    force = (charge[:, :, None] * charge[:, None] * way / (far + 0.5) ** 1.5).sum(2)
    return torch.cat([place, charge], -1), force + 0.15 * normal(g, size, 5, 3)


class Hedger(nn.Module):
    """How much of a stock to hold each day, and what the whole costs (Buehler et al. 2019)."""

    def __init__(self) -> None:
        super().__init__()
        self.hold, self.price = mlp((2, 24, 24, 1), nn.ReLU), nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        days = torch.arange(12).expand(len(x), 12) / 12
        hold = self.hold(torch.stack([10 * x[:, :-1].log(), days], -1))[..., 0]
        return (hold * x.diff(dim=1)).sum(1) - (x[:, -1] - 1).clamp(min=0)


@forever
def prices(size: int, g: torch.Generator) -> Batch:
    step = 0.06 * normal(g, size, 12) - 0.0018
    path = torch.cat([torch.zeros(size, 1), step.cumsum(1)], 1).exp()
    return path, torch.zeros(size)


def worst_days(model: nn.Module, batch: Batch) -> Tensor:
    """The mean of the worst fifth of the losses, by a level that is learned as well; per cent."""
    lost = -100 * model(batch[0])
    level = 10 * model.price
    return level + (lost - level).clamp(min=0).mean() / 0.2


class Straight(nn.Module):
    """A code in which a bent system moves in a straight way (Lusch et al. 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = mlp((2, 32, 32, 6), nn.SiLU), mlp((6, 32, 32, 2), nn.SiLU)
        self.move = nn.Linear(6, 6, bias=False)
        nn.init.eye_(self.move.weight)

    def forward(self, x: Tensor) -> Tensor:
        code, said = self.encode(x), []
        for _ in range(6):
            said.append(self.decode(code))
            code = self.move(code)
        return torch.stack(said, 1)


@forever
def pendulums(size: int, g: torch.Generator) -> Batch:
    """A pendulum with friction, now and at five later moments."""
    state, places = uniform(g, size, 2, low=-1.8, high=1.8), []
    for _ in range(6):
        places.append(state)
        for _ in range(10):
            push = -2 * state[:, 0].sin() - 0.3 * state[:, 1]
            state = state + 0.03 * torch.stack([state[:, 1], push], 1)
    seen = torch.stack(places, 1) + 0.1 * normal(g, size, 6, 2)
    return places[0], seen


class Rotating(nn.Module):
    """Complex filters with a gate by size only (Trabelsi et al. 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(16, 1, 7, dtype=torch.cfloat) / 7**0.5)
        self.last = nn.Parameter(torch.randn(1, 16, 5, dtype=torch.cfloat) / 80**0.5)
        self.shift = nn.Parameter(torch.zeros(16, 1))

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.conv1d(torch.view_as_complex(x)[:, None], self.first, padding=3)
        gate = (hidden.abs() + self.shift).sigmoid()
        return torch.view_as_real(F.conv1d(hidden * gate, self.last, padding=2)[:, 0])


@forever
def symbols(size: int, g: torch.Generator) -> Batch:
    """Symbols of four kinds through echoes and an amplifier that bends them, and what was sent."""
    sent = (torch.randint(2, (size, 24, 2), generator=g) * 2.0 - 1) / 2**0.5
    z = torch.view_as_complex(sent)
    heard = z + (0.4 + 0.3j) * z.roll(1, 1) - 0.2j * z.roll(2, 1)
    heard = heard / (1 + 0.2 * heard.abs() ** 2)
    return torch.view_as_real(heard) + 0.12 * normal(g, size, 24, 2), sent


@forever
def logged(size: int, g: torch.Generator) -> Batch:
    """Contexts; what was done by an old policy, its chance for that, what it brought, and all five means."""
    x = normal(g, size, 8)
    pays = (1.2 * x @ fixed(831, 8, 5) / 2).sigmoid()
    old = (0.7 * x @ fixed(832, 8, 5) / 2.8).softmax(1) * 0.8 + 0.04
    done = torch.multinomial(old, 1, generator=g)
    reward = (uniform(g, size, 1) < pays.gather(1, done)).float()
    return x, torch.cat([done.float(), old.gather(1, done), reward, pays], 1)


def reweighed(model: nn.Module, batch: Batch) -> Tensor:
    """What the new policy would have brought by the old log, less a mean (Swaminathan and Joachims 2015)."""
    done, chance, reward = batch[1][:, :3].split(1, 1)
    share = model(batch[0]).softmax(1).gather(1, done.long()) / chance
    return -(share.clamp(max=10) * (reward - 0.5)).mean()


def given_away(model: nn.Module, batch: Batch) -> Tensor:
    pays = batch[1][:, 3:]
    return (pays.amax(1) - (model(batch[0]).softmax(1) * pays).sum(1)).mean()


class Valued(nn.Module):
    """The value of a state of a noisy walk; its slow copy says what the next one is worth."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.slow = mlp((2, 48, 48, 1), nn.ReLU), mlp((2, 48, 48, 1), nn.ReLU)
        self.slow.load_state_dict(self.net.state_dict())
        self.slow.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


@forever
def walks(size: int, g: torch.Generator) -> Batch:
    """A place on a turning disc, the reward there, the next place, and the true value."""
    x, turn = normal(g, size, 2), 0.8 * torch.tensor([[0.8, -0.6], [0.6, 0.8]])
    after = x @ turn.T + 0.4 * normal(g, size, 2)
    reward = x[:, :1] + 0.5 + 0.5 * normal(g, size, 1)
    worth = torch.linalg.solve(torch.eye(2) - 0.8 * turn.T, torch.tensor([[1.0], [0.0]]))
    return x, torch.cat([reward, after, x @ worth + 2.5], 1)


def one_step(model: nn.Module, batch: Batch) -> Tensor:
    """Temporal differences of one step; the copy follows by a twentieth with each batch."""
    reward, after, _ = batch[1].split([1, 2, 1], 1)
    if model.training:
        with torch.no_grad():
            for slow, p in zip(model.slow.parameters(), model.net.parameters(), strict=True):
                slow.lerp_(p, 0.05)
    with torch.no_grad():
        aim = reward + 0.8 * model.slow(after)
    return F.mse_loss(model(batch[0]), aim)


def true_value(model: nn.Module, batch: Batch) -> Tensor:
    return 0.05 + F.mse_loss(model(batch[0]), batch[1][:, 3:])


class Preferring(nn.Module):
    """A policy over twenty answers beside a frozen one that it starts from (Rafailov et al. 2023)."""

    def __init__(self) -> None:
        super().__init__()
        self.policy, self.start = mlp((10, 48, 20), nn.GELU), mlp((10, 48, 20), nn.GELU)
        self.policy.load_state_dict(self.start.state_dict())
        self.start.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.policy(x).log_softmax(1) - self.start(x).log_softmax(1)


@forever
def judgments(size: int, g: torch.Generator) -> Batch:
    """Questions, and of two answers the one that someone preferred, first."""
    x, pair = normal(g, size, 10), torch.randint(20, (size, 2), generator=g)
    worth = (x @ fixed(833, 10, 20) / 3).sin() + 0.5 * fixed(834, 20)
    two = 1.5 * worth.gather(1, pair)
    first = uniform(g, size, 1) < (two[:, :1] - two[:, 1:]).sigmoid()
    return x, torch.where(first, pair, pair.flip(1))


def preference(model: nn.Module, batch: Batch) -> Tensor:
    two = model(batch[0]).gather(1, batch[1])
    return -F.logsigmoid(0.5 * (two[:, 0] - two[:, 1])).mean()


RUNS: dict[str, dict[str, Build]] = {
    "spectrum": {
        "adam": of_stream(
            Spectrum, burgers, square, 24, 200, lr=6e-3, steps=250, schedule=cosine(250), **ADAM
        )
    },
    "membrane": {
        "adam": of_stream(
            Sagging,
            inner_points,
            membrane_energy,
            128,
            1000,
            judge=square,
            slopes=True,
            lr=4e-3,
            steps=250,
            **ADAM,
        ),
    },
    "trajectory": {
        "adam": of_stream(
            Trajectory, prey, square, 48, 100, lr=0.015, steps=150, schedule=linear(150), **ADAM
        )
    },
    "bodies": {
        "adam": of_stream(Bodies, bodies, square, 48, 300, lr=8e-3, steps=250, schedule=cosine(250), **ADAM)
    },
    "hedger": {
        "adam": of_stream(
            Hedger, prices, worst_days, 192, 1500, lr=0.012, steps=300, schedule=linear(300), **ADAM
        )
    },
    "straight": {
        "adam": of_stream(Straight, pendulums, square, 64, lr=0.012, steps=250, schedule=cosine(250), **ADAM)
    },
    "symbols": {"adam": of_stream(Rotating, symbols, square, 32, lr=0.05, steps=200, **ADAM)},
    "logged": {
        "adam": of_stream(
            lambda: mlp((8, 32, 5), nn.Tanh),
            logged,
            reweighed,
            256,
            2000,
            judge=given_away,
            lr=0.01,
            steps=250,
            **ADAM,
        ),
    },
    "walks": {"adam": of_stream(Valued, walks, one_step, 96, check=true_value, lr=2e-3, steps=400, **ADAM)},
    "preference": {
        "adamw": of_stream(
            Preferring, judgments, preference, 128, 2000, lr=8e-3, steps=300, schedule=linear(300), **ADAMW
        )
    },
}
