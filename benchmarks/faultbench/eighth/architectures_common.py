"""What the architectures of the eighth suite share: streams that never repeat, and setups made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from models import Batch, Setup, held_out
from settings import Build
from torch import Tensor, nn

Pairs = Iterator[Batch]
Draw = Callable[[int, int], Pairs]
Loss = Callable[[nn.Module, Batch], Tensor]


def forever(make: Callable[[int, torch.Generator], Batch]) -> Draw:
    """A stream of batches from what makes one of them."""

    def draw(size: int, seed: int) -> Pairs:
        generator = torch.Generator().manual_seed(seed)
        while True:
            yield make(size, generator)

    return draw


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator)


def uniform(generator: torch.Generator, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator)


def fixed(seed: int, *shape: int) -> Tensor:
    """Numbers that belong to the task, and are the same in each run."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def sloped(loss: Loss, batch: Batch) -> Callable[[nn.Module], float]:
    """Validation for a loss that itself needs slopes with respect to its inputs."""
    return lambda model: float(loss(model, batch).detach())


def of_stream(
    make: Callable[[], nn.Module],
    draw: Draw,
    loss: Loss,
    size: int,
    number: int = 400,
    check: Loss | None = None,
    judge: Loss | None = None,
    slopes: bool = False,
    **more: Any,
) -> Build:
    """Batches drawn without end, and so many held-out rows that are always the same."""

    def build(seed: int) -> Setup:
        held = next(draw(number, 10**6))
        val = sloped(check or loss, held) if slopes else held_out(check or loss, *held)
        setup = Setup(make(), draw(size, seed), loss, val, batch_size=size, seed=seed, **more)
        if judge is not None:
            setup.judged = held_out(judge, *held)
        return setup

    return build
