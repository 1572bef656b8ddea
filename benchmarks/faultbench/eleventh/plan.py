"""Which runs the eleventh suite is made of: sound ones only, written without a look at the rules."""

from __future__ import annotations

from collections.abc import Iterator

from planning import Run, Suite

from eleventh import (
    hard_loops,
    hard_losses,
    hard_weights,
    healthy_pictures,
    healthy_sequences,
    healthy_tables,
    healthy_worlds,
)

PART, FIRST, NUM_SOUND = "eleventh", 120_000, 4
_MADE = {
    **healthy_tables.MADE,
    **healthy_pictures.MADE,
    **healthy_sequences.MADE,
    **healthy_worlds.MADE,
    **hard_losses.MADE,
    **hard_weights.MADE,
    **hard_loops.MADE,
}
# Its last version was never trained by its author
MADE = {name: build for name, build in _MADE.items() if name != "keywords"}


def plan() -> Iterator[Run]:
    """See `planning.Suite.plan`."""
    yield from Suite(PART, {}, {}, MADE, (), set()).plan(range(FIRST, FIRST + NUM_SOUND), ())
