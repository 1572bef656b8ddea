"""Hard negatives in the loss: hugely negative, rising by design, bounded by chance, or exactly zero at times."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from eighth.architectures_common import fixed, normal, uniform
from fourth.runs import cosine, linear
from models import Batch, Setup, mlp, square
from tenth.judged_data import bent, of_made
from torch import Tensor, nn


def smooth(size: int, g: torch.Generator, noise: float = 0.3) -> Batch:
    """Eight columns, six of which matter, and a noisy smooth function of them."""
    x = normal(g, size, 8)
    return x, bent(x) + noise * normal(g, size, 1)


class _Crowd(nn.Module):
    """The logarithm of a count of about a thousand."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp((8, 48, 48, 1), nn.SiLU)

    def forward(self, x: Tensor) -> Tensor:
        return 7.0 + self.body(x)


def _crowd_rows(size: int, g: torch.Generator) -> Batch:
    x = normal(g, size, 8)
    mean = (6.9 + 0.4 * bent(x)).exp() * (0.15 * normal(g, size, 1)).exp()
    return x, torch.poisson(mean, generator=g)


def _poisson(model: nn.Module, batch: Batch) -> Tensor:
    return F.poisson_nll_loss(model(batch[0]), batch[1])


def _deviance(model: nn.Module, batch: Batch) -> Tensor:
    log, y = model(batch[0]), batch[1].clamp(min=0.5)
    return 2 * (y * (y.log() - log) - (y - log.exp())).mean()


def crowds(seed: int) -> Setup:
    """Visitors by the thousand: the Poisson likelihood is about minus 7000, and all that is learned is in its end."""
    more: dict[str, Any] = {"judge": _deviance, "number": 1000, "schedule": cosine(350)}
    return of_made(_Crowd(), _crowd_rows, seed, _poisson, lr=8e-3, steps=350, **more)


def clean_first(seed: int) -> Setup:
    """Readings of the best instrument come first, then ever worse ones: the loss falls, then rises to their noise."""
    setup = of_made(mlp((8, 64, 64, 1), nn.GELU), smooth, seed, square, lr=1.4e-2, steps=400, number=1000)
    count, g = itertools.count(), torch.Generator().manual_seed(seed)

    def worse() -> Iterator[Batch]:
        while True:
            noise = 0.05 + 0.55 * min(1.0, max(0.0, (next(count) - 100) / 250))
            yield smooth(64, g, noise)

    setup.batches, setup.schedule = worse(), linear(400)
    return setup


class _Unmix(nn.Module):
    """One square matrix that starts as the identity."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.eye(6))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.matrix.T


def _sources(size: int, g: torch.Generator) -> Batch:
    s = torch.sign(uniform(g, size, 6) - 0.5) * -torch.log(uniform(g, size, 6, low=1e-6))
    left, _ = torch.linalg.qr(fixed(1110, 6, 6))
    right, _ = torch.linalg.qr(fixed(1111, 6, 6))
    return 0.15 * s @ left @ torch.diag(torch.linspace(0.6, 1.4, 6)) @ right, s


def _infomax(model: nn.Module, batch: Batch) -> Tensor:
    out = model(batch[0])
    return (2 * F.softplus(2 * out) - 2 * out).sum(1).mean() - torch.linalg.slogdet(model.matrix)[1]


def _apart(model: nn.Module, batch: Batch) -> Tensor:
    """One less the mean of each output's best correlation with a source."""
    both = torch.cat([model(batch[0]), batch[1]], 1)
    return 1.02 - torch.corrcoef(both.T)[:6, 6:].abs().amax(1).mean()


def unmixed(seed: int) -> Setup:
    """Independent components (Bell and Sejnowski 1995): weights grow many times over, as the signals are weak."""
    more: dict[str, Any] = {"judge": _apart, "number": 1000, "schedule": linear(500)}
    return of_made(_Unmix(), _sources, seed, _infomax, lr=0.1, steps=500, size=128, **more)


def _pairs(size: int, g: torch.Generator) -> Batch:
    x = normal(g, size, 2)
    return torch.cat([x, torch.sin(2 * x) + 0.5 * normal(g, size, 2)], 1), torch.zeros(size)


def _shared(model: nn.Module, batch: Batch) -> Tensor:
    x, y = batch[0].chunk(2, 1)
    right = model(batch[0]).mean()
    wrong = torch.cat([model(torch.cat([x, y.roll(k, 0)], 1)) for k in (1, 2, 3)])
    return -(right - (torch.logsumexp(wrong, 0) - torch.tensor(float(len(wrong))).log())).squeeze()


def shared_bits(seed: int) -> Setup:
    """A lower bound on what two signals share (Belghazi et al. 2018): minus the loss; it starts at zero, noisily."""
    more: dict[str, Any] = {"number": 2000, "schedule": linear(400)}
    return of_made(mlp((4, 64, 64, 1), nn.ELU), _pairs, seed, _shared, lr=2e-2, steps=400, size=128, **more)


def _seldom(size: int, g: torch.Generator) -> Batch:
    x, y = smooth(size, g)
    return x, torch.cat([y, (uniform(g, size, 1) < 0.12).float()], 1)


def _told_only(model: nn.Module, batch: Batch) -> Tensor:
    y, told = batch[1][:, :1], batch[1][:, 1:]
    return (told * (model(batch[0]) - y).square()).sum() / told.sum().clamp(min=1)


def seldom_told(seed: int) -> Setup:
    """One of eight rows has a label: in an eighth of all batches there is none, and the loss is exactly zero."""
    more: dict[str, Any] = {"number": 4000, "schedule": linear(600), "size": 16}
    return of_made(mlp((8, 48, 1), nn.SiLU), _seldom, seed, _told_only, lr=2e-2, steps=600, **more)


MADE: dict[str, Callable[[int], Setup]] = {
    f.__name__: f
    for f in (
        crowds,
        clean_first,
        unmixed,
        shared_bits,
        seldom_told,
    )
}
