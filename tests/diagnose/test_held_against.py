"""Rules that hold a run against something: a plain regression, the batches, what the last step left."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from trimtab import Diagnose, Guard, Observe, RunLog, read
from trimtab.diagnose import diagnose


class Loop:
    """A plain training loop under a guard, with places to spoil it."""

    lr, steps = 3e-3, 200

    def __init__(self, model, draw, loss, *, val=None):
        self.model, self.draw, self.loss, self.val = model, draw, loss, val

    def spoil(self, step):
        """Called between backward and step."""

    def run(self, folder):
        optimizer = torch.optim.Adam(self.model.parameters(), lr=self.lr)
        watch = Diagnose(every=10, budget=1.0)
        with Guard(self.model, optimizer, remedy=Observe(), record=folder, diagnose=watch) as guard:
            for step in range(self.steps):
                optimizer.zero_grad()
                x, y = self.draw()
                value = self.loss(self.model(x), y)
                value.backward()
                self.spoil(step)
                guard.step(value)
                if self.val is not None and step % 20 == 19:
                    guard.log(val_loss=self.evaluate())
        return {finding.cause.value: finding for finding in diagnose(read(folder))}

    def evaluate(self):
        self.model.eval()
        with torch.no_grad():
            x, y = self.val()
            loss = float(self.loss(self.model(x), y))
        self.model.train()
        return loss


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def network(outputs=1, *, norm=False, activation=nn.ReLU):
    layer = nn.BatchNorm1d(64) if norm else nn.Identity()
    return nn.Sequential(nn.Linear(8, 64), layer, activation(), nn.Linear(64, outputs))


def curve(noise=0.3):
    x = torch.randn(64, 8)
    return x, x[:, :1] + 2 * x[:, 1:2].abs() + noise * torch.randn(64, 1)


def quarters():
    x = torch.randn(64, 8)
    return x, x[:, :4].argmax(1)


def moved(scale=1.0, shift=0.0):
    x, y = curve()
    return scale * x + shift, y


class Doubled(nn.Module):
    """Linear, though no layer follows another directly."""

    def forward(self, x):
        return 2 * x


@pytest.mark.parametrize("activation", [Doubled, nn.ReLU])
def test_a_model_that_a_plain_regression_outdoes(tmp_path, activation):
    loop = Loop(network(activation=activation), curve, F.mse_loss)
    loop.steps = 800
    found = loop.run(tmp_path)
    if activation is nn.ReLU:
        assert found == {}
    else:
        finding = found["underfitting"]
        model, plain = (e.value for e in finding.evidence[:2])
        # x adds 1 to the variance, 2 |x| adds 4 (1 - 2 / pi), the noise 0.09
        total = 1 + 4 * (1 - 2 / torch.pi) + 0.09
        assert model == pytest.approx(1 / total, abs=0.12)
        assert 0.6 < plain < 1 - 0.09 / total


def test_noise_is_no_underfitting(tmp_path):
    def noisy():
        x, y = curve()
        return x, y + 3 * torch.randn(64, 1)

    assert Loop(network(), noisy, F.mse_loss).run(tmp_path) == {}


class Bounded(nn.Module):
    """Its outputs cannot leave a narrow band, though nothing in it is slow."""

    def __init__(self):
        super().__init__()
        self.inner = network()

    def forward(self, x):
        return 0.01 * self.inner(x).tanh()


@pytest.mark.parametrize("is_bounded", [False, True])
def test_a_loss_of_unknown_targets_that_asks_for_what_is_not_learned(tmp_path, is_bounded):
    model = Bounded() if is_bounded else network()

    def linear():
        x = torch.randn(64, 8)
        return x, x.sum(1, keepdim=True)

    found = Loop(model, linear, F.l1_loss).run(tmp_path)
    if not is_bounded:
        assert found == {}
    else:
        assert "underfitting" in found or "underfitting" in found[next(iter(found))].symptoms


class Averaged(Loop):
    """A running mean of the weights is written into the model in each step."""

    def spoil(self, step):
        if step == 0:
            self.mean = [p.detach().clone() for p in self.model.parameters()]
        with torch.no_grad():
            for mean, parameter in zip(self.mean, self.model.parameters(), strict=True):
                parameter.copy_(mean.lerp_(parameter, 0.01))


def test_steps_that_are_taken_back(tmp_path):
    found = Averaged(network(4), quarters, F.cross_entropy).run(tmp_path)
    assert list(found) == ["step_changes_nothing"]
    assert found["step_changes_nothing"].evidence[0].value == pytest.approx(0.99, abs=0.01)


def test_a_loss_that_is_nothing(tmp_path):
    found = Loop(network(), curve, lambda o, y: F.cross_entropy(o, y * 0 + 1)).run(tmp_path)
    assert "step_changes_nothing" in found
    assert "exactly 0" in found["step_changes_nothing"].summary


@pytest.mark.parametrize("scale", [1.0, 10.0])
def test_validation_data_of_another_size(tmp_path, scale):
    found = Loop(network(), moved, F.mse_loss, val=lambda: moved(scale, scale - 1)).run(tmp_path)
    assert ("input_scale" in found) == (scale != 1.0)
    if scale != 1.0:
        assert found["input_scale"].evidence[0].value > 9


@pytest.mark.parametrize("momentum", [0.1, 1e-5])
def test_running_statistics_that_stay_behind(tmp_path, momentum):
    model = network(norm=True)
    model[1].momentum = momentum
    found = Loop(model, lambda: moved(5.0, 8.0), F.mse_loss, val=lambda: moved(5.0, 8.0)).run(tmp_path)
    assert ("wrong_mode" in found) == (momentum != 0.1)
    if momentum != 0.1:
        assert found["wrong_mode"].layer == "1"


class Reweighted(Loop):
    """From the middle on the loss counts six times."""

    steps = 300

    def __init__(self, draw, loss):
        self.number, self.plain = 0, loss
        super().__init__(network(), draw, self.weighted, val=draw)

    def weighted(self, out, y):
        if not out.requires_grad:  # the validation loss stays what it is
            return self.plain(out, y)
        self.number += 1
        return (6.0 if self.number > 150 else 1.0) * self.plain(out, y)


@pytest.mark.parametrize("loss", [F.mse_loss, F.l1_loss])
def test_another_scale_of_the_loss_is_no_explosion(tmp_path, loss):
    assert Reweighted(lambda: curve(1.0), loss).run(tmp_path) == {}


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_a_constant_in_the_loss_hides_nothing(tmp_path, offset):
    assert Loop(network(), curve, lambda o, y: F.mse_loss(o, y) + offset).run(tmp_path) == {}


class OfACopy(Loop):
    """The loss comes from a copy that shares the last layer."""

    def __init__(self):
        super().__init__(network(4), quarters, F.cross_entropy)
        self.copy = copy.deepcopy(self.model)
        self.copy[-1] = self.model[-1]

    def run(self, folder):
        watched, self.called = self.model, self.copy
        optimizer = torch.optim.Adam(watched.parameters(), lr=self.lr)
        watch = Diagnose(every=10, budget=1.0)
        with Guard(watched, optimizer, remedy=Observe(), record=folder, diagnose=watch) as guard:
            for _ in range(self.steps):
                optimizer.zero_grad()
                x, y = self.draw()
                value = self.loss(self.called(x), y)
                value.backward()
                guard.step(value)
        return {finding.cause.value: finding for finding in diagnose(read(folder))}


def test_a_watched_model_that_is_never_called(tmp_path):
    assert next(iter(OfACopy().run(tmp_path))) == "stale_optimizer"


class Rarely(Loop):
    """Gradients are cleared now and then, as for accumulation, but each batch makes a step."""

    def spoil(self, step):
        if not hasattr(self, "kept") or step % 40 == 0:
            self.kept = [torch.zeros_like(p) for p in self.model.parameters()]
        for kept, parameter in zip(self.kept, self.model.parameters(), strict=True):
            parameter.grad = kept.add_(parameter.grad).clone()


def test_gradients_that_are_cleared_now_and_then(tmp_path):
    assert "zero_grad_missing" in Rarely(network(4), quarters, F.cross_entropy).run(tmp_path)


class Penalized(Loop):
    """The loss holds a penalty that is far too strong."""

    lr, steps = 1e-2, 300


def test_a_penalty_that_pulls_the_weights_to_nothing(tmp_path):
    model = network()

    def loss(out, y):
        return F.mse_loss(out, y) + sum(p.abs().sum() for p in model.parameters())

    found = Penalized(model, curve, loss).run(tmp_path)
    assert next(iter(found)) == "over_regularized"


class Duel(Loop):
    """A discriminator, and a generator that takes its steps in between."""

    def __init__(self):
        super().__init__(network(), self.pair, F.binary_cross_entropy_with_logits)
        self.made = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 8))
        self.optimizer = torch.optim.Adam(self.made.parameters(), lr=3e-3)

    def pair(self):
        fake = self.made(torch.randn(64, 4))
        loss = F.binary_cross_entropy_with_logits(self.model(fake), torch.ones(64, 1))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.model.zero_grad()
        labels = torch.cat([torch.ones(32, 1), torch.zeros(32, 1)])
        return torch.cat([torch.randn(32, 8), fake.detach()[:32]]), labels


def test_a_discriminator_in_balance_learns_nothing_and_is_fine(tmp_path):
    loop = Duel()
    loop.steps = 400
    assert loop.run(tmp_path) == {}


def test_a_penalty_with_the_wrong_sign(tmp_path):
    model = network()

    def loss(out, y):
        return F.mse_loss(out, y) - 0.3 * sum(p.square().sum() for p in model.parameters())

    assert next(iter(Penalized(model, curve, loss).run(tmp_path))) == "loss_explosion"


def test_a_head_that_starts_at_zero_is_no_bad_initialization(tmp_path):
    model = network(4)
    nn.init.zeros_(model[-1].weight)
    nn.init.zeros_(model[-1].bias)
    loop = Loop(model, quarters, F.cross_entropy)
    loop.run(tmp_path)
    log = read(tmp_path)
    assert [diagnose(log.select(0, length)) for length in (20, 30, 60, 199)] == [()] * 4


class Frozen(Loop):
    """All but the last layer are frozen after some steps."""

    def __init__(self, after):
        super().__init__(network(4), quarters, F.cross_entropy)
        self.after, self.lr = after, 1e-3

    def spoil(self, step):
        if step == self.after:
            for parameter in list(self.model.parameters())[:-2]:
                parameter.requires_grad_(False)
                parameter.grad = None


@pytest.mark.parametrize(("after", "is_told"), [(8, True), (150, False)])
def test_a_part_that_was_frozen_early(tmp_path, after, is_told):
    assert ("frozen" in Frozen(after).run(tmp_path)) == is_told


class Clamped(Loop):
    """All weights are cut to a narrow range after each step."""

    def spoil(self, step):
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.clamp_(-self.bound, self.bound)


@pytest.mark.parametrize("bound", [0.02, 10.0])
def test_weights_that_are_clamped(tmp_path, bound):
    loop = Clamped(network(4), quarters, F.cross_entropy)
    loop.bound = bound
    found = loop.run(tmp_path)
    assert ("over_regularized" in found) == (bound < 1)


def walks(is_shuffled=False):
    """One of four bits is in the sum of a row, three are in the order of its numbers."""
    x = torch.randn(64, 24).cumsum(1)
    y = 8 * (x.sum(1) > 0) + x.argmax(1) // 3
    return (x.gather(1, torch.rand(x.shape).argsort(1)) if is_shuffled else x), y


@pytest.mark.parametrize("is_shuffled", [False, True])
def test_an_augmentation_that_takes_the_answer_out(tmp_path, is_shuffled):
    model = nn.Sequential(nn.Linear(24, 64), nn.ReLU(), nn.Linear(64, 16))
    found = Loop(model, lambda: walks(is_shuffled), F.cross_entropy, val=walks).run(tmp_path)
    assert any("of another kind" in finding.summary for finding in found.values()) == is_shuffled


def test_a_validation_loss_that_never_moved(tmp_path):
    """What is evaluated is a slow mean of the weights that hardly left its start."""

    class Behind(Loop):
        def evaluate(self):
            return float(1.4 - 1e-3 * torch.rand(()))

    loop = Behind(network(4), quarters, F.cross_entropy, val=quarters)
    loop.lr = 1e-3
    assert "overfitting" in loop.run(tmp_path)


class Slope(nn.Module):
    """The slope of a potential, which does not hang on its last bias."""

    def __init__(self):
        super().__init__()
        self.potential = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1))

    def forward(self, x):
        x = x.requires_grad_()
        (slope,) = torch.autograd.grad(self.potential(x).sum(), x, create_graph=True)
        return slope


def test_a_bias_that_a_slope_does_not_hang_on(tmp_path):
    def springs():
        x = torch.randn(64, 8)
        return x, x.sin()

    assert Loop(Slope(), springs, F.mse_loss).run(tmp_path) == {}


class Drawn(nn.Module):
    """A layer whose weights are drawn anew in each pass; their deviations begin alike."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.mean = nn.Parameter(torch.randn(outputs, inputs) / inputs**0.5)
        self.log_deviation = nn.Parameter(torch.full((outputs, inputs), -4.0))

    def forward(self, x):
        return F.linear(x, self.mean + self.log_deviation.exp() * torch.randn_like(self.mean))


def test_deviations_that_begin_alike_beside_their_means(tmp_path):
    model = nn.Sequential(Drawn(8, 32), nn.Tanh(), Drawn(32, 4))
    assert Loop(model, quarters, F.cross_entropy).run(tmp_path) == {}


class Skips(nn.Module):
    """Each layer adds to the answer and hands something on; what the last one hands on goes nowhere."""

    def __init__(self):
        super().__init__()
        self.ahead = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))
        self.out = nn.ModuleList(nn.Linear(8, 4) for _ in range(4))

    def forward(self, x):
        answer = 0.0
        for ahead, out in zip(self.ahead, self.out, strict=True):
            hidden = x.tanh()
            answer, x = answer + out(hidden), x + ahead(hidden)
        return answer


def test_the_last_layer_of_a_list_may_hand_on_to_nobody(tmp_path):
    assert Loop(Skips(), quarters, F.cross_entropy).run(tmp_path) == {}


@pytest.mark.parametrize("in_turn", [True, False])
def test_two_tasks_in_turn_do_not_oscillate(in_turn):
    generator = np.random.default_rng(0)
    level = np.where(np.arange(240) % 2, 1.0, 0.2)
    swing = np.cumprod(np.where(generator.random(240) < 0.1, -1, 1)) if not in_turn else 1
    loss = np.exp(np.log(level / 0.45) * swing + 0.2 * generator.standard_normal(240))
    found = [finding.cause.value for finding in diagnose(RunLog.from_arrays(loss=loss))]
    assert ("oscillation" in found) != in_turn
