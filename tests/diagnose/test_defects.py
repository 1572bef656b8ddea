"""Defects that are told of runs that learn all the same, beside what looks like them and is fine."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from trimtab import Diagnose, Guard, Observe, read
from trimtab.diagnose import diagnose
from trimtab.measure.parameter_probe import ParameterProbe


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def causes(folder, model, loss, *, steps=200, lr=3e-3, alter=lambda: None, decay=0.0):
    """What is told of a plain loop whose loss draws its own batch."""
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, weight_decay=decay)
    watch = Diagnose(every=10, budget=1.0)
    with Guard(model, optimizer, remedy=Observe(), record=folder, diagnose=watch) as guard:
        for _ in range(steps):
            optimizer.zero_grad()
            value = loss(model)
            value.backward()
            alter()
            guard.step(value)
    return [finding.cause.value for finding in diagnose(read(folder))]


def linear_map(model):
    x = torch.randn(48, 16)
    return F.mse_loss(model(x), x[:, :2] + 0.5 * x[:, 2:4] + 0.3 * torch.randn(48, 2))


def network():
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2))


@pytest.mark.parametrize("size", [1e-3, 1.0])
def test_layers_that_begin_with_next_to_nothing(tmp_path, size):
    model = network()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(size)
    found = causes(tmp_path, model, linear_map)
    assert found == (["bad_init"] if size < 1 else [])


@pytest.mark.parametrize("is_copied", [True, False])
def test_units_that_began_alike(tmp_path, is_copied):
    model = network()
    with torch.no_grad():
        for layer in (model[0], model[2]):
            layer.weight[:] = layer.weight[:1] if is_copied else layer.weight
            layer.bias.zero_()
    found = causes(tmp_path, model, linear_map)
    assert found == (["symmetric_init"] if is_copied else [])


class Rated(nn.Module):
    """Users and things as vectors: most rows of the tables are not in a batch."""

    def __init__(self):
        super().__init__()
        self.users, self.things = nn.Embedding(2000, 8), nn.Embedding(2000, 8)
        nn.init.normal_(self.users.weight, std=0.3)
        nn.init.normal_(self.things.weight, std=0.3)

    def forward(self, pairs):
        return (self.users(pairs[:, 0]) * self.things(pairs[:, 1])).sum(1)


@pytest.mark.slow
def test_tables_have_gradients_of_zero(tmp_path):
    tastes = torch.randn(2000, 2)

    def loss(model):
        pairs = torch.randint(2000, (64, 2))
        liked = (tastes[pairs[:, 0]] * tastes[pairs[:, 1]]).sum(1)
        return F.mse_loss(model(pairs), liked + torch.randn(64))

    assert "fp16_underflow" not in causes(tmp_path, Rated(), loss, lr=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("smallest", [3e-2, 0.0])
def test_gradients_that_are_cut_to_zero_everywhere(tmp_path, smallest):
    model = network()

    def round_down():
        for parameter in model.parameters():
            parameter.grad[parameter.grad.abs() < smallest] = 0.0

    found = causes(tmp_path, model, linear_map, alter=round_down, lr=1e-3)
    assert found == (["fp16_underflow"] if smallest > 0 else [])


@pytest.mark.slow
@pytest.mark.parametrize("decay", [0.3, 0.0])
def test_a_decay_that_leaves_a_fifth(tmp_path, decay):
    found = causes(tmp_path, network(), linear_map, decay=decay, lr=1e-2)
    assert found == (["over_regularized"] if decay > 0 else [])


@pytest.mark.slow
@pytest.mark.parametrize("between", [nn.Identity, nn.ReLU])
def test_layers_without_an_activation(tmp_path, between):
    def curved(model):
        x = torch.randn(48, 16)
        return F.mse_loss(model(x), x[:, :2].abs() + x[:, 2:4])

    layers = (nn.Linear(16, 64), between(), nn.Linear(64, 64), between(), nn.Linear(64, 2))
    found = causes(tmp_path, nn.Sequential(*layers), curved, steps=300)
    assert found == (["underfitting"] if between is nn.Identity else [])


@pytest.mark.slow
@pytest.mark.parametrize("start", ["positive", "one line", "copies", "random"])
def test_units_that_begin_along_few_directions(tmp_path, start):
    model = network()
    with torch.no_grad():
        for layer in (model[0], model[2]):
            weight = layer.weight
            if start == "positive":
                weight.abs_()
            elif start == "one line":
                weight[:] = torch.outer(torch.randn(len(weight)), weight[0])
            elif start == "copies":
                weight[:] = weight[torch.randint(2, (len(weight),))]
    found = causes(tmp_path, model, linear_map, steps=80)
    assert found == ([] if start == "random" else ["symmetric_init"])


@pytest.mark.slow
def test_output_maps_may_begin_as_averages(tmp_path):
    model = nn.Linear(16, 16)
    nn.init.constant_(model.weight, 1 / 16)

    def loss(m):
        x = torch.randn(48, 16)
        return F.mse_loss(m(x), x.cumsum(1) + torch.randn(48, 16))

    assert causes(tmp_path, model, loss) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["plain", "recurrent"])
def test_a_model_in_double_precision(tmp_path, kind):
    """A step that was looked at raised an error: norms of float64 are not to be had in float32."""

    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.head = nn.GRU(4, 24, batch_first=True), nn.Linear(24, 2)

        def forward(self, x):
            return self.head(self.cell(x.reshape(len(x), 4, 4))[0][:, -1])

    def loss(model):
        x = torch.randn(48, 16, dtype=torch.float64)
        return F.mse_loss(model(x), x[:, :2] + 0.5 * x[:, 14:] + 0.3 * torch.randn(48, 2).double())

    model = network() if kind == "plain" else Last()
    assert causes(tmp_path, model.double(), loss, lr=1e-2) == []


@pytest.mark.slow
@pytest.mark.parametrize("low", [-1.0, 0.0])
def test_signs_in_place_of_bits(tmp_path, low):
    def loss(model):
        x = torch.randn(48, 16)
        bits = (x[:, :2] + 0.5 * torch.randn(48, 2) > 0).float()
        return F.binary_cross_entropy_with_logits(model(x), low + (1 - low) * bits)

    found = causes(tmp_path, network(), loss)
    assert found[:1] == (["label_trouble"] if low < 0 else [])


@pytest.mark.slow
def test_weights_that_are_held_above_zero(tmp_path):
    """As in monotone models: they begin along one direction, and are meant to."""

    class Rising(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in ((16, 32), (32, 32), (32, 2)))
            for layer in self.layers:
                layer.weight.data.abs_()

        def forward(self, x):
            for layer in self.layers:
                layer.weight.data.clamp_(min=1e-4)
            return self.layers[2](self.layers[1](self.layers[0](x).tanh()).tanh())

    def loss(model):
        x = torch.randn(48, 16)
        return F.mse_loss(model(x), x[:, :2] + x[:, 2:4].tanh() + torch.randn(48, 2))

    assert "symmetric_init" not in causes(tmp_path, Rising(), loss, steps=80)


def test_looks_at_parameters_stay_on_their_device():
    """What is not known is a row beside others: on the CPU it would meet rows of an accelerator."""
    model = nn.Linear(16, 32, device="meta")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    probe = ParameterProbe(model, optimizer)
    for _ in range(2):  # the first look knows other things than the later ones
        model(torch.empty(4, 16, device="meta")).sum().backward()
        probe.before()
        optimizer.step()
        with pytest.raises(NotImplementedError, match="meta"):  # only the one read at the end fails
            probe.after()


def test_a_parameter_without_elements(tmp_path):
    model = network()
    model.register_parameter("spare", nn.Parameter(torch.zeros(0, 16)))
    assert causes(tmp_path, model, linear_map, steps=80) == []
