"""Which runs the third suite is made of. It was written without a look at the rules, and is looked at once."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Iterator

import faults
from models import Setup
from unseen import faults as unseen_faults
from unseen.plan import Run, _spoil

from third import faults as third_faults
from third.negatives import CHANGES, MADE
from third.runs import NAMES, RUNS

PART, FIRST = "third", 9000
# The sound runs once more, with seeds that nobody looked at when the last rule was changed
AGAIN = ("third_again", 19_000)
# Each round brings two of the ten seeds of every group, so that it can be stopped at any time
NUM_ROUNDS, PER_ROUND = 5, 2
# Of each operator of this suite so many architectures, of a known one a single one
NUM_NEW, NUM_KNOWN = 2, 1
# (operator, architecture): places without an answer cannot be looked up
_IMPOSSIBLE = {("bare_log", "masked_lm")}


def plan() -> Iterator[Run]:
    """Name of each run and what builds it, round by round: sound runs first, then faulty ones."""
    for number in range(NUM_ROUNDS):
        seeds = range(number * PER_ROUND, (number + 1) * PER_ROUND)
        yield from _sound(PART, FIRST, seeds)
        for seed in seeds:
            yield from _faulty(FIRST + 100 + seed)
    yield from _sound(*AGAIN, range(NUM_ROUNDS * PER_ROUND))


def _sound(part: str, first: int, seeds: range) -> Iterator[Run]:
    for name in NAMES:
        for optimizer, build in RUNS[name].items():
            for seed in (first + s for s in seeds):
                yield f"{part}/healthy/{name}/{optimizer}/-/0/{seed}", functools.partial(build, seed)
    for seed in seeds:
        yield from _negatives(part, first + 200, seed)


def _negatives(part: str, first: int, number: int) -> Iterator[Run]:
    seed = first + number
    for change, (apply, fitting) in CHANGES.items():
        # from pair to pair with each seed, so that all come up alike
        pairs = [(n, o) for n in fitting for o in RUNS[n]]
        name, optimizer = pairs[number % len(pairs)]
        make = functools.partial(_changed, name, optimizer, apply, seed)
        yield f"{part}/negative/{name}/{optimizer}/{change}/0/{seed}", make
    for name, build in MADE.items():
        yield f"{part}/negative/{name}/-/{name}/0/{seed}", functools.partial(build, seed)


def _changed(name: str, optimizer: str, apply: Callable[[Setup], None], seed: int) -> Setup:
    setup = RUNS[name][optimizer](seed)
    apply(setup)
    return setup


def _faulty(seed: int) -> Iterator[Run]:
    for fault, name, optimizer, severity in groups():
        apply = functools.partial(_spoil, fault, severity)
        make = functools.partial(_changed, name, optimizer, apply, seed)
        yield f"{PART}/faulty/{name}/{optimizer}/{fault.name}/{severity:g}/{seed}", make


@functools.cache
def groups() -> tuple[tuple[faults.Fault, str, str, float], ...]:
    """Operator, architecture, optimizer and severity of each faulty group."""
    found = []
    for fault in third_faults.FAULTS:
        for name, optimizer in chosen(fault, NUM_NEW):
            found += [(fault, name, optimizer, severity) for severity in fault.severities]
    for index, fault in enumerate((*unseen_faults.FAULTS, *faults.FAULTS)):
        for name, optimizer in chosen(fault, NUM_KNOWN):
            # the first severity of one operator and the last of the next, to save time
            found.append((fault, name, optimizer, fault.severities[-1 if index % 2 else 0]))
    return tuple(found)


@functools.cache
def _example(name: str, optimizer: str) -> Setup:
    return RUNS[name][optimizer](0)


def chosen(fault: faults.Fault, number: int) -> list[tuple[str, str]]:
    """A fixed choice per operator, so that all architectures get their share."""
    pairs = [
        (name, optimizer)
        for name in NAMES
        for optimizer in RUNS[name]
        if (fault.name, name) not in _IMPOSSIBLE and fault.fits(_example(name, optimizer))
    ]
    offset = zlib.crc32(fault.name.encode()) % max(len(pairs), 1)
    found: list[tuple[str, str]] = []
    for pair in pairs[offset:] + pairs[:offset]:
        if len(found) < number and pair[0] not in [name for name, _ in found]:
            found.append(pair)
    return found
