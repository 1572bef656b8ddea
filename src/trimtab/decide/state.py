"""A policy's state on its way into a checkpoint and back."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def pack(state: Any) -> Any:
    """A policy's state in containers that `weights_only=True` loads: a `NamedTuple` becomes a list.

    Args:
        state: None, a number or a `NamedTuple` of numbers and tensors.
    """
    return list(state) if isinstance(state, tuple) else state


def unpack(saved: Any, like: Any) -> Any:
    """The state that `pack` was given.

    Args:
        saved: What `pack` returned.
        like: A state of the same policy; tensors go where its tensors are.
    """
    if not isinstance(like, tuple):
        return saved
    parts = [s.to(x.device) if isinstance(x, Tensor) else s for s, x in zip(saved, like, strict=True)]
    return type(like)(*parts)
