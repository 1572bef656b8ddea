"""What the plans of the later suites share: the names of runs, and what builds each of them."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from faults import Fault
from models import Setup

Build = Callable[[int], Setup]
Run = tuple[str, Callable[[], Setup]]
Pair = tuple[str, str]
# name of an architecture -> optimizer -> what builds the setup of a seed
Runs = Mapping[str, Mapping[str, Build]]


def healthy(part: str, runs: Runs, names: Sequence[str], seeds: Sequence[int]) -> Iterator[Run]:
    """Each architecture with each of its optimizers."""
    for name in names:
        for optimizer, build in runs[name].items():
            for seed in seeds:
                yield f"{part}/healthy/{name}/{optimizer}/-/0/{seed}", functools.partial(build, seed)


def negatives(
    part: str,
    runs: Runs,
    changes: Mapping[str, tuple[Callable[[Setup], None], Sequence[str]]],
    made: Mapping[str, Build],
    seed: int,
    number: int,
) -> Iterator[Run]:
    """One of each kind: changes go from pair to pair with the number, so that all come up alike."""
    for change, (apply, fitting) in changes.items():
        pairs = [(n, o) for n in fitting for o in runs[n]]
        name, optimizer = pairs[number % len(pairs)]
        make = functools.partial(changed, runs[name][optimizer], apply, seed)
        yield f"{part}/negative/{name}/{optimizer}/{change}/0/{seed}", make
    for name, build in made.items():
        yield f"{part}/negative/{name}/-/{name}/0/{seed}", functools.partial(build, seed)


def faulty(part: str, runs: Runs, fault: Fault, pair: Pair, severity: float, seed: int) -> Run:
    """An operator done to an architecture with an optimizer."""
    name, optimizer = pair
    apply = functools.partial(_spoil, fault, severity)
    make = functools.partial(changed, runs[name][optimizer], apply, seed)
    return f"{part}/faulty/{name}/{optimizer}/{fault.name}/{severity:g}/{seed}", make


def changed(build: Build, apply: Callable[[Setup], None], seed: int) -> Setup:
    """The setup of a seed with a change done to it."""
    setup = build(seed)
    apply(setup)
    return setup


def _spoil(fault: Fault, severity: float, setup: Setup) -> None:
    fault.apply(setup, severity)


@functools.cache
def _example(build: Build) -> Setup:
    return build(0)


def fitting(fault: Fault, runs: Runs, names: Sequence[str], impossible: set[Pair]) -> list[Pair]:
    """Architectures and optimizers that an operator can be done to, from one that its name decides on."""
    pairs = [
        (name, optimizer)
        for name in names
        for optimizer, build in runs[name].items()
        if (fault.name, name) not in impossible and fault.fits(_example(build))
    ]
    offset = zlib.crc32(fault.name.encode()) % max(len(pairs), 1)
    return pairs[offset:] + pairs[:offset]


def of_different(pairs: Sequence[Pair], number: int) -> list[Pair]:
    """The first so many pairs of different architectures."""
    found: dict[str, Pair] = {}
    for pair in pairs:
        if len(found) < number:
            found.setdefault(pair[0], pair)
    return list(found.values())


class Suite(NamedTuple):
    """All of a suite whose runs each come once for a seed; operators go to so many architectures each."""

    part: str
    runs: Runs
    changes: Mapping[str, tuple[Callable[[Setup], None], Sequence[str]]]
    made: Mapping[str, Build]
    faults: Sequence[Fault]
    impossible: set[Pair]
    num_places: int = 1

    def plan(self, sound: Sequence[int], spoiled: Sequence[int]) -> Iterator[Run]:
        """Name of each run and what builds it, seed by seed: all sound runs first, then the faulty ones."""
        for number, seed in enumerate(sound):
            yield from healthy(self.part, self.runs, tuple(self.runs), (seed,))
            yield from negatives(self.part, self.runs, self.changes, self.made, seed, number)
        places = [
            (fault, fitting(fault, self.runs, tuple(self.runs), self.impossible)) for fault in self.faults
        ]
        for seed in spoiled:
            for fault, pairs in places:
                for pair in of_different(pairs, self.num_places):
                    yield faulty(self.part, self.runs, fault, pair, fault.severities[0], seed)
