"""Times two ways of doing the same work in turn, so that a busy machine slows both alike."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable

import torch


def ratio(
    ours: Callable[[], object],
    peer: Callable[[], object],
    *,
    rounds: int = 15,
    before: Callable[[], object] = lambda: None,
) -> tuple[float, float, float]:
    """Median seconds of ours and of the peer, and the median of the ratios of neighboring rounds.

    `before` runs untimed before each of them.
    """
    times: list[tuple[float, float]] = []
    for round_ in range(rounds + 3):
        took: dict[Callable[[], object], float] = {}
        for work in (ours, peer) if round_ % 2 else (peer, ours):
            before()
            start = time.perf_counter()
            work()
            took[work] = time.perf_counter() - start
        if round_ >= 3:  # the first rounds fill caches and create optimizer state
            times.append((took[ours], took[peer]))
    return (
        statistics.median(t[0] for t in times),
        statistics.median(t[1] for t in times),
        statistics.median(a / b for a, b in times),
    )


def line(what: str, ours_sec: float, peer_sec: float, value: float, budget: str) -> str:
    """One row of the printed table."""
    return f"{what:<58} {ours_sec * 1e3:>10.3f} ms {peer_sec * 1e3:>10.3f} ms {value:>8.3f}   {budget}"


def header(title: str) -> str:
    """What was measured on what."""
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    return f"{title}\n{machine}\n{'':<58} {'ours':>13} {'peer':>13} {'ratio':>8}   budget"
