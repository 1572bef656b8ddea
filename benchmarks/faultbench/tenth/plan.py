"""Which runs the tenth suite is made of: sound ones only, written without a look at the rules."""

from __future__ import annotations

from collections.abc import Iterator

from planning import Run, Suite

from tenth import kinds_learning, kinds_losses, kinds_nets, kinds_ordinary, kinds_worlds

PART, FIRST, NUM_SOUND = "tenth", 110_000, 5
ALL = {
    **kinds_nets.MADE,
    **kinds_losses.MADE,
    **kinds_learning.MADE,
    **kinds_worlds.MADE,
    **kinds_ordinary.MADE,
}
# Those that were trained and looked at; the others wait for that
SEEN = (
    *("mixer", "waves", "edges", "balance", "chosen_ways"),
    *("flooded", "evidence", "upper_mean", "own_tails", "noisy_twins", "mined"),
    *("evolved", "feedback", "local_heads", "private", "on_a_sphere"),
    *("rounded", "nested", "arm", "told_apart"),
    *("loans", "plain_digits", "plain_filters", "plain_line", "plain_wide", "plain_code", "plain_groups"),
    *("leveled", "answers", "pieces"),
)
MADE = {name: ALL[name] for name in SEEN}
WAITING = {name: build for name, build in ALL.items() if name not in SEEN}


def plan() -> Iterator[Run]:
    """See `planning.Suite.plan`."""
    yield from Suite(PART, {}, {}, MADE, (), set()).plan(range(FIRST, FIRST + NUM_SOUND), ())
