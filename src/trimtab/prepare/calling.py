"""Calling a model and its loss the way its owner does, and watching what goes in and comes out."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from trimtab.act import rng

LossFunction = Callable[[Any, Any], Tensor]


class WrongLossError(TypeError):
    """The loss function did not return a loss."""


class LossCall:
    """The loss of a batch, whichever of the two conventions the caller's function follows.

    These are `loss_fn(model, batch)`, and torch's own `loss_fn(output, target)` for a batch that is a pair:
    the model is then called with the first part (as `model(*inputs)` or `model(**inputs)` if that is a tuple
    or a mapping). The first is tried first; the second only if that ends with a TypeError or AttributeError,
    as it does when a function of tensors is given a module.

    Args:
        model: The model.
        loss_fn: The loss.
        batch: One batch, with which the convention is found out.

    Raises:
        WrongLossError: The loss is no tensor of one element.
        Exception: Whatever model and loss raise, in the convention in which the model was reached.
    """

    def __init__(self, model: nn.Module, loss_fn: LossFunction, batch: Any) -> None:
        self._model = model
        self._loss_fn = loss_fn
        self._is_of_outputs = isinstance(loss_fn, nn.modules.loss._Loss) and _is_pair(batch)
        with watching(model) as seen:
            try:
                _check(self(batch))
                return
            except (TypeError, AttributeError) as error:
                if self._is_of_outputs or not _is_pair(batch):
                    raise
                first, is_reached = error, bool(seen().called)
        self._is_of_outputs = True
        try:
            _check(self(batch))
        except (TypeError, AttributeError) as error:
            # a function that called the model is of the first convention
            raise first if is_reached or isinstance(error, WrongLossError) else error from None

    def __call__(self, batch: Any) -> Tensor:
        """The loss, with its graph."""
        if not self._is_of_outputs:
            return self._loss_fn(self._model, batch)
        inputs, target = batch
        if isinstance(inputs, Mapping):
            output = self._model(**inputs)
        elif isinstance(inputs, (tuple, list)):
            output = self._model(*inputs)
        else:
            output = self._model(inputs)
        return self._loss_fn(output, target)


def is_of_a_call(error: BaseException) -> bool:
    """Whether the model or the loss raised this when a `LossCall` called them.

    Args:
        error: What was raised.
    """
    return any(f.f_code is LossCall.__call__.__code__ for f, _ in traceback.walk_tb(error.__traceback__))


def _is_pair(batch: Any) -> bool:
    return isinstance(batch, (tuple, list)) and len(batch) == 2


def _check(loss: Any) -> None:
    if not isinstance(loss, Tensor):
        raise WrongLossError(
            f"loss_fn returned {type(loss).__name__}: expected the scalar loss as a tensor, from "
            "loss_fn(model, batch) or from loss_fn(output, target) with a batch (inputs, target)."
        )
    if loss.numel() != 1 or loss.is_complex():
        raise WrongLossError(
            f"loss_fn returned a tensor of shape {tuple(loss.shape)} and type {loss.dtype}: expected one "
            "real number. Reduce it, as with loss.mean()."
        )


class Watched(NamedTuple):
    """What was seen of one call.

    Attributes:
        inputs: Tensors that the model was called with (its first call).
        output: The first floating tensor that it returned; None if it was not called, or returned none.
        first: The layer that the first input went into: the first module without children that was called.
        called: Names of the modules that were called.
    """

    inputs: tuple[Tensor, ...]
    output: Tensor | None
    first: nn.Module | None
    called: frozenset[str]


@contextmanager
def watching(model: nn.Module) -> Iterator[Callable[[], Watched]]:
    """Watch the calls of a model made in this context.

    Args:
        model: The model.

    Yields:
        A function that returns what was seen.
    """
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []
    leaves: list[nn.Module] = []
    called: set[str] = set()

    def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
        del module
        if not inputs:
            inputs.extend(tensors_of((args, kwargs)))

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        del module, args
        if not outputs:
            outputs.extend([t for t in tensors_of(output) if t.is_floating_point()][:1])

    def note(name: str) -> Callable[[nn.Module, Any], None]:
        def look(module: nn.Module, args: Any) -> None:
            del args
            called.add(name)
            if not leaves and next(module.children(), None) is None:
                leaves.append(module)

        return look

    handles = [
        model.register_forward_pre_hook(enter, with_kwargs=True),
        model.register_forward_hook(leave),
        *(module.register_forward_pre_hook(note(name)) for name, module in model.named_modules()),
    ]
    try:
        yield lambda: Watched(
            tuple(inputs),
            outputs[0] if outputs else None,
            leaves[0] if leaves else None,
            frozenset(called),
        )
    finally:
        for handle in handles:
            handle.remove()


def watched_call(call: LossCall, model: nn.Module, batch: Any) -> tuple[float, Watched]:
    """The loss without its graph, and what was seen. The random generators stay where they are.

    So two calls draw the same noise, and differ by what went in alone.

    Args:
        call: The loss.
        model: The model.
        batch: The batch.
    """
    with torch.no_grad(), rng.kept(), watching(model) as seen:
        loss = float(call(batch))
        return loss, seen()


@contextmanager
def changed_inputs(model: nn.Module, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Have the model see other inputs than it is given, in this context.

    Args:
        model: The model.
        change: What each tensor among its inputs becomes.
    """

    def enter(module: nn.Module, args: Any, kwargs: Any) -> Any:
        del module
        return mapped(args, change), mapped(kwargs, change)

    handle = model.register_forward_pre_hook(enter, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def mapped(tree: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same tuples, lists and mappings with each tensor changed; other things stay what they are."""
    if isinstance(tree, Tensor):
        return change(tree)
    if isinstance(tree, tuple) and hasattr(tree, "_make"):
        return type(tree)._make(mapped(part, change) for part in tree)
    if type(tree) in (tuple, list):
        return type(tree)(mapped(part, change) for part in tree)
    if type(tree) is dict:
        return {key: mapped(part, change) for key, part in tree.items()}
    return tree


def tensors_of(tree: Any) -> list[Tensor]:
    """All tensors in nested tuples, lists and mappings, in order."""
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, Mapping):
        tree = tuple(tree.values())
    if isinstance(tree, (tuple, list)):
        return [tensor for part in tree for tensor in tensors_of(part)]
    return []
