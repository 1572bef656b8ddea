"""Numbers of a run that are measured now and then for every layer, kept for its diagnosis."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Made when first needed: a log without them is the same file as before, and older readers pass them over
_TABLES = (
    "CREATE TABLE IF NOT EXISTS axis (id INTEGER PRIMARY KEY, json TEXT NOT NULL UNIQUE)",
    "CREATE TABLE IF NOT EXISTS signal (id INTEGER PRIMARY KEY, step INTEGER NOT NULL, name TEXT NOT NULL,"
    " axis INTEGER NOT NULL, data BLOB NOT NULL)",
)


@dataclass(frozen=True, eq=False, slots=True)
class Signal:
    """One kind of number for a fixed list of layers, at some of the steps.

    Attributes:
        axis: Names of the parameters or modules that the columns belong to.
        steps: Steps at which it was measured, in rising order.
        values: float32, shape (num_steps, num_layers); nan where there was nothing to measure.

    Raises:
        ValueError: The shapes do not fit each other.

    Example:
        >>> signal = Signal(("weight",), np.array([0, 50]), np.array([[1e-3], [2e-3]]))
        >>> signal.of("weight").tolist()
        [0.001, 0.002]
    """

    axis: tuple[str, ...]
    steps: NDArray[np.int64]
    values: NDArray[np.floating]

    def __post_init__(self) -> None:
        if self.values.shape != (len(self.steps), len(self.axis)):
            raise ValueError(
                f"Signal with values of shape {self.values.shape}: expected "
                f"({len(self.steps)}, {len(self.axis)}), one row per step and one column per name."
            )

    def of(self, name: str) -> NDArray[np.floating]:
        """The column of one layer.

        Args:
            name: One of `axis`.
        """
        return self.values[:, self.axis.index(name)]

    def between(self, first: int, last: int) -> Signal:
        """The rows from step `first` to step `last`, both included.

        Args:
            first: First step to keep.
            last: Last step to keep.
        """
        rows = (self.steps >= first) & (self.steps <= last)
        return Signal(self.axis, self.steps[rows], self.values[rows])


# What one step has to say: name to the names of the layers and a number for each
Sample = Mapping[str, tuple[tuple[str, ...], NDArray[np.floating]]]


def write(db: sqlite3.Connection, step: int, sample: Sample) -> None:
    """Insert the signals of one step; the caller holds the transaction."""
    for statement in _TABLES:
        db.execute(statement)
    for name, (axis, values) in sample.items():
        text = json.dumps(axis)
        db.execute("INSERT OR IGNORE INTO axis (json) VALUES (?)", (text,))
        (key,) = db.execute("SELECT id FROM axis WHERE json = ?", (text,)).fetchone()
        data = np.asarray(values, dtype=np.float32).tobytes()
        row = (int(step), name, key, data)
        db.execute("INSERT INTO signal (step, name, axis, data) VALUES (?, ?, ?, ?)", row)


def read(db: sqlite3.Connection) -> dict[str, Signal]:
    """All signals of a log; a step that was done again counts as it was done last."""
    if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'signal'").fetchone():
        return {}
    axes = {key: tuple(json.loads(text)) for key, text in db.execute("SELECT id, json FROM axis")}
    rows: dict[str, dict[int, tuple[int, bytes]]] = {}
    for step, name, axis, data in db.execute("SELECT step, name, axis, data FROM signal ORDER BY id"):
        rows.setdefault(name, {})[step] = (axis, data)
    return {name: _joined(axes, found) for name, found in rows.items()}


def joined(samples: Mapping[int, Sample]) -> dict[str, Signal]:
    """Signals out of what single steps had to say, by step."""
    rows: dict[str, dict[int, tuple[tuple[str, ...], NDArray[np.floating]]]] = {}
    for step in sorted(samples):
        for name, (axis, values) in samples[step].items():
            rows.setdefault(name, {})[step] = (tuple(axis), values)
    return {name: _table(found) for name, found in rows.items()}


def _joined(axes: Mapping[int, tuple[str, ...]], rows: Mapping[int, tuple[int, bytes]]) -> Signal:
    return _table(
        {step: (axes[key], np.frombuffer(data, np.float32)) for step, (key, data) in sorted(rows.items())}
    )


def _table(rows: Mapping[int, tuple[tuple[str, ...], NDArray[np.floating]]]) -> Signal:
    """One table; layers that come and go leave nan."""
    axis = tuple(dict.fromkeys(name for names, _ in rows.values() for name in names))
    place = {name: index for index, name in enumerate(axis)}
    values = np.full((len(rows), len(axis)), np.nan, dtype=np.float32)
    for row, (names, numbers) in enumerate(rows.values()):
        values[row, [place[name] for name in names]] = numbers
    return Signal(axis, np.array(list(rows), dtype=np.int64), values)
