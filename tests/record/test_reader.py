from __future__ import annotations

import os
import shutil
import sqlite3

import numpy as np
import pytest

from trimtab.errors import RunLogError
from trimtab.record import RunHeader, RunWriter, reader, schema
from trimtab.record.reader import read


def test_a_missing_log_is_named_and_nothing_is_made(tmp_path):
    with pytest.raises(RunLogError, match=r"looked for the file .*run.sqlite.*record="):
        read(tmp_path / "nowhere")
    with pytest.raises(RunLogError, match=r"other.sqlite"):
        read(tmp_path / "other.sqlite")
    assert list(tmp_path.iterdir()) == []


def test_garbage_and_foreign_files_are_refused(tmp_path):
    (tmp_path / "run.sqlite").write_bytes(os.urandom(5000))
    with pytest.raises(RunLogError, match="is not a run log"):
        read(tmp_path)
    (tmp_path / "run.sqlite").write_bytes(b"")
    with pytest.raises(RunLogError, match="is empty"):
        read(tmp_path)


def test_a_cut_off_file_is_an_error_that_names_it(tmp_path, header, make_outcome):
    with RunWriter(tmp_path) as writer:
        writer.open(header)
        for step in range(500):
            writer.append(make_outcome(step, norms=[1, 2, 3]), lr=0.1)
    file = tmp_path / "run.sqlite"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(RunLogError, match="cannot be read"):
        read(tmp_path)


def test_a_run_without_steps(tmp_path, header):
    with RunWriter(tmp_path) as writer:
        writer.open(header)
    log = read(tmp_path)
    assert (log.num_steps, log.faults, log.layer_norms.shape) == (0, (), (0, 3))
    assert log.action.shape == (0,)


def test_an_unknown_kind_points_to_a_newer_trimtab(tmp_path, header, make_outcome, fault):
    with RunWriter(tmp_path) as writer:
        writer.open(header)
        writer.append(make_outcome(0, faults=(fault,)), lr=0.1)
    db = sqlite3.connect(tmp_path / "run.sqlite")
    db.execute("UPDATE fault SET kind = 'gremlin'")
    db.commit()
    db.close()
    with pytest.raises(RunLogError, match=r"gremlin.*newer"):
        read(tmp_path)


@pytest.mark.parametrize("left_by", ["close", "kill"])
def test_a_folder_where_nothing_can_be_written_is_readable(
    tmp_path, header, make_outcome, monkeypatch, left_by
):
    writer = RunWriter(tmp_path / "run")
    writer.open(header)
    for step in range(30):
        writer.append(make_outcome(step, norms=[1, 2, 3]), lr=0.1)
    # as a kill leaves it: rows in the write-ahead file; or as a checkpoint leaves it: none there
    target = tmp_path / "copy"
    target.mkdir()
    if left_by == "kill":
        shutil.copy(writer.file, target)
        shutil.copy(f"{writer.file}-wal", target)
    writer.close()
    if left_by == "close":
        shutil.copy(writer.file, target)
    real = schema.connect

    def refuse_index_files(file, *, uri_options, timeout_sec=10.0):
        # root, as in a container, may write everywhere: play the refusal of a read-only folder
        if file.parent == target and uri_options == "mode=ro":
            raise sqlite3.OperationalError("unable to open database file")
        return real(file, uri_options=uri_options, timeout_sec=timeout_sec)

    monkeypatch.setattr(reader.schema, "connect", refuse_index_files)
    before = sorted(p.name for p in target.iterdir())
    assert read(target).num_steps == 30
    assert sorted(p.name for p in target.iterdir()) == before


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_real_read_only_folder(tmp_path, header, make_outcome):
    with RunWriter(tmp_path / "run") as writer:
        writer.open(header)
        writer.append(make_outcome(0), lr=0.1)
    (tmp_path / "run").chmod(0o500)
    assert read(tmp_path / "run").num_steps == 1
    (tmp_path / "run").chmod(0o700)


def test_reading_a_closed_run_leaves_no_file_behind(tmp_path, header, make_outcome):
    with RunWriter(tmp_path) as writer:
        writer.open(header)
        writer.append(make_outcome(0), lr=0.1)
    before = (tmp_path / "run.sqlite").read_bytes()
    read(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["run.sqlite"]
    assert (tmp_path / "run.sqlite").read_bytes() == before


def test_chunks_make_no_difference(writer, make_outcome, monkeypatch):
    for step in range(25):
        loss = None if step % 7 == 0 else float(step)
        writer.append(make_outcome(step, loss=loss), lr=0.1)
    whole = read(writer.path)
    monkeypatch.setattr(reader, "_CHUNK_ROWS", 4)
    parts = read(writer.path)
    np.testing.assert_array_equal(whole.loss, parts.loss)
    assert whole.given("loss").tolist() == parts.given("loss").tolist()
    assert whole.action.tolist() == parts.action.tolist() == ["apply"] * 25


def test_a_newer_header_field_is_passed_over():
    text = RunHeader.create(notes={"a": "b"}).to_json()[:-1] + ', "later": 1}'
    assert RunHeader.from_json(text).notes == {"a": "b"}
