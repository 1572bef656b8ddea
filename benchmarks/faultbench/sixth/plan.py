"""Which runs the sixth suite is made of. It was written without a look at the rules, and is looked at once."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import faults as known
import planning
from fourth import faults as fourth_faults
from planning import Pair, Run
from third import faults as third_faults
from unseen import faults as unseen_faults

from sixth import faults
from sixth.negatives import CHANGES, MADE
from sixth.runs import NAMES, RUNS

PART, FIRST, FIRST_FAULTY = "sixth", 70_000, 71_000
NUM_SOUND, NUM_FAULTY = 10, 4
FAULTS = (
    *known.FAULTS,
    *unseen_faults.FAULTS,
    *third_faults.FAULTS,
    *fourth_faults.FAULTS,
    *faults.FAULTS,
)
# operator -> architectures where it cannot work, or does next to nothing
_NOWHERE: dict[str, tuple[str, ...]] = {
    # a graph that is cut has no slope to learn from; the attention's last layer is never called as a module
    "detached": ("springs", "dates"),
    "no_grad_part": ("springs",),
    "rounded": ("dates",),
    "dropped_inputs": ("dates",),
    "dropout_always": ("dates",),
    "half_activations": ("dates",),
    "forward_overflows": ("dates",),
    # weights that are made of two parameters cannot be set, and nothing has no direction
    "zero_weights": ("bearings",),
    "copied_units": ("bearings",),
    "zeros_in_two": ("bearings",),
    "norm_late": ("bearings",),
    # a norm takes back what was done
    "inputs_large": ("turned", "churn", "tumors"),
    "inputs_small": ("turned", "churn", "tumors"),
    "not_centered": ("churn", "tumors"),
    "val_other_scale": ("tumors",),
    "small_weights": ("turned", "churn"),
    # so does a clip
    "first_batch_huge": ("molecules", "steering", "arrivals", "slides"),
    "accumulated_sum": ("slides",),
    "sum_of_rows": ("slides",),
    # too many targets, or too few columns
    "target_encoded": ("field", "springs", "tumors"),
    "blurred": ("field", "springs"),
    "columns_constant": ("field",),
    "columns_reordered": ("field",),
}
_IMPOSSIBLE = {(operator, name) for operator, names in _NOWHERE.items() for name in names}


def plan() -> Iterator[Run]:
    """Name of each run and what builds it, seed by seed: all sound runs first, then the faulty ones."""
    for number in range(NUM_SOUND):
        yield from _sound(FIRST + number, number)
    for number in range(NUM_FAULTY):
        yield from _faulty(FIRST_FAULTY + number)


def _sound(seed: int, number: int) -> Iterator[Run]:
    yield from planning.healthy(PART, RUNS, NAMES, (seed,))
    yield from planning.negatives(PART, RUNS, CHANGES, MADE, seed, number)


def _faulty(seed: int) -> Iterator[Run]:
    for fault, pair in groups():
        yield planning.faulty(PART, RUNS, fault, pair, fault.severities[0], seed)


@functools.cache
def groups() -> tuple[tuple[known.Fault, Pair], ...]:
    """Operator and pair of each faulty group: a fixed pair for each operator that fits somewhere."""
    fitting = {fault: planning.fitting(fault, RUNS, NAMES, _IMPOSSIBLE) for fault in FAULTS}
    return tuple((fault, pairs[0]) for fault, pairs in fitting.items() if pairs)
