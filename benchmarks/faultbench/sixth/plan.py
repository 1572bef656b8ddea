"""Which runs the sixth suite is made of. It was written without a look at the rules, and is looked at once."""

from __future__ import annotations

from collections.abc import Iterator

import faults as known
from fourth import faults as fourth_faults
from planning import Run, Suite
from third import faults as third_faults
from unseen import faults as unseen_faults

from sixth import faults
from sixth.negatives import CHANGES, MADE
from sixth.runs import RUNS

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
    """See `planning.Suite.plan`."""
    suite = Suite(PART, RUNS, CHANGES, MADE, FAULTS, _IMPOSSIBLE)
    sound, spoiled = range(FIRST, FIRST + NUM_SOUND), range(FIRST_FAULTY, FIRST_FAULTY + NUM_FAULTY)
    yield from suite.plan(sound, spoiled)
