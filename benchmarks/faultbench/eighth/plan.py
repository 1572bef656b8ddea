"""Which runs the eighth suite is made of by style and habit: sound ones only."""

from __future__ import annotations

from collections.abc import Iterator

from planning import Run, Suite

from eighth import habits_losses, habits_tuning, styles

PART, FIRST, NUM_SOUND = "eighth", 90_000, 5
MADE = {**styles.MADE, **habits_tuning.MADE, **habits_losses.MADE}


def plan() -> Iterator[Run]:
    """See `planning.Suite.plan`."""
    yield from Suite(PART, {}, {}, MADE, (), set()).plan(range(FIRST, FIRST + NUM_SOUND), ())
