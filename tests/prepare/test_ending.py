from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import trimtab as tt
from trimtab.types import Kind, Place

NAN = float("nan")


def steps_until_stop(stopping, values):
    return next((i for i, value in enumerate(values) if stopping.update(value)), None)


def test_it_stops_after_patience_evaluations_without_progress():
    assert steps_until_stop(tt.EarlyStopping(3), [1.0, 0.9, 0.9, 0.95, 0.9, 0.1]) == 4
    assert steps_until_stop(tt.EarlyStopping(3), [1 / (i + 1) for i in range(100)]) is None
    assert steps_until_stop(tt.EarlyStopping(1, goal="max"), [0.1, 0.2, 0.15]) == 2


def test_progress_must_exceed_min_delta():
    stopping = tt.EarlyStopping(2, min_delta=0.1)
    assert steps_until_stop(stopping, [1.0, 0.95, 0.91]) == 2
    assert (stopping.best, stopping.best_step) == (1.0, 0)


def test_nan_and_infinity_are_never_best_and_count_against_the_patience():
    stopping = tt.EarlyStopping(3)
    assert steps_until_stop(stopping, [NAN, -math.inf, NAN]) == 2
    stopping = tt.EarlyStopping(3, window=3)
    assert steps_until_stop(stopping, [1.0, NAN, 0.5, math.inf, 0.4, 0.3]) is None
    assert stopping.best == 0.4


def test_with_a_window_one_lucky_evaluation_sets_no_mark():
    rng = np.random.default_rng(0)
    values = [1.0 - 0.01 * i + 0.02 * rng.standard_normal() for i in range(60)]
    values[5] = 0.3  # lucky: honest progress reaches it never
    assert steps_until_stop(tt.EarlyStopping(10), values) is not None
    assert steps_until_stop(tt.EarlyStopping(10, window=5), values) is None


@given(
    st.lists(st.floats(allow_nan=True, allow_infinity=True, width=32), min_size=1, max_size=40),
    st.integers(1, 5),
    st.integers(1, 4),
    st.integers(0, 39),
)
def test_a_resumed_run_decides_as_the_uninterrupted_one(values, patience, window, cut):
    whole = tt.EarlyStopping(patience, window=window)
    answers = [whole.update(value) for value in values]
    first = tt.EarlyStopping(patience, window=window)
    resumed = [first.update(value) for value in values[:cut]]
    second = tt.EarlyStopping(patience, window=window)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    resumed += [second.update(value) for value in values[cut:]]
    assert resumed == answers
    assert (second.best, second.best_step) == (whole.best, whole.best_step)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30))
def test_with_a_window_of_one_best_is_the_minimum(values):
    stopping = tt.EarlyStopping(1000)
    for value in values:
        stopping.update(value)
    assert stopping.best == min(values)
    assert stopping.best_step == values.index(min(values))


def test_bad_arguments_of_early_stopping():
    for arguments in ({"patience": 0}, {"window": 0}, {"min_delta": -1.0}, {"min_delta": NAN}):
        with pytest.raises(ValueError, match="expected"):
            tt.EarlyStopping(**arguments)
    with pytest.raises(ValueError, match="expected a finite min_delta"):
        tt.EarlyStopping(min_delta="much")
    for kind in (tt.EarlyStopping, lambda goal: tt.BestCheckpoint("unused", goal=goal)):
        with pytest.raises(ValueError, match='goal=\'smallest\': expected "min", as for a loss, or "max"'):
            kind(goal="smallest")


@pytest.mark.parametrize(
    ("value", "error"), [("0.5", TypeError), (None, TypeError), (torch.ones(2), ValueError)]
)
def test_what_is_no_number_is_refused(tmp_path, value, error):
    stopping = tt.EarlyStopping()
    with pytest.raises(error, match=r"EarlyStopping.update\(value\)"):
        stopping.update(value)
    assert stopping.num_waiting == 0
    with pytest.raises(error, match=r"BestCheckpoint.offer\(value\)"):
        tt.BestCheckpoint(tmp_path).offer(value, {}, 0)


def test_with_a_maximum_nan_is_no_improvement_either():
    stopping = tt.EarlyStopping(2, goal="max")
    assert steps_until_stop(stopping, [0.5, NAN, math.inf]) == 2
    assert (stopping.best, stopping.best_step) == (0.5, 0)


# Best checkpoints


def offer(best, values):
    return [
        best.offer(value, {"v": torch.tensor(value)}, step) is not None for step, value in enumerate(values)
    ]


def test_the_best_k_are_kept(tmp_path):
    best = tt.BestCheckpoint(tmp_path / "best", keep=2)
    assert offer(best, [0.9, 0.5, NAN, 0.7, 0.8, math.inf, -math.inf, 0.1]) == [
        *(True, True, False, True, False, False, False, True)
    ]
    assert [(c.step, c.value) for c in best.saved] == [(7, 0.1), (1, 0.5)]
    assert len(list((tmp_path / "best").iterdir())) == 2
    assert float(torch.load(best.best.path)["v"]) == pytest.approx(0.1)


def test_higher_may_be_better_and_equal_ones_change_nothing(tmp_path):
    best = tt.BestCheckpoint(tmp_path, goal="max")
    assert offer(best, [0.2, 0.2, 0.1, 0.3]) == [True, False, False, True]
    assert best.best.step == 3


@given(st.lists(st.floats(allow_nan=True, width=32), max_size=12), st.integers(1, 4))
def test_what_is_kept_are_the_smallest_finite_ones(tmp_path_factory, values, keep):
    best = tt.BestCheckpoint(tmp_path_factory.mktemp("best"), keep=keep)
    offer(best, values)
    finite = sorted(value for value in values if math.isfinite(value))
    assert [c.value for c in best.saved] == finite[:keep]


def test_another_object_goes_on_with_the_same_folder(tmp_path):
    offer(tt.BestCheckpoint(tmp_path, keep=2), [0.5, 1e-7])
    again = tt.BestCheckpoint(tmp_path, keep=2)
    assert [c.value for c in again.saved] == [1e-7, 0.5]
    assert again.offer(0.6, {}, 9) is None
    assert again.offer(0.3, {}, 9) is not None
    assert again.offer(0.2, {}, 9) is not None  # the same step again
    assert [(c.step, c.value) for c in again.saved] == [(1, 1e-7), (9, 0.2)]


def test_a_bad_state_is_refused_and_nothing_is_lost(tmp_path):
    best = tt.BestCheckpoint(tmp_path)
    best.offer(0.5, {"w": torch.ones(2)}, 0)
    with pytest.raises(tt.CheckpointError, match="w: 1 NaN"):
        best.offer(0.1, {"w": torch.tensor([1.0, NAN])}, 1)
    assert best.best.step == 0
    assert len(list(tmp_path.iterdir())) == 1
    with pytest.raises(ValueError, match="keep=0"):
        tt.BestCheckpoint(tmp_path, keep=0)


def test_a_state_that_is_a_function_is_called_only_when_needed(tmp_path):
    best = tt.BestCheckpoint(tmp_path)
    calls = []
    for step, value in enumerate([0.5, 0.7, NAN, 0.4]):
        best.offer(value, lambda step=step: calls.append(step) or {"step": step}, step)
    assert calls == [0, 3]


# Anomalies


def test_anomalies_of_a_loop_without_a_guard():
    rng = np.random.default_rng(0)
    anomalies = tt.AnomalyDetection()
    for step in range(200):
        loss = math.exp(0.05 * rng.standard_normal())
        norm = math.exp(0.1 * rng.standard_normal())
        loss = {120: NAN, 150: 40.0}.get(step, loss)
        norm = 60.0 if step == 180 else norm
        anomalies.update(loss=loss, grad_norm=norm)
    found = [(a.step, a.faults[0].kind, a.faults[0].place) for a in anomalies.found]
    assert found == [
        (120, Kind.NAN, Place.LOSS),
        (150, Kind.SPIKE, Place.LOSS),
        (180, Kind.SPIKE, Place.GRADIENT),
    ]


def test_anomalies_are_the_same_after_a_resumption_and_detectors_are_checked():
    values = [1.0] * 60 + [30.0] + [1.0] * 10
    first, second = tt.AnomalyDetection(), tt.AnomalyDetection()
    for value in values[:50]:
        first.update(loss=value)
    second.load_state_dict(first.state_dict())
    for value in values[50:]:
        second.update(loss=value)
    assert [a.step for a in second.found] == [60]
    with pytest.raises(ValueError, match="3 detectors, and here are 1"):
        tt.AnomalyDetection([tt.Overflow()]).load_state_dict(first.state_dict())
    with pytest.raises(TypeError, match="detectors such as"):
        tt.AnomalyDetection([1.0])
    with pytest.raises(TypeError, match=r"AnomalyDetection.update\(loss\) is str"):
        tt.AnomalyDetection().update(loss="1.0")
