"""Which runs the ninth suite is made of. It was written without a look at the rules, and is looked at once."""

from __future__ import annotations

from collections.abc import Iterator

import faults as known
from fourth import faults as fourth_faults
from planning import Run, Suite
from sixth import faults as sixth_faults
from third import faults as third_faults
from unseen import faults as unseen_faults

from ninth.faults import FAULTS as NEW
from ninth.negatives import CHANGES, MADE
from ninth.runs import RUNS

PART = "ninth"
SOUND, SPOILED = range(100_000, 100_006), range(101_000, 101_003)
FAULTS = (
    *known.FAULTS,
    *unseen_faults.FAULTS,
    *third_faults.FAULTS,
    *fourth_faults.FAULTS,
    *sixth_faults.FAULTS,
    *NEW,
)
# operator -> architectures where it cannot work, or does next to nothing
_NOWHERE: dict[str, tuple[str, ...]] = {
    # what stays of it learns the task nearly as well, or there is no layer to cut
    "detached": ("films", "climates", "crops"),
    "no_grad_part": ("climates", "crops"),
    "rounded": ("climates", "crops"),
    "dropped_inputs": ("climates",),
    # a norm takes back what was done
    "inputs_large": ("vintages", "arrows", "beats"),
    "inputs_small": ("vintages", "arrows", "beats"),
    "not_centered": ("vintages", "arrows", "beats"),
    "inputs_as_bytes": ("vintages", "arrows", "beats"),
    "val_other_scale": ("beats",),
    "small_weights": ("vintages", "arrows", "beats", "parts_of_speech", "melodies"),
    "large_weights": ("arrows", "beats"),
    "positive_init": ("vintages", "arrows", "beats"),
    "steep": ("vintages", "arrows", "beats", "roads"),
    # so does an output of length one
    "decay_decoupled": ("crops",),
    "norm_penalty": ("crops", "writers"),
    "l1_penalty": ("crops", "writers"),
    "weights_clamped": ("crops", "writers"),
    "dropout_always": ("crops",),
    # so easy that a few rows are enough
    "leaky_feature": ("vintages",),
    # so does a clip
    "first_batch_huge": ("loads", "surnames", "parts_of_speech", "melodies"),
    # all rows come in each step, or none repeats: order, size and number of batches say nothing there
    "same_batch": ("villages", "vintages"),
    "cycled": ("villages", "vintages"),
    "sorted_classes": ("villages",),
    "few_samples": ("villages", "vintages"),
    "labels_shifted": ("villages",),
    # rows of ids are no readings, and answers for each place no classes of a row
    "wild_feature": ("films",),
    "sum_of_rows": ("films",),
    "majority_only": ("parts_of_speech", "melodies"),
    "ignored_class": ("parts_of_speech", "melodies"),
    "labels_confused": ("parts_of_speech", "melodies"),
    "sigmoid_layer": ("parts_of_speech", "melodies"),
    "tokens_zero": ("films",),
    # no order to lose, or none that matters
    "view_not_permute": ("pilot", "bottles"),
    "columns_constant": ("pilot",),
    "blurred": ("pilot", "bottles", "beats", "spectra", "arrows", "loads", "baskets"),
    "rare_feature": ("films",),
    # too many answers
    "target_encoded": ("spectra", "loads"),
    "decay_sign": ("films",),
    "embedding_small": ("villages",),
    "unknown_words": ("villages",),
}
_IMPOSSIBLE = {(operator, name) for operator, names in _NOWHERE.items() for name in names}


def plan() -> Iterator[Run]:
    """See `planning.Suite.plan`."""
    yield from Suite(PART, RUNS, CHANGES, MADE, FAULTS, _IMPOSSIBLE).plan(SOUND, SPOILED)
