"""Recorded runs of the fault suite (benchmarks/faultbench, tuning part) and what must be told of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from trimtab.diagnose import diagnose
from trimtab.record import RunLog, Signal

FOLDER = Path(__file__).parents[1] / "golden"
EXPECTED = json.loads((FOLDER / "findings.json").read_text())


def recorded(name: str) -> RunLog:
    with np.load(FOLDER / "runs.npz") as arrays:
        own = {key[len(name) + 1 :]: arrays[key] for key in arrays.files if key.startswith(f"{name}/")}
    signals = {
        key.split("/")[1]: Signal(
            tuple(str(n) for n in axis),
            own[key.replace("/axis", "/steps")].astype(np.int64),
            own[key.replace("/axis", "/values")],
        )
        for key, axis in own.items()
        if key.endswith("/axis")
    }
    columns = {key: own[key] for key in ("step", "loss", "grad_norm", "lr", "clip_factor")}
    val = None
    if "val_loss" in own:
        val = [None] * len(columns["step"])
        for step, value in zip(own["val_steps"].tolist(), own["val_loss"].tolist(), strict=True):
            val[columns["step"].tolist().index(step)] = value
    clip = columns.pop("clip_factor")
    given = clip if np.isfinite(clip).any() else None
    return RunLog.from_arrays(**columns, clip_factor=given, val_loss=val, signals=signals)


@pytest.mark.parametrize("name", EXPECTED)
def test_recorded_runs_are_told_as_expected(name):
    assert [f.cause.value for f in diagnose(recorded(name))] == EXPECTED[name]


def test_the_slice_holds_both_kinds():
    assert sum(not causes for causes in EXPECTED.values()) >= 5
    assert len({cause for causes in EXPECTED.values() for cause in causes}) >= 10
