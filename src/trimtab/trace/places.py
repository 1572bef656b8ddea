"""Which line of whose code runs an operation."""

from __future__ import annotations

import linecache
import os
import sys
import sysconfig
from types import CodeType, FrameType
from typing import NamedTuple

import torch
from torch import nn
from torch.autograd import graph

_LIBRARY, _PACKAGE, _OWN, _USER = 0, 1, 2, 3
_SITE = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
_TORCH = os.path.dirname(torch.__file__) + os.sep
_OURS = os.path.dirname(os.path.dirname(__file__)) + os.sep
_DEMO = os.path.join(_OURS, "demo") + os.sep
_STANDARD = sysconfig.get_paths()["stdlib"] + os.sep
# Files that are none, and hold nobody's lines; "<stdin>" and a notebook's cells are the user's
_GENERATED = ("<frozen", "<eval_with_key", "<__array_function__", "<torch")
_CHECKPOINT = os.path.join(_TORCH, "utils", "checkpoint.py")

ENGINE = graph._engine_run_backward.__code__
_APPLY = torch.autograd.Function.apply.__func__.__code__  # type: ignore[attr-defined]
_APPLY_BACKWARD = torch.autograd.function.BackwardCFunction.apply.__code__


class Site(NamedTuple):
    """A line of code, and the instruction in it.

    Attributes:
        code: The code object that was running.
        instruction: Index of the instruction in it.
        line: Number of the line.
    """

    code: CodeType
    instruction: int
    line: int

    @property
    def file(self) -> str:
        """Path of the file."""
        return self.code.co_filename

    @property
    def text(self) -> str:
        """The line without its indentation."""
        return linecache.getline(self.file, self.line).strip()

    @property
    def expression(self) -> str | None:
        """The very expression that was running, if Python recorded where it stands (3.11 and later)."""
        if not hasattr(self.code, "co_positions"):
            return None
        positions = list(self.code.co_positions())[self.instruction // 2]
        first, last, start, end = positions
        if first is None or last is None or start is None or end is None:
            return None
        lines = [linecache.getline(self.file, n).encode() for n in range(first, last + 1)]
        if not all(lines):
            return None
        lines[-1] = lines[-1][:end]  # first, for a single line is both
        lines[0] = lines[0][start:]
        return b"".join(lines).decode(errors="replace")


class PythonInBackward(NamedTuple):
    """Python code that the backward pass runs.

    Attributes:
        site: Line of the user's that runs the operation; None without any.
        is_function: It is the backward of a custom `autograd.Function`.
        is_recomputation: It is a checkpoint that runs its forward pass again.
    """

    site: Site | None
    is_function: bool
    is_recomputation: bool


class Lines:
    """Finds the user's line of a running operation.

    That is the innermost frame outside of torch, of the standard library, of this package and of
    site-packages. A package counts as the user's own code when the class of the traced model comes from
    it: who traces a model of some library wants the line in that library. Without any such frame, the
    innermost one in site-packages.

    Args:
        model: The traced model.
        boundary: Code of the function that calls the user's; the search ends there.
    """

    def __init__(self, model: nn.Module, boundary: CodeType) -> None:
        self._boundary = boundary
        self._kinds: dict[str, int] = {}
        self._own = _package_of(type(model))

    def of(self, frame: FrameType | None) -> Site | None:
        """The line from this frame outwards."""
        fallback = None
        kinds = self._kinds
        while frame is not None and frame.f_code is not self._boundary:
            code = frame.f_code
            kind = kinds.get(code.co_filename)
            if kind is None:
                kind = kinds[code.co_filename] = self._kind(code.co_filename)
            if kind >= _OWN:
                return Site(code, frame.f_lasti, frame.f_lineno)
            if kind == _PACKAGE and fallback is None:
                fallback = frame
            frame = frame.f_back
        return Site(fallback.f_code, fallback.f_lasti, fallback.f_lineno) if fallback is not None else None

    def of_caller(self, frame: FrameType | None) -> Site | None:
        """The line from this frame outwards that is not even in a package of the model's own."""
        outer = frame
        while outer is not None and outer.f_code is not self._boundary:
            if self._kind(outer.f_code.co_filename) == _USER:
                return Site(outer.f_code, outer.f_lasti, outer.f_lineno)
            outer = outer.f_back
        return self.of(frame)

    def of_apply(self, frame: FrameType | None) -> Site | None:
        """The line that calls the custom autograd function which is running."""
        while frame is not None and frame.f_code is not self._boundary:
            if frame.f_code is _APPLY:
                return self.of(frame.f_back)
            frame = frame.f_back
        return None

    def in_backward(self, frame: FrameType | None) -> PythonInBackward:
        """What Python code the engine is running."""
        inner, is_function, is_recomputation = frame, False, False
        while frame is not None and frame.f_code is not ENGINE:
            is_function |= frame.f_code is _APPLY_BACKWARD
            is_recomputation |= frame.f_code.co_filename == _CHECKPOINT
            frame = frame.f_back
        return PythonInBackward(self.of(inner), is_function and not is_recomputation, is_recomputation)

    def name_of(self, frame: FrameType | None, address: int) -> str | None:
        """Name by which the outermost of the user's frames knows the tensor with this storage."""
        found = None
        while frame is not None and frame.f_code is not self._boundary:
            if self._kind(frame.f_code.co_filename) == _USER:
                found = _name_among(frame.f_locals, address) or found
            frame = frame.f_back
        return found

    def _kind(self, file: str) -> int:
        if self._own and file.startswith(self._own):
            return _OWN
        if file.startswith((_TORCH, *_GENERATED)):
            return _LIBRARY
        if file.startswith(_OURS) and not file.startswith(_DEMO):
            return _LIBRARY
        if any(part in file for part in _SITE):
            return _PACKAGE
        return _LIBRARY if file.startswith(_STANDARD) else _USER


def _package_of(kind: type) -> str | None:
    """Folder of the installed package that a class comes from; None for torch and for code of one's own."""
    module = sys.modules.get(kind.__module__)
    file = getattr(module, "__file__", None) or ""
    for part in _SITE:
        if part in file and not file.startswith(_TORCH):
            root, _, inner = file.partition(part)
            return root + part + inner.split(os.sep)[0]
    return None


def _name_among(variables: dict[str, object], address: int) -> str | None:
    for name, value in variables.items():
        if _is_at(value, address):
            return name
        if isinstance(value, dict):
            for key, item in value.items():
                if _is_at(item, address):
                    return str(key)
        elif isinstance(value, (list, tuple)):
            for index, item in enumerate(value):
                if _is_at(item, address):
                    return f"{name}[{index}]"
    return None


def _is_at(value: object, address: int) -> bool:
    if not isinstance(value, torch.Tensor) or value.layout is not torch.strided or value.is_nested:
        return False
    return bool(value.untyped_storage()._cdata == address)
