"""What changes and fault operators take out of a setup."""

from __future__ import annotations

from data import Split
from models import Setup
from torch import Tensor, nn


def split_of(setup: Setup) -> Split:
    """The rows that a setup trains on, where they are known."""
    assert setup.train_split is not None
    return setup.train_split


def gradients_of(model: nn.Module) -> list[Tensor]:
    """The gradients that there are."""
    return [p.grad for p in model.parameters() if p.grad is not None]
