"""What a failed step leaves on disk: the origin, and all that is needed to run the step again elsewhere.

A folder `step-000812` holds `origin.json`, `evidence.json` (versions, and what was left out and why) and, in
the format of snapshots, `state.safetensors` with `state.json`. There is no pickle in it.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from trimtab.act import snapshot_format
from trimtab.act.snapshot_format import DamagedError
from trimtab.act.tree import TreeCopy, flatten, num_bytes, unflatten
from trimtab.errors import EvidenceError, MissingDependencyError
from trimtab.recall import Call
from trimtab.record import versions
from trimtab.types import Origin

logger = logging.getLogger(__name__)

_FORMAT = 1
_ORIGIN, _FACTS = "origin.json", "evidence.json"
_NAME = re.compile(r"step-(\d{6,})(-\d+)?")

# What a fault folder may hold, in the order of worth when there is not room for all
PARTS = ("batch", "gradients", "model", "optimizer")


@dataclass(frozen=True, slots=True)
class Evidence:
    """A fault folder, read back.

    Attributes:
        path: The folder.
        step: The step that failed.
        origin: What the guard said about it, None if it could not tell.
        is_lost: Whether the loss was not finite.
        calls: Forward passes of the step: inputs, generators, gradients of the outputs.
        batch: What was given as `guard.step(..., batch=...)`, or None.
        model: State of the model before the step, or None if it was left out.
        optimizer: State of the optimizer before the step, or None.
        training: Name of each module, "" for the root, to its `training` flag.
        left_out: What the folder does not hold: name of the part to why.
        versions: Package name to version, when it was written.
    """

    path: Path
    step: int
    origin: Origin | None
    is_lost: bool = False
    calls: tuple[Call, ...] = ()
    batch: Any = None
    model: Mapping[str, Any] | None = None
    optimizer: Mapping[str, Any] | None = None
    training: Mapping[str, bool] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Failed:
    """A step that failed, as a guard sees it before it acts: by reference, nothing is copied.

    Attributes:
        step: Its number.
        origin: What was found.
        model: The model.
        optimizer: Its optimizer.
        calls: Forward passes of the step.
        batch: What the caller says the batch is, or None.
        is_lost: Whether the loss was not finite.
    """

    step: int
    origin: Origin
    model: nn.Module
    optimizer: Optimizer
    calls: Sequence[Call]
    batch: Any
    is_lost: bool


def write(folder: Path, failed: Failed, *, keep: int, max_bytes: int, leave_out: Sequence[str]) -> Path:
    """Write the evidence of one step: the whole folder, or nothing.

    Args:
        folder: Where fault folders are kept, made if absent.
        failed: The step.
        keep: How many fault folders stay. The first one of the run always does, then the newest.
        max_bytes: Upper bound for the tensors; the parts that do not fit are left out.
        leave_out: Parts that must not be written, of `PARTS`.

    Returns:
        The fault folder.

    Raises:
        OSError: It cannot be written.

    Cost:
        A copy of what is written to host memory, its checksum and the writing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    final = _unused(folder, failed.step)
    temporary = final.with_name(f".{final.name}.writing")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        tree, left_out = _gathered(failed, max_bytes, leave_out)
        try:
            snapshot_format.write(temporary, failed.step, TreeCopy(flatten(tree)))
        except MissingDependencyError as error:
            left_out |= dict.fromkeys(PARTS, str(error))
        facts = {
            "format": _FORMAT,
            "step": failed.step,
            "is_lost": failed.is_lost,
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "versions": versions(),
            "left_out": left_out,
        }
        (temporary / _ORIGIN).write_text(failed.origin.to_json() + "\n")
        (temporary / _FACTS).write_text(json.dumps(facts, indent=1) + "\n")
        temporary.rename(final)
        snapshot_format.sync(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _drop_surplus(folder, keep)
    return final


def read(path: str | os.PathLike[str]) -> Evidence:
    """Read a fault folder.

    Args:
        path: The folder, `runs/exp1/faults/step-000812`.

    Raises:
        EvidenceError: It is none, is damaged, or was written by a later release.
        MissingDependencyError: safetensors is not installed.
    """
    path = Path(path)
    facts, origin = _read_texts(path)
    tree: dict[str, Any] = {}
    if (path / "state.json").exists():
        try:
            stored = snapshot_format.read(path)
        except DamagedError as error:
            raise EvidenceError(f"{path} is damaged: {error}.", path=path) from error
        tree = unflatten(stored.flat.structure, stored.flat.tensors.__getitem__)
    return Evidence(
        path=path,
        step=int(facts["step"]),
        is_lost=bool(facts["is_lost"]),
        origin=origin,
        calls=tuple(_call(saved) for saved in tree.get("calls", ())),
        batch=tree.get("batch"),
        model=tree.get("model"),
        optimizer=tree.get("optimizer"),
        training=tree.get("training", {}),
        left_out=facts["left_out"],
        versions=facts["versions"],
    )


def _read_texts(path: Path) -> tuple[dict[str, Any], Origin | None]:
    if not (path / _FACTS).is_file():
        raise EvidenceError(
            f"{path} is no fault folder: it has no {_FACTS}. Give a folder such as "
            "runs/exp1/faults/step-000812.",
            path=path,
        )
    try:
        facts = json.loads((path / _FACTS).read_text())
        if facts["format"] != _FORMAT:
            raise EvidenceError(
                f"{path} is of format {facts['format']}, this release reads format {_FORMAT}.", path=path
            )
        text = (path / _ORIGIN).read_text() if (path / _ORIGIN).exists() else None
        return facts, None if text is None else Origin.from_json(text)
    except (ValueError, KeyError, TypeError) as error:
        raise EvidenceError(f"{path} is damaged: {error}.", path=path) from error


def _call(saved: Mapping[str, Any]) -> Call:
    args, gradients = tuple(saved["args"]), list(saved["output_gradients"])
    return Call(saved["part"], args, dict(saved["kwargs"]), saved["rng"], dict(saved["autocast"]), gradients)


def _gathered(
    failed: Failed, max_bytes: int, leave_out: Sequence[str]
) -> tuple[dict[str, Any], dict[str, str]]:
    """What is written, and what is not and why."""
    offered: dict[str, dict[str, Any]] = {
        "batch": {"calls": [_saved_call(call, with_gradients=False) for call in failed.calls]},
        "gradients": {"calls": [_saved_call(call, with_gradients=True) for call in failed.calls]},
        "model": {"model": failed.model.state_dict()},
        "optimizer": {"optimizer": failed.optimizer.state_dict()},
    }
    if failed.batch is not None:
        offered["batch"]["batch"] = _plain(failed.batch)
    tree: dict[str, Any] = {"training": {name: m.training for name, m in failed.model.named_modules()}}
    left_out = dict.fromkeys(leave_out, "left out on request")
    if "batch" in leave_out:  # what came out of the batch may tell what was in it
        left_out["gradients"] = "left out on request"
    for name in PARTS:
        if name in left_out:
            continue
        try:
            needed = num_bytes(flatten({**tree, **offered[name]}).tensors)
        except TypeError as error:
            left_out[name] = str(error)
            continue
        if needed > max_bytes:
            left_out[name] = f"{needed} bytes with it, more than max_bytes={max_bytes}"
        else:
            tree |= offered[name]
    return tree, left_out


def _saved_call(call: Call, *, with_gradients: bool) -> dict[str, Any]:
    gradients = call.output_gradients if with_gradients else []
    return {
        "part": call.part,
        "args": _plain(call.args),
        "kwargs": _plain(call.kwargs),
        "rng": call.rng,
        "autocast": call.autocast,
        "output_gradients": gradients,
    }


def _plain(part: Any) -> Any:
    """Mappings of other classes, as tokenizers return them, as dicts; tensors without their history."""
    if isinstance(part, Tensor):
        return part.detach()
    if isinstance(part, Mapping) and type(part) is not dict:
        return {key: _plain(value) for key, value in part.items()}
    if type(part) in (list, tuple):
        return type(part)(_plain(value) for value in part)
    return {key: _plain(value) for key, value in part.items()} if type(part) is dict else part


def _unused(folder: Path, step: int) -> Path:
    """A free name for a step, which may fail again after a rewind."""
    names = [f"step-{step:06d}"] + [f"step-{step:06d}-{i}" for i in range(2, 1000)]
    return next(path for name in names if not (path := folder / name).exists())


def _drop_surplus(folder: Path, keep: int) -> None:
    """The first one of a run tells how it began; beyond it the newest are worth the most."""
    found = [entry for entry in folder.iterdir() if entry.is_dir() and _NAME.fullmatch(entry.name)]
    found.sort(key=lambda entry: entry.stat().st_mtime_ns)
    newest = len(found) - (keep - 1)
    for surplus in found[1:newest]:
        shutil.rmtree(surplus)


def load_model_(model: nn.Module, evidence: Evidence) -> None:
    """Bring a fresh model into the state that the step found.

    Raises:
        EvidenceError: The state was left out, or is of another model.
    """
    if evidence.model is None:
        why = evidence.left_out.get("model", "it is not there")
        raise EvidenceError(f"{evidence.path} holds no state of the model: {why}.", path=evidence.path)
    try:
        model.load_state_dict(dict(evidence.model))
    except RuntimeError as error:
        raise EvidenceError(
            f"the state in {evidence.path} is of another model: {error}", path=evidence.path
        ) from error
    for name, module in model.named_modules():
        module.train(evidence.training.get(name, module.training))
