from __future__ import annotations

import csv
import json
import math
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.errors import MissingDependencyError
from trimtab.record import RunLog, export, read, windowed_score
from trimtab.types import Action, Culprit, Fault, Kind, Place

NAN, INF = float("nan"), float("inf")


def reject(name):
    raise AssertionError(f"{name} is not JSON")


def strict(path):
    return json.loads(path.read_text(), parse_constant=reject)


def test_from_arrays_takes_lists_arrays_and_tensors():
    log = RunLog.from_arrays(
        loss=[1.0, 2.0, 3.0],
        grad_norm=np.float32([1, 2, 3]),
        lr=torch.tensor([0.5, 0.5, 0.25], dtype=torch.bfloat16, requires_grad=True),
        val_loss=[None, 4.0, None],
        step=[10, 20, 30],
    )
    assert log.step.tolist() == [10, 20, 30]
    assert log.lr.tolist() == [0.5, 0.5, 0.25]
    assert log.metrics["val_loss"][0].tolist() == [20]
    assert not log.given("clip_factor").any()
    assert log.given("lr").all()
    assert log.stability_score.tolist() == [1.0, 1.0, 1.0]
    assert log.applied.all()


def test_from_arrays_finds_the_faults_in_the_numbers():
    log = RunLog.from_arrays(loss=[1.0, NAN, 1.0], grad_norm=[INF, NAN, 1.0], applied=[True, False, True])
    found = [(f.step, f.kind, f.place, f.action) for f in log.faults]
    assert found == [
        (0, Kind.INF, Place.GRADIENT, Action.APPLY),
        (1, Kind.NAN, Place.LOSS, Action.SKIP),
        (1, Kind.NAN, Place.GRADIENT, Action.SKIP),
    ]
    assert log.action.tolist() == ["apply", "skip", "apply"]
    np.testing.assert_allclose(log.stability_score, [0.8, 0.7, 1.0])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "got no column"),
        ({"loss": [1.0], "lr": [1.0, 2.0]}, "loss has 1, lr has 2"),
        ({"loss": [[1.0, 2.0]]}, r"loss of shape \(1, 2\)"),
        ({"loss": ["high"]}, "loss: expected plain numbers"),
        ({"loss": [1.0, 2.0], "step": [0.5, 1.0]}, "step: expected whole numbers"),
        ({"loss": [1.0, 2.0], "step": [3, 3]}, "step: expected numbers that grow"),
        (
            {"loss": [1.0], "layer_norms": np.ones((1, 2)), "layer_names": ["a"]},
            r"layer_norms of shape \(1, 2\)",
        ),
        ({"loss": [1.0], "layer_norms": np.ones((2, 1)), "layer_names": ["a"]}, "layer_norms has 2 rows"),
    ],
)
def test_from_arrays_says_what_is_wrong(given, message):
    with pytest.raises(ValueError, match=message):
        RunLog.from_arrays(**given)


def test_select_keeps_both_ends():
    log = RunLog.from_arrays(
        loss=[1.0, NAN, None, 4.0],
        val_loss=[1.0, 2.0, 3.0, 4.0],
        layer_names=("a",),
        layer_norms=np.array([[1.0], [-1.0], [3.0], [4.0]]),
    )
    part = log.select(1, 2)
    assert part.step.tolist() == [1, 2]
    assert part.given("loss").tolist() == [True, False]
    assert [f.step for f in part.faults] == [1]
    assert part.layer_steps.tolist() == [1, 2]
    assert part.layer_norms.mask.tolist() == [[True], [False]]
    assert part.metrics["val_loss"][1].tolist() == [2.0, 3.0]


def test_windowed_score_exactly():
    log = RunLog.from_arrays(
        loss=[1.0, NAN, 1.0, INF], clip_factor=[0.5, NAN, 1.0, 0.0], grad_norm=[1.0, 1.0, 1.0, 1.0]
    )
    parts = windowed_score(log, window=2)
    np.testing.assert_allclose(log.stability_score, [0.95, 0.7, 1.0, 0.8])
    np.testing.assert_allclose(parts.score, [0.95, 0.825, 0.85, 0.9])
    np.testing.assert_allclose(parts.nan_share, [0, 0.5, 0.5, 0])
    np.testing.assert_allclose(parts.inf_share, [0, 0, 0, 0.5])
    np.testing.assert_allclose(parts.clipped_share, [0.5, 0.25, 0, 0])
    with pytest.raises(ValueError, match="window=0"):
        windowed_score(log, 0)
    assert windowed_score(RunLog.from_arrays(loss=[]), 5).score.shape == (0,)


@settings(max_examples=50, deadline=None)
@given(
    loss=st.lists(st.sampled_from([1.0, NAN, INF]), min_size=1, max_size=40),
    window=st.integers(1, 50),
    data=st.data(),
)
def test_the_parts_add_up_to_the_score(loss, window, data):
    factor = data.draw(st.lists(st.floats(0, 1) | st.just(NAN), min_size=len(loss), max_size=len(loss)))
    parts = windowed_score(RunLog.from_arrays(loss=loss, clip_factor=factor), window)
    total = 1 - 0.3 * parts.nan_share - 0.2 * parts.inf_share
    total -= 0.1 * parts.overflow_share + 0.1 * parts.clipped_share
    np.testing.assert_allclose(parts.score, total, atol=1e-12)


def test_scores_of_the_writer_and_of_arrays_agree(writer, make_outcome, fault):
    overflow = Fault(Kind.OVERFLOW, Place.GRADIENT, threshold=1e4)
    for step, (factor, faults) in enumerate([(0.3, ()), (NAN, (fault,)), (1.0, (overflow,))]):
        writer.append(make_outcome(step, clip_factor=factor, faults=faults), lr=0.1)
    log = read(writer.path)
    assert log.faults[-1].threshold == 1e4
    np.testing.assert_allclose(
        log.stability_score, export_scores := [0.93, 0.7, 0.9], err_msg=str(export_scores)
    )


@pytest.fixture
def eventful(writer, make_outcome, fault):
    writer.append(make_outcome(0, loss=None, norms=[1.0, -1.0, INF]), lr=0.1)
    inf = Fault(Kind.INF, Place.LOSS, (Culprit("loss", Place.LOSS, (), 0, 1, 0, (), NAN),))
    writer.append(
        make_outcome(
            1,
            loss=-INF,
            grad_norm=NAN,
            clip_factor=NAN,
            faults=(inf, fault),
            applied=False,
            action=Action.SKIP,
        ),
        lr=0.1,
    )
    writer.append(make_outcome(2, loss=-0.0, grad_norm=8.0, clip_factor=0.125), lr=0.1)
    writer.log(2, val_loss=INF)
    return read(writer.path)


def test_json_is_strict_and_reads_back(eventful, tmp_path):
    data = strict(eventful.to_json(tmp_path / "out" / "log.json"))
    assert data["format"] == "trimtab run log 1"
    for name in ("loss", "grad_norm", "clip_factor", "lr", "stability_score", "time"):
        values = data["steps"][name]
        assert [value is not None for value in values] == eventful.given(name).tolist()
        back = np.array([NAN if value is None else float(value) for value in values])
        np.testing.assert_array_equal(back, getattr(eventful, name))
    assert data["steps"]["loss"][1:] == ["-Infinity", -0.0]
    assert math.copysign(1, data["steps"]["loss"][2]) == -1
    assert data["steps"]["applied"] == [True, False, True]
    assert data["layers"]["grad_norms"] == [[1.0, None, "Infinity"]]
    assert data["metrics"] == {"val_loss": {"steps": [2], "values": ["Infinity"]}}
    assert data["faults"][1]["culprits"][0]["name"] == "embed.weight"
    assert data["faults"][1]["culprits"][1]["largest"] == "NaN"
    assert data["header"]["policies"] == {"clip": "NormClip(max_norm=1.0)"}


@settings(max_examples=40, deadline=None)
@given(loss=st.lists(st.floats(allow_subnormal=True) | st.none(), min_size=1, max_size=30))
def test_json_and_csv_keep_any_float(tmp_path_factory, loss):
    folder = tmp_path_factory.mktemp("out")
    log = RunLog.from_arrays(loss=loss)
    values = strict(log.to_json(folder / "log.json"))["steps"]["loss"]
    with open(log.to_csv(folder / "log.csv"), newline="") as file:
        table = [row["loss"] for row in csv.DictReader(file)]
    for value, in_json, in_csv in zip(loss, values, table, strict=True):
        if value is None:
            assert (in_json, in_csv) == (None, "")
        else:
            assert repr(float(in_json)) == repr(float(in_csv)) == repr(value)


def test_chunked_lists_are_the_same(eventful, tmp_path, monkeypatch):
    whole = eventful.to_json(tmp_path / "a.json").read_text()
    table = eventful.to_csv(tmp_path / "a.csv").read_text()
    monkeypatch.setattr(export, "_CHUNK_ROWS", 2)
    assert eventful.to_json(tmp_path / "b.json").read_text() == whole
    assert eventful.to_csv(tmp_path / "b.csv").read_text() == table


def test_csv(eventful, tmp_path):
    with open(eventful.to_csv(tmp_path / "log.csv"), newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["0", "1", "2"]
    assert [row["loss"] for row in rows] == ["", "-inf", "-0.0"]
    assert rows[1]["faults"] == "Inf in the loss; NaN in the gradient"
    assert [row["applied"] for row in rows] == ["1", "0", "1"]


def test_dataframe(eventful):
    frame = eventful.to_dataframe()
    assert frame.index.tolist() == [0, 1, 2]
    assert frame.loc[2, "grad_norm"] == 8.0
    assert frame["val_loss"].isna().tolist() == [True, True, False]
    assert frame["action"].tolist() == ["apply", "skip", "apply"]


def test_dataframe_without_pandas(eventful, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingDependencyError, match=r"trimtab\[export\]"):
        eventful.to_dataframe()


def test_histories(eventful, tmp_path):
    clipping, nan_handling = eventful.save_histories(tmp_path / "histories")
    assert clipping.name == "gradient_clipping_history.json"
    assert strict(clipping) == {
        "steps": [0, 1, 2],
        "clipping_ratios": [0.5, "NaN", 0.875],
        "gradient_norms": [2.0, "NaN", 8.0],
        "clipped_norms": [1.0, "NaN", 1.0],
    }
    assert nan_handling.name == "nan_handling_history.json"
    assert strict(nan_handling) == {
        "steps": [1],
        "nan_counts": [9],
        "inf_counts": [1],
        "overflow_counts": [0],
        "actions": ["skip"],
        "stability_scores": [0.5],
    }


def test_a_spike_is_no_bad_number(writer, make_outcome, fault, tmp_path):
    spike = Fault(Kind.SPIKE, Place.LOSS, threshold=4.0)
    skipped = {"applied": False, "action": Action.SKIP, "clip_factor": 1.0}
    writer.append(make_outcome(0, clip_factor=1.0), lr=0.1)
    writer.append(make_outcome(1, faults=(spike,), **skipped), lr=0.1)
    writer.append(make_outcome(2, faults=(fault, spike), **skipped), lr=0.1)
    log = read(writer.path)
    assert [(event.kind, event.num_bad) for event in log.faults][:1] == [(Kind.SPIKE, 0)]
    np.testing.assert_allclose(log.stability_score, [1.0, 1.0, 0.7])
    parts = windowed_score(log, 1)
    assert (parts.nan_share.tolist(), parts.inf_share.tolist()) == ([0, 0, 1], [0, 0, 0])
    history = strict(log.save_histories(tmp_path / "histories")[1])
    assert (history["steps"], history["nan_counts"], history["inf_counts"]) == ([2], [9], [0])
    assert strict(log.to_json(tmp_path / "log.json"))["faults"][0]["kind"] == "spike"
    with open(log.to_csv(tmp_path / "log.csv"), newline="") as file:
        assert [row["faults"] for row in csv.DictReader(file)][1] == "spike in the loss"


@pytest.mark.parametrize("name", ["to_csv", "to_json"])
def test_a_folder_is_no_file_to_write(eventful, tmp_path, name):
    folder = tmp_path / "out"
    folder.mkdir()
    with pytest.raises(IsADirectoryError, match=r"is a folder\. Give the name of a file") as caught:
        getattr(eventful, name)(folder)
    assert repr(str(folder)) in str(caught.value)
    assert ".part" not in str(caught.value)
    assert list(folder.iterdir()) == []


def test_a_failed_export_leaves_the_old_file(eventful, tmp_path, monkeypatch):
    target = tmp_path / "log.json"
    target.write_text("old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(export, "_fault_facts", fail)
    with pytest.raises(OSError, match="disk full"):
        eventful.to_json(target)
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["log.json"]
