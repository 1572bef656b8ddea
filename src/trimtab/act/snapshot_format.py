"""The two files of one snapshot: tensors as safetensors, all else as JSON, each with a checksum."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from trimtab.act.tree import Flat, TreeCopy, flatten
from trimtab.act.tree_json import decoded_dtype, join, split
from trimtab.errors import MissingDependencyError, SnapshotError

_FORMAT = 1
_TENSORS, _FACTS = "state.safetensors", "state.json"
_CHUNK_BYTES = 1 << 24  # each chunk waits for the interpreter's lock: 256 KiB took 50 times as long

# Types that every version of safetensors has; others are stored as bytes
_NATIVE = frozenset(
    {
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    }
)


class Read(NamedTuple):
    """A snapshot that was read and found whole.

    Attributes:
        step: Its step.
        flat: The tree, its tensors on the CPU.
        devices: Where each tensor was.
    """

    step: int
    flat: Flat
    devices: list[torch.device]


class DamagedError(Exception):
    """A snapshot that is not whole."""


def safetensors_module() -> Any:
    """The package that reads and writes tensors.

    Raises:
        MissingDependencyError: It is not installed.
    """
    try:
        import safetensors.torch
    except ImportError as error:
        raise MissingDependencyError(
            "safetensors", extra="snapshots", purpose="keeping snapshots on disk"
        ) from error
    return safetensors


def write(folder: Path, step: int, copy: TreeCopy) -> None:
    """Write a snapshot and have the disk hold it.

    Args:
        folder: An empty folder.
        step: Its step.
        copy: What it holds.
    """
    structure, tensors = split(copy.whole())
    file = folder / _TENSORS
    safetensors_module().torch.save_file({key: _storable(t) for key, t in tensors.items()}, file)
    sync(file)
    facts = {
        "format": _FORMAT,
        "step": step,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        "tensors_sha256": _checksum(file),
        "tensors": [
            {
                "key": key,
                "dtype": str(tensor.dtype).removeprefix("torch."),
                "shape": list(tensor.shape),
                "stride": None if tensor.is_contiguous() else list(tensor.stride()),
                "device": str(device),
            }
            for (key, tensor), device in zip(tensors.items(), copy.devices, strict=True)
        ],
        "structure": structure,
    }
    body = json.dumps(facts)
    digest = hashlib.sha256(body.encode()).hexdigest()
    (folder / _FACTS).write_text(f'{{"sha256": "{digest}", "facts": {body}}}\n')
    sync(folder / _FACTS)
    sync(folder)


def read(folder: Path) -> Read:
    """Read a snapshot and see that it is what was written.

    Args:
        folder: Its folder.

    Raises:
        DamagedError: It is not whole.
        SnapshotError: It is of another format, or names something that is not here.
    """
    facts = _read_facts(folder / _FACTS)
    if facts["format"] != _FORMAT:
        raise SnapshotError(
            f"{folder} is of format {facts['format']}, this release reads format {_FORMAT}. Use the "
            "release of trimtab that wrote it.",
            path=folder,
        )
    file = folder / _TENSORS
    try:
        if _checksum(file) != facts["tensors_sha256"]:
            raise DamagedError(f"the checksum of {_TENSORS} does not match")
        stored = safetensors_module().torch.load_file(file)
    except OSError as error:
        raise _unreadable(file, error) from error
    try:
        tree = join(facts["structure"], {x["key"]: _as_it_was(stored[x["key"]], x) for x in facts["tensors"]})
    except ValueError as error:
        raise SnapshotError(f"{folder} cannot be understood: {error}", path=folder) from error
    return Read(facts["step"], flatten(tree), [torch.device(x["device"]) for x in facts["tensors"]])


def _read_facts(file: Path) -> Any:
    try:
        parsed = json.loads(file.read_text())
        digest, facts = parsed["sha256"], parsed["facts"]
    except OSError as error:
        raise _unreadable(file, error) from error
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{_FACTS} is no JSON of a snapshot") from error
    # what is written for a value does not depend on how it was written in the file
    if hashlib.sha256(json.dumps(facts).encode()).hexdigest() != digest:
        raise DamagedError(f"the checksum of {_FACTS} does not match")
    return facts


def _unreadable(file: Path, error: OSError) -> DamagedError | SnapshotError:
    """What it means that a file cannot be read."""
    if isinstance(error, FileNotFoundError):
        return DamagedError(f"{file.name} is missing")
    if isinstance(error, PermissionError):  # it may be whole: nothing is set aside for this
        return SnapshotError(f"{file} may not be read: {error.strerror}. Change its permissions.", path=file)
    return DamagedError(f"{file.name} cannot be read: {error.strerror}")


def _storable(tensor: Tensor) -> Tensor:
    tensor = tensor.contiguous()
    return tensor if tensor.dtype in _NATIVE else tensor.reshape(-1).view(torch.uint8)


def _as_it_was(stored: Tensor, entry: dict[str, Any]) -> Tensor:
    dtype = decoded_dtype(entry["dtype"])
    # a file aligns bytes to nothing: memory of their own does
    tensor = stored if stored.dtype == dtype else stored.clone().view(dtype)
    tensor = tensor.reshape(entry["shape"])
    if entry["stride"] is None:
        return tensor
    return torch.empty_strided(entry["shape"], entry["stride"], dtype=dtype).copy_(tensor)


def _checksum(file: Path) -> str:
    digest = hashlib.sha256()
    chunk = memoryview(bytearray(_CHUNK_BYTES))
    with file.open("rb", buffering=0) as stream:
        while num := stream.readinto(chunk):
            digest.update(chunk[:num])
    return digest.hexdigest()


def sync(path: Path) -> None:
    """Have the disk hold what was written to this file, or to the list of this folder."""
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no folders
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
