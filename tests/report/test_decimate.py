from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from trimtab.report.decimate import envelope, spans

NAN, INF = float("nan"), float("inf")
VALUES = hnp.arrays(
    np.float64, st.integers(0, 400), elements=st.floats(-1e300, 1e300) | st.sampled_from([NAN, INF, -INF])
)


@settings(max_examples=150, deadline=None)
@given(values=VALUES, num_buckets=st.integers(1, 40))
def test_extremes_survive_and_nothing_is_invented(values, num_buckets):
    x, y = envelope(np.arange(len(values)), values, num_buckets)
    finite, kept = values[np.isfinite(values)], y[np.isfinite(y)]
    assert len(y) <= max(3 * num_buckets, 3)
    assert np.all(np.diff(x) >= 0)
    if len(finite):
        assert kept.min() == finite.min()
        assert kept.max() == finite.max()
    for place, value in zip(x[np.isfinite(y)], kept, strict=True):
        assert values[int(place)] == value


@settings(max_examples=100, deadline=None)
@given(values=VALUES, num_buckets=st.integers(1, 40))
def test_the_line_breaks_where_something_was_not_finite(values, num_buckets):
    _, y = envelope(np.arange(len(values)), values, num_buckets)
    assert np.isnan(y).any() == (~np.isfinite(values)).any()


def test_a_spike_in_a_million_survives():
    values = np.ones(1_000_000)
    values[654_321], values[123_456] = 99.0, NAN
    x, y = envelope(np.arange(1_000_000), values)
    assert len(y) < 2500
    assert y[x == 654_321].tolist() == [99.0]
    assert np.isnan(y).sum() == 1


def test_spans_merge_neighbors_and_keep_single_steps_visible():
    step = np.arange(1000)
    marked = np.zeros(1000, dtype=bool)
    marked[[10, 11, 12, 500]] = True
    found = spans(step, marked, num_slots=100)
    assert len(found) == 2
    assert found[0][0] < 10
    assert found[0][0] + found[0][1] > 12
    assert found[1][1] >= 9.99
    assert spans(step, np.zeros(1000, dtype=bool)) == ()


@settings(max_examples=100, deadline=None)
@given(rows=st.sets(st.integers(0, 2000), min_size=1, max_size=60))
def test_every_marked_step_lies_in_a_span_and_spans_are_few(rows):
    step = np.arange(2001)
    marked = np.isin(step, list(rows))
    found = spans(step, marked, num_slots=50)
    assert len(found) <= 51
    for row in rows:
        assert any(start <= row <= start + width for start, width in found)
