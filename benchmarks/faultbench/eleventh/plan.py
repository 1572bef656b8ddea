"""Which runs the eleventh suite is made of: sound ones only, written without a look at the rules."""

from __future__ import annotations

from collections.abc import Iterator

from planning import Run, Suite

from eleventh import hard_loops, hard_losses, hard_weights

PART, FIRST, NUM_SOUND = "eleventh", 120_000, 4
MADE = {**hard_losses.MADE, **hard_weights.MADE, **hard_loops.MADE}


def plan() -> Iterator[Run]:
    """See `planning.Suite.plan`."""
    yield from Suite(PART, {}, {}, MADE, (), set()).plan(range(FIRST, FIRST + NUM_SOUND), ())
