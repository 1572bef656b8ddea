"""Writes a run log: one row per step, one commit per step, nothing kept in memory."""

from __future__ import annotations

import gc
import json
import logging
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from torch import Tensor

from trimtab.errors import RunLogError
from trimtab.record import fork, schema, signals
from trimtab.record.header import RunHeader
from trimtab.types import Culprit, Fault, Kind, Place, StepOutcome

_log = logging.getLogger(__name__)
# Which writer of this process has a file open: two runs in one file would be torn apart.
_open_writers: weakref.WeakValueDictionary[Path, RunWriter] = weakref.WeakValueDictionary()


class RunWriter:
    """Writes the log of one run into a folder.

    A folder holds the run in `run.sqlite`. If another run is there already, its file is kept under a
    name with its start time (`run-20261123T145307Z.sqlite`); if it is the same run, resumed, rows are
    appended. Each step is committed by itself: a killed process loses at most the step it was in.
    The file must be on a local disk.

    Args:
        path: Folder of the run, made if absent; or a file name that ends in `.sqlite`.
        every: A row is kept every so many steps, and for every faulty step.
        layers_every: Per-layer numbers are kept every so many steps, and for every faulty step.

    Raises:
        ValueError: `every` or `layers_every` is not at least 1.

    Cost:
        Some 30 us per step, 60 us for one with 300 layers x 10 statistics. Constant memory.

    Example:
        >>> import tempfile, torch
        >>> from trimtab.record import RunHeader, RunWriter, read
        >>> from trimtab.types import Action, StepOutcome, StepStats
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with RunWriter(folder) as writer:
        ...         writer.open(RunHeader.create())
        ...         stats = StepStats(loss=2.5, grad_norm=4.0, clip_factor=0.25)
        ...         outcome = StepOutcome(step=0, stats=stats, applied=True, action=Action.APPLY)
        ...         writer.append(outcome, lr=0.1)
        ...     read(folder).grad_norm
        array([4.])
    """

    def __init__(self, path: str | Path, *, every: int = 1, layers_every: int = 20) -> None:
        for name, given in (("every", every), ("layers_every", layers_every)):
            if given < 1:
                raise ValueError(
                    f"RunWriter({name}={given}): expected a whole number >= 1. "
                    f"For the rarest record give a number beyond the last step."
                )
        self.path = Path(path)
        self.file = schema.run_file(path)
        self.every = every
        self.layers_every = layers_every
        self._header: RunHeader | None = None
        self._db: sqlite3.Connection | None = None
        self._owner = 0
        self._index = 0
        self._release: weakref.finalize[Any, RunWriter] | None = None
        self._lock = threading.Lock()
        # the last culprits written, per nature of the fault: bounded by the two enumerations
        self._culprits: dict[tuple[Place, Kind], tuple[str, int]] = {}
        self._closed_because = "it was never opened; the guard opens it, or call open(header)"

    def __repr__(self) -> str:
        return f"RunWriter({str(self.path)!r}, every={self.every}, layers_every={self.layers_every})"

    def check(self) -> None:
        """Find out before the training starts whether `open` would fail.

        Raises:
            RunLogError: The folder cannot be made or written, another writer of this process has the
                file open, or what is there is not a run log.
        """
        self._make_folder()
        self._refuse_second_writer()
        if self.file.exists():
            with self._reported("open"), closing(schema.connect(self.file, uri_options="mode=rw")) as db:
                schema.holds_tables(db, self.file)

    def open(self, header: RunHeader) -> None:
        """Make the folder ready for the rows of this run.

        Args:
            header: The facts of the run. The same `run_id` as the file's continues it.

        Raises:
            RunLogError: The folder cannot be made or written, another writer or process has the file
                open, or what is there is not a run log, or is this run with other layers.
            RuntimeError: This writer is open already.
        """
        if self._db is not None:
            raise RuntimeError(f"{self!r} is open already. Use one RunWriter per guard.")
        self._make_folder()
        self._refuse_second_writer()
        with self._reported("open"):
            self._set_aside_other_run(header)
            self._header = header
            db = self._connect()
            db.execute(schema.INSERT_SESSION, (time.time(), header.run_id, header.to_json()))
        _open_writers[self.file.resolve()] = self

    def wants(self, step: int) -> bool:
        """Whether the cadence asks for a row of this step.

        Args:
            step: Number of the step.
        """
        return step % self.every == 0

    def wants_layers(self, step: int) -> bool:
        """Whether the cadence asks for the per-layer numbers of this step.

        Args:
            step: Number of the step.
        """
        return self.wants(step) and step % self.layers_every == 0

    def append(self, outcome: StepOutcome, *, lr: float | None) -> None:
        """Write one step: its numbers, its faults, and its per-layer numbers if the outcome has them.

        Args:
            outcome: What happened. `outcome.stats.tensor_norms`, if not None, is aligned to the
                header's layers, shape (num_layers,) or (num_statistics, num_layers); -1 means that
                a layer had no gradient in this step.
            lr: Learning rate of the step, or None.

        Raises:
            RunLogError: The row cannot be written; the file still holds all earlier rows.
            RuntimeError: The writer is not open.
            ValueError: `tensor_norms` does not fit the header's layers.

        Cost:
            One read of the device if the outcome was not read yet; one transaction.
        """
        db = self._connection()
        numbers = outcome.stats.read()
        row = (
            int(outcome.step),
            time.time(),
            schema.encode(numbers.loss),
            schema.encode(numbers.grad_norm),
            schema.encode(numbers.clip_factor),
            schema.encode(lr),
            outcome.stability_score,
            int(outcome.applied),
            outcome.action.value,
        )
        layers = numbers.tensor_norms
        blob = None if layers is None else self._layer_blob(layers)
        with self._lock, self._reported("write to"):
            if blob is None and not outcome.faults:
                db.execute(schema.INSERT_STEP, row)  # a statement by itself is a transaction
                return
            with db:
                db.execute("BEGIN IMMEDIATE")
                seq = db.execute(schema.INSERT_STEP, row).lastrowid
                if blob is not None:
                    db.execute(schema.INSERT_LAYERS, (seq, blob))
                for fault in outcome.faults:
                    self._insert_fault(db, seq, outcome, fault)
                if outcome.origin is not None:
                    evidence = "" if outcome.evidence is None else str(outcome.evidence)
                    facts = (seq, int(outcome.step), outcome.origin.to_json(), evidence)
                    db.execute(schema.INSERT_ORIGIN, facts)

    def log(self, step: int, /, **metrics: float) -> None:
        """Write numbers of the caller's own, such as `val_loss=0.31`.

        Args:
            step: Number of the step they belong to.
            **metrics: Name to value.

        Raises:
            RunLogError: They cannot be written.
            RuntimeError: The writer is not open.
        """
        db = self._connection()
        now = time.time()
        rows = [(int(step), now, name, schema.encode(value)) for name, value in metrics.items()]
        with self._lock, self._reported("write to"), db:
            db.execute("BEGIN IMMEDIATE")
            db.executemany(schema.INSERT_METRIC, rows)

    def signal(self, step: int, sample: signals.Sample) -> None:
        """Write numbers of the layers, measured for a diagnosis.

        Args:
            step: Number of the step they belong to.
            sample: Name of the signal to the names of the layers and a number for each.

        Raises:
            RunLogError: They cannot be written.
            RuntimeError: The writer is not open.
        """
        db = self._connection()
        with self._lock, self._reported("write to"), db:
            db.execute("BEGIN IMMEDIATE")
            signals.write(db, step, sample)

    def close(self) -> None:
        """Finish the file. Closing twice is fine; a forked child that closes leaves the file alone."""
        if self._release is not None:
            self._release()
        self._db, self._release, self._closed_because = None, None, "close() was called"

    def __enter__(self) -> RunWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        del kind, error, traceback
        self.close()

    def _connection(self) -> sqlite3.Connection:
        if self._db is None:
            raise RuntimeError(f"{self!r} cannot be written to: {self._closed_because}.")
        return self._db if self._owner == os.getpid() else self._adopt_after_fork()

    def _adopt_after_fork(self) -> sqlite3.Connection:
        # the parent may have held it at the moment of the fork
        self._lock = threading.Lock()
        assert self._release is not None
        self._release()
        self._db = None
        fork.hold_locks(self.file, self._index)
        with self._reported("open"):
            return self._connect()

    def _connect(self) -> sqlite3.Connection:
        db = schema.connect(self.file, uri_options="mode=rwc")
        # closed at the latest when this object, or the interpreter, goes; never in a forked child
        self._owner = os.getpid()
        self._release = weakref.finalize(self, fork.release, db, self._owner)
        is_ours = schema.holds_tables(db, self.file)
        db.execute("PRAGMA journal_mode = WAL")
        # NORMAL: no fsync per commit. Safe against a killed process; a power cut may cost the last
        # steps, but never the file.
        db.execute("PRAGMA synchronous = NORMAL")
        if not is_ours:
            schema.create_tables(db)
        db.execute("SELECT count(*) FROM session").fetchone()  # the index file exists from here on
        self._db, self._index, self._culprits = db, fork.index_identity(self.file), {}
        return db

    def _make_folder(self) -> None:
        folder = self.file.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunLogError(
                f"The folder {folder} for the run log cannot be made ({error.strerror}). "
                f"Give a path whose parents are folders that you may write to.",
                path=folder,
            ) from error
        if not os.access(folder, os.W_OK | os.X_OK):
            raise RunLogError(
                f"The folder {folder} for the run log is not writable. Change its permissions, "
                f"or give another one.",
                path=folder,
            )

    def _refuse_second_writer(self) -> None:
        known = self.file.resolve()
        if self._is_taken(known):
            gc.collect()  # a guard that was dropped may wait for it: hooks make cycles
        if self._is_taken(known):
            raise RunLogError(
                f"Another guard or RunWriter of this process is still writing to {self.file}. Give each "
                f"guard a folder of its own, or close() the other one first.",
                path=self.file,
            )

    def _is_taken(self, known: Path) -> bool:
        other = _open_writers.get(known)
        if other is None or other is self or other._db is None:
            return False
        return other._owner == os.getpid()  # what a forked child inherited is not its own

    def _set_aside_other_run(self, header: RunHeader) -> None:
        if not self.file.exists():
            return
        with closing(schema.connect(self.file, uri_options="mode=rw", timeout_sec=1.0)) as db:
            if not schema.holds_tables(db, self.file):
                return
            session = db.execute("SELECT run_id, header FROM session ORDER BY id LIMIT 1").fetchone()
            if session is None:
                return
            first = RunHeader.from_json(session[1])
            if session[0] == header.run_id:
                self._check_same_layers(first, header)
                return
            # leaves one plain file, and fails while any other process has it open
            db.execute("PRAGMA journal_mode = DELETE")
        kept = _unused_name(self.file, first.created)
        self.file.rename(kept)
        _log.info("%s held another run: kept as %s", self.file, kept.name)

    def _check_same_layers(self, first: RunHeader, header: RunHeader) -> None:
        ours, theirs = (header.layer_names, header.statistics), (first.layer_names, first.statistics)
        if ours != theirs:
            raise RunLogError(
                f"{self.file} is this run (run_id {header.run_id}), but with {len(first.layer_names)} "
                f"layers and not these {len(header.layer_names)}, or in another order. Resume with the "
                f"same model and optimizer, or give another folder.",
                path=self.file,
            )

    def _layer_blob(self, layers: Tensor | np.ndarray[Any, Any]) -> bytes:
        assert self._header is not None
        values = np.asarray(layers)
        num_layers, num_statistics = len(self._header.layer_names), len(self._header.statistics)
        if values.size != num_layers * num_statistics or values.shape[-1:] != (num_layers,):
            raise ValueError(
                f"tensor_norms of shape {values.shape}: expected ({num_layers},) or "
                f"({num_statistics}, {num_layers}), the layers of the run's header."
            )
        with np.errstate(over="ignore"):
            small = values.astype(np.float32)
        too_large = np.isinf(small)
        if too_large.any():  # a finite norm beyond float32 must not come back as Inf
            limit = np.finfo(np.float32).max
            too_large &= np.isfinite(values)
            small[too_large] = np.copysign(limit, values[too_large])
        return small.tobytes()

    def _insert_fault(
        self, db: sqlite3.Connection, seq: int | None, outcome: StepOutcome, fault: Fault
    ) -> None:
        text = json.dumps([_culprit_facts(c) for c in fault.culprits])
        key = (fault.place, fault.kind)
        last = self._culprits.get(key)
        if last is None or last[0] != text:
            last = (text, db.execute(schema.INSERT_CULPRITS, (text,)).lastrowid or 0)
            self._culprits[key] = last
        row = (seq, int(outcome.step), fault.kind.value, fault.place.value, outcome.action.value)
        more = (outcome.reason, schema.encode(fault.threshold), last[1])
        db.execute(schema.INSERT_FAULT, row + more)

    @contextmanager
    def _reported(self, what: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            self._culprits.clear()  # what was written last may have been rolled back
            raise RunLogError(
                f"Cannot {what} the run log {self.file}: {error}. Is the disk full, the file read-only, "
                f"or another process writing to this run? Every row up to here is kept.",
                path=self.file,
            ) from error


def _culprit_facts(culprit: Culprit) -> dict[str, object]:
    facts = asdict(culprit)
    # JSON has no NaN and no infinity; float() reads these strings back
    facts["place"], facts["largest"] = culprit.place.value, repr(float(culprit.largest))
    return facts


def _unused_name(file: Path, created: str) -> Path:
    """A free name next to `file` that carries the start of its run, UTC: run-20261123T145307Z.sqlite."""
    try:
        stamp = datetime.fromisoformat(created).strftime("%Y%m%dT%H%M%SZ")
    except ValueError:  # written by hand or by another tool
        stamp = "earlier"
    names = [f"{file.stem}-{stamp}"] + [f"{file.stem}-{stamp}-{i}" for i in range(2, 10_000)]
    return next(path for name in names if not (path := file.with_name(name + file.suffix)).exists())
