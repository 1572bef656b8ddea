"""The demo itself: the same training twice from one seed, unguarded and guarded."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import final

from torch import nn
from torch.optim import Optimizer

from trimtab.decide import NormClip, Observe, Overflow, Skip
from trimtab.demo.language import language_task
from trimtab.demo.train import Progress, Result, Task, train
from trimtab.demo.vision import vision_task
from trimtab.guard import Guard

TASKS: dict[str, Callable[[int], Task]] = {
    "text": lambda seed: language_task(seed=seed),
    "digits": lambda seed: vision_task(seed=seed),
}


@final
@dataclass(frozen=True, slots=True)
class DemoResult:
    """Both runs of a demo.

    Attributes:
        task: What was trained.
        unguarded: The run that was only watched.
        guarded: The run that was clipped and whose faulty steps were refused.
        unguarded_folder: Run log of the first.
        guarded_folder: Run log of the second.
        seconds: Wall time of everything.
    """

    task: Task
    unguarded: Result
    guarded: Result
    unguarded_folder: Path
    guarded_folder: Path
    seconds: float


def watch(model: nn.Module, optimizer: Optimizer, folder: Path) -> Guard:
    """The unguarded run: nothing is clipped, nothing is refused, everything is written down."""
    return Guard(model, optimizer, remedy=Observe(), record=folder)


def protect(model: nn.Module, optimizer: Optimizer, folder: Path) -> Guard:
    """The guarded run: what somebody who has just installed trimtab would write."""
    return Guard(
        model,
        optimizer,
        clip=NormClip(1.0),
        detect=(Overflow(1e6),),
        remedy=Skip(budget=10),
        record=folder,
    )


def run_demo(
    name: str,
    out: str | os.PathLike[str],
    *,
    seed: int = 0,
    on_step: Callable[[Progress], None] | None = None,
) -> DemoResult:
    """Train the task of this name twice from one seed.

    Args:
        name: "text" or "digits".
        out: Folder for both run logs; nothing is written outside it.
        seed: Where all randomness comes from.
        on_step: Called after every step of both runs.

    Raises:
        ValueError: There is no task of this name.
        MissingDependencyError: The digits demo needs scikit-learn.
    """
    if name not in TASKS:
        raise ValueError(f"run_demo({name!r}): expected one of {', '.join(map(repr, TASKS))}.")
    return compare(TASKS[name](seed), out, seed=seed, on_step=on_step)


def compare(
    task: Task,
    out: str | os.PathLike[str],
    *,
    seed: int = 0,
    on_step: Callable[[Progress], None] | None = None,
) -> DemoResult:
    """Train a task twice from one seed: unguarded, then guarded.

    Args:
        task: What to train.
        out: Folder for both run logs, `unguarded` and `guarded` below it.
        seed: Where all randomness comes from.
        on_step: Called after every step of both runs.
    """
    start_sec = time.perf_counter()
    folders = {run: Path(out) / run for run in ("unguarded", "guarded")}
    guards = {"unguarded": watch, "guarded": protect}
    unguarded, guarded = (
        train(task, partial(guards[run], folder=folder), run=run, seed=seed, on_step=on_step)
        for run, folder in folders.items()
    )
    return DemoResult(
        task=task,
        unguarded=unguarded,
        guarded=guarded,
        unguarded_folder=folders["unguarded"],
        guarded_folder=folders["guarded"],
        seconds=time.perf_counter() - start_sec,
    )
