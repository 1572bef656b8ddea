"""What is done by hand, against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from trimtab import (
    ActivationMonitor,
    GradientFlow,
    GradientStats,
    TrainingDebugger,
    TrainingHistory,
    TrainingStabilityMonitor,
    check_initialization,
    clip_gradients,
    detect_dead_neurons,
)


@given(
    st.lists(arrays(np.float32, st.integers(0, 40), elements=st.floats(-1e6, 1e6, width=32)), max_size=4),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_statistics_are_numpys(gradients, as_tensors):
    stats = GradientStats.from_gradients(
        [torch.from_numpy(g) for g in gradients] if as_tensors else gradients
    )
    everything = np.concatenate([np.zeros(0, dtype=np.float32), *gradients]).astype(np.float64)
    assert stats.total_elements == len(everything)
    assert stats.num_zeros == (everything == 0).sum()
    if not len(everything):
        assert stats == GradientStats()
        return
    size = np.abs(everything)
    assert stats.norm == pytest.approx(np.linalg.norm(everything), rel=1e-9, abs=1e-12)
    assert stats.mean == pytest.approx(everything.mean(), rel=1e-9, abs=1e-9 * size.max())
    assert stats.std == pytest.approx(everything.std(), rel=1e-9, abs=1e-9 * size.max())
    assert stats.max_val == size.max()
    assert stats.min_val == (size[size > 0].min() if (size > 0).any() else 0.0)


def test_bad_elements_are_counted_and_left_out():
    values = torch.arange(1.0, 200_001.0).reshape(2, -1)
    values[0, 5], values[1, 7], values[1, 8] = float("nan"), float("inf"), -float("inf")
    stats = GradientStats.from_gradients([values, None])
    good = values[values.isfinite()].double()
    assert (stats.num_nans, stats.num_infs, stats.total_elements) == (1, 2, 200_000)
    assert stats.norm == pytest.approx(good.norm().item(), rel=1e-12)
    assert stats.std == pytest.approx(good.std(correction=0).item(), rel=1e-12)
    assert "1 NaN and 2 infinite" in stats.problem


def test_health_bounds():
    assert GradientStats.from_gradients([np.full(4, 1.0)]).is_healthy()
    assert "above 1000" in GradientStats.from_gradients([np.full(4, 1e4)]).problem
    assert "below 1e-08" in GradientStats.from_gradients([np.zeros(4)]).problem
    with pytest.raises(TypeError, match="got list"):
        GradientStats.from_gradients([[1.0]])


def test_half_precision_and_sparse():
    half = GradientStats.from_gradients([torch.full((3,), 300.0, dtype=torch.float16)])
    assert half.norm == pytest.approx(300 * 3**0.5)
    sparse = torch.sparse_coo_tensor([[0, 0]], [1.0, 2.0], (5,), check_invariants=True)
    assert GradientStats.from_gradients([sparse]).norm == 3.0


def test_history_is_diagnosed_like_a_log():
    history = TrainingHistory()
    for step in range(120):
        history.record(step, torch.tensor(2.3 * 1.1**step), grad_norm=1.0, lr=0.5)
    assert [f.cause.value for f in history.diagnose()] == ["lr_too_high"]
    with pytest.raises(ValueError, match="steps must grow"):
        history.record(3, 1.0)
    assert TrainingHistory().diagnose() == ()


def test_half_of_relu_is_zero_and_fine():
    rng = np.random.default_rng(0)
    monitor = ActivationMonitor()
    for _ in range(10):
        stats = monitor.record("relu", np.maximum(rng.normal(size=(64, 32)), 0))
        monitor.record("tanh", np.tanh(rng.normal(size=(64, 32))), activation="tanh")
        monitor.record("switching", np.sign(rng.normal(size=(64, 8))) * 0.999, activation="tanh")
    assert stats.zero_ratio == pytest.approx(0.5, abs=0.05)
    assert monitor.diagnose() == ()


def test_dead_and_stuck_units_are_told():
    monitor = ActivationMonitor(window_size=8)
    for _ in range(8):
        monitor.record("dead", torch.zeros(64, 10))
        monitor.record("stuck", torch.full((64, 10), 0.999), activation="tanh")
    assert [(f.cause.value, f.layer) for f in monitor.diagnose()] == [
        ("dead_units", "dead"),
        ("saturation", "stuck"),
    ]
    with pytest.raises(ValueError, match="window_size=0"):
        ActivationMonitor(0)


def test_dead_neurons():
    values = np.zeros((200, 3))
    values[:, 0], values[0, 1] = 1.0, 5.0
    assert detect_dead_neurons(values).tolist() == [False, True, True]
    assert detect_dead_neurons(torch.from_numpy(values), threshold=0.001).tolist() == [False, False, True]


def test_initialization_by_scheme_and_layout():
    rng = np.random.default_rng(1)
    weight = rng.normal(0, (2 / 50) ** 0.5, (400, 50))
    assert check_initialization({"a": weight})["a"].verdict == "ok"
    assert check_initialization({"a": weight}, layout="in_out")["a"].verdict == "too_large"
    assert check_initialization([weight * 10])["0"].verdict == "too_large"
    assert check_initialization([weight / 10])["0"].verdict == "too_small"
    conv = torch.nn.init.kaiming_normal_(torch.empty(64, 32, 3, 3))
    assert check_initialization([conv])["0"].expected_std == pytest.approx((2 / 288) ** 0.5)
    assert check_initialization([np.zeros(5), np.zeros((0, 3))]) == {}
    assert check_initialization([np.full((4, 4), np.nan)])["0"].verdict == "not_finite"
    with pytest.raises(ValueError, match="scheme='x'"):
        check_initialization([weight], scheme="x")


def test_flow_through_a_deep_sigmoid_net():
    torch.manual_seed(0)
    layers = [m for _ in range(12) for m in (torch.nn.Linear(16, 16), torch.nn.Sigmoid())]
    model = torch.nn.Sequential(*layers, torch.nn.Linear(16, 1))
    with GradientFlow(model) as flow:
        model(torch.randn(32, 16)).square().mean().backward()
        report = flow.analyze()
    assert report.dead_layers[0] == "0"
    assert report.backward_gain < 1e-6
    assert "No gradient reaches 0" in report.suggestions()[0]
    assert all(not m._forward_hooks for m in model.modules())
    # after the context it is known still, and without one what needs no forward pass
    assert flow.analyze() == report
    later = GradientFlow(model).analyze()
    assert (later.dead_layers, later.gradient_norms) == (report.dead_layers, report.gradient_norms)
    assert np.isnan([later.gradient_norm_ratio, later.backward_gain]).all()
    model.zero_grad()
    with pytest.raises(RuntimeError, match="no parameter has a gradient"):
        flow.analyze()
    with pytest.raises(ValueError, match="dead_below < exploding_above"):
        GradientFlow(model, dead_below=1.0, exploding_above=0.5)


def test_flow_that_is_opened_and_closed_by_hand():
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))
    flow = GradientFlow(model)
    flow.open()
    for scale in (1.0, float("nan")):
        model.zero_grad()
        (scale * model(torch.ones(2, 3)).sum()).backward()
        report = flow.analyze()
    flow.close()
    assert all(not m._forward_hooks for m in model.modules())
    assert report.exploding_layers == ("0", "2")
    assert "not finite" in report.suggestions()[0]
    with pytest.raises(RuntimeError, match="boom"), flow:
        raise RuntimeError("boom")
    assert all(not m._forward_hooks for m in model.modules())


def test_debugger():
    debugger = TrainingDebugger()
    assert debugger.report() == "no step yet"
    for step in range(60):
        debugger.step(step, 2.0 * 0.97**step, [np.ones(4)], 0.1, {"h": np.zeros((8, 4))})
    assert "dead_units" in debugger.report()
    debugger.step(60, 1.0, [np.array([np.nan])], 0.1)
    assert "1 NaN" in debugger.quick_check()


@pytest.mark.parametrize("as_tensors", [False, True])
@given(st.lists(arrays(np.float64, st.integers(1, 9), elements=st.floats(-1e6, 1e6)), min_size=1, max_size=4))
@settings(max_examples=40, deadline=None)
def test_clipped_gradients_keep_their_direction(as_tensors, gradients):
    given_ones = [torch.from_numpy(g.copy()) if as_tensors else g.copy() for g in gradients]
    clipped = clip_gradients(given_ones, max_norm=2.0)
    before, after = np.concatenate(gradients), np.concatenate([np.asarray(g) for g in clipped])
    factor = min(1.0, 2.0 / max(np.linalg.norm(before), 1e-300))
    np.testing.assert_allclose(after, before * factor, rtol=1e-9, atol=1e-300)
    for own, original in zip(given_ones, gradients, strict=True):
        np.testing.assert_array_equal(np.asarray(own), original)  # what was given stays as it was


def test_clipping_refuses_what_no_factor_mends():
    with pytest.raises(ValueError, match="1 NaN"):
        clip_gradients([np.array([1.0, np.nan])])
    with pytest.raises(ValueError, match="max_norm=0"):
        clip_gradients([np.ones(2)], max_norm=0)


def test_statistics_near_the_end_of_the_range_and_of_complex_numbers():
    stats = GradientStats.from_gradients([np.full(3, 1e-3), np.full(4, 1e200), np.array([-1e180])])
    assert stats.norm == pytest.approx(2e200, rel=1e-12)
    assert stats.mean == pytest.approx(4e200 / 8, rel=1e-12)
    assert GradientStats.from_gradients([torch.tensor([3j, 4 + 0j])]).norm == pytest.approx(5.0)
    assert GradientStats.from_gradients([np.array([3 + 4j])]).norm == pytest.approx(5.0)


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"step": 1.5, "loss": 1.0}, ValueError, "whole number"),
        ({"step": float("nan"), "loss": 1.0}, ValueError, "whole number"),
        ({"step": "1", "loss": 1.0}, TypeError, r"record\(step\) is str"),
        ({"step": 1, "loss": "high"}, TypeError, r"record\(loss\) is str"),
        ({"step": 1, "loss": None}, TypeError, r"record\(loss\) is NoneType"),
        ({"step": 1, "loss": torch.ones(3)}, ValueError, r"record\(loss\) has the shape \(3,\)"),
        ({"step": 1, "loss": 1j}, ValueError, "complex"),
        ({"step": 1, "loss": 1.0, "lr": [0.1]}, TypeError, r"record\(lr\) is list"),
    ],
)
def test_a_history_says_what_it_was_not_given(given, error, words):
    history = TrainingHistory()
    with pytest.raises(error, match=words):
        history.record(**given)
    assert history.diagnose() == ()
    with pytest.raises(ValueError, match="nothing was recorded"):
        history.log()


def test_a_history_takes_the_numbers_of_any_framework():
    history = TrainingHistory()
    history.record(np.int64(3), torch.ones(1, 1), np.float32(2.0), torch.tensor(0.5), np.ones(1))
    assert history.log().lr.tolist() == [0.5]
    assert history.log().loss.tolist() == [1.0]


def test_wrong_weights_and_gradients_are_named():
    weight = np.ones((2, 2))
    with pytest.raises(TypeError, match="got Linear: expected names with weights"):
        check_initialization(torch.nn.Linear(2, 2))
    with pytest.raises(TypeError, match="got ndarray"):
        check_initialization(weight)
    with pytest.raises(TypeError, match="weight 'a' is str"):
        check_initialization({"a": "x"})
    with pytest.raises(ValueError, match="factor=1"):
        check_initialization([weight], factor=1)
    with pytest.raises(TypeError, match="in \\[gradient\\]"):
        clip_gradients(weight)
    assert clip_gradients([None, np.array([4.0])])[0] is None


def test_what_are_no_gradients_models_or_layers_is_named():
    model = torch.nn.Linear(2, 1)
    for wrong, words in (
        (None, "got NoneType: expected several gradients"),
        (model, "got Linear: expected several gradients"),
        (np.ones(3), "got ndarray: expected several gradients"),
        ([np.array(["a"])], "array of <U1"),
        ([np.array([None])], "array of object"),
        (["a"], "got str"),
    ):
        with pytest.raises(TypeError, match=words):
            GradientStats.from_gradients(wrong)
    assert GradientStats.from_gradients([np.float64(3.0), torch.tensor(4.0)]).norm == 5.0
    with pytest.raises(TypeError, match="GradientFlow got str"):
        GradientFlow("model")
    with pytest.raises(TypeError, match="attach got str"), ActivationMonitor().attach("model"):
        pass
    with pytest.raises(TypeError, match="got list: expected a mapping of layers"):
        TrainingDebugger().step(0, 1.0, [np.ones(2)], 0.1, [np.ones((2, 2))])
    with pytest.raises(TypeError, match=r"got str: expected a torch\.nn\.Module or None"):
        TrainingStabilityMonitor("model")


def test_a_debugger_of_one_step_and_of_nan_only():
    debugger = TrainingDebugger()
    assert debugger.quick_check() == "no step yet"
    for step in range(40):
        debugger.step(step, float("nan"), [np.ones(2)], None)
    assert "loss_nan" in debugger.quick_check()
    one = TrainingDebugger()
    one.step(0, 1.0, [], 0.1)
    assert one.quick_check() == "healthy so far (1 steps)"
    assert one.findings() == ()
