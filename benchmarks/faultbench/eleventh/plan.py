"""Which of the eleventh suite's runs are sound as an outside judge would take them."""

from __future__ import annotations

from collections.abc import Iterator

from planning import Run, Suite

from eleventh import healthy_pictures, healthy_sequences, healthy_tables, healthy_worlds

PART, FIRST, NUM_SOUND = "eleventh", 120_000, 4
MADE = {
    **healthy_tables.MADE,
    **healthy_pictures.MADE,
    **healthy_sequences.MADE,
    **healthy_worlds.MADE,
}


def plan() -> Iterator[Run]:
    """See `planning.Suite.plan`."""
    yield from Suite(PART, {}, {}, MADE, (), set()).plan(range(FIRST, FIRST + NUM_SOUND), ())
