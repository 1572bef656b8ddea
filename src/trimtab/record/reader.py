"""Reads a run log back into arrays, in bounded memory, also while a run is writing it."""

from __future__ import annotations

import json
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from trimtab.errors import RunLogError
from trimtab.record import schema, signals
from trimtab.record.columns import BoolArray, FloatArray
from trimtab.record.export import FLOATS
from trimtab.record.header import RunHeader
from trimtab.record.log import FaultEvent, OriginEvent, RunLog
from trimtab.types import Action, Culprit, Kind, Origin, Place

_E = TypeVar("_E", bound=Enum)
_CHUNK_ROWS = 20_000


def read(path: str | Path) -> RunLog:
    """Read a run log. Works while the run is going on, and never writes to the file.

    A step that was done more than once (after a rewind or a resume) counts as it was done last.

    Args:
        path: Folder of the run, or its `.sqlite` file.

    Raises:
        RunLogError: There is none, or it cannot be understood.

    Cost:
        Some 4 s and 150 MB per million steps, and 4 bytes per layer for each step whose layers were
        kept.
    """
    return _read(path, _last_of_each_step)


def read_every_row(path: str | Path) -> RunLog:
    """Read a run log with every attempt at every step, in the order in which they were made.

    Args:
        path: Folder of the run, or its `.sqlite` file.

    Raises:
        RunLogError: There is none, or it cannot be understood.
    """
    return _read(path, lambda steps: np.arange(len(steps)))


def _last_of_each_step(steps: NDArray[np.int64]) -> NDArray[np.int64]:
    """Indices of the rows that count, in the order of the steps."""
    if np.all(np.diff(steps) > 0):
        return np.arange(len(steps))
    last_first, index = np.unique(steps[::-1], return_index=True)
    del last_first
    return np.asarray(len(steps) - 1 - index, dtype=np.int64)


def _read(path: str | Path, rows_that_count: Any) -> RunLog:
    file = schema.run_file(path)
    if not file.is_file():
        raise RunLogError(
            f"No run log at {Path(path)}: looked for the file {file}. Give the folder that was passed as "
            f"record=, or a .sqlite file in it.",
            path=Path(path),
        )
    try:
        with _opened(file) as db:
            # one snapshot for all tables, whatever is written meanwhile
            db.execute("BEGIN")
            if not schema.holds_tables(db, file):
                raise RunLogError(f"{file} is empty: the run stopped before its first step.", path=file)
            return _read_tables(db, rows_that_count)
    except sqlite3.Error as error:
        raise RunLogError(
            f"{file} cannot be read: {error}. If the file was copied while the run was going on, copy "
            f"its -wal file too.",
            path=file,
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise RunLogError(
            f"{file} holds something that this trimtab does not know ({error}). Was it written by a "
            f"newer one? Then read it with that.",
            path=file,
        ) from error


@contextmanager
def _opened(file: Path) -> Iterator[sqlite3.Connection]:
    try:
        db = schema.connect(file, uri_options="mode=ro")
        try:
            schema.holds_tables(db, file)
        except (RunLogError, sqlite3.Error):
            db.close()
            raise
    except sqlite3.OperationalError as error:
        if "unable to open" not in str(error) and "readonly" not in str(error):
            raise
        # a log left in write-ahead mode, in a folder where SQLite may not make its index file: nobody
        # else can be writing there, so that opening the file behind SQLite's back drops no locks
        with tempfile.TemporaryDirectory(prefix="trimtab-") as folder:
            log = file.with_name(file.name + "-wal")
            try:
                if log.exists() and log.stat().st_size:
                    shutil.copyfile(log, Path(folder, "run.sqlite-wal"))
                    copy = Path(shutil.copyfile(file, Path(folder, "run.sqlite")))
                    db = schema.connect(copy, uri_options="mode=rw")
                else:
                    db = schema.connect(file, uri_options="mode=ro&immutable=1")
            except OSError:
                raise error from None
            with closing(db):
                yield db
        return
    with closing(db):
        yield db


def _read_tables(db: sqlite3.Connection, rows_that_count: Any) -> RunLog:
    header = _read_header(db)
    seq, step, numbers, absent, applied, action = _read_steps(db)
    rows = rows_that_count(step)
    kept = seq[rows]
    in_order = len(rows) == len(seq) and bool(np.all(rows == np.arange(len(seq))))
    if not in_order:
        step, applied, action = step[rows], applied[rows], action[rows]
        numbers = {name: column[rows] for name, column in numbers.items()}
        absent = {name: column[rows] for name, column in absent.items()}
    layer_rows, norms = _read_layers(db, header, kept)
    names = () if header is None else header.layer_names
    return RunLog(
        step=step,
        **numbers,
        applied=applied,
        action=action,
        faults=_read_faults(db, kept),
        origins=_read_origins(db),
        layer_names=names,
        layer_steps=step[layer_rows],
        layer_norms=norms,
        metrics=_read_metrics(db),
        signals=signals.read(db),
        header=header,
        not_given={name: column for name, column in absent.items() if column.any()},
    )


def _read_header(db: sqlite3.Connection) -> RunHeader | None:
    sessions = [RunHeader.from_json(text) for (text,) in db.execute("SELECT header FROM session ORDER BY id")]
    if not sessions:
        return None
    # a resumed run may have other policies and versions: what holds now, but since the first start
    first, last = sessions[0], sessions[-1]
    return RunHeader(**{**vars(last), "created": first.created, "first_step": first.first_step})


def _read_steps(
    db: sqlite3.Connection,
) -> tuple[
    NDArray[np.int64],
    NDArray[np.int64],
    dict[str, FloatArray],
    dict[str, BoolArray],
    BoolArray,
    NDArray[np.str_],
]:
    (num,) = db.execute("SELECT count(*) FROM step").fetchone()
    seq, step = np.empty(num, dtype=np.int64), np.empty(num, dtype=np.int64)
    numbers = {name: np.empty(num) for name in FLOATS}
    absent = {name: np.zeros(num, dtype=bool) for name in FLOATS}
    applied, codes = np.empty(num, dtype=bool), np.empty(num, dtype=np.uint8)
    actions: dict[str, int] = {}
    query = f"SELECT seq, step, {', '.join(FLOATS)}, applied, action FROM step ORDER BY seq"
    cursor = db.execute(query)
    start = 0
    while chunk := cursor.fetchmany(_CHUNK_ROWS):
        part = slice(start, start + len(chunk))
        start += len(chunk)
        seq_values, step_values, *floats, applied_values, action_values = zip(*chunk, strict=True)
        seq[part], step[part], applied[part] = seq_values, step_values, applied_values
        for name, values in zip(FLOATS, floats, strict=True):
            # NumPy reads None as nan, and the text 'nan' too: see schema.py
            numbers[name][part] = np.array(values, dtype=np.float64)
            if None in values:
                absent[name][part] = [value is None for value in values]
        codes[part] = [actions.setdefault(value, len(actions)) for value in action_values]
    action = np.array(list(actions) or [""], dtype=np.str_)[codes]
    return seq, step, numbers, absent, applied, action


def _read_layers(
    db: sqlite3.Connection, header: RunHeader | None, kept: NDArray[np.int64]
) -> tuple[NDArray[np.int64], np.ma.MaskedArray[Any, Any]]:
    """Rows of `kept` whose layers are in the log, and the norms of those rows."""
    num_layers = 0 if header is None else len(header.layer_names)
    stored = np.array([seq for (seq,) in db.execute("SELECT seq FROM layers ORDER BY seq")], dtype=np.int64)
    rows = _rows_of(stored, kept)
    is_kept = rows >= 0
    rows = rows[is_kept]
    norms = np.empty((len(rows), num_layers), dtype=np.float32)
    target = 0
    blobs = db.execute("SELECT statistics FROM layers ORDER BY seq")
    for (blob,), wanted in zip(blobs, is_kept, strict=True):
        if wanted:
            norms[target] = np.frombuffer(blob, dtype=np.float32, count=num_layers)
            target += 1
    by_step = np.argsort(rows, kind="stable")
    if not np.array_equal(by_step, np.arange(len(rows))):
        rows, norms = rows[by_step], norms[by_step]
    return rows, np.ma.array(norms, mask=norms == -1)


def _read_faults(db: sqlite3.Connection, kept: NDArray[np.int64]) -> tuple[FaultEvent, ...]:
    seqs = np.array([seq for (seq,) in db.execute("SELECT seq FROM fault ORDER BY id")], dtype=np.int64)
    rows = _rows_of(seqs, kept)
    culprits: dict[int, tuple[Culprit, ...]] = {}
    kinds, places, actions = _values(Kind), _values(Place), _values(Action)
    found: list[FaultEvent] = []
    query = (
        "SELECT fault.step, kind, place, action, reason, threshold, culprits, json"
        " FROM fault JOIN culprits ON culprits.id = fault.culprits ORDER BY fault.id"
    )
    faults = zip(db.execute(query), (rows >= 0).tolist(), strict=True)
    for (step, kind, place, action, reason, threshold, key, text), is_kept in faults:
        # a rewind takes its own step back, and is still what there is to tell
        if not is_kept and action != Action.REWIND.value:
            continue
        if key not in culprits:
            culprits[key] = tuple(_culprit(facts) for facts in json.loads(text))
        limit = None if threshold is None else float(threshold)
        event = FaultEvent(step, kinds[kind], places[place], actions[action], reason, limit, culprits[key])
        found.append(event)
    rows = rows[rows >= 0]
    if len(rows) < len(found) or np.any(np.diff(rows) < 0):
        # a step was done again: by step, and within a step as written
        return tuple(sorted(found, key=lambda fault: fault.step))
    return tuple(found)


def _read_origins(db: sqlite3.Connection) -> tuple[OriginEvent, ...]:
    """All of them: that a step was done again later does not make its origin less true."""
    known: dict[str, Origin] = {}
    found = []
    for step, text, evidence in db.execute("SELECT step, json, evidence FROM origin ORDER BY step, id"):
        if text not in known:
            known[text] = Origin.from_json(text)
        found.append(OriginEvent(step, known[text], evidence))
    return tuple(found)


def _values(enum: type[_E]) -> dict[str, _E]:
    """Value to member: a lookup in a dict costs a fifth of calling the enumeration."""
    return {member.value: member for member in enum}


def _rows_of(seqs: NDArray[np.int64], kept: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each of `seqs` is in `kept`; -1 where it is not."""
    if len(kept) == 0:
        return np.full(len(seqs), -1, dtype=np.int64)
    order = np.argsort(kept, kind="stable")
    place = order[np.minimum(np.searchsorted(kept, seqs, sorter=order), len(kept) - 1)]
    return np.where(kept[place] == seqs, place, -1)


def _culprit(facts: dict[str, Any]) -> Culprit:
    return Culprit(
        name=facts["name"],
        place=Place(facts["place"]),
        shape=tuple(facts["shape"]),
        num_nan=facts["num_nan"],
        num_inf=facts["num_inf"],
        num_overflow=facts["num_overflow"],
        first_bad_index=tuple(facts["first_bad_index"]),
        largest=float(facts["largest"]),
    )


def _read_metrics(db: sqlite3.Connection) -> dict[str, tuple[NDArray[np.int64], FloatArray]]:
    series: dict[str, dict[int, float]] = {}
    for step, name, value in db.execute("SELECT step, name, value FROM metric ORDER BY id"):
        series.setdefault(name, {})[step] = float(value)
    return {
        name: (
            np.array(sorted(values), dtype=np.int64),
            np.array([values[step] for step in sorted(values)], dtype=np.float64),
        )
        for name, values in series.items()
    }
