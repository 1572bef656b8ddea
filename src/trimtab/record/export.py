"""Copies of a run log for other tools: JSON, CSV, pandas, and the two documented history files.

JSON here is strict. It knows no NaN and no infinity, so those are the strings "NaN", "Infinity" and
"-Infinity", which `float()` of Python and `Number()` of JavaScript read back; null means that no
number was given. In CSV they are nan, inf and -inf, and nothing between two commas means not given.
"""

from __future__ import annotations

import csv
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trimtab.errors import MissingDependencyError
from trimtab.record.columns import BoolArray
from trimtab.types import Kind

if TYPE_CHECKING:
    import pandas as pd

    from trimtab.record.log import FaultEvent, RunLog

FLOATS = ("time", "loss", "grad_norm", "clip_factor", "lr", "stability_score")
CLIPPING_HISTORY = "gradient_clipping_history.json"
NAN_HISTORY = "nan_handling_history.json"
# rows turned into Python objects at a time: a million steps must not become a million dicts
_CHUNK_ROWS = 20_000


def refuse_folder(path: str | os.PathLike[str]) -> None:
    """Say so early when a folder was given where a file is to be written.

    Args:
        path: The file.

    Raises:
        IsADirectoryError: It is a folder.
    """
    if Path(path).is_dir():
        raise IsADirectoryError(
            f"{os.fspath(path)!r} is a folder. Give the name of a file, such as one in it."
        )


@contextmanager
def written_atomically(path: str | os.PathLike[str]) -> Iterator[IO[str]]:
    """A text file that appears under its name only when it is complete.

    Args:
        path: The file. Its folder is made if absent; on failure an older file stays as it was.

    Raises:
        IsADirectoryError: The path is a folder.
    """
    refuse_folder(path)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # in the same folder: a rename across file systems is not atomic
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            yield file
        os.chmod(name, 0o666 & ~_umask())  # mkstemp makes it private; a report is to be shared
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def to_json(log: RunLog, path: str | os.PathLike[str]) -> Path:
    """Write the whole log as one strict JSON object.

    Keys: `format`, `header`, `steps` (column to list), `faults`, `origins`, `layers` (`names`, `steps`,
    `grad_norms` with null where a layer had no gradient), `metrics` (name to `steps` and `values`),
    `signals` (name to `layers`, `steps` and rows of `values`).

    Args:
        log: The run.
        path: File to write.

    Returns:
        The path.
    """
    with written_atomically(path) as file:
        header = None if log.header is None else asdict(log.header)
        file.write('{"format": "trimtab run log 1", "header": ' + json.dumps(header))
        file.write(', "steps": {"step": ')
        _write_list(file, log.step)
        for name in FLOATS:
            file.write(f', "{name}": ')
            _write_list(file, getattr(log, name), log.given(name))
        for name in ("applied", "action"):
            file.write(f', "{name}": ')
            _write_list(file, getattr(log, name))
        file.write('}, "faults": [')
        for i, fault in enumerate(log.faults):
            file.write((", " if i else "") + json.dumps(_fault_facts(fault)))
        file.write('], "origins": [')
        for i, event in enumerate(log.origins):
            facts = {"step": event.step, "origin": json.loads(event.origin.to_json())}
            file.write((", " if i else "") + json.dumps({**facts, "evidence": event.evidence}))
        file.write(f'], "layers": {{"names": {json.dumps(log.layer_names)}, "steps": ')
        _write_list(file, log.layer_steps)
        file.write(', "grad_norms": [')
        for i, (values, absent) in enumerate(
            zip(log.layer_norms.data, np.ma.getmaskarray(log.layer_norms), strict=True)
        ):
            file.write(", " if i else "")
            _write_list(file, values, ~absent)
        file.write(']}, "metrics": {')
        for i, (name, (steps, numbers)) in enumerate(log.metrics.items()):
            file.write((", " if i else "") + json.dumps(name) + ': {"steps": ')
            _write_list(file, steps)
            file.write(', "values": ')
            _write_list(file, numbers)
            file.write("}")
        file.write('}, "signals": {')
        _write_signals(file, log)
        file.write("}}\n")
    return Path(path)


def _write_signals(file: IO[str], log: RunLog) -> None:
    for i, (name, signal) in enumerate(log.signals.items()):
        file.write((", " if i else "") + json.dumps(name) + ': {"layers": ')
        file.write(json.dumps(signal.axis) + ', "steps": ')
        _write_list(file, signal.steps)
        file.write(', "values": [')
        for row, values in enumerate(signal.values):
            file.write(", " if row else "")
            _write_list(file, values)
        file.write("]}")


def to_csv(log: RunLog, path: str | os.PathLike[str]) -> Path:
    """Write one line per step. Per-layer norms and metrics are in the JSON export.

    Args:
        log: The run.
        path: File to write.

    Returns:
        The path.
    """
    words = {
        step: "; ".join(f"{fault.kind.value} in the {fault.place.value}" for fault in faults)
        for step, faults in groupby(log.faults, key=lambda fault: fault.step)
    }
    with written_atomically(path) as file:
        table = csv.writer(file)
        table.writerow(["step", *FLOATS, "applied", "action", "faults"])
        for start in range(0, log.num_steps, _CHUNK_ROWS):
            part = slice(start, start + _CHUNK_ROWS)
            steps = log.step[part].tolist()
            numbers = [_plain(getattr(log, name)[part], log.given(name)[part], repr, "") for name in FLOATS]
            applied, action = log.applied[part].astype(int).tolist(), log.action[part].tolist()
            faults = [words.get(step, "") for step in steps]
            table.writerows(zip(steps, *numbers, applied, action, faults, strict=True))
    return Path(path)


def to_dataframe(log: RunLog) -> pd.DataFrame:
    """One row per step, indexed by step; metrics are further columns, NaN where not measured.

    Args:
        log: The run.

    Raises:
        MissingDependencyError: pandas is not installed.
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise MissingDependencyError("pandas", extra="export", purpose="RunLog.to_dataframe()") from error
    columns = {name: getattr(log, name) for name in (*FLOATS, "applied", "action")}
    frame = pd.DataFrame(columns, index=pd.Index(log.step, name="step"))
    for name, (steps, values) in log.metrics.items():
        label = f"metric.{name}" if name in frame.columns else name
        column = pd.Series(values, index=pd.Index(steps, name="step"), name=label)
        frame = frame.join(column[~column.index.duplicated(keep="last")], how="outer")
    return frame


def save_histories(log: RunLog, folder: str | os.PathLike[str]) -> tuple[Path, Path]:
    """Write the two history files: what clipping did at each step, and each step with bad numbers.

    A step whose only fault is a spike holds no bad number and is not in the second.

    Args:
        log: The run.
        folder: Where; made if absent.

    Returns:
        The paths of `gradient_clipping_history.json` and `nan_handling_history.json`.
    """
    clipping, nan_handling = Path(folder) / CLIPPING_HISTORY, Path(folder) / NAN_HISTORY
    with written_atomically(clipping) as file, np.errstate(invalid="ignore", over="ignore"):
        factor = np.where(log.given("clip_factor"), log.clip_factor, 1.0)
        given = log.given("grad_norm")
        file.write('{"steps": ')
        _write_list(file, log.step)
        file.write(', "clipping_ratios": ')
        _write_list(file, 1.0 - factor)
        file.write(', "gradient_norms": ')
        _write_list(file, log.grad_norm, given)
        file.write(', "clipped_norms": ')
        _write_list(file, log.grad_norm * factor, given)
        file.write("}\n")
    with written_atomically(nan_handling) as file:
        json.dump(_nan_history(log), file, allow_nan=False)
        file.write("\n")
    return clipping, nan_handling


def _nan_history(log: RunLog) -> dict[str, list[Any]]:
    names = {Kind.NAN: "nan_counts", Kind.INF: "inf_counts", Kind.OVERFLOW: "overflow_counts"}
    history: dict[str, list[Any]] = {
        key: [] for key in ("steps", *names.values(), "actions", "stability_scores")
    }
    for step, group in groupby(log.faults, key=lambda fault: fault.step):
        faults = [fault for fault in group if fault.kind in names]
        if not faults:
            continue
        history["steps"].append(step)
        for kind, name in names.items():
            history[name].append(sum(fault.num_bad for fault in faults if fault.kind is kind))
        history["actions"].append(faults[-1].action.value)
        row = min(int(np.searchsorted(log.step, step, side="right")) - 1, log.num_steps - 1)
        history["stability_scores"].append(float(log.stability_score[row]))
    return history


def _fault_facts(fault: FaultEvent) -> dict[str, Any]:
    facts = asdict(fault)
    for name in ("kind", "place", "action"):
        facts[name] = facts[name].value
    facts["threshold"] = None if fault.threshold is None else _json_float(fault.threshold)
    for culprit in facts["culprits"]:
        culprit["place"], culprit["largest"] = culprit["place"].value, _json_float(culprit["largest"])
    return facts


def _write_list(file: IO[str], values: NDArray[Any], given: BoolArray | None = None) -> None:
    file.write("[")
    for start in range(0, len(values), _CHUNK_ROWS):
        part = slice(start, start + _CHUNK_ROWS)
        chunk = values[part]
        if chunk.dtype.kind == "f":
            items = _plain(chunk, None if given is None else given[part], _json_float, None)
        else:
            items = chunk.tolist()
        file.write((", " if start else "") + json.dumps(items, allow_nan=False)[1:-1])
    file.write("]")


def _plain(
    values: NDArray[Any], given: BoolArray | None, spell: Callable[[float], Any], gap: Any
) -> list[Any]:
    """A list of plain values: `gap` where nothing was given, `spell(x)` for the numbers."""
    items = [spell(x) for x in values.tolist()]
    if given is not None:
        for row in np.flatnonzero(~given):
            items[row] = gap
    return items


def _json_float(value: float) -> float | str:
    if value != value:
        return "NaN"
    if value in (np.inf, -np.inf):
        return "Infinity" if value > 0 else "-Infinity"
    return value


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
