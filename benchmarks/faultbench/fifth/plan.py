"""Which runs the fifth suite is made of. It was written without a look at the rules, and is looked at once."""

from __future__ import annotations

from collections.abc import Iterator

import faults as known
from fourth import faults as fourth_faults
from planning import Run, Suite
from third import faults as third_faults
from unseen import faults as unseen_faults

from fifth.negatives import CHANGES, MADE
from fifth.runs import RUNS

PART, FIRST, FIRST_FAULTY = "fifth", 60_000, 61_000
NUM_SOUND, NUM_FAULTY = 10, 4
FAULTS = (*known.FAULTS, *unseen_faults.FAULTS, *third_faults.FAULTS, *fourth_faults.FAULTS)
# (operator, architecture): places where an operator cannot work, or does next to nothing
_IMPOSSIBLE = {("target_encoded", "gated")}


def plan() -> Iterator[Run]:
    """See `planning.Suite.plan`."""
    suite = Suite(PART, RUNS, CHANGES, MADE, FAULTS, _IMPOSSIBLE)
    sound, spoiled = range(FIRST, FIRST + NUM_SOUND), range(FIRST_FAULTY, FIRST_FAULTY + NUM_FAULTY)
    yield from suite.plan(sound, spoiled)
