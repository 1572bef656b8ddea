"""What a caller hands in, checked once, with errors that say what to do."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


def as_closure(loss: object) -> Callable[[], Any] | None:
    """The argument of `guard.step` if it is a closure."""
    return loss if callable(loss) and not isinstance(loss, Tensor) else None


def needs_closure(optimizer: Optimizer) -> bool:
    """Whether `optimizer.step` cannot be called without a closure, as with LBFGS."""
    signature = inspect.signature(optimizer.step)
    closure = signature.parameters.get("closure")
    return closure is not None and closure.default is inspect.Parameter.empty


@torch.enable_grad()
def evaluate(closure: Callable[[], Any]) -> Any:
    """Run a closure as optimizers do.

    Raises:
        TypeError: The closure returned nothing.
    """
    loss = closure()
    if loss is None:
        raise TypeError("the closure returned None: it must return the loss, after calling backward() on it.")
    return loss


def as_loss(loss: object) -> Tensor | None:
    """The loss as a 0-dim tensor without history; None stays None.

    Raises:
        TypeError: It is neither a tensor nor a number.
        ValueError: It has more than one element, or is complex.
    """
    if loss is None:
        return None
    if isinstance(loss, (int, float)):
        return torch.tensor(loss, dtype=torch.float64)
    if not isinstance(loss, Tensor):
        raise TypeError(
            f"guard.step() got {type(loss).__name__}: expected the scalar loss as a tensor, or a closure "
            "that returns it."
        )
    if loss.numel() != 1 or loss.is_complex():
        raise ValueError(
            f"guard.step() got a loss of shape {tuple(loss.shape)} and type {loss.dtype}: expected one real "
            "number. Reduce it, as with loss.mean(), and call backward() on the result."
        )
    return loss.detach().reshape(())


def as_number(what: str, value: Any) -> float:
    """A number that a caller measured, as a float; NaN and Inf stay what they are.

    Args:
        what: What it is, for the message: `EarlyStopping.update(value)`.
        value: A number, or a tensor or array of one element, of any framework.

    Raises:
        TypeError: It is no number.
        ValueError: It has another number of elements than one, or is complex.

    Cost:
        A host read for a tensor.

    Example:
        >>> as_number("loss", torch.tensor([0.5]))
        0.5
        >>> as_number("loss", torch.ones(3))
        Traceback (most recent call last):
            ...
        ValueError: loss has the shape (3,): expected one number. Reduce it, as with .mean().
    """
    if isinstance(value, (float, int)):
        return float(value)
    shape = tuple(getattr(value, "shape", ()))
    if math.prod(shape) != 1:
        raise ValueError(f"{what} has the shape {shape}: expected one number. Reduce it, as with .mean().")
    if value.is_complex() if isinstance(value, Tensor) else isinstance(value, complex):
        raise ValueError(f"{what} is complex: expected one real number.")
    try:
        if isinstance(value, (str, bytes)):
            raise TypeError("it is text")
        return float(value.item() if shape else value)
    except (TypeError, ValueError, AttributeError) as error:
        raise TypeError(f"{what} is {type(value).__name__}: expected one number ({error}).") from None
