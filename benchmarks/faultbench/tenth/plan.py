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
# Three times their rate ends a fifth better or more, validation rises, or they have hardly begun
_DOUBTFUL = (
    *(
        "edges",
        "surgery",
        "shut_gates",
        "nested",
        "spots",
        "grouped",
        "longer_rows",
        "waves",
        "relaxed_order",
    ),
    *("federated", "arm", "bounded_ratio", "linked", "normless"),
)
_RUNS = {**judged_tables.RUNS, **judged_pictures.RUNS, **judged_sequences.RUNS, **judged_worlds.RUNS}
_MADE = {
    **judged_habits.MADE,
    **judged_practice.MADE,
    **kinds_nets.MADE,
    **kinds_losses.MADE,
    **kinds_learning.MADE,
    **kinds_worlds.MADE,
    **kinds_ordinary.MADE,
}
RUNS = {name: runs for name, runs in _RUNS.items() if name not in _DOUBTFUL}
MADE = {name: build for name, build in _MADE.items() if name not in _DOUBTFUL}


def plan() -> Iterator[Run]:
    """See `planning.Suite.plan`."""
    yield from Suite(PART, RUNS, {}, MADE, (), set()).plan(range(FIRST, FIRST + NUM_SOUND), ())
