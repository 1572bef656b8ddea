"""Which runs the tenth suite is made of: sound ones only, written without a look at the rules."""

from __future__ import annotations

from collections.abc import Iterator

from planning import Run, Suite

from tenth import (
    judged_habits,
    judged_pictures,
    judged_practice,
    judged_sequences,
    judged_tables,
    judged_worlds,
    kinds_learning,
    kinds_losses,
    kinds_nets,
    kinds_ordinary,
    kinds_worlds,
)

PART, FIRST, NUM_SOUND = "tenth", 110_000, 5
RUNS = {**judged_tables.RUNS, **judged_pictures.RUNS, **judged_sequences.RUNS, **judged_worlds.RUNS}
MADE = {
    **judged_habits.MADE,
    **judged_practice.MADE,
    **kinds_nets.MADE,
    **kinds_losses.MADE,
    **kinds_learning.MADE,
    **kinds_worlds.MADE,
    **kinds_ordinary.MADE,
}


def plan() -> Iterator[Run]:
    """See `planning.Suite.plan`."""
    yield from Suite(PART, RUNS, {}, MADE, (), set()).plan(range(FIRST, FIRST + NUM_SOUND), ())
