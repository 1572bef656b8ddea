"""Which runs the held-out suite is made of."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Iterator

import faults
from models import Setup

from unseen import faults as unseen_faults
from unseen.negatives import CHANGES, MADE
from unseen.runs import DEVELOPMENT, FINAL, RUNS

Run = tuple[str, Callable[[], Setup]]
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
            for name in architectures:
                for optimizer, build in RUNS[name].items():
                    for seed in (first + s for s in seeds):
                        yield f"{part}/healthy/{name}/{optimizer}/-/0/{seed}", functools.partial(build, seed)
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
            make = functools.partial(_changed, name, optimizer, apply, first + seed)
            yield f"{part}/negative/{name}/{optimizer}/{change}/0/{first + seed}", make
    for name, builders in MADE.items():
        for seed in range(number, NUM_NEGATIVE, NUM_ROUNDS):
            make = functools.partial(builders[index], first + seed)
            yield f"{part}/negative/{name}/-/{name}/0/{first + seed}", make


def _changed(name: str, optimizer: str, apply: Callable[[Setup], None], seed: int) -> Setup:
    setup = RUNS[name][optimizer](seed)
    apply(setup)
    return setup


def _faulty(part: str, architectures: tuple[str, ...], seed: int) -> Iterator[Run]:
    for fault in (*unseen_faults.FAULTS, *faults.FAULTS):
        for index, (name, optimizer) in enumerate(chosen(fault, architectures)):
            for severity in _severities(fault, index):
                apply = functools.partial(_spoil, fault, severity)
                make = functools.partial(_changed, name, optimizer, apply, seed)
                yield f"{part}/faulty/{name}/{optimizer}/{fault.name}/{severity:g}/{seed}", make


def _severities(fault: faults.Fault, index: int) -> tuple[float, ...]:
    """All for an operator of this suite; of a known one the first here and the last there, to save time."""
    if fault in unseen_faults.FAULTS:
        return fault.severities
    return (fault.severities[-1 if index else 0],)


def _spoil(fault: faults.Fault, severity: float, setup: Setup) -> None:
    fault.apply(setup, severity)


@functools.cache
def _example(name: str, optimizer: str) -> Setup:
    return RUNS[name][optimizer](0)


def fitting(fault: faults.Fault, architectures: tuple[str, ...]) -> list[tuple[str, str]]:
    """Architectures and optimizers that an operator can be done to."""
    pairs = [(name, optimizer) for name in architectures for optimizer in RUNS[name]]
    return [p for p in pairs if (fault.name, p[0]) not in _IMPOSSIBLE and fault.fits(_example(*p))]


def chosen(fault: faults.Fault, architectures: tuple[str, ...]) -> list[tuple[str, str]]:
    """A fixed choice per operator, so that all architectures get their share."""
    pairs = fitting(fault, architectures)
    offset = zlib.crc32(fault.name.encode()) % max(len(pairs), 1)
    found: list[tuple[str, str]] = []
    for pair in pairs[offset:] + pairs[:offset]:
        if len(found) < NUM_ARCHITECTURES and pair[0] not in [name for name, _ in found]:
            found.append(pair)
    return found
