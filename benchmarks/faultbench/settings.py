"""What builds the setups of the later suites: a network, where its data come from, and how it is trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from data import Split
from fourth.runs import Loss, custom
from models import Setup, _classes
from torch import nn

Build = Callable[[int], Setup]
ADAM: dict[str, Any] = {"optimizer": "adam"}
SGD: dict[str, Any] = {"optimizer": "sgd"}
ADAMW: dict[str, Any] = {"optimizer": "adamw"}


def of_table(
    make: Callable[[], nn.Module], split: Callable[[], Split], loss: Loss, size: int, **more: Any
) -> Build:
    """The setup of a seed: rows of a table, shuffled."""
    return lambda seed: _classes(make(), split(), seed, size, loss, **more)


def of_custom(
    make: Callable[[], nn.Module], split: Callable[[], Split], loss: Loss, size: int, **more: Any
) -> Build:
    """The same with a loss that is judged by itself."""
    return lambda seed: custom(make(), split(), seed, size, loss, **more)
