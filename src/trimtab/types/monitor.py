"""What a guard needs to know of whoever looks at its run while it goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from torch import nn
from torch.optim import Optimizer

from trimtab.types.findings import Finding
from trimtab.types.step import StepOutcome

# Writes the numbers of one step into the run log: step, and name to names of the layers and numbers
WriteSignals = Callable[[int, Mapping[str, tuple[tuple[str, ...], Any]]], None]


class Watch(Protocol):
    """Looks at the steps of one guard."""

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What is wrong, as far as it is known."""

    def before_update(self, loss: object) -> None:
        """Called after backward, before the gradients are touched.

        Args:
            loss: What the guard was given, with its graph.
        """

    def after_update(self, outcome: StepOutcome, *, lr_factor: float, write: WriteSignals | None) -> None:
        """Called when the step is over.

        Args:
            outcome: What happened.
            lr_factor: What a cool-down multiplied the learning rate by.
            write: Writes signals into the run log; None without one.
        """

    def close(self) -> None:
        """Leave the model as it was found."""


class Monitor(Protocol):
    """A policy that watches runs."""

    def watch(self, model: nn.Module, optimizer: Optimizer) -> Watch:
        """Begin to watch.

        Args:
            model: The model.
            optimizer: Its optimizer.
        """
