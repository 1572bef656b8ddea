"""Which runs the fifth suite is made of. It was written without a look at the rules, and is looked at once."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import faults as known
import planning
from fourth import faults as fourth_faults
from planning import Pair, Run
from third import faults as third_faults
from unseen import faults as unseen_faults

from fifth.negatives import CHANGES, MADE
from fifth.runs import NAMES, RUNS

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
    yield from planning.healthy(PART, RUNS, NAMES, (seed,))
    yield from planning.negatives(PART, RUNS, CHANGES, MADE, seed, number)


def _faulty(seed: int) -> Iterator[Run]:
    for fault, pair in groups():
        yield planning.faulty(PART, RUNS, fault, pair, fault.severities[0], seed)


@functools.cache
def groups() -> tuple[tuple[known.Fault, Pair], ...]:
    """Operator and pair of each faulty group: a fixed pair for each operator that fits somewhere."""
    fitting = {fault: planning.fitting(fault, RUNS, NAMES, _IMPOSSIBLE) for fault in FAULTS}
    return tuple((fault, pairs[0]) for fault, pairs in fitting.items() if pairs)
