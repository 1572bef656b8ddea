"""Which module is running."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle


class Running:
    """The innermost module of a model that is running now. A context, in which each module has two hooks.

    A module that is not the model's own (made on the way, or a copy) counts as the one that calls it.

    Args:
        model: The traced model.
    """

    def __init__(self, model: nn.Module) -> None:
        self._modules = list(model.modules())
        self._names = {id(module): _plain(name) for name, module in model.named_modules()}
        self._types = {_plain(name): type(module).__name__ for name, module in model.named_modules()}
        self._stack: list[str | None] = []
        self._handles: list[RemovableHandle] = []
        self.has_run = False

    def __enter__(self) -> Running:
        for module in self._modules:
            if not isinstance(module, torch.jit.ScriptModule):
                self._handles.append(module.register_forward_pre_hook(self._enter, prepend=True))
                self._handles.append(module.register_forward_hook(self._leave, always_call=True))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    @property
    def name(self) -> str | None:
        """Dotted path; "" for the model itself, None outside of it."""
        return self._stack[-1] if self._stack else None

    def type_of(self, name: str | None) -> str | None:
        """Class of a module of the model."""
        return self._types.get(name) if name is not None else None

    def _enter(self, module: nn.Module, args: Any) -> None:
        self._stack.append(self._names.get(id(module), self.name))

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._stack:
            self._stack.pop()
        self.has_run |= not self._stack and id(module) in self._names


def _plain(name: str) -> str:
    """A name without the prefix of the wrapper that torch.compile adds."""
    return ".".join(part for part in name.split(".") if part != "_orig_mod")
