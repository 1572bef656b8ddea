"""Everything that a replayed step may change, and the way back, bit for bit."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks


class Kept:
    """Leaves a model, an optimizer and the generators as they were found. A context.

    Memory is copied on write: whoever runs the step calls `protect` before an operation writes to a
    storage that was there before the step. Attributes of modules and of the optimizer are put back, and
    the contents of dicts, lists and sets that are attributes.

    Args:
        model: The model, with all its submodules.
        optimizer: The optimizer, if there is one.

    Cost:
        Memory for a copy of what the step writes to: for a forward and backward pass the buffers that
        they update, for the optimizer's step the parameters and its state.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer | None) -> None:
        self._model = model
        self._optimizer = optimizer
        self._copies: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}
        self._generators: dict[torch.Generator, Tensor] = {}

    def __enter__(self) -> Kept:
        self._rng = _capture_rng()
        self._objects = [_Attributes(module) for module in self._model.modules()]
        self._tensors = [_Leaf(tensor) for tensor in self._leaves()]
        if self._optimizer is not None:
            self._objects += [_Attributes(self._optimizer), _Attributes(self._optimizer.state)]
            self._objects += [_Attributes(group) for group in self._optimizer.param_groups]
            self._objects += [
                _Attributes(of) for of in self._optimizer.state.values() if isinstance(of, dict)
            ]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        with torch.no_grad():
            for saved in self._objects:
                saved.restore_()
            for leaf in self._tensors:
                leaf.restore_()
            for storage, copy in self._copies.values():
                storage.copy_(copy)
        for generator, state in self._generators.items():
            generator.set_state(state)
        _restore_rng(self._rng)

    def protect(self, tensor: Tensor) -> None:
        """Copy the memory of a tensor that is about to be written, unless that was done before."""
        if tensor.layout is not torch.strided or tensor.is_meta or tensor.is_nested:
            return
        storage = tensor.untyped_storage()
        if storage._cdata not in self._copies:
            self._copies[storage._cdata] = (storage, storage.clone())  # type: ignore[no-untyped-call]

    def protect_generator(self, generator: torch.Generator) -> None:
        """Keep the state of a generator of the caller's own."""
        if generator not in self._generators:
            self._generators[generator] = generator.get_state()

    def _leaves(self) -> Iterator[Tensor]:
        seen: set[int] = set()
        tensors = [*self._model.parameters(), *self._model.buffers()]
        if self._optimizer is not None:
            tensors += [p for group in self._optimizer.param_groups for p in group["params"]]
        for tensor in tensors:
            if id(tensor) not in seen:
                seen.add(id(tensor))
                yield tensor


class HooksOff:
    """An optimizer without its step hooks, its own and the global ones. A context.

    What they do is not part of the optimizer's arithmetic: they count, record, or trace.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        own = (optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks)
        self._hooks: tuple[dict[int, Any], ...] = (
            *own,
            _global_optimizer_pre_hooks,
            _global_optimizer_post_hooks,
        )

    def __enter__(self) -> None:
        self._saved = [dict(hooks) for hooks in self._hooks]
        for hooks in self._hooks:
            hooks.clear()

    def __exit__(self, *_: object) -> None:
        for hooks, saved in zip(self._hooks, self._saved, strict=True):
            hooks.clear()
            hooks.update(saved)


class _Attributes:
    """The attributes of an object, or the items of a dict, and what their containers held."""

    def __init__(self, owner: Any) -> None:
        self._items: dict[Any, Any] = owner if isinstance(owner, dict) else vars(owner)
        self._saved = dict(self._items)
        self._contents = [(v, _content(v)) for v in self._saved.values() if isinstance(v, _CONTAINERS)]

    def restore_(self) -> None:
        for container, content in self._contents:
            if _differs(container, content):
                container.clear()
                container.update(content) if isinstance(container, (dict, set)) else container.extend(content)
        if _differs(self._items, self._saved):
            self._items.clear()
            self._items.update(self._saved)


_CONTAINERS = (dict, list, set, deque)


def _content(container: Any) -> Any:
    return dict(container) if isinstance(container, dict) else type(container)(container)


def _differs(now: Any, then: Any) -> bool:
    """Whether a container holds other objects, or in another order."""
    if len(now) != len(then):
        return True
    if isinstance(now, dict):
        pairs = zip(now.items(), then.items(), strict=True)
        return any(a is not b or x is not y for (a, x), (b, y) in pairs)
    if isinstance(now, set):
        return bool(now != then)
    return any(a is not b for a, b in zip(now, then, strict=True))


class _Leaf:
    """A parameter or buffer: its memory, its gradient, and whether it wants one."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor
        self._alias = tensor.detach()
        self._grad = tensor.grad
        self._needs_grad = tensor.requires_grad

    def restore_(self) -> None:
        tensor = self._tensor
        if tensor.layout is torch.strided and self._alias.data_ptr() != tensor.data_ptr():
            tensor.data = self._alias
        if tensor.requires_grad != self._needs_grad:
            tensor.requires_grad_(self._needs_grad)
        tensor.grad = self._grad


def _capture_rng() -> tuple[Any, ...]:
    # not act.rng: this package stands below act, and needs no tree of it
    is_in_use = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return (
        random.getstate(),
        np.random.get_state(),
        torch.get_rng_state(),
        torch.cuda.get_rng_state_all() if is_in_use else None,
    )


def _restore_rng(state: tuple[Any, ...]) -> None:
    random.setstate(state[0])
    np.random.set_state(state[1])
    torch.set_rng_state(state[2])
    if state[3] is not None:
        torch.cuda.set_rng_state_all(state[3])
