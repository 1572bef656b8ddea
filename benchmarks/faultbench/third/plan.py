"""Which runs the third suite is made of. It was written without a look at the rules, and is looked at once."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import faults
import planning
from planning import Pair, Run
from unseen import faults as unseen_faults

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
    yield from planning.healthy(part, RUNS, NAMES, [first + s for s in seeds])
    for number in seeds:
        yield from planning.negatives(part, RUNS, CHANGES, MADE, first + 200 + number, number)


def _faulty(seed: int) -> Iterator[Run]:
    for fault, pair, severity in groups():
        yield planning.faulty(PART, RUNS, fault, pair, severity, seed)


@functools.cache
def groups() -> tuple[tuple[faults.Fault, Pair, float], ...]:
    """Operator, pair and severity of each faulty group."""
    found = []
    for fault in third_faults.FAULTS:
        for pair in chosen(fault, NUM_NEW):
            found += [(fault, pair, severity) for severity in fault.severities]
    for index, fault in enumerate((*unseen_faults.FAULTS, *faults.FAULTS)):
        for pair in chosen(fault, NUM_KNOWN):
            # the first severity of one operator and the last of the next, to save time
            found.append((fault, pair, fault.severities[-1 if index % 2 else 0]))
    return tuple(found)


def chosen(fault: faults.Fault, number: int) -> list[Pair]:
    """A fixed choice per operator, so that all architectures get their share."""
    pairs = planning.fitting(fault, RUNS, NAMES, _IMPOSSIBLE)
    return planning.of_different(pairs, number)
