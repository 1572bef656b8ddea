"""Which runs the seventh suite is made of: sound ones only, written without a look at the rules."""

from __future__ import annotations

from collections.abc import Iterator

import planning
from planning import Run

from seventh.architectures import RUNS
from seventh.styles import MADE

PART, FIRST, NUM_SOUND = "seventh", 80_000, 5


def plan() -> Iterator[Run]:
    """Name of each run and what builds it, seed by seed."""
    for number in range(NUM_SOUND):
        seed = FIRST + number
        yield from planning.healthy(PART, RUNS, tuple(RUNS), (seed,))
        yield from planning.negatives(PART, RUNS, {}, MADE, seed, number)
