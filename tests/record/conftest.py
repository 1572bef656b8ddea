"""Steps made by hand: the run log needs no guard."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trimtab.record import RunHeader, RunWriter
from trimtab.types import Action, Culprit, Fault, Kind, Place, StepOutcome, StepStats

NAMES = ("embed.weight", "head.weight", "head.bias")


@pytest.fixture
def header() -> RunHeader:
    return RunHeader.create(
        policies={"clip": "NormClip(max_norm=1.0)"},
        layer_names=NAMES,
        layer_shapes=((10, 4), (4, 2), (2,)),
        layer_dtypes=("torch.float32",) * 3,
        notes={"machine": "laptop"},
    )


@pytest.fixture
def make_outcome() -> Callable[..., StepOutcome]:
    def make(
        step: int,
        *,
        loss: float | None = 1.0,
        grad_norm: float = 2.0,
        clip_factor: float | None = 0.5,
        norms: Any = None,
        **more: Any,
    ) -> StepOutcome:
        norms = None if norms is None else np.asarray(norms, dtype=np.float64)
        stats = StepStats(loss=loss, grad_norm=grad_norm, clip_factor=clip_factor, tensor_norms=norms)
        return StepOutcome(step=step, stats=stats, **{"applied": True, "action": Action.APPLY, **more})

    return make


@pytest.fixture
def fault() -> Fault:
    nan = float("nan")
    gradient = Culprit("embed.weight", Place.GRADIENT, (10, 4), 7, 1, 0, (2, 3), 4.5)
    bias = Culprit("head.bias", Place.GRADIENT, (2,), 2, 0, 0, (0,), nan)
    return Fault(Kind.NAN, Place.GRADIENT, (gradient, bias))


@pytest.fixture
def writer(tmp_path: Path, header: RunHeader) -> Iterator[RunWriter]:
    with RunWriter(tmp_path / "run") as opened:
        opened.open(header)
        yield opened
