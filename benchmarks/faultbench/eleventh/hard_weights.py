"""Hard negatives in weights, gradients and units: copied, masked, frozen, saturated or idle on purpose."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from eighth.architectures_common import fixed, forever, normal, uniform
from fourth.runs import Loss, cosine, linear
from models import Batch, Setup, entropy, mlp, square
from tenth.judged_data import Make, bent, of_made
from torch import Tensor, nn

from eleventh.hard_losses import smooth


def kinds(size: int, g: torch.Generator) -> Batch:
    """Eight kinds in two overlapping heaps each, on twelve columns."""
    y = torch.randint(8, (size,), generator=g)
    heap = 8 * torch.randint(2, (size,), generator=g) + y
    return fixed(1120, 16, 12)[heap] + 0.9 * normal(g, size, 12), y


def trained(model: nn.Module, make: Make, loss: Loss, steps: int, lr: float = 5e-3) -> None:
    """Some steps of Adam before the run, on rows of its own."""
    rows, optimizer = forever(make)(64, 1121), torch.optim.Adam(model.parameters(), lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model, next(rows)).backward()
        optimizer.step()


class _Hash(nn.Module):
    """Twelve bits that get harder with each step, and a linear reading of them."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.sharp = mlp((12, 48, 12), nn.ReLU), nn.Linear(12, 8), 1.0

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.sharp * self.body(x)))


def hashes(seed: int) -> Setup:
    """Codes that become bits by continuation (Cao et al. 2017): units saturate ever more, as they should."""
    setup = of_made(_Hash(), kinds, seed, entropy, lr=8e-3, steps=400, number=1000, schedule=linear(400))

    def sharper(model: nn.Module, step: int) -> None:
        model.sharp = 1.0 + 9.0 * step / 400

    setup.after_backward = sharper
    return setup


class _Step(nn.Module):
    """Adds what two layers say to what comes in."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.up, self.down = (
            nn.LayerNorm(width),
            nn.Linear(width, 2 * width),
            nn.Linear(2 * width, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(F.gelu(self.up(self.norm(x))))


def stacked_copies(seed: int) -> Setup:
    """A net of one block is trained, then has three copies of it on top of each other (Gong et al. 2019)."""
    body, first, last = _Step(32), nn.Linear(8, 32), nn.Linear(32, 1)
    trained(nn.Sequential(first, body, last), smooth, square, 100)
    model = nn.Sequential(first, body, copy.deepcopy(body), copy.deepcopy(body), last)
    return of_made(model, smooth, seed, square, lr=5e-3, steps=300, number=1000, schedule=cosine(300, 20))


def widened(seed: int) -> Setup:
    """Each unit of a trained net is there three times, a little shaken, with a third of its say (Chen et al. 2016)."""
    small = mlp((8, 16, 16, 1), nn.ReLU)
    trained(small, smooth, square, 150)
    large = mlp((8, 48, 48, 1), nn.ReLU)
    with torch.no_grad():
        for old, new in ((small[0], large[0]), (small[2], large[2]), (small[4], large[4])):
            outs, ins = new.out_features // old.out_features, new.in_features // old.in_features
            new.weight.copy_(old.weight.repeat(outs, ins) / ins)
            new.weight.mul_(1 + 0.05 * torch.randn_like(new.weight))
            new.bias.copy_(old.bias.repeat(outs))
    return of_made(large, smooth, seed, square, lr=1.5e-2, steps=350, number=1000, schedule=linear(350))


def sparse_from_start(seed: int) -> Setup:
    """Nine of ten weights between wide layers are zero from the first step to the last (Lee et al. 2019)."""
    model = mlp((12, 160, 160, 8), nn.ReLU)
    keep = (torch.rand(160, 160) < 0.1).float()
    with torch.no_grad():
        model[2].weight.mul_(keep * 10**0.5)

    def masked(net: nn.Module, step: int) -> None:
        net[2].weight.grad.mul_(keep)

    more: dict[str, Any] = {"number": 1000, "schedule": cosine(350), "after_backward": masked}
    return of_made(model, kinds, seed, entropy, lr=5e-3, steps=350, **more)


class _Corners(nn.Module):
    """Answers are fixed corners of a cube, at a sharpness that is learned."""

    def __init__(self) -> None:
        super().__init__()
        signs = torch.tensor([[1.0]])
        for _ in range(4):
            signs = torch.cat([torch.cat([signs, signs], 1), torch.cat([signs, -signs], 1)])
        self.body, self.head = mlp((12, 64, 64, 16), nn.ReLU), nn.Linear(16, 8, bias=False)
        self.head.weight = nn.Parameter(signs[1:9] / 4, requires_grad=False)
        self.sharp = nn.Parameter(torch.tensor(4.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.sharp * self.head(F.normalize(self.body(x), dim=1))


def fixed_corners(seed: int) -> Setup:
    """The last layer is a Hadamard matrix that never moves (Hoffer et al. 2018)."""
    more: dict[str, Any] = {"number": 1000, "schedule": cosine(300)}
    return of_made(_Corners(), kinds, seed, entropy, lr=8e-3, steps=300, **more)


class _Keeper(nn.Module):
    """An LSTM whose gates are set for keeping: forget gates start nearly open, input gates nearly shut."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.LSTM(6, 32, batch_first=True), nn.Linear(32, 5)
        span = torch.log(1 + 17 * torch.rand(32))
        with torch.no_grad():
            for bias in (self.cell.bias_ih_l0, self.cell.bias_hh_l0):
                bias.zero_()
            self.cell.bias_ih_l0[:32], self.cell.bias_ih_l0[32:64] = -span, span

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x)[0][:, -1])


def _first_sign(size: int, g: torch.Generator) -> Batch:
    y = torch.randint(5, (size,), generator=g)
    x = torch.cat([F.one_hot(torch.randint(5, (size, 18), generator=g), 5), torch.zeros(size, 18, 1)], 2)
    x[:, 0] = F.one_hot(y, 6)
    x[:, 0, 5] = 1.0
    other = torch.randint(5, (size,), generator=g)
    return x, torch.where(uniform(g, size) < 0.15, other, y)


def long_memory(seed: int) -> Setup:
    """Which sign came first of 18, with gates set for such spans (Tallec and Ollivier 2018): flat, then it falls."""
    more: dict[str, Any] = {"number": 1000, "schedule": linear(350), "clip": 1.0}
    return of_made(_Keeper(), _first_sign, seed, entropy, lr=1.2e-2, steps=350, size=48, **more)


class _Bumps(nn.Module):
    """150 narrow bumps, nearly all of which are silent anywhere, and a sum of them."""

    def __init__(self) -> None:
        super().__init__()
        self.middle = nn.Parameter(4 * torch.rand(150, 2) - 2)
        self.wide, self.head = nn.Parameter(torch.full((150,), -1.0)), nn.Linear(150, 1)

    def forward(self, x: Tensor) -> Tensor:
        away = (x[:, None] - self.middle).square().sum(-1)
        return self.head(torch.exp(-away / (2 * (2 * self.wide).exp())))


def _hills(size: int, g: torch.Generator) -> Batch:
    x = uniform(g, size, 2, low=-2.0, high=2.0)
    y = torch.sin(3 * x[:, :1]) * torch.cos(2 * x[:, 1:]) + 0.5 * (x[:, :1] > x[:, 1:])
    return x, y + 0.25 * normal(g, size, 1)


def local_bumps(seed: int) -> Setup:
    """Radial basis functions (Moody and Darken 1989): most units are silent for any row, most slopes are nothing."""
    more: dict[str, Any] = {"number": 1000, "schedule": linear(350)}
    return of_made(_Bumps(), _hills, seed, square, lr=3e-2, steps=350, **more)


class _Filled(nn.Module):
    """Puts a learned number where a reading is missing, and says that it was."""

    def __init__(self) -> None:
        super().__init__()
        self.fill, self.body = nn.Parameter(torch.zeros(8)), mlp((16, 64, 64, 1), nn.SiLU)

    def forward(self, x: Tensor) -> Tensor:
        missing = x.isnan()
        return self.body(torch.cat([torch.where(missing, self.fill, x), missing.float()], 1))


def _with_holes(size: int, g: torch.Generator) -> Batch:
    x = normal(g, size, 8)
    y = bent(x) + 0.2 * normal(g, size, 1)
    return torch.where(uniform(g, size, 8) < 0.12, torch.tensor(float("nan")), x), y


def holes(seed: int) -> Setup:
    """Inputs hold NaN where nothing was read; the model fills them with numbers that it learns."""
    more: dict[str, Any] = {"number": 1000, "schedule": linear(350)}
    return of_made(_Filled(), _with_holes, seed, square, lr=8e-3, steps=350, **more)


MADE: dict[str, Callable[[int], Setup]] = {
    f.__name__: f
    for f in (
        hashes,
        stacked_copies,
        widened,
        sparse_from_start,
        fixed_corners,
        long_memory,
        local_bumps,
        holes,
    )
}
