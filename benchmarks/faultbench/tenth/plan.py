"""Which runs the tenth suite is made of: sound ones only, written without a look at the rules."""

from __future__ import annotations

from collections.abc import Iterator

from planning import Run, Suite

from tenth import kinds_learning, kinds_losses, kinds_nets, kinds_ordinary, kinds_worlds

PART, FIRST, NUM_SOUND = "tenth", 110_000, 5
MADE = {
    **kinds_nets.MADE,
    **kinds_losses.MADE,
    **kinds_learning.MADE,
    **kinds_worlds.MADE,
    **kinds_ordinary.MADE,
}


def plan() -> Iterator[Run]:
    """See `planning.Suite.plan`."""
    yield from Suite(PART, {}, {}, MADE, (), set()).plan(range(FIRST, FIRST + NUM_SOUND), ())
