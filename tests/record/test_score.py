from __future__ import annotations

import math
from statistics import fmean, stdev

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.record import RunLog, spike_score

VALUES = st.lists(
    st.one_of(st.integers(0, 100).map(float), st.just(math.nan), st.just(math.inf)), max_size=60
)


def reference(values, window, z):
    """The rule by list surgery."""
    past, found = [], []
    for value in values:
        last = past[-window:]
        is_known = len(last) == window and math.isfinite(value)
        found.append(is_known and value > fmean(last) + z * stdev(last))
        if math.isfinite(value):
            past.append(value)
    return found


@given(losses=VALUES, window=st.integers(2, 9), z=st.sampled_from([0.5123, 2.0317, 6.07]))
@settings(max_examples=100, deadline=None)
def test_it_is_the_published_rule_on_either_series(losses, window, z):
    norms = losses[::-1]
    score = spike_score(RunLog.from_arrays(loss=losses, grad_norm=norms), window=window, z=z)
    either = [a or b for a, b in zip(reference(losses, window, z), reference(norms, window, z), strict=True)]
    assert score.is_spike.tolist() == either
    assert score.total == score.recent == (np.mean(either) if either else 0.0)


def test_long_runs_are_judged_in_blocks_and_lately_is_told_from_in_total():
    rng = np.random.default_rng(0)
    losses = rng.normal(2.0, 0.1, 40_000)
    losses[[500, 20_000, 39_000]] = 50.0
    score = spike_score(RunLog.from_arrays(loss=losses))
    assert score.is_spike.nonzero()[0].tolist() == [500, 20_000, 39_000]
    assert (score.total, score.recent) == (3 / 40_000, 1 / 10_000)


@pytest.mark.parametrize("arguments", [{"window": 1}, {"window": 2.5}, {"z": 0.0}, {"z": math.nan}], ids=str)
def test_wrong_arguments_are_refused(arguments):
    with pytest.raises(ValueError, match="spike_score"):
        spike_score(RunLog.from_arrays(loss=[1.0]), **arguments)
