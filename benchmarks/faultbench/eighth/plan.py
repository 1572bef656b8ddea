"""Which runs the eighth suite is made of: sound ones only, written without a look at the rules."""

from __future__ import annotations

from collections.abc import Iterator

from planning import Run, Suite

from eighth import habits_losses, habits_tuning, styles
from eighth.architectures import RUNS

PART, FIRST, NUM_SOUND = "eighth", 90_000, 5
MADE = {**styles.MADE, **habits_tuning.MADE, **habits_losses.MADE}


def plan() -> Iterator[Run]:
    """See `planning.Suite.plan`."""
    yield from Suite(PART, RUNS, {}, MADE, (), set()).plan(range(FIRST, FIRST + NUM_SOUND), ())
