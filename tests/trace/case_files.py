"""Loads the cases: each file of `cases/` defines `META`, its right answer, and `make`, its training run.

The loop is always zero_grad, `loss_fn(model, batch)`, backward, step, one batch per step. The line of origin
ends with `# ORIGIN`; lines marked `# LEGIT` make or pass on non-finite values on purpose. A line marked
`# FIXHERE`, or else the line of origin, is the one that `META["fix_code"]` replaces.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

FOLDER = Path(__file__).parent / "cases"
VISIBLE = ("loss", "grad", "param", "hidden")

LossFn = Callable[[nn.Module, Any], torch.Tensor]


@dataclass
class Run:
    """A training run of a case, step by step."""

    model: nn.Module
    loss_fn: LossFn
    batches: list[Any]
    optimizer: torch.optim.Optimizer

    def closure(self, step: int) -> Callable[[], torch.Tensor]:
        """zero_grad, forward and backward on the batch of a step; returns the loss."""

        def again() -> torch.Tensor:
            self.optimizer.zero_grad()
            loss = self.loss_fn(self.model, self.batches[step])
            loss.backward()
            return loss

        return again

    def do(self, step: int) -> torch.Tensor:
        """The whole step."""
        loss = self.closure(step)()
        self.optimizer.step()
        return loss.detach()


@dataclass(frozen=True)
class Case:
    """One file with its right answer."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.stem

    @cached_property
    def text(self) -> list[str]:
        return self.path.read_text().splitlines()

    @cached_property
    def module(self) -> ModuleType:
        return load(self.path)

    @cached_property
    def meta(self) -> dict[str, Any]:
        return self.module.META

    @property
    def is_healthy(self) -> bool:
        return self.meta["phase"] == "none"

    @property
    def step(self) -> int:
        """The step that fails."""
        return int(self.meta["step"])

    def lines(self, marker: str) -> list[int]:
        """Numbers of the lines that end with a marker."""
        return [i for i, line in enumerate(self.text, 1) if line.rstrip().endswith(f"# {marker}")]

    @property
    def line(self) -> int:
        """Number of the line of origin."""
        (line,) = self.lines("ORIGIN")
        return line

    def accepted(self, field: str) -> set[Any]:
        """Right values of `phase`, `first_op`, `module` or `cause`."""
        return {self.meta[field], *self.meta.get(f"{field}_alt", ())}

    def run(self, seed: int = 0) -> Run:
        return Run(*self.module.make(seed))

    def run_until_failure(self, seed: int = 0) -> Run:
        """The run with every step done that comes before the failing one."""
        run = self.run(seed)
        for step in range(self.step):
            run.do(step)
        return run

    def mended(self, folder: Path) -> Case:
        """The same case with its fix applied."""
        (line,) = self.lines("FIXHERE") or self.lines("ORIGIN")
        text = list(self.text)
        old = text[line - 1]
        text[line - 1] = old[: len(old) - len(old.lstrip())] + self.meta["fix_code"]
        path = folder / f"{self.name}_mended.py"
        path.write_text("\n".join(text) + "\n")
        return Case(path)


def load(path: Path) -> ModuleType:
    """Imports a file under a name of its own."""
    name = f"trace_case_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def all_cases(folder: Path = FOLDER) -> list[Case]:
    return [Case(path) for path in sorted(folder.glob("*.py"))]


def failures(folder: Path = FOLDER) -> list[Case]:
    return [case for case in all_cases(folder) if not case.is_healthy]


def controls(folder: Path = FOLDER) -> list[Case]:
    return [case for case in all_cases(folder) if case.is_healthy]


def dense(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.coalesce().values() if tensor.is_sparse else tensor


def is_finite(tensor: torch.Tensor) -> bool:
    return bool(torch.isfinite(dense(tensor.detach())).all())


def bad_gradients(model: nn.Module) -> list[str]:
    return [n for n, p in model.named_parameters() if p.grad is not None and not is_finite(p.grad)]


def bad_state(model: nn.Module) -> list[str]:
    """Parameters and buffers that are not finite."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return [n for n, t in tensors if t.is_floating_point() and not is_finite(t)]
