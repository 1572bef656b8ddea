from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from trimtab.report.decimate import coarse_layers, envelope, spans

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


def test_coarse_layers_keep_the_worst_of_each_cell():
    data = np.ones((100, 50), dtype=np.float32)
    data[13, 7], data[55, 20], data[80, 40], data[90, 45] = NAN, INF, 77.0, -1.0
    norms = np.ma.array(data, mask=data == -1)
    largest, has_nan, has_inf, absent = coarse_layers(norms, 10, 5)
    assert largest.shape == (10, 5)
    assert has_nan.nonzero() == (np.array([1]), np.array([0]))
    assert has_inf.nonzero() == (np.array([5]), np.array([2]))
    assert largest[8, 4] == 77.0
    assert not absent.any()
    assert coarse_layers(norms, 1000, 1000)[3].nonzero() == (np.array([90]), np.array([45]))
