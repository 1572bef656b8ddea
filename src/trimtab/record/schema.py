"""The tables of a run log and how to open one safely.

A run is one SQLite file in write-ahead mode: a commit per step costs some 30 us, a killed process
loses at most the step it was writing, and readers never block the writer. Write-ahead mode needs a
local disk: on a network file system two machines cannot share the file.

SQLite stores a bound NaN as NULL. Here NULL means "not given", so a NaN is the text 'nan'; and
columns of floats have no declared type, because a REAL column drops the sign of -0.0.
"""

from __future__ import annotations

import math
import sqlite3
from pathlib import Path

from trimtab.errors import RunLogError

FILE_NAME = "run.sqlite"
# "trim" in ASCII: marks a SQLite file as ours
APPLICATION_ID = 0x7472696D
SCHEMA_VERSION = 2

# Rows are never deleted, so INTEGER PRIMARY KEY alone grows by one per row.
TABLES = (
    "CREATE TABLE session (id INTEGER PRIMARY KEY, opened, run_id TEXT NOT NULL, header TEXT NOT NULL)",
    "CREATE TABLE step (seq INTEGER PRIMARY KEY, step INTEGER NOT NULL, time, loss, grad_norm, clip_factor,"
    " lr, stability_score, applied INTEGER NOT NULL, action TEXT NOT NULL)",
    # apart from `step`, so that a scan of the scalars does not walk over the blobs;
    # float32, shape (num_statistics, num_layers)
    "CREATE TABLE layers (seq INTEGER PRIMARY KEY, statistics BLOB NOT NULL)",
    # apart from `fault`: in a run that is broken for good every step has the same culprits
    "CREATE TABLE culprits (id INTEGER PRIMARY KEY, json TEXT NOT NULL)",
    "CREATE TABLE fault (id INTEGER PRIMARY KEY, seq INTEGER NOT NULL, step INTEGER NOT NULL,"
    " kind TEXT NOT NULL, place TEXT NOT NULL, action TEXT NOT NULL, reason TEXT NOT NULL, threshold,"
    " culprits INTEGER NOT NULL)",
    # `evidence` is the fault folder, "" without one
    "CREATE TABLE origin (id INTEGER PRIMARY KEY, seq INTEGER NOT NULL, step INTEGER NOT NULL,"
    " json TEXT NOT NULL, evidence TEXT NOT NULL)",
    "CREATE TABLE metric (id INTEGER PRIMARY KEY, step INTEGER NOT NULL, time, name TEXT NOT NULL, value)",
)
INSERT_SESSION = "INSERT INTO session (opened, run_id, header) VALUES (?, ?, ?)"
INSERT_STEP = (
    "INSERT INTO step (step, time, loss, grad_norm, clip_factor, lr, stability_score, applied, action)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
INSERT_LAYERS = "INSERT INTO layers (seq, statistics) VALUES (?, ?)"
INSERT_CULPRITS = "INSERT INTO culprits (json) VALUES (?)"
INSERT_FAULT = (
    "INSERT INTO fault (seq, step, kind, place, action, reason, threshold, culprits)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
INSERT_ORIGIN = "INSERT INTO origin (seq, step, json, evidence) VALUES (?, ?, ?, ?)"
INSERT_METRIC = "INSERT INTO metric (step, time, name, value) VALUES (?, ?, ?, ?)"


def run_file(path: str | Path) -> Path:
    """The SQLite file that `path` means: itself if it is named so, else `run.sqlite` in that folder."""
    path = Path(path)
    return path if path.suffix == ".sqlite" else path / FILE_NAME


def encode(value: float | None) -> float | str | None:
    """A float as SQLite must be given it: NaN as text, since SQLite would make it NULL."""
    if value is None:
        return None
    value = float(value)
    return "nan" if math.isnan(value) else value


def connect(file: Path, *, uri_options: str, timeout_sec: float = 10.0) -> sqlite3.Connection:
    """Open a file with explicit transactions only, usable from any thread (callers hold a lock)."""
    return sqlite3.connect(
        f"{file.resolve().as_uri()}?{uri_options}",
        uri=True,
        timeout=timeout_sec,
        isolation_level=None,
        check_same_thread=False,
    )


def create_tables(db: sqlite3.Connection) -> None:
    """Make a fresh file a run log, in one transaction: a crash leaves it empty, not half made."""
    with db:
        db.execute("BEGIN IMMEDIATE")
        for statement in TABLES:
            db.execute(statement)
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def holds_tables(db: sqlite3.Connection, file: Path) -> bool:
    """Whether the file holds our tables; False for a fresh, empty file.

    The check goes through SQLite and never opens the file by itself: closing such a second
    descriptor would drop the locks that this process holds on it.

    Raises:
        RunLogError: The file is something else.
    """
    try:
        (application_id,) = db.execute("PRAGMA application_id").fetchone()
        (version,) = db.execute("PRAGMA user_version").fetchone()
        (num_tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.DatabaseError as error:
        if "not a database" not in str(error):
            raise  # locked, damaged, ...: the caller knows what it was about to do
        raise RunLogError(
            f"{file} is not a run log ({error}). Give another folder, or move the file away.", path=file
        ) from error
    if application_id == 0 and num_tables == 0:
        return False
    if application_id != APPLICATION_ID:
        raise RunLogError(
            f"{file} is a SQLite database, but not a run log of trimtab. Give another folder, "
            f"or move the file away.",
            path=file,
        )
    if version != SCHEMA_VERSION:
        raise RunLogError(
            f"{file} has schema version {version}, this trimtab understands {SCHEMA_VERSION}. "
            f"Use the trimtab that wrote it, or give another folder.",
            path=file,
        )
    return True
