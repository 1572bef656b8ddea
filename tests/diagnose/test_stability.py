"""The monitor by hand: what it must say, what it must not, and the mean that includes itself."""

from __future__ import annotations

import math
from statistics import mean

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import trimtab as tt
from trimtab.diagnose import LossTrend, StabilityIssue, StabilityStatus, StabilityUpdate


def monitor_of(losses, **options) -> tt.TrainingStabilityMonitor:
    monitor = tt.TrainingStabilityMonitor(None, **options)
    for loss in losses:
        monitor.update(loss)
    return monitor


def issues(losses) -> set[StabilityIssue | None]:
    monitor = tt.TrainingStabilityMonitor(None)
    return {monitor.update(loss).issue for loss in losses}


def curve(seed: int, *, sigma: float = 0.2, num: int = 600) -> np.ndarray:
    noise = np.exp(sigma * np.random.default_rng(seed).normal(size=num))
    return (2.0 * np.exp(-np.arange(num) / 200) + 0.2) * noise


@pytest.mark.parametrize("sigma", [0.0, 0.05, 0.2])
def test_a_healthy_run_is_stable(sigma):
    for seed in range(8):
        assert issues(curve(seed, sigma=sigma)) == {None}
        assert issues(curve(seed, sigma=sigma) - 5.0) == {None}  # a likelihood may be negative


def test_the_documented_rule_could_not_see_what_this_one_does():
    past, spike = [1.0] * 9, 1e9
    assert spike < 100 * mean([*past, spike])  # ten values: their mean holds a tenth of each of them
    monitor = monitor_of([1.0] * 30)
    assert monitor.update(3.0).issue == "loss_spike"


def test_spikes_do_not_hide_each_other_and_the_third_is_an_explosion():
    monitor = monitor_of(curve(0))
    told = [monitor.update(50.0) for _ in range(4)]
    assert [t.issue for t in told] == ["loss_spike", "loss_spike", "loss_explosion", "loss_explosion"]
    assert [t.status for t in told[1:3]] == [StabilityStatus.WARNING, StabilityStatus.CRITICAL]
    assert "times the median of the 128 before" in told[0].reason
    assert monitor.get_summary().loss_explosions == 4


def test_it_says_stop_after_patience_bad_updates_in_a_row_and_not_before():
    monitor = monitor_of([1.0] * 30, patience=3)
    for value in (math.nan, math.inf, 1.0, math.nan):
        monitor.update(value)
    assert not monitor.should_stop
    monitor.update(1.0, gradients_ok=False)
    monitor.update(100.0)
    assert monitor.should_stop
    monitor.update(1.0)
    assert monitor.should_stop
    summary = monitor.get_summary()
    assert (summary.total_steps, summary.nan_count, summary.gradient_explosions) == (37, 3, 1)
    assert summary.should_stop


def test_a_level_that_stays_is_learned_once_it_was_told():
    monitor = monitor_of([1.0] * 100, patience=10)
    told = [monitor.update(40.0 + step % 3).issue for step in range(60)]
    assert told[:10] == ["loss_spike"] * 2 + ["loss_explosion"] * 8
    assert set(told[10:]) == {None}


def test_a_slow_drift_is_divergence():
    healthy = curve(1, num=300)
    drift = curve(1, num=600)[300:] * np.geomspace(1, 8, 300)
    monitor = monitor_of(healthy)
    told = [monitor.update(loss) for loss in drift]
    assert told[-1].issue == StabilityIssue.DIVERGENCE
    assert told[-1].status == StabilityStatus.WARNING
    assert not monitor.should_stop  # the one who watches decides
    assert monitor.get_summary().loss_trend is LossTrend.RISING


def test_trends():
    assert monitor_of(curve(0)).get_summary().loss_trend is LossTrend.FALLING
    flat = 1.0 + 0.1 * np.random.default_rng(0).normal(size=400)
    assert monitor_of(flat).get_summary().loss_trend is LossTrend.FLAT
    assert monitor_of(flat[:50]).get_summary().loss_trend is LossTrend.UNKNOWN
    assert monitor_of(-np.arange(300.0)).get_summary().loss_trend is LossTrend.FALLING


def test_a_nan_loss_names_the_parameter_that_is_one():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    monitor = tt.TrainingStabilityMonitor(model)
    assert monitor.update(torch.tensor(math.nan)).reason == "the loss is nan"
    with torch.no_grad():
        model[1].weight[0, 0] = math.inf
    assert "1.weight of the model" in monitor.update(math.nan).reason


def test_every_issue_has_a_recovery():
    monitor = tt.TrainingStabilityMonitor(None)
    for issue in StabilityIssue:
        assert monitor.suggest_recovery(issue)
        assert monitor.suggest_recovery(issue.value) == monitor.suggest_recovery(issue)
    with pytest.raises(ValueError, match=r"suggest_recovery\('fire'\): expected one of 'nan_loss'"):
        monitor.suggest_recovery("fire")


@pytest.mark.parametrize("patience", [0, -1, 2.5])
def test_patience_is_a_whole_number(patience):
    with pytest.raises(ValueError, match="patience"):
        tt.TrainingStabilityMonitor(None, patience=patience)


@given(st.lists(st.floats(width=32), max_size=150), st.integers(1, 20))
@settings(max_examples=60, deadline=None)
def test_any_numbers_are_counted_and_none_breaks_it(losses, patience):
    monitor = tt.TrainingStabilityMonitor(None, patience=patience)
    told = [monitor.update(loss) for loss in losses]
    assert all(
        isinstance(each, StabilityUpdate) and bool(each.reason) == (each.issue is not None) for each in told
    )
    summary = monitor.get_summary()
    assert summary.total_steps == len(losses)
    assert summary.nan_count == sum(not math.isfinite(loss) for loss in losses)
    bad = [each.issue not in (None, StabilityIssue.DIVERGENCE) for each in told]
    runs = "".join("x" if each else " " for each in bad).split()
    assert summary.should_stop == (max(map(len, runs), default=0) >= patience)


@given(st.floats(0.01, 1e6), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_the_unit_of_a_positive_loss_does_not_matter(unit, seed):
    losses = curve(seed, num=120)
    losses[100:] *= np.where(np.arange(20) % 7 == 0, 30.0, 1.0)
    plain, scaled = tt.TrainingStabilityMonitor(None), tt.TrainingStabilityMonitor(None)
    assert [plain.update(x).issue for x in losses] == [scaled.update(unit * x).issue for x in losses]
