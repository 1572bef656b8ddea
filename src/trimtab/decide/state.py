"""A policy's state on its way into a checkpoint and back."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def pack(state: Any) -> Any:
    """A policy's state in containers that `weights_only=True` loads: tuples become lists.

    Args:
        state: None, a number, a tensor, or a tuple or `NamedTuple` of states.
    """
    return [pack(part) for part in state] if isinstance(state, tuple) else state


def unpack(saved: Any, like: Any) -> Any:
    """The state that `pack` was given.

    Args:
        saved: What `pack` returned.
        like: A state of the same policy; tensors go where its tensors are.

    Raises:
        ValueError: It is the state of other parameters.
    """
    if isinstance(like, Tensor):
        if not isinstance(saved, Tensor) or saved.shape != like.shape:
            shape = tuple(saved.shape) if isinstance(saved, Tensor) else saved
            raise ValueError(
                f"the state of a policy is of other parameters: expected a tensor of shape "
                f"{tuple(like.shape)}, got {shape}. Build model and optimizer as they were when it was saved."
            )
        return saved.to(like.device)
    is_fixed = hasattr(like, "_fields") or (
        isinstance(like, tuple) and any(isinstance(part, Tensor) for part in like)
    )
    if is_fixed and (not isinstance(saved, (list, tuple)) or len(saved) != len(like)):
        raise ValueError("the state of a policy is of other parameters: it has another number of parts.")
    if hasattr(like, "_fields"):
        return type(like)(*(unpack(s, x) for s, x in zip(saved, like, strict=True)))
    if isinstance(like, tuple) and like and len(saved) == len(like):
        return tuple(unpack(s, x) for s, x in zip(saved, like, strict=True))
    return _tupled(saved)


def _tupled(saved: Any) -> Any:
    """What was saved where there is nothing to compare with: containers were tuples."""
    return tuple(_tupled(part) for part in saved) if isinstance(saved, list) else saved
