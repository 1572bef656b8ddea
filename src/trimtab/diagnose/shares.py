"""A share of what a constant answer leaves, from looks at single batches."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from trimtab.diagnose.statistics import FloatArray, middle

# So many looks, the last third of them, say what a model explains
MIN_LATE = 4
# Of a first error so small a part may be left by a constant answer that is right for all
_NUM_FIRST, _NEXT_TO_NOTHING = 3, 1e-4


class Share(NamedTuple):
    """A share with its standard error; all nan if it is not known.

    Attributes:
        value: The share.
        error: Its standard error.
        best: The largest one of a single look.
    """

    value: float
    error: float
    best: float


def share_of(error: FloatArray, baseline: FloatArray) -> Share:
    """Share of a baseline that an error did away with, at the late looks."""
    first = error[np.isfinite(error)][:_NUM_FIRST]
    if len(first) and middle(baseline) < _NEXT_TO_NOTHING * float(np.median(first)):
        return Share(math.nan, math.nan, math.nan)  # one answer is right for all
    late = slice(-max(MIN_LATE, len(error) // 3), None)
    error, baseline = error[late], baseline[late]
    seen = np.isfinite(error) & np.isfinite(baseline)
    error, baseline = error[seen], baseline[seen]
    if len(error) < MIN_LATE or not baseline.sum() > 0:
        return Share(math.nan, math.nan, math.nan)
    # a ratio of sums: batches whose targets are all alike have no baseline of their own
    ratio = float(error.sum() / baseline.sum())
    rest = error - ratio * baseline
    uncertain = float(np.std(rest, ddof=1) / math.sqrt(len(rest)) / baseline.mean())
    with np.errstate(divide="ignore", invalid="ignore"):
        best = float(np.nanmax(np.where(baseline > 0, 1 - error / baseline, np.nan)))
    return Share(1 - ratio, uncertain, best)
