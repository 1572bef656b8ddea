"""Buffers as they were before the step: a forward pass may already have changed them."""

from __future__ import annotations

import functools
import operator
import weakref
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

# Masks and tables of positions can be large and are constants: from this size on, buffers of integers
# and booleans are copied only after a change that shows in their version. Floating-point buffers are
# copied always: batch-norm kernels and updates through `.data` do not raise the version.
_ALWAYS_COPIED = 1 << 16
_UNKNOWN = -1


class BufferMemory:
    """Remembers all buffers before the first training forward pass since the last step.

    Every module that owns a buffer gets a forward pre-hook, called before all others. Modules in eval
    mode are passed over: they do not change their statistics. `load_state_dict` on such a module starts
    anew. A copy or a pickle of the model carries idle hooks that need nothing of this package. What is
    changed outside of module calls is not seen.

    Args:
        model: The module whose buffers are remembered, with all its submodules.

    Cost:
        A copy of the buffers of each such module in each step, no host read; nothing for a module
        without buffers. Memory for one copy of each.

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
        self._owners = [_Owner(m) for m in model.modules() if m._buffers]
        handles = [owner.module.register_forward_pre_hook(owner, prepend=True) for owner in self._owners]
        handles += [_hook_loading(owner) for owner in self._owners]
        self._finalizer = weakref.finalize(self, _remove, handles)

    def forget(self) -> None:
        """The step is over and was applied: the next forward pass starts a new one."""
        for owner in self._owners:
            owner.forget()

    @torch.no_grad()
    def restore_(self) -> None:
        """Put back what was remembered in this step, bit for bit, and start a new one."""
        for owner in self._owners:
            owner.restore_()

    @torch.no_grad()
    def keep_where_(self, is_good: Tensor) -> None:
        """Put back what was remembered unless this 0-dim flag is true, without reading it; start anew."""
        for owner in self._owners:
            owner.keep_where_(is_good)

    def as_before(self, named: Iterable[tuple[str, Tensor]]) -> list[tuple[str, Tensor]]:
        """Buffers with what they held before this step: copies, of those that may have changed."""
        before = {live: copy for owner in self._owners for live, copy in owner.remembered()}
        return [(name, before.get(buffer, buffer)) for name, buffer in named]

    @torch.no_grad()
    def take_back_bad_(self) -> None:
        """Put back the buffers of modules in which this step made a finite one NaN or infinite.

        Cost:
            Some host reads; meant for faulty steps.
        """
        for owner in self._owners:
            if owner.has_spoiled():
                owner.restore_()

    @contextmanager
    def taken_back(self) -> Iterator[None]:
        """The buffers as this step found them, to run it again; afterwards as they are now, bit for bit."""
        with ExitStack() as stack:
            for owner in self._owners:
                stack.enter_context(owner.taken_back())
            yield

    def close(self) -> None:
        """Remove the hooks. Safe to call twice."""
        self._finalizer()


class _Saved(NamedTuple):
    """One buffer before the step: the tensor itself, what it held, and its version then."""

    buffer: Tensor
    copy: Tensor
    version: int


class _Owner:
    """One module that owns buffers, and what they were. It is the module's forward pre-hook."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self._is_saved = False
        self._saved: dict[str, _Saved | None] = {}

    def __call__(self, module: nn.Module, args: Any) -> None:
        """Remember, if this is the first training pass of the step."""
        if self._is_saved or not module.training:
            return
        with torch.no_grad():
            for name, buffer in module._buffers.items():
                self._saved[name] = None if buffer is None else _save(buffer, self._saved.get(name))
        self._is_saved = True

    def __reduce__(self) -> tuple[Any, ...]:
        # What a deep copy or a pickle of the model carries instead: f(module, args) -> args
        return functools.partial, (dict.get, {})

    def forget(self) -> None:
        """Start a new step."""
        self._is_saved = False

    def restore_(self) -> None:
        """Put back the tensors and what they held; a buffer that the step made new stays."""
        if not self._is_saved:
            return
        for name, saved in self._saved.items():
            if saved is not None and _may_differ(saved):
                saved.buffer.copy_(saved.copy)
                self._saved[name] = saved._replace(version=_version(saved.buffer))
            if name in self.module._buffers:
                self.module._buffers[name] = None if saved is None else saved.buffer
        self._is_saved = False

    def remembered(self) -> list[tuple[Tensor, Tensor]]:
        """Each buffer there is now with a copy of what it was before the step."""
        saved = self._saved.items() if self._is_saved else ()
        now = [(self.module._buffers.get(name), then) for name, then in saved]
        return [(live, then.copy) for live, then in now if live is not None and then is not None]

    def has_spoiled(self) -> bool:
        """Whether the step made a buffer bad that was finite."""
        return any(
            bool(copy.isfinite().all()) and not bool(live.isfinite().all())
            for live, copy in self.remembered()
        )

    @contextmanager
    def taken_back(self) -> Iterator[None]:
        """What was remembered in place of what is there now, and remembered still afterwards."""
        if not self._is_saved:
            yield
            return
        now = dict(self.module._buffers)
        with torch.no_grad():
            copies = {name: buffer.clone() for name, buffer in now.items() if buffer is not None}
            self.restore_()
        self._is_saved = True  # the passes made meanwhile are not the step's own
        try:
            yield
        finally:
            with torch.no_grad():
                for name, copy in copies.items():
                    now[name].copy_(copy)  # type: ignore[union-attr]
            self.module._buffers.update(now)

    def keep_where_(self, is_good: Tensor) -> None:
        """As `restore_`, decided on the device. Buffers that were replaced by others stay."""
        for saved in self._saved.values() if self._is_saved else ():
            if saved is not None and _may_differ(saved):
                flag = is_good.to(saved.buffer.device, non_blocking=True)
                saved.buffer.copy_(torch.where(flag, saved.buffer, saved.copy))
        self._is_saved = False


class _Forgetting:
    """A hook after `load_state_dict`: what was remembered is no longer what the step began with."""

    def __init__(self, owner: _Owner) -> None:
        self._owner = owner

    def __call__(self, module: nn.Module, keys: Any) -> None:
        self._owner.forget()

    def __reduce__(self) -> tuple[Any, ...]:
        # an idle hook that returns None, as torch demands of this kind
        return functools.partial, (operator.setitem, {})


def _hook_loading(owner: _Owner) -> RemovableHandle:
    handle: RemovableHandle = owner.module.register_load_state_dict_post_hook(  # type: ignore[no-untyped-call]
        _Forgetting(owner)
    )
    return handle


def _save(buffer: Tensor, last: _Saved | None) -> _Saved:
    """What this buffer holds, in the last copy's memory if it fits."""
    if last is None or last.copy.shape != buffer.shape or last.copy.dtype != buffer.dtype:
        return _Saved(buffer, buffer.detach().clone(), _version(buffer))
    if last.buffer is not buffer or _may_differ(last):
        last.copy.copy_(buffer, non_blocking=True)
    return _Saved(buffer, last.copy, _version(buffer))


def _may_differ(saved: _Saved) -> bool:
    """Whether the buffer may no longer hold what was copied."""
    if saved.buffer.is_floating_point() or saved.buffer.is_complex():
        return True
    return (
        saved.buffer.numel() <= _ALWAYS_COPIED
        or saved.version == _UNKNOWN
        or (_version(saved.buffer) != saved.version)
    )


def _version(buffer: Tensor) -> int:
    """What changes when the buffer does. A graph that is being compiled has no branch on it."""
    return _UNKNOWN if torch.compiler.is_compiling() else buffer._version


def _remove(handles: list[RemovableHandle]) -> None:
    for handle in handles:
        handle.remove()
