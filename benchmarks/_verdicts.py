"""What can be said of two ways to train after a few seeds, and what cannot."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev

# 95 % quantiles of Student's t by degrees of freedom
_T95 = (6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833)

# A loss within this share of the best one is as good as it
MARGIN = 0.01

Losses = Mapping[str, Sequence[float]]


def gap(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float]:
    """Mean of the paired differences, and its standard error."""
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    return fmean(differences), stdev(differences) / math.sqrt(len(differences))


def verdict(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """What the paired differences say, each way at 95 %.

    "better" if the mean difference is below zero, "as good" if it is below `MARGIN` of their loss, "worse"
    if it is above zero and not as good; "undecided" if the seeds are too few to say any of it.
    """
    mean, error = gap(ours, theirs)
    reach = _T95[min(len(ours) - 2, len(_T95) - 1)] * error
    if mean + reach < 0:
        return "better"
    if mean + reach <= MARGIN * fmean(theirs):
        return "as good"
    return "worse" if mean - reach > 0 else "undecided"


def best(losses: Losses) -> str:
    """The arm with the lowest mean."""
    return min(losses, key=lambda name: fmean(losses[name]))


def against_the_best(ours: Losses, theirs: Losses) -> str:
    """The best of ours against the best of theirs, as a sentence."""
    a, b = best(ours), best(theirs)
    mean, error = gap(ours[a], theirs[b])
    return (
        f"Best of {len(ours)} of ours: {a}, {fmean(ours[a]):.3f}. Best of {len(theirs)} of others: {b}, "
        f"{fmean(theirs[b]):.3f}. Difference {mean:+.3f} ± {error:.3f}: {verdict(ours[a], theirs[b])}."
    )


def overall(tables: Sequence[Losses]) -> dict[str, list[float]]:
    """For each arm in all tables and each seed, the mean over tables of its loss over the best mean there.

    1.05 says: 5 % above what was best, on average. One arm for all of them: no change of mind by table.
    """
    names = set(tables[0]).intersection(*tables[1:])
    bests = [fmean(table[best(table)]) for table in tables]
    return {
        name: [
            fmean(loss / least for loss, least in zip(of_seed, bests, strict=True))
            for of_seed in zip(*(table[name] for table in tables), strict=True)
        ]
        for name in tables[0]
        if name in names
    }
