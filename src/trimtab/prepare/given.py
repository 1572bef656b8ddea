"""What a pre-flight check is given: whether it is what it should be, and what it did if it raised."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from trimtab.errors import told
from trimtab.prepare.checks import Check, problem


def check_given(model: Any, loss_fn: Any, batch: Any, optimizer: Any, budget_sec: float) -> None:
    """Refuse what is no model, loss, batch, optimizer or time, before anything is run.

    Args:
        model: The model.
        loss_fn: The loss.
        batch: One batch.
        optimizer: The optimizer, or None.
        budget_sec: Time for the experiments.

    Raises:
        TypeError: One of them is something else.
        ValueError: The batch is empty, the time is not > 0, or the model has no parameters.
    """
    if not isinstance(budget_sec, (int, float)) or not budget_sec > 0:
        raise ValueError(f"preflight(budget_sec={budget_sec!r}): expected a number > 0.")
    check_parts(model, loss_fn, optimizer)
    modules = [model, loss_fn] if isinstance(loss_fn, nn.Module) else [model]
    if all(next(module.parameters(), None) is None for module in modules):
        raise ValueError(f"{type(model).__name__} has no parameters: there is nothing to train.")
    if isinstance(batch, torch.utils.data.DataLoader) or hasattr(batch, "__next__"):
        raise TypeError(f"batch is {_name(batch)}: expected one batch, as next(iter(loader)) gives it.")
    for name, tensor in named_tensors(batch):
        if tensor.dim() and not tensor.numel():
            raise ValueError(f"{name} is empty, of shape {tuple(tensor.shape)}: pass a batch of some rows.")


def check_parts(model: Any, loss_fn: Any, optimizer: Any) -> None:
    """Refuse what is no model, loss or optimizer, such as the class of one.

    Args:
        model: The model.
        loss_fn: The loss.
        optimizer: The optimizer, or None.

    Raises:
        TypeError: One of them is something else.
    """
    if not isinstance(model, nn.Module):
        instance = f"{model.__name__}(...)" if isinstance(model, type) else "a torch.nn.Module"
        raise TypeError(f"model is {_name(model)}: expected the model itself, {instance}.")
    if not callable(loss_fn) or isinstance(loss_fn, type):
        instance = f"{loss_fn.__name__}()" if isinstance(loss_fn, type) else "loss_fn(model, batch)"
        raise TypeError(
            f"loss_fn is {_name(loss_fn)}: expected a function, {instance}, that returns the scalar loss."
        )
    if not (optimizer is None or isinstance(optimizer, Optimizer)):
        instance = f"{optimizer.__name__}(...)" if isinstance(optimizer, type) else "a torch.optim.Optimizer"
        raise TypeError(f"optimizer is {_name(optimizer)}: expected {instance}, or None.")


def _name(given: Any) -> str:
    return f"the class {given.__name__}" if isinstance(given, type) else type(given).__name__


def named_tensors(batch: Any, name: str = "batch") -> list[tuple[str, Tensor]]:
    """All tensors of a batch with the expression that gives each.

    Args:
        batch: Nested tuples, lists and mappings.
        name: What the whole is called.

    Example:
        >>> [name for name, _ in named_tensors({"x": torch.ones(1), "y": [torch.ones(1)]})]
        ["batch['x']", "batch['y'][0]"]
    """
    if isinstance(batch, Tensor):
        return [(name, batch)]
    if isinstance(batch, Mapping):
        return [entry for key, part in batch.items() for entry in named_tensors(part, f"{name}[{key!r}]")]
    if isinstance(batch, (tuple, list)):
        return [entry for i, part in enumerate(batch) for entry in named_tensors(part, f"{name}[{i}]")]
    return []


@contextmanager
def running_layers(model: nn.Module) -> Iterator[Callable[[], str]]:
    """Know which layer a forward pass is in, also after it raised.

    Args:
        model: The model.

    Yields:
        A function that returns the innermost layer that was entered and not left, in words, or "".
    """
    inside: list[str] = []

    def enter(name: str, module: nn.Module) -> Callable[[nn.Module, Any], None]:
        words = f"layer {name} ({type(module).__name__})"
        return lambda *_: inside.append(words)

    def leave(*_: Any) -> None:
        inside.pop()

    handles: list[Any] = []
    try:
        for name, module in model.named_modules():
            if name:
                handles.append(module.register_forward_pre_hook(enter(name, module)))
                handles.append(module.register_forward_hook(leave))
        yield lambda: inside[-1] if inside else ""
    finally:
        for handle in handles:
            handle.remove()


def raised(name: str, error: Exception, batch: Any, *, layer: str = "", advice: str = "") -> Check:
    """The problem that a user's code raised.

    Args:
        name: What was tried.
        error: What it raised.
        batch: The batch, whose shapes are told.
        layer: The layer it was in, in words.
        advice: What to try.
    """
    given = [f"{n}: {tuple(t.shape)} {str(t.dtype).removeprefix('torch.')}" for n, t in named_tensors(batch)]
    told_layer = f" in {layer}" if layer else ""
    text = f"it raised{told_layer} {told(error)}; given {', '.join(given[:6]) or _name(batch)}"
    return problem(name, text, advice=advice)
