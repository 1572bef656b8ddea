"""What the judged runs share: small pictures, grammar, series, and setups made of streams or tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from eighth.architectures_common import forever, normal, uniform
from models import Batch, Setup, held_out
from torch import Tensor, nn

Loss = Callable[[nn.Module, Batch], Tensor]
Make = Callable[[int, torch.Generator], Batch]


def of_made(
    model: nn.Module,
    make: Make,
    seed: int,
    loss: Loss,
    *,
    size: int = 64,
    number: int = 500,
    check: Loss | None = None,
    judge: Loss | None = None,
    **more: Any,
) -> Setup:
    """A setup on a stream that never repeats, checked on rows that are always the same."""
    more = {"optimizer": "adam", **more}
    held = next(forever(make)(number, 10**6))
    val = held_out(check or loss, *held)
    setup = Setup(model, forever(make)(size, seed), loss, val, batch_size=size, seed=seed, **more)
    if judge is not None:
        setup.judged = held_out(judge, *held)
    return setup


def repeated(make: Make, number: int, size: int, seed: int) -> Iterator[Batch]:
    """So many rows that were drawn once, in batches, shuffled in each epoch."""
    x, y = next(forever(make)(number, 77))
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(number, generator=generator)
        for start in range(0, number - size + 1, size):
            rows = order[start : start + size]
            yield x[rows], y[rows]


def one_cycle(steps: int, start: float = 0.1) -> Callable[[int], float]:
    """Up for a third of the run, then down along a cosine (Smith and Topin 2018)."""
    top = steps // 3
    return lambda k: (
        start + (1 - start) * k / top
        if k < top
        else 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (k - top) / (steps - top)))
    )


def shape_masks(size: int, g: torch.Generator, side: int) -> Batch:
    """Discs, rings, squares, crosses and slanted bars of any place and size, and which it is."""
    at = torch.arange(side) + 0.0
    centre = uniform(g, size, 2, 1, low=0.32 * side, high=0.68 * side)
    radius = uniform(g, size, 1, 1, low=0.18 * side, high=0.32 * side)
    dy, dx = (at - centre[:, 0])[:, :, None], (at - centre[:, 1])[:, None, :]
    far = (dx.square() + dy.square()).sqrt()
    square, thin = torch.maximum(dx.abs(), dy.abs()) < radius, torch.minimum(dx.abs(), dy.abs()) < 1.0
    masks = [
        far < radius,
        (far < radius + 0.5) & (far > radius - 1.2),
        square,
        thin & square,
        ((dx - dy).abs() < 1.3) & square,
    ]
    kind = torch.randint(5, (size,), generator=g)
    return torch.stack(masks, 1)[torch.arange(size), kind][:, None].float(), kind


def shapes(size: int, g: torch.Generator, side: int = 12, noise: float = 0.4) -> Batch:
    """Shapes of any brightness on a noisy ground."""
    mask, kind = shape_masks(size, g, side)
    bright = uniform(g, size, 1, 1, 1, low=0.6, high=1.4)
    return bright * mask + noise * normal(g, size, 1, side, side), kind


def series(size: int, g: torch.Generator, length: int) -> Tensor:
    """A level, a slope, a season of eight and a slow wave, with noise."""
    at = torch.arange(length) + 0.0
    phase = uniform(g, size, 2, low=0.0, high=6.28)
    season = uniform(g, size, 1, low=0.4, high=1.0) * torch.sin(2 * math.pi * at / 8 + phase[:, :1])
    wave = 0.7 * torch.sin(at / uniform(g, size, 1, low=5, high=9) + phase[:, 1:])
    line = normal(g, size, 1) + 0.03 * normal(g, size, 1) * at
    return line + season + wave + 0.15 * normal(g, size, length)


def bent(x: Tensor) -> Tensor:
    """A smooth function of six columns, of about unit variance."""
    return (
        torch.sin(1.5 * x[:, 0])
        + 0.6 * x[:, 1] * x[:, 2]
        + 0.5 * x[:, 3].abs()
        + 0.4 * torch.tanh(2 * x[:, 4])
        - 0.3 * x[:, 5]
    )[:, None]
