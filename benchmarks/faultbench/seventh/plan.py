"""Which runs the seventh suite is made of: sound ones only, written without a look at the rules."""

from __future__ import annotations

from collections.abc import Iterator

from planning import Run, Suite

from seventh.architectures import RUNS
from seventh.styles import MADE

PART, FIRST, NUM_SOUND = "seventh", 80_000, 5


def plan() -> Iterator[Run]:
    """See `planning.Suite.plan`."""
    yield from Suite(PART, RUNS, {}, MADE, (), set()).plan(range(FIRST, FIRST + NUM_SOUND), ())
