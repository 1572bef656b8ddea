"""One step, run under watch, with nothing left behind."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from trimtab.trace.kept import HooksOff, Kept
from trimtab.trace.modules import Running
from trimtab.trace.places import Lines
from trimtab.trace.watching import Watch

W = TypeVar("W", bound=Watch)


class Replay(Generic[W]):
    """A step under watch. A context that leaves nothing behind.

    Args:
        model: The model.
        optimizer: Its optimizer, if there is one.
        watch: Class of what follows the operations.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer | None, watch: type[W]) -> None:
        self._model = model
        self._kept = Kept(model, optimizer)
        self.running = Running(model)
        self.watch = watch(self._kept, self.running, Lines(model, _call.__code__))
        self._stack = ExitStack()

    def __enter__(self) -> Replay[W]:
        self._stack.enter_context(self._kept)
        self._stack.enter_context(_eagerly())
        self._stack.enter_context(self.running)
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def run(self, closure: Callable[[], Any]) -> Any:
        """Call the closure.

        Raises:
            TypeError: It is no function.
        """
        if not callable(closure):
            raise TypeError(
                f"trace() got {type(closure).__name__} as closure: expected a function without arguments "
                "that zeroes the gradients, runs forward and backward, and returns the loss."
            )
        with torch.enable_grad(), self.watch:
            return _call(closure)

    def protect(self, tensor: Tensor) -> None:
        """Have the memory of a tensor put back, which is about to be written while nobody watches."""
        self._kept.protect(tensor)

    def step(self, optimizer: Optimizer) -> None:
        """Make the optimizer's step, without the hooks that others have put on it."""
        self.watch.is_in_optimizer = True
        with HooksOff(optimizer), self.watch:
            _call(optimizer.step)

    def goes_wrong(self, optimizer: Optimizer, is_bad: Callable[[], bool]) -> bool:
        """Make the step with nobody looking, ask whether the result is bad, and take the step back."""
        with Kept(self._model, optimizer) as kept, self.watch.blind(kept):
            self.step(optimizer)
            return is_bad()


def _call(function: Callable[[], Any]) -> Any:
    """Call the user's code: where the search for a line of the user's ends."""
    return function()


def _eagerly() -> AbstractContextManager[Any]:
    """Compiled modules run their eager original. Without a compiler loaded there are none."""
    if "torch._dynamo" not in sys.modules:
        return nullcontext()
    stance: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance


def tensors_in(thing: Any) -> list[Tensor]:
    """The tensors in nested tuples, lists, dicts and dataclasses, in their order."""
    if isinstance(thing, Tensor):
        return [thing]
    if isinstance(thing, Mapping):
        return [tensor for item in thing.values() for tensor in tensors_in(item)]
    if isinstance(thing, (list, tuple)):
        return [tensor for item in thing for tensor in tensors_in(item)]
    return []
