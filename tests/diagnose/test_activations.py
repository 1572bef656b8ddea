"""Activations: NaN and Inf, dead and stuck units, layouts, and the hooks on a torch model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from trimtab import ActivationMonitor, TrainingDebugger, detect_dead_neurons

NAN, INF = float("nan"), float("inf")


def told(monitor):
    return [(finding.cause.value, finding.layer) for finding in monitor.diagnose()]


def num_hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.parametrize("as_tensor", [False, True])
def test_nan_and_inf_are_counted_left_out_of_the_moments_and_told(as_tensor):
    values = np.array([[1.0, NAN, 3.0], [INF, -INF, 5.0]])
    monitor = ActivationMonitor()
    stats = monitor.record("a", torch.from_numpy(values) if as_tensor else values)
    assert (stats.num_nans, stats.num_infs) == (1, 2)
    assert (stats.mean, stats.std) == pytest.approx((3.0, np.std([1.0, 3.0, 5.0])))
    (finding,) = monitor.diagnose()
    assert (finding.cause, finding.severity, finding.layer) == ("nonfinite_activations", "critical", "a")
    assert "1 NaN and 2 infinite" in finding.summary
    nothing = monitor.record("b", np.full((2, 2), NAN))
    assert np.isnan([nothing.mean, nothing.std]).all()


def test_the_layer_that_was_bad_first_is_told_and_the_window_forgets():
    monitor = ActivationMonitor(window_size=3)
    good, bad = np.ones((4, 2)), np.full((4, 2), NAN)
    monitor.record("first", good)
    monitor.record("second", bad)
    monitor.record("first", bad)
    (finding,) = monitor.diagnose()
    assert finding.layer == "second"
    assert "1 more layer" in finding.summary
    for _ in range(3):
        monitor.record("first", good)
        monitor.record("second", good)
    assert monitor.diagnose() == ()


def test_channels_of_images_are_the_units():
    images = np.random.default_rng(0).random((8, 4, 9, 9))
    images[:, :3] = 0.0  # three of four channels are silent
    for values, unit_dim in (
        (images, 1),
        (np.moveaxis(images, 1, -1), -1),
        (torch.from_numpy(images), None),
    ):
        monitor = ActivationMonitor()
        monitor.record("conv", values, unit_dim=unit_dim)
        assert told(monitor) == [("dead_units", "conv")]
        assert detect_dead_neurons(values, unit_dim=unit_dim).tolist() == [True, True, True, False]
    with pytest.raises(ValueError, match="unit_dim=1 for"):
        ActivationMonitor().record("conv", images)
    with pytest.raises(ValueError, match="no such dimension"):
        ActivationMonitor().record("conv", images, unit_dim=4)
    debugger = TrainingDebugger()
    debugger.step(0, 1.0, [np.ones(2)], 0.1, {"conv": images}, unit_dim=1)
    assert "dead_units" in str(debugger.activations.diagnose()[0])


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        (np.ones(3), ValueError, r"shape \(3,\)"),
        (np.ones((0, 3)), ValueError, r"shape \(0, 3\)"),
        ([["a", "b"]], TypeError, "list"),
        (None, ValueError, r"shape \(\)"),
        (np.ones((2, 2), dtype=complex), TypeError, "complex"),
    ],
)
def test_what_are_no_activations(given, error, words):
    for call in (lambda x: ActivationMonitor().record("a", x), detect_dead_neurons):
        with pytest.raises(error, match=words):
            call(given)


@pytest.mark.parametrize("threshold", [0, -1.0, 1.5, NAN])
def test_thresholds(threshold):
    with pytest.raises(ValueError, match=r"share in \(0, 1\]"):
        detect_dead_neurons(np.ones((2, 2)), threshold=threshold)


class Functional(nn.Module):
    """Activations as functions; three of four filters are dead, and all units of fc saturated."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.fc, self.head = (
            nn.Conv2d(1, 4, 3),
            nn.BatchNorm2d(4),
            nn.Linear(144, 6),
            nn.Linear(6, 2),
        )
        with torch.no_grad():
            self.norm.bias[:3] = -100.0
            self.fc.weight.zero_()
            self.fc.bias.fill_(5.0)

    def forward(self, x):
        x = torch.relu(self.norm(self.conv(x)))
        return self.head(torch.tanh(self.fc(x.flatten(1))))


def test_attached_to_a_model_with_functions_for_activations():
    model = Functional()
    with ActivationMonitor().attach(model) as monitor:
        for _ in range(40):
            model(torch.randn(8, 1, 8, 8))
    assert num_hooks(model) == 0
    # what is flattened before the next layer sees it cannot be known; tanh can
    assert told(monitor) == [("saturation", "tanh after fc")]


def test_attached_to_a_model_of_modules():
    relu = nn.ReLU(inplace=True)
    model = nn.Sequential(nn.Conv1d(2, 4, 3), relu, nn.Conv1d(4, 8, 3), relu, nn.Flatten(), nn.Linear(32, 1))
    with torch.no_grad():
        model[2].bias.fill_(-100.0)
    with ActivationMonitor().attach(model) as monitor:
        for _ in range(40):
            model(torch.randn(8, 2, 8))
    # one module serves two layers
    assert told(monitor) == [("dead_units", "1 after 2")]


def test_attached_it_finds_where_nan_comes_up():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1))
    with torch.no_grad():
        model[2].weight[0, 0] = NAN
    with ActivationMonitor().attach(model) as monitor:
        model(torch.randn(8, 4)).sum().backward()
        model(torch.randn(4))  # without a batch
    (finding,) = monitor.diagnose()
    assert finding.layer == "2"


def test_hooks_are_gone_after_an_error_and_where_none_was_entered():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    monitor = ActivationMonitor()
    watching = monitor.attach(model)
    assert num_hooks(model) == 0
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), watching:
        model(torch.ones(2, 5))
    assert num_hooks(model) == 0
    with monitor.attach(model):
        model(torch.zeros(0, 4))  # an empty batch shows nothing
    assert monitor.diagnose() == ()


def test_a_layer_by_itself_attention_and_recurrence():
    for model, given in (
        (nn.Linear(3, 3), (torch.ones(2, 3),)),
        (nn.GRU(3, 3), (torch.ones(5, 2, 3),)),
        (nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), (torch.ones(2, 5, 4),)),
        (nn.Embedding(3, 3), (torch.tensor([[NAN]]).isnan().long(),)),
    ):
        with torch.no_grad():
            next(model.parameters())[:] = NAN
        with ActivationMonitor().attach(model) as monitor:
            model(*given)
        assert [f.cause.value for f in monitor.diagnose()] == ["nonfinite_activations"]


def test_a_compiled_model_is_refused():
    class Compiled(nn.Module):
        _orig_mod = None

    with pytest.raises(ValueError, match="_orig_mod"), ActivationMonitor().attach(Compiled()):
        pass
