"""The statistics against SciPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from trimtab.diagnose.course import Course
from trimtab.diagnose.statistics import autocorrelation, blocks, rank_test, spread, trend


@given(
    st.lists(st.integers(0, 30), min_size=8, max_size=60),
    st.lists(st.integers(0, 30), min_size=8, max_size=60),
)
@settings(max_examples=60, deadline=None)
def test_rank_test_is_scipys(low, high):
    low, high = np.array(low, dtype=float), np.array(high, dtype=float)
    if len(set(low) | set(high)) == 1:
        assert rank_test(low, high) == 1.0
        return
    expected = stats.mannwhitneyu(high, low, alternative="greater", method="asymptotic").pvalue
    assert rank_test(low, high) == pytest.approx(expected, abs=1e-12)


@given(st.lists(st.floats(-100, 100), min_size=4, max_size=40))
@settings(max_examples=60, deadline=None)
def test_trend_is_theil_and_sens(values):
    values = np.array(values)
    expected = stats.theilslopes(values, np.arange(len(values)))
    found = trend(values)
    assert found.change == pytest.approx(expected[0] * (len(values) - 1), abs=1e-9)
    assert found.low <= found.change <= found.high


def test_interval_of_the_trend_covers_the_truth():
    rng = np.random.default_rng(0)
    hits = sum(
        t.low <= 1.0 <= t.high
        for t in (trend(np.linspace(0, 1, 20) + rng.normal(size=20)) for _ in range(400))
    )
    assert 0.92 <= hits / 400 <= 0.99


def test_spread_is_the_standard_deviation_of_a_normal_and_shrugs_at_outliers():
    values = np.random.default_rng(1).normal(3.0, 2.0, 20_000)
    assert spread(values) == pytest.approx(2.0, rel=0.03)
    values[:2000] = 1e9
    assert spread(values) < 3.0
    assert spread(np.zeros(0)) == 0.0


def test_noise_of_blocks_is_the_scatter_of_their_medians():
    rng = np.random.default_rng(2)
    found, real = [], []
    for _ in range(60):
        cut = blocks(np.linspace(5, 0, 400) + rng.normal(size=400), 20)
        found.append(cut.noise)
        real.append(np.std(cut.medians - np.linspace(4.875, 0.125, 20)))
    assert np.median(found) == pytest.approx(np.median(real), rel=0.3)


def test_autocorrelation():
    assert autocorrelation(np.tile([1.0, -1.0], 50), 1) == pytest.approx(-1, abs=0.02)
    assert abs(autocorrelation(np.random.default_rng(0).normal(size=4000), 1)) < 0.05
    assert autocorrelation(np.ones(10), 1) == 0.0


def test_the_course_of_a_loss_that_was_never_finite():
    course = Course(np.zeros(0, dtype=np.int64), np.zeros(0))
    assert all(math.isnan(number) for number in (course.start, course.early, course.end, course.mean_end))
