"""The runs of the twelfth suite. It was written without a look at the rules, and is looked at once."""

from __future__ import annotations

from collections.abc import Iterator

import faults as known
from fourth import faults as fourth_faults
from ninth import faults as ninth_faults
from planning import Run, Suite
from sixth import faults as sixth_faults
from third import faults as third_faults
from unseen import faults as unseen_faults

from twelfth.faults import FAULTS as NEW
from twelfth.negatives import CHANGES, MADE
from twelfth.runs import RUNS

PART = "twelfth"
SOUND, SPOILED = range(130_000, 130_006), range(131_000, 131_003)
FAULTS = (
    *known.FAULTS,
    *unseen_faults.FAULTS,
    *third_faults.FAULTS,
    *fourth_faults.FAULTS,
    *sixth_faults.FAULTS,
    *ninth_faults.FAULTS,
    *NEW,
)
# batch norms behind the first filters
_NORMED = ("stones", "gauges")
_PLACES = ("verses", "chants")
# operator -> architectures where it cannot work, or does next to nothing
_NOWHERE: dict[str, tuple[str, ...]] = {
    # what stays of it learns the task nearly as well, or there is no layer to cut
    "detached": ("shops", "rooms", "recipes"),
    "no_grad_part": ("rooms", "recipes", "shops"),
    "rounded": ("rooms", "recipes", "shops"),
    "dropped_inputs": ("rooms", "recipes"),
    # layers whose functions are taken from within, and never called as modules
    "dropout_always": ("recipes",),
    "half_activations": ("recipes",),
    "forward_overflows": ("recipes",),
    # a norm takes back what was done
    "inputs_large": (*_NORMED, "donors"),
    "inputs_small": (*_NORMED, "donors"),
    "not_centered": (*_NORMED, "donors"),
    "inputs_as_bytes": (*_NORMED, "donors"),
    "small_weights": (*_NORMED, "donors", "recipes", "verses"),
    "large_weights": (*_NORMED, "donors"),
    "positive_init": (*_NORMED, "donors"),
    "steep": (*_NORMED, "donors", "lakes"),
    # so does an output of length one
    "norm_penalty": ("voices",),
    "l1_penalty": ("voices",),
    "weights_clamped": ("voices",),
    # so does a clip
    "first_batch_huge": ("gestures", "rivers", "verses"),
    "accumulated_sum": ("chants",),
    "sum_of_rows": ("chants",),
    # all rows come in each step: order, size and number of batches say nothing there
    "same_batch": ("papers",),
    "cycled": ("papers",),
    "sorted_classes": ("papers",),
    "few_samples": ("papers",),
    "labels_shifted": ("papers",),
    "targets_of_next": ("papers",),
    "label_of_last": ("papers",),
    "val_by_class": ("papers",),
    # nor is it validated more than twice
    "best_is_worst": ("papers",),
    # rows of ids are no words
    "tokens_zero": ("shops",),
    "embedding_small": ("papers",),
    "unknown_words": ("papers",),
    "rows_cut_short": ("papers",),
    # an answer for each place is no class of a row
    "majority_only": _PLACES,
    "ignored_class": _PLACES,
    "labels_confused": _PLACES,
    "sigmoid_layer": _PLACES,
    # no order to lose, or none that matters
    "columns_reordered": ("clouds",),
    "features_shuffled": ("clouds",),
    "view_not_permute": ("gauges", "knots"),
    "flips": ("stones",),
    "blurred": ("drones", "gestures", "clouds", "rivers", "gauges", "genes"),
    "columns_constant": ("clouds", "gestures", "rivers", "drones"),
    # too many answers
    "target_encoded": ("genes", "drones", "rivers"),
    "activations_gone": ("drones", "genes"),
}
_IMPOSSIBLE = {(operator, name) for operator, names in _NOWHERE.items() for name in names}


def plan() -> Iterator[Run]:
    """See `planning.Suite.plan`."""
    yield from Suite(PART, RUNS, CHANGES, MADE, FAULTS, _IMPOSSIBLE).plan(SOUND, SPOILED)
