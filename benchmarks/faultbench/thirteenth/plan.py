"""The runs of the thirteenth suite. It was written without a look at the rules, and is looked at once."""

from __future__ import annotations

from collections.abc import Iterator

import faults as known
from planning import Run, Suite
from twelfth import faults as twelfth_faults

from thirteenth import records, records_negatives, shapes, shapes_negatives
from thirteenth.faults import FAULTS as NEW

PART = "thirteenth"
SOUND, SPOILED = range(140_000, 140_006), range(141_000, 141_003)
RUNS = {**records.RUNS, **shapes.RUNS}
CHANGES = {**records_negatives.CHANGES, **shapes_negatives.CHANGES}
MADE = {**records_negatives.MADE, **shapes_negatives.MADE}
FAULTS = (*known.FAULTS, *twelfth_faults.FAULTS, *NEW)
# norms behind the first filters, and in nearly all places
_NORMED = ("glyphs", "bearings")
# a norm or a length of one takes back what is done to the size of weights, biases or inputs
_FREE = (*_NORMED, "defects", "cells", "fields", "views")
# operator -> architectures where it cannot work, or does next to nothing
_NOWHERE: dict[str, tuple[str, ...]] = {
    # a way around the layer that is cut off, or what is behind it, learns the task nearly as well
    "detached": ("defects", "cells", "haze", "moons", "meters", "compounds", "fields"),
    "inputs_large": (*_NORMED, "defects"),
    "inputs_small": (*_NORMED, "defects"),
    "small_weights": _FREE,
    "large_weights": _FREE,
    "dead_biases": ("defects",),
    "rank_one_init": _NORMED,
    "activity_penalty": _FREE,
    "decay_strong": ("views",),
    "norm_penalty": ("views",),
    "weights_clamped": ("views",),
    # filters along time are not replaced, and those upwards are not either
    "replaced_midway": ("bearings", "moons", "kiosks"),
    # its rows are in tables of vectors, and the batches are made elsewhere
    "tiny_batch": ("parcels",),
    # an answer for each pixel is no number of a row
    "summed_loss": ("cells",),
    # tiles look alike either way, and what comes out is a picture as well
    "axes_swapped": ("defects", "haze"),
}
_IMPOSSIBLE = {(operator, name) for operator, names in _NOWHERE.items() for name in names}


def plan() -> Iterator[Run]:
    """See `planning.Suite.plan`."""
    yield from Suite(PART, RUNS, CHANGES, MADE, FAULTS, _IMPOSSIBLE, num_places=2).plan(SOUND, SPOILED)
