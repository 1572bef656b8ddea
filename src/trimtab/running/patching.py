"""Functions of torch replaced for a while, and put back."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def replaced(owner: object, name: str, around: Callable[..., Any]) -> Iterator[None]:
    """Let `around(original, *args, **kwargs)` stand in for a function of a class or module.

    What somebody else has put in its place meanwhile is left there at the end.

    Args:
        owner: The class or module whose own attribute it is.
        name: Its name.
        around: What is called instead; gets the original first.
    """
    original = vars(owner)[name]

    @functools.wraps(original)
    def stand_in(*args: Any, **kwargs: Any) -> Any:
        return around(original, *args, **kwargs)

    setattr(owner, name, stand_in)
    try:
        yield
    finally:
        if vars(owner).get(name) is stand_in:
            setattr(owner, name, original)
