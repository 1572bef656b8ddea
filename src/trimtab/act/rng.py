"""The state of every random number generator that a training step may draw from."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def capture() -> dict[str, Any]:
    """The global generators of Python, NumPy and torch: CPU, and each CUDA device once CUDA is in use.

    Returns:
        A tree.

    Cost:
        Some 60 us; no host read (a CUDA generator keeps its state on the host). Not run on a GPU.

    Example:
        >>> state = capture()
        >>> first = torch.rand(1)
        >>> restore_(state)
        >>> torch.equal(torch.rand(1), first)
        True
    """
    version, numbers, gauss = random.getstate()
    return {
        # an array: 625 entries of a tuple would be looked at one by one
        "python": (version, np.array(numbers, dtype=np.uint32), gauss),
        "numpy": np.random.get_state(legacy=False),
        **capture_torch(),
    }


def capture_torch() -> dict[str, Any]:
    """The global generators of torch alone, from which a model draws: cheap enough for every step.

    Returns:
        A part of what `capture` returns.

    Cost:
        Some 2 us; no host read. Not run on a GPU.
    """
    is_in_use = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    state = {"torch": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all() if is_in_use else []}
    if torch.backends.mps.is_available():
        state["mps"] = torch.mps.get_rng_state()
    return state


def restore_(state: dict[str, Any]) -> None:
    """Put back what `capture` or `capture_torch` returned. Devices that are not here are passed over.

    Args:
        state: What was returned, in this process or another one.
    """
    if "python" in state:
        version, numbers, gauss = state["python"]
        random.setstate((version, tuple(map(int, numbers)), gauss))
        np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        for device, one in zip(range(torch.cuda.device_count()), state["cuda"], strict=False):
            torch.cuda.set_rng_state(one, device)
    if "mps" in state and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"])


@contextmanager
def kept() -> Iterator[None]:
    """Leave the generators as they were found, whatever is drawn in this context."""
    state = capture()
    try:
        yield
    finally:
        restore_(state)
