"""Reads the logs of other tools into a run log: CSV, JSONL, trainer state, TensorBoard event files."""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from trimtab.diagnose import event_file, tables
from trimtab.errors import RunLogError
from trimtab.record import RunLog, read

# Our column to the names that tools give it, compared in lower case without what stands before a slash
_NAMES: dict[str, tuple[str, ...]] = {
    "step": ("step", "global_step", "iteration", "iter", "steps", "_step", "trainer/global_step"),
    "loss": (
        *("loss", "train_loss", "training_loss", "train_loss_step", "train/loss"),
        *("loss/train", "loss/training", "loss_train", "loss_training", "epoch_loss", "batch_loss"),
    ),
    "grad_norm": ("grad_norm", "gradient_norm", "grad_norm_total", "total_grad_norm", "gnorm"),
    "clip_factor": ("clip_factor", "clip_coef"),
    "lr": ("lr", "learning_rate", "lr_adam", "lr_adamw", "lr_sgd"),
    "val_loss": (
        *("val_loss", "eval_loss", "valid_loss", "validation_loss", "test_loss", "val/loss", "eval/loss"),
        *("loss/val", "loss/valid", "loss/validation", "loss/eval", "loss/test", "loss/dev"),
        *("loss_val", "loss_valid", "loss_validation", "loss_eval", "loss_test"),
    ),
}
_VALIDATION = ("val", "eval", "valid", "validation", "test", "dev")
_SQLITE = (".sqlite", ".db")
_LOGS = ("metrics.csv", "metrics.jsonl", "log.csv", "log.jsonl")


def load(path: str | os.PathLike[str]) -> RunLog:
    """Read a run, whoever logged it.

    Args:
        path: A folder with a run of ours, a `trainer_state.json` or an event file in it, or one of the
            files: `.sqlite`, `.csv`, `.tsv`, `.jsonl`, `.json`, `events.out.tfevents.*`. Columns of a
            table may be separated by commas, semicolons or tabs, and its decimals written with a comma; a
            table of TensorBoard ("Wall time,Step,Value") is of the curve that the file is named after, and
            of the loss if that is none.

    Returns:
        The run with what is known of it. What the tool did not log is not there.

    Raises:
        RunLogError: There is no such file, or no loss or step can be found in it.
        TypeError: It is no path.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(
            f"load() got {type(path).__name__}: expected the path of a run's folder or a log file."
        )
    path = Path(path)
    file = _in_folder(path) if path.is_dir() else path
    if file is None:
        looked_for = ", ".join(("run.sqlite", "trainer_state.json", "events.out.tfevents.*", *_LOGS))
        raise RunLogError(
            f"There is no log in the folder {path}: looked for {looked_for}, and for one .csv or .jsonl.",
            path=path,
        )
    if file.suffix in _SQLITE:
        return read(path)
    if path.is_dir() and "tfevents" in file.name:
        return _of_events(path)
    if not file.is_file():
        raise RunLogError(f"There is no file {file}. Give a run's folder or a log file.", path=file)
    try:
        rows = _rows(file)
    except UnicodeDecodeError as error:
        raise RunLogError(f"{file} is no text in UTF-8: save it as such.", path=file) from error
    except (ValueError, KeyError, TypeError) as error:
        raise RunLogError(f"{file} cannot be read as a log: {error}.", path=file) from error
    return from_rows(rows, path=file)


def from_rows(rows: Iterable[Mapping[str, Any]], *, path: Path = Path()) -> RunLog:
    """A run log out of records such as a CSV or JSONL file holds.

    Rows of the same step are put together. Where several names could be the loss, the one with the most
    values is: a summary at the end, as trainers write one, is none. Names are matched without regard to
    case, and `train/loss` is a loss, `val/loss` and `eval_loss` are validation losses.

    Args:
        rows: Name to value of each record; what is no number is passed over, and of mappings in it the
            names are put together with a slash.
        path: Where they come from, for messages.

    Raises:
        RunLogError: No record holds a loss or another number that is known.
        TypeError: A record is no mapping.

    Example:
        >>> from_rows([{"Step": 1, "train/loss": 2.0}, {"Step": 2, "train/loss": 1.5}]).loss
        array([2. , 1.5])
    """
    rows = list(rows)
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise TypeError(
                f"record {number} is {type(row).__name__}: expected a mapping of names to numbers"
            )
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
        raise RunLogError(_no_loss(rows, known, path), path=path)
    columns: dict[str, Any] = {name: [table[s].get(name) for s in steps] for name in known}
    own = {name: columns.pop(name) for name in tuple(_NAMES) if name in columns}
    return RunLog.from_arrays(step=np.array(steps), **own, metrics=columns)


def _no_loss(rows: list[Mapping[str, Any]], known: set[str], path: Path) -> str:
    """What is there instead, and what would be known."""
    if not rows:
        return f"{path} holds no record."
    texts = {str(name).strip(): None for row in rows[:100] for name in row if name is not None}
    texts = {name: None for name in texts if name.lower() not in known and _ours(name) != "step"}
    found = ", ".join(sorted(known)[:8]) or "nothing"
    without = f", and without numbers {', '.join(map(repr, list(texts)[:8]))}" if texts else ""
    return (
        f"{path} holds no loss: found {found}{without}. Name the column of the loss one of "
        f"{', '.join(_NAMES['loss'])}; known besides are {_NAMES['step'][0]}, "
        f"{', '.join(name for name in _NAMES if name not in ('step', 'loss'))}."
    )


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
    plain = re.sub(r"[\s.-]+", "_", name.strip().lower())
    for ours, theirs in _NAMES.items():
        if plain in theirs:
            return ours
    group, _, last = plain.rpartition("/")
    if group and group.rpartition("/")[2] not in _VALIDATION:
        return next((ours for ours, theirs in _NAMES.items() if last in theirs), plain)
    return "val_loss" if group and last == "loss" else plain


def _numbers(row: Mapping[str, Any], head: str = "") -> dict[str, float]:
    """What is a number in a record, and in mappings within it."""
    found: dict[str, float] = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            found |= _numbers(value, f"{head}{name}/")
        elif (number := _number(value)) is not None:
            found[f"{head}{name}".strip()] = number
    return found


def _number(value: Any) -> float | None:
    if isinstance(value, (bool, list, dict)) or value is None:
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _in_folder(folder: Path) -> Path | None:
    """The log in a folder; None if there is none."""
    found = [
        folder / "run.sqlite",
        folder / "trainer_state.json",
        *sorted(folder.glob("**/trainer_state.json")),
    ]
    found += sorted(folder.glob("**/events.out.tfevents.*"))
    found += [folder / name for name in _LOGS]
    tables_there = sorted([*folder.glob("*.csv"), *folder.glob("*.jsonl")])
    found += tables_there if len(tables_there) == 1 else []
    return next((file for file in found if file.exists()), None)


def _rows(file: Path) -> list[dict[str, Any]]:
    if "tfevents" in file.name:
        return [{"step": step, name: value} for step, name, value in event_file.scalars(file)]
    text = file.read_text(encoding="utf-8-sig")
    if file.suffix in (".csv", ".tsv") or (file.suffix != ".json" and text.lstrip()[:1] not in ("{", "[")):
        return tables.records(text, _curve(file.stem))
    if file.suffix == ".json":
        given = json.loads(text)
        return _of_json(given)
    written = [line for line in text.splitlines() if line.strip()]
    if written and not text.endswith("\n") and not _is_json(written[-1]):
        written.pop()  # a run that goes on is writing it
    return [_of_line(number, line) for number, line in enumerate(written, 1)]


def _curve(stem: str) -> str:
    """What the one curve in a file of TensorBoard is: run-RUN-tag-TAG says it, run.csv does not."""
    tag = stem.rpartition("-tag-")[2]
    return tag if "-tag-" in stem or _ours(tag) in _NAMES else "loss"


def _of_line(number: int, line: str) -> dict[str, Any]:
    try:
        given = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"line {number} is no JSON: {error}") from None
    if not isinstance(given, dict):
        raise ValueError(f"line {number} is {type(given).__name__}: expected one JSON object per line")
    return given


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
    raise ValueError("expected log_history, a list of records, or columns, each a list of numbers")
