"""Sound runs on games, worlds and what is made: energies, heat, boards, returns, graphs, views and noise."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from eighth.architectures_common import fixed, normal, sloped, uniform
from fourth.runs import cosine, linear
from models import Batch, Setup, mlp, square
from tenth.judged_data import of_made, one_cycle
from torch import Tensor, nn


class _Energy(nn.Module):
    """Energies of atoms from how near the others are, added up (Behler and Parrinello 2007)."""

    def __init__(self) -> None:
        super().__init__()
        self.atom = mlp((12, 32, 32, 1), nn.SiLU)
        self.register_buffer("centres", torch.linspace(0.6, 2.8, 12))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Energy and the forces on all atoms."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            gap = x[:, :, None] - x[:, None, :]
            far = (gap.square().sum(3) + torch.eye(5)).sqrt()
            near = torch.exp(-8 * (far[..., None] - self.centres).square()) * (1 - torch.eye(5))[..., None]
            energy = self.atom(near.sum(2)).sum((1, 2))
            force = -torch.autograd.grad(energy.sum(), x, create_graph=True)[0]
        return energy, force


def _molecules(size: int, g: torch.Generator) -> Batch:
    """Five atoms near a ring, and their energy and forces in a soft well, next to each other."""
    angle = torch.arange(5) * 2 * math.pi / 5
    ring = 1.2 * torch.stack([angle.cos(), angle.sin(), 0 * angle], 1)
    x = (ring + 0.12 * normal(g, size, 5, 3)).requires_grad_()
    gap = x[:, :, None] - x[:, None, :]
    far = (gap.square().sum(3) + torch.eye(5)).sqrt()
    pair = ((1 - torch.exp(-1.5 * (far - 1.4))).square() * (1 - torch.eye(5))).sum((1, 2)) / 2
    force = -torch.autograd.grad(pair.sum(), x)[0]
    both = torch.cat([pair.detach()[:, None] - 2.5, force.flatten(1)], 1)
    return x.detach(), both + 0.1 * normal(g, size, 16)


def _energy_and_forces(model: nn.Module, batch: Batch) -> Tensor:
    energy, force = model(batch[0])
    gap = F.mse_loss(force.flatten(1), batch[1][:, 1:])
    return 0.1 * F.mse_loss(energy, batch[1][:, 0]) + gap


def molecules(seed: int) -> Setup:
    """Energies and forces of small molecules from one net and its slope, with Adam and a falling rate."""
    more: dict[str, Any] = {"schedule": linear(350)}
    setup = of_made(
        _Energy(), _molecules, seed, _energy_and_forces, lr=5e-3, steps=350, size=32, number=10, **more
    )
    setup.val = sloped(_energy_and_forces, _molecules(300, torch.Generator().manual_seed(10**6)))
    return setup


class _Plate(nn.Module):
    """One step of a plate's warmth by filters that go round the edges."""

    def __init__(self) -> None:
        super().__init__()
        more: dict[str, Any] = {"padding": 1, "padding_mode": "circular"}
        self.body = nn.Sequential(nn.Conv2d(2, 16, 3, **more), nn.GELU(), nn.Conv2d(16, 1, 3, **more))

    def forward(self, x: Tensor) -> Tensor:
        state, steps = x[:, :1], []
        for _ in range(3):
            state = state + 0.3 * self.body(torch.cat([state, x[:, 1:]], 1))
            steps.append(state)
        return torch.cat(steps, 1)


def _plates(size: int, g: torch.Generator) -> Batch:
    """Warmth of a plate that spreads, reacts and is heated at some places; three moments that come."""
    state = F.interpolate(2 * normal(g, size, 1, 6, 6), scale_factor=2.0, mode="bilinear")
    heat = (uniform(g, size, 1, 12, 12) < 0.1).float()
    first, seen = state, []
    for step in range(12):
        round_it = sum(state.roll(s, d) for s in (-1, 1) for d in (2, 3)) - 4 * state
        state = state + 0.1 * round_it + 0.06 * (state - state**3 / 3) + 0.15 * heat - 0.015
        if step % 4 == 3:
            seen.append(state)
    return torch.cat([first, heat], 1), torch.cat(seen, 1) + 0.2 * normal(g, size, 3, 12, 12)


def plates(seed: int) -> Setup:
    """Three steps of a learned solver, all of which count (Brandstetter et al. 2022), with AdamW."""
    more: dict[str, Any] = {"optimizer": "adamw", "weight_decay": 1e-4, "schedule": cosine(220)}
    return of_made(_Plate(), _plates, seed, square, lr=7e-3, steps=220, size=16, number=80, **more)


class _Board(nn.Module):
    """Filters over a board, a head for moves and one for who wins (Silver et al. 2017)."""

    def __init__(self) -> None:
        super().__init__()
        more: list[nn.Module] = [nn.Conv2d(2, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24), nn.ReLU()]
        more += [nn.Conv2d(24, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24), nn.ReLU()]
        self.body, self.move = nn.Sequential(*more), nn.Conv2d(24, 1, 1)
        self.value = nn.Sequential(nn.Conv2d(24, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(144, 1), nn.Tanh())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        code = self.body(x)
        return self.move(code).flatten(1), self.value(code)


def _positions(size: int, g: torch.Generator) -> Batch:
    """Boards with stones of both sides, how often a search tried each move, and how it ended."""
    kind = torch.multinomial(torch.tensor([0.5, 0.25, 0.25]), 36 * size, replacement=True, generator=g)
    stones = torch.stack([kind == 1, kind == 2], -1).reshape(size, 6, 6, 2).permute(0, 3, 1, 2).float()
    near = F.conv2d(
        stones,
        torch.tensor([[0.5, 1, 0.5], [1, 0, 1], [0.5, 1, 0.5]])[None, None].expand(2, 1, 3, 3),
        padding=1,
        groups=2,
    )
    worth = 1.2 * near[:, 0] - 0.5 * near[:, 1] + 0.4 * near[:, 0] * near[:, 1] - 6 * stones.sum(1)
    visits = (worth.flatten(1) + 0.3 * normal(g, size, 36)).softmax(1)
    edge = (stones * near).sum((2, 3))
    won = (uniform(g, size) < (0.25 * (edge[:, 0] - edge[:, 1])).sigmoid()).float() * 2 - 1
    return stones, torch.cat([visits, won[:, None]], 1)


def _moves_and_end(model: nn.Module, batch: Batch) -> Tensor:
    move, value = model(batch[0])
    told = -(batch[1][:, :36] * move.log_softmax(1)).sum(1).mean()
    return told + F.mse_loss(value, batch[1][:, 36:])


def board_game(seed: int) -> Setup:
    """Moves of a search and ends of games from one net, with momentum, decay and two falls of the rate."""
    fall = lambda k: 1.0 if k < 150 else 0.1 if k < 220 else 0.02  # noqa: E731
    more: dict[str, Any] = {"optimizer": "sgd", "weight_decay": 1e-4, "schedule": fall}
    return of_made(
        _Board(), _positions, seed, _moves_and_end, lr=0.05, steps=260, size=48, number=400, **more
    )


class _Expectile(nn.Module):
    """How much a state is worth under the better of all actions, and each action (Kostrikov et al. 2022)."""

    def __init__(self) -> None:
        super().__init__()
        self.state, self.action = mlp((6, 48, 48, 1), nn.ReLU), mlp((8, 48, 48, 1), nn.ReLU)


def _logged(size: int, g: torch.Generator) -> Batch:
    """States and actions that someone took, and the returns that were seen after them."""
    state = normal(g, size, 6)
    best = torch.tanh(state[:, :2] + 0.5 * state[:, 2:4])
    action = (0.5 * best + 0.5 * normal(g, size, 2)).clamp(-1.5, 1.5)
    result = 1.5 * state[:, 4:5].tanh() - (action - best).square().sum(1, keepdim=True) + 0.5 * state[:, 5:]
    return torch.cat([state, action], 1), result + 0.3 * normal(g, size, 1)


def _both_worths(model: nn.Module, batch: Batch) -> Tensor:
    worth, value = model.action(batch[0]), model.state(batch[0][:, :6])
    gap = worth.detach() - value
    weight = torch.where(gap > 0, 0.8, 0.2)
    return F.mse_loss(worth, batch[1]) + (weight * gap.square()).mean()


def logged_actions(seed: int) -> Setup:
    """What logged actions were worth, without ever trying others, with Adam at one rate."""
    return of_made(_Expectile(), _logged, seed, _both_worths, lr=3e-3, steps=450, size=128, number=1500)


class _Sampled(nn.Module):
    """Means over neighbours next to oneself, twice, and a mean of all (Hamilton et al. 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(12, 32), nn.Linear(64, 32)
        self.out = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, x: Tensor) -> Tensor:
        code, edges = x[..., :6], x[..., 6:]
        mean = edges / edges.sum(2, keepdim=True).clamp(min=1)
        code = F.relu(self.one(torch.cat([code, mean @ code], 2)))
        code = F.relu(self.two(torch.cat([code, mean @ code], 2)))
        return self.out(code)


def _grids(size: int, g: torch.Generator) -> Batch:
    """Networks of fourteen stations with loads and wires, and how hot each station gets."""
    upper = (uniform(g, size, 14, 14) < 0.2).float().triu(1)
    edges = upper + upper.transpose(1, 2)
    load = normal(g, size, 14, 6)
    own = load[..., :1] + 0.7 * load[..., 1:2] * load[..., 2:3].tanh()
    around = edges @ own / edges.sum(2, keepdim=True).clamp(min=1)
    hot = own.sin() + 1.2 * around + 0.5 * load[..., 3:4].abs()
    return torch.cat([load, edges], 2), hot + 0.3 * normal(g, size, 14, 1)


def stations(seed: int) -> Setup:
    """How hot stations of a power grid get, from their neighbours, with Adam, light decay and a cosine."""
    more: dict[str, Any] = {"weight_decay": 1e-5, "schedule": cosine(400)}
    return of_made(_Sampled(), _grids, seed, square, lr=1e-2, steps=400, size=24, number=200, **more)


def _views(size: int, g: torch.Generator) -> Batch:
    """Two noisy views of each thing by other instruments."""
    thing = normal(g, size, 6)
    bent = torch.cat([thing, thing.sin(), thing[:, :3] * thing[:, 3:]], 1) @ fixed(11_060, 15, 20) / 3
    return bent + 0.3 * normal(g, size, 20), bent + 0.3 * normal(g, size, 20)


def _spread_out(model: nn.Module, batch: Batch) -> Tensor:
    """Views agree, each number of a code varies, and no two tell the same (Bardes et al. 2022)."""
    a, b = model(batch[0]), model(batch[1])
    loss = 5 * F.mse_loss(a, b)
    for code in (a - a.mean(0), b - b.mean(0)):
        matrix = code.T @ code / (len(code) - 1)
        spread = (matrix.diagonal() + 1e-4).sqrt()
        off = matrix - torch.diag(matrix.diagonal())
        loss = loss + 2.5 * F.relu(1 - spread).mean() + 0.2 * off.square().sum() / len(off)
    return loss


def both_views(seed: int) -> Setup:
    """Codes of two views without negatives, in batches of 192, with AdamW, a warm-up and a cosine."""
    model = nn.Sequential(nn.Linear(20, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 6))
    more: dict[str, Any] = {"optimizer": "adamw", "weight_decay": 1e-3, "schedule": cosine(350, 20)}
    return of_made(model, _views, seed, _spread_out, lr=5e-3, steps=350, size=192, number=1000, **more)


def _steered(size: int, g: torch.Generator) -> Batch:
    """A point between noise and one of four bent clouds, which cloud (hidden at times), and the velocity."""
    kind = torch.randint(4, (size,), generator=g)
    turn = kind * math.pi / 2 + 0.9 * uniform(g, size)
    point = torch.stack([turn.cos(), turn.sin()], 1) * (1.5 + 0.1 * normal(g, size, 1))
    noise, time = normal(g, size, 2), uniform(g, size, 1)
    angle = time * math.pi / 2
    at, way = angle.cos() * point + angle.sin() * noise, angle.cos() * noise - angle.sin() * point
    name = F.one_hot(kind, 4) * (uniform(g, size, 1) > 0.15)
    wave = torch.cat([(n * angle).sin() for n in (1, 2, 4)] + [(n * angle).cos() for n in (1, 2, 4)], 1)
    return torch.cat([at, wave, name], 1), way


def steered_noise(seed: int) -> Setup:
    """A diffusion net that predicts velocities for a named cloud (Ho and Salimans 2022), with AdamW."""
    model = mlp((12, 64, 64, 64, 2), nn.SiLU)
    more: dict[str, Any] = {"optimizer": "adamw", "weight_decay": 0.01, "schedule": one_cycle(400)}
    return of_made(model, _steered, seed, square, lr=5e-3, steps=400, size=256, number=3000, **more)


MADE = {
    "molecules": molecules,
    "plates": plates,
    "board_game": board_game,
    "logged_actions": logged_actions,
    "stations": stations,
    "both_views": both_views,
    "steered_noise": steered_noise,
}
