from __future__ import annotations

import logging
import os
import sqlite3
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.errors import RunLogError
from trimtab.record import RunHeader, RunWriter, read, read_every_row
from trimtab.types import Action, Kind, Place, StepOutcome, StepStats

FLOATS = st.floats(allow_nan=True, allow_infinity=True, allow_subnormal=True)


def same(left: float, right: float) -> bool:
    return (np.isnan(left) and np.isnan(right)) or (left == right and np.signbit(left) == np.signbit(right))


def test_a_row_comes_back_as_it_was(writer, make_outcome, header):
    writer.append(make_outcome(5, loss=2.25, grad_norm=4.0, clip_factor=0.25), lr=0.1)
    log = read(writer.path)
    assert log.step.tolist() == [5]
    assert log.step.dtype == np.int64
    assert (log.loss[0], log.grad_norm[0], log.clip_factor[0], log.lr[0]) == (2.25, 4.0, 0.25, 0.1)
    assert log.stability_score[0] == 0.925
    assert log.applied.tolist() == [True]
    assert log.action.tolist() == ["apply"]
    assert log.time[0] > 1.7e9
    assert log.header == header
    assert log.faults == ()
    assert dict(log.not_given) == {}


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(FLOATS, FLOATS, FLOATS, FLOATS), min_size=1, max_size=5))
def test_any_float_survives_in_every_column(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("run")
    with RunWriter(folder) as writer:
        writer.open(RunHeader.create())
        for step, (loss, norm, factor, lr) in enumerate(rows):
            stats = StepStats(loss=loss, grad_norm=norm, clip_factor=factor)
            writer.append(StepOutcome(step=step, stats=stats, applied=True, action=Action.APPLY), lr=lr)
            writer.log(step, number=loss)
    log = read(folder)
    for step, row in enumerate(rows):
        for name, value in zip(("loss", "grad_norm", "clip_factor", "lr"), row, strict=True):
            assert same(getattr(log, name)[step], value), name
        assert same(log.metrics["number"][1][step], row[0])
    assert dict(log.not_given) == {}


def test_absent_and_nan_are_told_apart_in_every_column(writer, make_outcome):
    nan = float("nan")
    writer.append(make_outcome(0, loss=None, clip_factor=None), lr=None)
    writer.append(make_outcome(1, loss=nan, grad_norm=nan, clip_factor=nan), lr=nan)
    log = read(writer.path)
    for name in ("loss", "clip_factor", "lr"):
        assert np.isnan(getattr(log, name)).all()
        assert log.given(name).tolist() == [False, True], name
    assert log.given("grad_norm").all()


def test_layers_keep_nan_inf_and_absence(writer, make_outcome):
    nan, inf = float("nan"), float("inf")
    writer.append(make_outcome(0, norms=[1.5, nan, inf]), lr=0.1)
    writer.append(make_outcome(1), lr=0.1)
    writer.append(make_outcome(2, norms=[-1.0, 0.0, 3.0]), lr=0.1)
    log = read(writer.path)
    assert log.layer_names == ("embed.weight", "head.weight", "head.bias")
    assert log.layer_steps.tolist() == [0, 2]
    np.testing.assert_array_equal(log.layer_norms.data[0], np.float32([1.5, nan, inf]))
    assert log.layer_norms.mask.tolist() == [[False] * 3, [True, False, False]]
    assert log.layer_norms.dtype == np.float32


def test_a_norm_beyond_float32_stays_finite(writer, make_outcome):
    writer.append(make_outcome(0, norms=[1e39, 1e-60, float("inf")]), lr=0.1)
    norms = read(writer.path).layer_norms.data[0]
    assert norms.tolist() == [float(np.finfo(np.float32).max), 0.0, float("inf")]


def test_several_statistics_per_layer_fit_and_the_first_is_read(tmp_path, make_outcome):
    header = RunHeader.create(layer_names=("a", "b"), statistics=("grad_norm", "max"))
    with RunWriter(tmp_path) as writer:
        writer.open(header)
        writer.append(make_outcome(0, norms=[[1.0, 2.0], [3.0, 4.0]]), lr=0.1)
    log = read(tmp_path)
    assert log.layer_norms.tolist() == [[1.0, 2.0]]
    assert log.header is not None
    assert log.header.statistics == ("grad_norm", "max")


@pytest.mark.parametrize("shape", [(2,), (4,), (3, 1), (2, 3)])
def test_layers_of_a_wrong_shape_are_refused(writer, make_outcome, shape):
    with pytest.raises(ValueError, match=r"expected \(3,\) or \(1, 3\)"):
        writer.append(make_outcome(0, norms=np.zeros(shape)), lr=0.1)
    assert read(writer.path).num_steps == 0


def test_faults_come_back_with_their_culprits(writer, make_outcome, fault):
    outcome = make_outcome(
        3, loss=float("nan"), faults=(fault,), applied=False, action=Action.SKIP, reason="1 of 10"
    )
    writer.append(outcome, lr=0.1)
    (event,) = read(writer.path).faults
    assert (event.step, event.kind, event.place, event.action) == (3, Kind.NAN, Place.GRADIENT, Action.SKIP)
    assert event.reason == "1 of 10"
    assert event.threshold is None
    assert event.num_bad == 9
    assert event.culprits[0] == fault.culprits[0]
    assert repr(event.culprits[1]) == repr(fault.culprits[1])  # nan is not equal to itself


def test_the_same_culprits_are_stored_once(writer, make_outcome, fault):
    for step in range(50):
        writer.append(make_outcome(step, faults=(fault,)), lr=0.1)
    with sqlite3.connect(writer.file) as db:
        assert db.execute("SELECT count(*) FROM culprits").fetchone() == (1,)
    db.close()
    events = read(writer.path).faults
    assert len(events) == 50
    assert all(event.culprits is events[0].culprits for event in events)


def test_a_failed_transaction_does_not_leave_a_dangling_culprit(writer, make_outcome, fault, monkeypatch):
    blocker = sqlite3.connect(writer.file, isolation_level=None)
    writer._db.execute("PRAGMA busy_timeout = 0")
    blocker.execute("BEGIN IMMEDIATE")
    with pytest.raises(RunLogError, match="Every row up to here is kept"):
        writer.append(make_outcome(0, faults=(fault,)), lr=0.1)
    blocker.execute("ROLLBACK")
    blocker.close()
    writer.append(make_outcome(1, faults=(fault,)), lr=0.1)
    log = read(writer.path)
    assert log.step.tolist() == [1]
    assert log.faults[0].culprits


def test_the_cadence():
    writer = RunWriter("unused", layers_every=20)
    assert [step for step in range(61) if writer.wants_layers(step)] == [0, 20, 40, 60]
    with pytest.raises(ValueError, match="layers_every=0"):
        RunWriter("unused", layers_every=0)
    assert not Path("unused").exists()


def test_metrics_keep_the_last_value_per_step(writer):
    writer.log(0, val_loss=0.5, accuracy=0.25)
    writer.log(10, val_loss=0.375)
    writer.log(10, val_loss=0.125)
    metrics = read(writer.path).metrics
    assert metrics["val_loss"][0].tolist() == [0, 10]
    assert metrics["val_loss"][1].tolist() == [0.5, 0.125]
    assert metrics["accuracy"][1].tolist() == [0.25]


def test_a_resumed_run_appends_and_the_last_attempt_counts(tmp_path, header, make_outcome, fault):
    with RunWriter(tmp_path) as writer:
        writer.open(header)
        for step in range(4):
            faults = (fault,) if step == 3 else ()
            writer.append(make_outcome(step, loss=10.0 + step, faults=faults, norms=[1, 2, 3]), lr=0.1)
    again = RunHeader.create(
        run_id=header.run_id, layer_names=header.layer_names, policies={"clip": "None"}, first_step=2
    )
    with RunWriter(tmp_path) as writer:
        writer.open(again)
        for step in range(2, 6):
            writer.append(make_outcome(step, loss=20.0 + step), lr=0.1)
    log = read(tmp_path)
    assert log.step.tolist() == [0, 1, 2, 3, 4, 5]
    assert log.loss.tolist() == [10.0, 11.0, 22.0, 23.0, 24.0, 25.0]
    assert log.faults == ()  # the fault belongs to an attempt that was done again
    assert log.layer_steps.tolist() == [0, 1]
    assert log.header is not None
    assert (log.header.created, log.header.first_step) == (header.created, 0)
    assert log.header.policies == {"clip": "None"}
    every = read_every_row(tmp_path)
    assert every.step.tolist() == [0, 1, 2, 3, 2, 3, 4, 5]
    assert [event.step for event in every.faults] == [3]
    assert every.layer_steps.tolist() == [0, 1, 2, 3]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run.sqlite"]


def test_resuming_with_other_layers_is_refused(tmp_path, header, make_outcome):
    with RunWriter(tmp_path) as writer:
        writer.open(header)
    other = RunHeader.create(run_id=header.run_id, layer_names=("only",))
    with pytest.raises(RunLogError, match="with 3 layers and not these 1"):
        RunWriter(tmp_path).open(other)


def test_another_run_is_kept_under_its_start_time(tmp_path, make_outcome, caplog):
    caplog.set_level(logging.INFO, logger="trimtab")
    created = "2026-11-23T14:53:07+00:00"
    for i in range(3):
        with RunWriter(tmp_path) as writer:
            writer.open(RunHeader(run_id=f"id{i}", created=created))
            writer.append(make_outcome(i), lr=0.1)
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == ["run-20261123T145307Z-2.sqlite", "run-20261123T145307Z.sqlite", "run.sqlite"]
    assert read(tmp_path).step.tolist() == [2]
    assert read(tmp_path / names[1]).step.tolist() == [0]
    assert "held another run: kept as run-20261123T145307Z.sqlite" in caplog.text


def test_a_second_writer_of_this_process_is_refused_and_the_first_goes_on(tmp_path, make_outcome):
    # two guards of a GAN with the same record=
    first, second = RunWriter(tmp_path), RunWriter(tmp_path / ".." / tmp_path.name / "run.sqlite")
    first.open(RunHeader.create())
    first.check()
    for attempt in (second.check, lambda: second.open(RunHeader.create())):
        with pytest.raises(
            RunLogError, match=r"folder of its own, or close\(\) the other one first"
        ) as caught:
            attempt()
        assert caught.value.path == second.file
    first.append(make_outcome(3), lr=0.1)
    assert read(tmp_path).step.tolist() == [3]
    first.close()
    second.check()
    second.open(RunHeader.create())
    second.append(make_outcome(7), lr=0.1)
    second.close()
    assert read(tmp_path).step.tolist() == [7]
    assert len(list(tmp_path.iterdir())) == 2


def test_a_dropped_writer_is_no_obstacle_even_in_a_cycle(tmp_path, make_outcome):
    first = RunWriter(tmp_path)
    first.open(RunHeader.create())
    cycle = [first]
    cycle.append(cycle)
    del first, cycle
    second = RunWriter(tmp_path)
    second.check()
    second.open(RunHeader.create())
    second.append(make_outcome(7), lr=0.1)
    second.close()
    assert read(tmp_path).step.tolist() == [7]


def test_a_run_that_another_connection_writes_to_is_not_moved_away(writer, make_outcome):
    live = sqlite3.connect(writer.file)
    live.execute("SELECT * FROM step").fetchall()
    writer.close()
    with pytest.raises(RunLogError, match="another process writing"):
        RunWriter(writer.path).open(RunHeader.create())
    live.close()
    assert [p.name for p in writer.path.iterdir() if p.suffix == ".sqlite"] == ["run.sqlite"]


def test_order_of_calls(tmp_path, header, make_outcome):
    writer = RunWriter(tmp_path)
    with pytest.raises(RuntimeError, match="never opened"):
        writer.append(make_outcome(0), lr=0.1)
    writer.open(header)
    with pytest.raises(RuntimeError, match="open already"):
        writer.open(header)
    writer.close()
    writer.close()
    with pytest.raises(RuntimeError, match=r"close\(\) was called"):
        writer.log(0, a=1.0)


def test_a_closed_run_is_one_plain_file(tmp_path, header, make_outcome):
    with RunWriter(tmp_path / "deep" / "er") as writer:
        writer.open(header)
        writer.append(make_outcome(0), lr=0.1)
    assert [p.name for p in (tmp_path / "deep" / "er").iterdir()] == ["run.sqlite"]


def test_a_writer_that_is_dropped_closes_its_file(tmp_path, header, make_outcome):
    writer = RunWriter(tmp_path)
    writer.open(header)
    writer.append(make_outcome(0), lr=0.1)
    del writer
    assert [p.name for p in tmp_path.iterdir()] == ["run.sqlite"]
    assert read(tmp_path).num_steps == 1


def test_a_sqlite_name_is_the_file_itself(tmp_path, header, make_outcome):
    with RunWriter(tmp_path / "fold" / "mine.sqlite") as writer:
        writer.open(header)
        writer.append(make_outcome(0), lr=0.1)
    assert read(tmp_path / "fold" / "mine.sqlite").num_steps == 1


def test_two_threads_may_write(writer, make_outcome):
    def metrics() -> None:
        for step in range(100):
            writer.log(step, value=float(step))

    thread = threading.Thread(target=metrics)
    thread.start()
    for step in range(100):
        writer.append(make_outcome(step, norms=[1, 2, 3]), lr=0.1)
    thread.join()
    log = read(writer.path)
    assert log.num_steps == 100
    assert len(log.metrics["value"][0]) == 100


def test_what_is_not_ours_is_refused_and_left_alone(tmp_path, header):
    file = tmp_path / "run.sqlite"
    file.write_bytes(b"this is a text, and no database at all" * 50)
    for attempt in (lambda: RunWriter(tmp_path).open(header), RunWriter(tmp_path).check):
        with pytest.raises(RunLogError, match=r"is not a run log .*Give another folder") as caught:
            attempt()
        assert caught.value.path == file
    file.unlink()
    db = sqlite3.connect(file)
    db.execute("CREATE TABLE theirs (x)")
    db.commit()
    db.close()
    before = file.read_bytes()
    with pytest.raises(RunLogError, match="not a run log of trimtab"):
        RunWriter(tmp_path).open(header)
    assert file.read_bytes() == before


def test_another_schema_version_is_refused(tmp_path, header):
    with RunWriter(tmp_path) as writer:
        writer.open(header)
    db = sqlite3.connect(tmp_path / "run.sqlite")
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(RunLogError, match="schema version 99, this trimtab understands 2"):
        RunWriter(tmp_path).open(header)
    with pytest.raises(RunLogError, match="schema version 99"):
        read(tmp_path)


def test_an_empty_file_left_by_a_crash_is_used(tmp_path, header, make_outcome):
    (tmp_path / "run.sqlite").touch()
    with RunWriter(tmp_path) as writer:
        writer.open(header)
        writer.append(make_outcome(0), lr=0.1)
    assert read(tmp_path).num_steps == 1


def test_a_folder_that_cannot_be_made_is_named(tmp_path, header):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "deeper"):
        with pytest.raises(RunLogError, match="cannot be made") as caught:
            RunWriter(path).check()
        assert str(tmp_path / "file") in str(caught.value)


def test_a_folder_that_is_not_writable_is_named(tmp_path, monkeypatch):
    # by substitution: root, as in a container, may write everywhere
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(RunLogError, match=r"not writable. Change its permissions"):
        RunWriter(tmp_path).check()
