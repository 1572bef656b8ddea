"""Reads the logs of other tools into a run log: CSV, JSONL, trainer state, TensorBoard event files."""

from __future__ import annotations

import csv
import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from trimtab.diagnose import event_file
from trimtab.errors import RunLogError
from trimtab.record import RunLog, read

# Our column to the names that tools give it, compared in lower case without what stands before a slash
_NAMES: dict[str, tuple[str, ...]] = {
    "step": ("step", "global_step", "iteration", "iter", "steps", "_step", "trainer/global_step"),
    "loss": ("loss", "train_loss", "training_loss", "train_loss_step", "train/loss"),
    "grad_norm": ("grad_norm", "gradient_norm", "grad_norm_total", "total_grad_norm", "gnorm"),
    "clip_factor": ("clip_factor", "clip_coef"),
    "lr": ("lr", "learning_rate", "lr-adam", "lr-adamw", "lr-sgd"),
    "val_loss": (
        "val_loss",
        "eval_loss",
        "valid_loss",
        "validation_loss",
        "test_loss",
        "val/loss",
        "eval/loss",
    ),
}
_VALIDATION = ("val", "eval", "valid", "validation", "test", "dev")
_SQLITE = (".sqlite", ".db")


def load(path: str | os.PathLike[str]) -> RunLog:
    """Read a run, whoever logged it.

    Args:
        path: A folder with a run of ours, a `trainer_state.json` or an event file in it, or one of the
            files: `.sqlite`, `.csv`, `.tsv`, `.jsonl`, `.json`, `events.out.tfevents.*`.

    Returns:
        The run with what is known of it. What the tool did not log is not there.

    Raises:
        RunLogError: There is no such file, or no loss or step can be found in it.
    """
    path = Path(path)
    file = _in_folder(path) if path.is_dir() else path
    if file is None or file.suffix in _SQLITE:
        return read(path)
    if path.is_dir() and "tfevents" in file.name:
        return _of_events(path)
    if not file.is_file():
        raise RunLogError(f"There is no file {file}. Give a run's folder or a log file.", path=file)
    try:
        rows = _rows(file)
    except (ValueError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise RunLogError(f"{file} cannot be read as a log: {error}.", path=file) from error
    return from_rows(rows, path=file)


def from_rows(rows: Iterable[Mapping[str, Any]], *, path: Path = Path()) -> RunLog:
    """A run log out of records such as a CSV or JSONL file holds.

    Rows of the same step are put together. Where several names could be the loss, the one with the most
    values is: a summary at the end, as trainers write one, is none. Names are matched without regard to
    case, and `train/loss` is a loss, `val/loss` and `eval_loss` are validation losses.

    Args:
        rows: Name to value of each record; what is no number is passed over.
        path: Where they come from, for messages.

    Raises:
        RunLogError: No record holds a loss or another number that is known.

    Example:
        >>> from_rows([{"Step": 1, "train/loss": 2.0}, {"Step": 2, "train/loss": 1.5}]).loss
        array([2. , 1.5])
    """
    given = [_numbers(row) for row in rows]
    ours = _chosen(Counter(name for row in given for name in row))
    table: dict[int, dict[str, float]] = {}
    for number, row in enumerate(given):
        numbers = {ours[name]: value for name, value in row.items()}
        where = numbers.pop("step", math.nan)
        step = int(where) if math.isfinite(where) else number
        table.setdefault(step, {}).update(numbers)
    steps = sorted(table)
    known = {name for row in table.values() for name in row}
    if not known & set(_NAMES):
        names = ", ".join(sorted(known)[:8]) or "nothing"
        raise RunLogError(
            f"{path} holds no loss: found {names}. Name the column loss, train_loss or train/loss.", path=path
        )
    columns: dict[str, Any] = {name: [table[s].get(name) for s in steps] for name in known}
    own = {name: columns.pop(name) for name in tuple(_NAMES) if name in columns}
    return RunLog.from_arrays(step=np.array(steps), **own, metrics=columns)


def _chosen(counts: Counter[str]) -> dict[str, str]:
    """Our name of each column: for those that could have the same, it is the one with the most values."""
    best: dict[str, str] = {}
    for name in counts:
        ours = _ours(name)
        if ours not in best or counts[name] > counts[best[ours]]:
            best[ours] = name
    return {name: _ours(name) if best[_ours(name)] == name else name.lower() for name in counts}


def _of_events(folder: Path) -> RunLog:
    """The event files of one folder together: a run that was resumed has several.

    Below a folder there may be others, as of single curves: the first that holds a loss is the run.
    """
    groups: dict[Path, list[Path]] = {}
    for file in sorted(folder.glob("**/events.out.tfevents.*"), key=lambda f: (len(f.parts), f)):
        groups.setdefault(file.parent, []).append(file)
    for number, (parent, files) in enumerate(groups.items(), 1):
        try:
            return from_rows([row for file in files for row in _rows(file)], path=parent)
        except ValueError as error:
            raise RunLogError(f"{parent} cannot be read as a log: {error}.", path=parent) from error
        except RunLogError:
            if number == len(groups):
                raise
    raise RunLogError(f"There is no event file in {folder}.", path=folder)


def _ours(name: str) -> str:
    """Our name of a column; its own in lower case if we have none."""
    plain = name.strip().lower().replace(" ", "_")
    for ours, theirs in _NAMES.items():
        if plain in theirs:
            return ours
    group, _, last = plain.rpartition("/")
    if group and group.rpartition("/")[2] not in _VALIDATION:
        return next((ours for ours, theirs in _NAMES.items() if last in theirs), plain)
    return "val_loss" if group and last == "loss" else plain


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """What is a number in a record."""
    found = ((name, _number(value)) for name, value in row.items())
    return {name.strip(): value for name, value in found if value is not None}


def _number(value: Any) -> float | None:
    if isinstance(value, (bool, list, dict)) or value is None:
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _in_folder(folder: Path) -> Path | None:
    """The log in a folder, or None for one of ours."""
    if (folder / "run.sqlite").exists():
        return None
    found = [folder / "trainer_state.json", *sorted(folder.glob("**/trainer_state.json"))]
    found += sorted(folder.glob("**/events.out.tfevents.*"))
    found += [
        file for name in ("metrics.csv", "metrics.jsonl", "log.csv", "log.jsonl") for file in [folder / name]
    ]
    return next((file for file in found if file.exists()), None)


def _rows(file: Path) -> list[dict[str, Any]]:
    if "tfevents" in file.name:
        return [{"step": step, name: value} for step, name, value in event_file.scalars(file)]
    if file.suffix in (".csv", ".tsv"):
        with file.open(newline="", encoding="utf-8") as lines:
            return list(csv.DictReader(lines, delimiter="\t" if file.suffix == ".tsv" else ","))
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".json":
        given = json.loads(text)
        return _of_json(given)
    written = [line for line in text.splitlines() if line.strip()]
    if written and not text.endswith("\n") and not _is_json(written[-1]):
        written.pop()  # a run that goes on is writing it
    return [json.loads(line) for line in written]


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except json.JSONDecodeError:
        return False
    return True


def _of_json(given: Any) -> list[dict[str, Any]]:
    """Records of a trainer state, of a list of records, or of columns."""
    if isinstance(given, dict) and isinstance(given.get("log_history"), list):
        given = given["log_history"]
    if isinstance(given, list):
        return [row for row in given if isinstance(row, dict)]
    if isinstance(given, dict):
        columns = given.get("steps", given)
        lists = {name: values for name, values in columns.items() if isinstance(values, list)}
        if lists:
            names = list(lists)
            return [dict(zip(names, row, strict=False)) for row in zip(*lists.values(), strict=False)]
    raise ValueError("expected log_history, a list of records, or columns")
