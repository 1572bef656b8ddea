"""Hooks that are no part of the model they look at."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import nn


class Hook:
    """A hook of a module that copies and pickles of the module do not take along.

    They get the standard library's way of doing nothing instead, so that a saved model can be loaded where
    trimtab is not installed. Nothing is done either while the module is traced or transformed, as by
    `torch.jit.trace` and `torch.func`: what flows there is no tensor to be kept.

    Args:
        function: What the hook does.

    Example:
        >>> import copy
        >>> seen = []
        >>> model = torch.nn.Linear(2, 2)
        >>> handle = model.register_forward_hook(Hook(lambda module, args, output: seen.append(output)))
        >>> _ = copy.deepcopy(model)(torch.ones(1, 2))
        >>> len(seen)
        0
    """

    def __init__(self, function: Callable[..., None]) -> None:
        self._function = function

    def __call__(self, *args: Any) -> None:
        """Do it, unless the module is only traced or transformed."""
        is_traced = torch._C._get_tracing_state() is not None
        if not is_traced and torch._C._functorch.peek_interpreter_stack() is None:
            self._function(*args)

    def __deepcopy__(self, memo: object) -> Callable[..., None]:
        del memo
        return contextlib.nullcontext().__exit__

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (contextlib.nullcontext(), "__exit__")


def takes_hooks(model: nn.Module) -> bool:
    """Whether hooks can be added: scripted models refuse them, and compiled ones would compile again.

    Args:
        model: The model.
    """
    return not isinstance(model, torch.jit.ScriptModule) and not hasattr(model, "_orig_mod")
