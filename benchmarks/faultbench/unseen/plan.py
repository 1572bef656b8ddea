"""Which runs the held-out suite is made of."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import faults
import planning
from planning import Pair, Run

from unseen import faults as unseen_faults
from unseen.negatives import CHANGES, MADE
from unseen.runs import DEVELOPMENT, FINAL, RUNS

PARTS = (("development", DEVELOPMENT, 2000), ("final", FINAL, 3000))
# The sound runs of the final part once more, with seeds that nobody looked at when the last rule was changed
AGAIN = ("again", FINAL, 7000)
# A faulty group has four seeds; each round brings its share of the ten seeds of the healthy runs
NUM_ROUNDS, NUM_HEALTHY = 4, 10
# Of each operator so many architectures of each part
NUM_ARCHITECTURES = 2
# So many runs of each hard negative in each part
NUM_NEGATIVE = 15
# (operator, architecture): noise of the shape of a sparse gradient cannot be drawn
_IMPOSSIBLE = {("gradient_noise", "factors")}


def plan() -> Iterator[Run]:
    """Name of each run and what builds it, round by round, so that it can be stopped at any time."""
    for number in range(NUM_ROUNDS):
        for part, architectures, first in (*PARTS, AGAIN):
            seeds = range(number, NUM_HEALTHY, NUM_ROUNDS)
            yield from planning.healthy(part, RUNS, architectures, [first + s for s in seeds])
        for index, (part, architectures, first) in zip((0, 1, 1), (*PARTS, AGAIN), strict=True):
            yield from _negatives(part, index, architectures, first + 200, number)
        for part, architectures, first in PARTS:
            yield from _faulty(part, architectures, first + 100 + number)


def _negatives(
    part: str, index: int, architectures: tuple[str, ...], first: int, number: int
) -> Iterator[Run]:
    for change, (apply, fitting) in CHANGES.items():
        pairs = [(n, o) for n in fitting if n in architectures for o in RUNS[n]]
        for seed in range(number, NUM_NEGATIVE, NUM_ROUNDS):
            # from pair to pair with each seed, so that all come up alike
            name, optimizer = pairs[seed % len(pairs)]
            make = functools.partial(planning.changed, RUNS[name][optimizer], apply, first + seed)
            yield f"{part}/negative/{name}/{optimizer}/{change}/0/{first + seed}", make
    for name, builders in MADE.items():
        for seed in range(number, NUM_NEGATIVE, NUM_ROUNDS):
            make = functools.partial(builders[index], first + seed)
            yield f"{part}/negative/{name}/-/{name}/0/{first + seed}", make


def _faulty(part: str, architectures: tuple[str, ...], seed: int) -> Iterator[Run]:
    for fault in (*unseen_faults.FAULTS, *faults.FAULTS):
        for index, pair in enumerate(chosen(fault, architectures)):
            for severity in _severities(fault, index):
                yield planning.faulty(part, RUNS, fault, pair, severity, seed)


def _severities(fault: faults.Fault, index: int) -> tuple[float, ...]:
    """All for an operator of this suite; of a known one the first here and the last there, to save time."""
    if fault in unseen_faults.FAULTS:
        return fault.severities
    return (fault.severities[-1 if index else 0],)


def chosen(fault: faults.Fault, architectures: tuple[str, ...]) -> list[Pair]:
    """A fixed choice per operator, so that all architectures get their share."""
    return planning.of_different(planning.fitting(fault, RUNS, architectures, _IMPOSSIBLE), NUM_ARCHITECTURES)
