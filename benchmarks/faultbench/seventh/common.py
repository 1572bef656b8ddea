"""What the negatives of the seventh suite share."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import torch
from data import Split, digits, shuffled
from fourth.runs import custom
from models import (
    Setup,
    entropy,
)
from torch import nn


def houses(number: int = 5000) -> tuple[np.ndarray, np.ndarray]:
    """Eight columns, and prices in thousands between 60 and 900 or so."""
    rng = np.random.default_rng(700)
    x = rng.normal(size=(number, 8))
    log = 0.35 * x[:, 0] + 0.25 * np.sin(1.5 * x[:, 1]) + 0.15 * x[:, 2] * x[:, 3] - 0.15 * np.abs(x[:, 4])
    return x, 250 * np.exp(log + 0.08 * rng.normal(size=number))[:, None]


def digits_setup(model: nn.Module, seed: int, loss: Callable = entropy, size: int = 64, **more) -> Setup:
    return custom(model, digits(), seed, size, loss, **{"optimizer": "adam", "steps": 200, **more})


def first_steps(model: nn.Module, split: Split, seed: int, steps: int, lr: float = 3e-3) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    for x, y in itertools.islice(shuffled(split, 64, seed + 1), steps):
        optimizer.zero_grad()
        entropy(model, (x, y)).backward()
        optimizer.step()
