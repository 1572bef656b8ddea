"""A guard for checkpoints: a state that is not finite never replaces a good one on disk."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from torch import Tensor

from trimtab.errors import CheckpointError
from trimtab.measure import census
from trimtab.types import Culprit, Place

_SHOWN = 5


def save(state: Any, path: str | os.PathLike[str], *, allow: Sequence[str] = ()) -> None:
    """Write a checkpoint with `torch.save`, unless a number in it is NaN or infinite.

    The file appears complete or not at all: it is written beside, flushed to the disk and renamed. Whatever
    goes wrong, a checkpoint that was at `path` stays as it was. (A process that is killed while writing
    leaves a file `.name.*.writing` beside it, which may be deleted.)

    Args:
        state: What `torch.save` takes. Looked at are tensors and arrays of floating and complex types in
            dicts, lists and tuples, and in the `state_dict()` of modules, optimizers and the like. Plain
            Python numbers are not: the `best` of a `ReduceLROnPlateau` begins as infinity.
        path: The file. `torch.load(path, weights_only=True)` reads it, as far as `state` allows that.
        allow: Patterns for names of entries that may hold anything, such as `"*.attn_mask"` for a mask of
            -inf. A name is the path of keys joined by dots: `model.0.weight`, `optimizer.state.3.exp_avg_sq`.

    Raises:
        CheckpointError: An entry is not finite: the message and `culprits` say which, with exact counts.
            Or the file cannot be written.

    Cost:
        One pass over all that is looked at and one host read for each device, besides what `torch.save` does.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from trimtab import checkpoint
        >>> model = torch.nn.Linear(2, 1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder, "last.pt")
        ...     checkpoint.save({"model": model.state_dict()}, file)
        ...     _ = torch.nn.init.constant_(model.bias, float("nan"))
        ...     try:
        ...         checkpoint.save({"model": model.state_dict()}, file)
        ...     except checkpoint.CheckpointError as error:
        ...         print(error.culprits[0].name, error.culprits[0].num_nan)
        ...     torch.load(file, weights_only=True)["model"]["bias"].isfinite()
        model.bias 1
        tensor([True])
    """
    path = Path(path)
    entries = [
        (name, tensor)
        for name, tensor in _entries(state, "")
        if not any(fnmatch.fnmatchcase(name, pattern) for pattern in allow)
    ]
    culprits = census(entries, Place.PARAMETER)
    if culprits:
        raise CheckpointError(_refusal(path, culprits), path=path, culprits=culprits)
    _write(state, path)


def _entries(node: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    """All floating and complex tensors with their names."""
    if isinstance(node, Tensor):
        if (node.is_floating_point() or node.is_complex()) and not node.is_meta:
            yield name, node.detach()
    elif isinstance(node, np.ndarray) and node.dtype.kind in "fc":
        yield name, torch.from_numpy(_plain_array(node))
    elif isinstance(node, Mapping):
        for key, value in node.items():
            yield from _entries(value, f"{name}.{key}" if name else str(key))
    elif isinstance(node, (list, tuple)):
        for index, value in enumerate(node):
            yield from _entries(value, f"{name}.{index}" if name else str(index))
    elif hasattr(node, "state_dict"):
        yield from _entries(node.state_dict(), name)


def _plain_array(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """An array as torch knows them: of the machine's byte order, 64 bits at most, forward, writable."""
    size = min(array.dtype.itemsize, 8 if array.dtype.kind == "f" else 16)
    return np.require(array, f"{array.dtype.kind}{size}", ["C", "W"])


def _refusal(path: Path, culprits: tuple[Culprit, ...]) -> str:
    lines = [
        f"  {c.name}: {c.num_nan} NaN and {c.num_inf} Inf of {c.num_elements} elements, first bad index "
        f"{c.first_bad_index}"
        for c in culprits[:_SHOWN]
    ]
    if len(culprits) > _SHOWN:
        lines.append(f"  and {len(culprits) - _SHOWN} more")
    return "\n".join(
        [
            f"{path} was not saved: {len(culprits)} of its entries are not finite.",
            *lines,
            "What was there before is untouched. For an entry that is meant so, as a mask of -inf, pass "
            f"allow=[{culprits[0].name!r}].",
        ]
    )


def _write(state: Any, path: Path) -> None:
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:8]}.writing")
    try:
        with temporary.open("xb") as stream:
            torch.save(state, stream)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:  # torch reports a disk that is full as a RuntimeError
        raise CheckpointError(
            f"{path} could not be written: {error}. Is the disk full, or the folder not there or not "
            "writable? What was there before is untouched.",
            path=path,
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Have the disk hold the new name."""
    if os.name == "nt":
        return  # Windows opens no folders
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
