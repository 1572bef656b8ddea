"""Buffers as they were before the step: a forward pass may already have changed them."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

# Batch-norm kernels write their running statistics without raising the tensor's version, so small
# buffers are copied at every step; a larger one (a table of rotations, a mask) only after a change
# that shows in its version. No normalisation layer has so many channels.
_ALWAYS_COPIED = 1 << 16
_UNKNOWN = -1


class BufferMemory:
    """Remembers all buffers before the first training forward pass of each step.

    Every module that owns a buffer gets a forward pre-hook. Modules in eval mode are passed over:
    they do not change their statistics. A copy or a pickle of the model carries an idle hook that
    needs nothing of this package.

    Args:
        model: The module whose buffers are remembered, with all its submodules.

    Cost:
        A copy of the buffers of each such module in each step, no host read; nothing for a module
        without buffers.

    Example:
        >>> norm = torch.nn.BatchNorm1d(1)
        >>> memory = BufferMemory(norm)
        >>> _ = norm(torch.tensor([[1.0], [float("nan")]]))
        >>> norm.running_mean
        tensor([nan])
        >>> memory.restore_()
        >>> norm.running_mean, norm.num_batches_tracked
        (tensor([0.]), tensor(0))
    """

    def __init__(self, model: nn.Module) -> None:
        self._owners = [_Owner(m) for m in model.modules() if _buffers(m)]
        handles = [owner.module.register_forward_pre_hook(owner) for owner in self._owners]
        self._finalizer = weakref.finalize(self, _remove, handles)

    def forget(self) -> None:
        """The step is over and was applied: the next forward pass starts a new one."""
        for owner in self._owners:
            owner.is_saved = False

    @torch.no_grad()
    def restore_(self) -> None:
        """Put back what was remembered in this step, bit for bit, and start a new one."""
        for owner in self._owners:
            owner.restore_()

    def close(self) -> None:
        """Remove the hooks. Safe to call twice."""
        self._finalizer()


class _Owner:
    """One module that owns buffers, and their copies. It is the module's forward pre-hook."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.is_saved = False
        self._copies: dict[str, Tensor] = {}
        self._versions: dict[str, int] = {}

    def __call__(self, module: nn.Module, args: Any) -> None:
        if self.is_saved or not module.training:
            return
        with torch.no_grad():
            for name, buffer in _buffers(module).items():
                self._save(name, buffer)
        self.is_saved = True

    def __reduce__(self) -> tuple[Any, ...]:
        # What a deep copy or a pickle of the model carries instead: f(module, args) -> args
        return functools.partial, (dict.get, {})

    def _save(self, name: str, buffer: Tensor) -> None:
        copy = self._copies.get(name)
        if copy is None or copy.shape != buffer.shape or copy.dtype != buffer.dtype:
            self._copies[name] = buffer.detach().clone()
        elif self._may_differ(name, buffer):
            copy.copy_(buffer, non_blocking=True)
        self._versions[name] = _version(buffer)

    def restore_(self) -> None:
        if not self.is_saved:
            return
        for name, buffer in _buffers(self.module).items():
            if name in self._copies and self._may_differ(name, buffer):
                buffer.copy_(self._copies[name])
                self._versions[name] = _version(buffer)
        self.is_saved = False

    def _may_differ(self, name: str, buffer: Tensor) -> bool:
        if buffer.numel() <= _ALWAYS_COPIED or self._versions[name] == _UNKNOWN:
            return True
        return _version(buffer) != self._versions[name]


def _buffers(module: nn.Module) -> Mapping[str, Tensor]:
    """The buffers of this very module."""
    return {name: buffer for name, buffer in module._buffers.items() if buffer is not None}


def _version(buffer: Tensor) -> int:
    """What changes when the buffer does. A graph that is being compiled has no branch on it."""
    return _UNKNOWN if torch.compiler.is_compiling() else buffer._version


def _remove(handles: list[RemovableHandle]) -> None:
    for handle in handles:
        handle.remove()
