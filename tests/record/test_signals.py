"""Numbers of layers that come and go in a run log."""

from __future__ import annotations

import json

import numpy as np
import pytest

from trimtab.record import RunHeader, RunLog, RunWriter, Signal, joined, read


def test_signals_come_back(tmp_path):
    with RunWriter(tmp_path) as writer:
        writer.open(RunHeader.create())
        writer.signal(0, {"size": (("a", "b"), np.array([1.0, np.nan])), "other": (("x",), np.array([3.0]))})
        writer.signal(50, {"size": (("b", "c"), np.array([2.0, 4.0]))})
        writer.signal(50, {"size": (("b", "c"), np.array([5.0, 6.0]))})  # done again: the last one counts
    log = read(tmp_path)
    assert log.signals["size"].axis == ("a", "b", "c")
    assert log.signals["size"].steps.tolist() == [0, 50]
    np.testing.assert_array_equal(
        log.signals["size"].values, np.float32([[1, np.nan, np.nan], [np.nan, 5, 6]])
    )
    assert log.signals["other"].of("x").tolist() == [3.0]
    part = log.select(10, 60).signals["size"]
    assert part.steps.tolist() == [50]


def test_logs_without_signals_have_none(tmp_path):
    with RunWriter(tmp_path) as writer:
        writer.open(RunHeader.create())
    assert read(tmp_path).signals == {}


def test_export_holds_them(tmp_path):
    signals = joined({3: {"s": (("a",), np.array([np.nan]))}})
    log = RunLog.from_arrays(loss=[1.0] * 4, signals=signals)
    facts = json.loads(log.to_json(tmp_path / "x.json").read_text())
    assert facts["signals"] == {"s": {"layers": ["a"], "steps": [3], "values": [["NaN"]]}}


def test_shapes_must_fit():
    with pytest.raises(ValueError, match="one row per step"):
        Signal(("a",), np.array([0]), np.zeros((1, 2)))
