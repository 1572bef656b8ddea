"""Which runs the fifth suite is made of. It was written without a look at the rules, and is looked at once."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Iterator

import faults as known
from fourth import faults as fourth_faults
from models import Setup
from third import faults as third_faults
from unseen import faults as unseen_faults

from fifth.negatives import CHANGES, MADE
from fifth.runs import NAMES, RUNS

Run = tuple[str, Callable[[], Setup]]
PART, FIRST, FIRST_FAULTY = "fifth", 60_000, 61_000
NUM_SOUND, NUM_FAULTY = 10, 4
FAULTS = (*known.FAULTS, *unseen_faults.FAULTS, *third_faults.FAULTS, *fourth_faults.FAULTS)
# (operator, architecture): places where an operator cannot work, or does next to nothing
_IMPOSSIBLE = {("target_encoded", "gated")}


def plan() -> Iterator[Run]:
    """Name of each run and what builds it, seed by seed: all sound runs first, then the faulty ones."""
    for number in range(NUM_SOUND):
        yield from _sound(FIRST + number, number)
    for number in range(NUM_FAULTY):
        yield from _faulty(FIRST_FAULTY + number)


def _sound(seed: int, number: int) -> Iterator[Run]:
    for name in NAMES:
        for optimizer, build in RUNS[name].items():
            yield f"{PART}/healthy/{name}/{optimizer}/-/0/{seed}", functools.partial(build, seed)
    for change, (apply, fitting) in CHANGES.items():
        # from pair to pair with each seed, so that all come up alike
        pairs = [(n, o) for n in fitting for o in RUNS[n]]
        name, optimizer = pairs[number % len(pairs)]
        make = functools.partial(_changed, name, optimizer, apply, seed)
        yield f"{PART}/negative/{name}/{optimizer}/{change}/0/{seed}", make
    for name, build in MADE.items():
        yield f"{PART}/negative/{name}/-/{name}/0/{seed}", functools.partial(build, seed)


def _changed(name: str, optimizer: str, apply: Callable[[Setup], None], seed: int) -> Setup:
    setup = RUNS[name][optimizer](seed)
    apply(setup)
    return setup


def _spoil(fault: known.Fault, severity: float, setup: Setup) -> None:
    fault.apply(setup, severity)


def _faulty(seed: int) -> Iterator[Run]:
    for fault, name, optimizer in groups():
        severity = fault.severities[0]
        make = functools.partial(_changed, name, optimizer, functools.partial(_spoil, fault, severity), seed)
        yield f"{PART}/faulty/{name}/{optimizer}/{fault.name}/{severity:g}/{seed}", make


@functools.cache
def _example(name: str, optimizer: str) -> Setup:
    return RUNS[name][optimizer](0)


@functools.cache
def groups() -> tuple[tuple[known.Fault, str, str], ...]:
    """Operator, architecture and optimizer of each faulty group: a fixed pair for each that fits somewhere."""
    found = []
    for fault in FAULTS:
        pairs = [
            (name, optimizer)
            for name in NAMES
            for optimizer in RUNS[name]
            if (fault.name, name) not in _IMPOSSIBLE and fault.fits(_example(name, optimizer))
        ]
        if pairs:
            found.append((fault, *pairs[zlib.crc32(fault.name.encode()) % len(pairs)]))
    return tuple(found)
