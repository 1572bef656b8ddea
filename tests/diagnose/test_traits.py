"""What looks like a fault and is a trait of the model or of the loop, beside the same thing as a fault."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from trimtab import Diagnose, Guard, Observe, RunLog, read
from trimtab.diagnose import diagnose
from trimtab.diagnose.engine import clues
from trimtab.diagnose.shares import share_of
from trimtab.diagnose.view import View
from trimtab.record import Signal


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def watched(folder, model, loss, *, steps=200, lr=3e-3, alter=lambda step: None):
    """The log of a plain loop whose loss draws its own batch."""
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=lr)
    watch = Diagnose(every=10, budget=1.0)
    with Guard(model, optimizer, remedy=Observe(), record=folder, diagnose=watch) as guard:
        for step in range(steps):
            optimizer.zero_grad()
            value = loss(model)
            value.backward()
            alter(step)
            guard.step(value)
    return read(folder)


def told(log):
    return [finding.cause.value for finding in diagnose(log)]


def sums(model):
    x = torch.randn(48, 16)
    return F.cross_entropy(model(x), x.reshape(-1, 4, 4).sum(-1).argmax(1))


def network():
    return nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))


@pytest.mark.parametrize("is_stale", [False, True])
def test_rates_of_layers_that_end_one_after_another(tmp_path, is_stale):
    model = network()
    weights = [p for p in model.parameters() if p.dim() == 2]
    before: dict[nn.Parameter, torch.Tensor] = {}

    def alter(step):
        for number, weight in enumerate(weights):
            grad = weight.grad
            if is_stale:
                before[weight] = grad + before.get(weight, torch.zeros_like(grad))
                grad.copy_(before[weight])
            else:
                grad.mul_(max(0.0, 1 - step / (80 + 60 * number)))

    found = told(watched(tmp_path, model, sums, alter=alter))
    assert ("zero_grad_missing" in found) == is_stale
    assert is_stale or found == []


class Preferred(nn.Module):
    """A net, and what it was when it began (Rafailov et al. 2023)."""

    def __init__(self, is_copy):
        super().__init__()
        self.now = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 1))
        fresh = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 1))
        self.start = copy.deepcopy(self.now) if is_copy else fresh
        self.start.requires_grad_(False)

    def forward(self, x):
        return self.now(x) - self.start(x)


@pytest.mark.parametrize("is_copy", [False, True])
def test_a_frozen_copy_to_compare_with(tmp_path, is_copy):
    def noisy(model):
        good, bad = torch.randn(48, 16), torch.randn(48, 16)
        is_right = torch.rand(48, 1) < torch.sigmoid((good - bad)[:, :1])
        apart = model(good) - model(bad)
        return -F.logsigmoid(torch.where(is_right, apart, -apart)).mean()

    log = watched(tmp_path, Preferred(is_copy), noisy)
    assert ("frozen" in {clue.cause.value for clue in clues(log)}) != is_copy


@pytest.mark.slow
@pytest.mark.parametrize("is_needed", [False, True])
def test_a_part_without_gradients_is_told_of_runs_that_do_not_learn(tmp_path, is_needed):
    class TwoParts(nn.Module):
        def __init__(self):
            super().__init__()
            self.aside, self.body = nn.Linear(16, 64), network()

        def forward(self, x):
            aside = torch.tanh(self.aside(x)).detach()
            # with the one the answer can still be learned, with the other hardly
            return self.body(0.01 * aside[:, :16] if is_needed else x + 0.01 * aside[:, :16])

    def few(model):
        x = torch.randn(48, 16)
        return F.mse_loss(model(x)[:, :1], x[:, :4].sum(1, keepdim=True))

    log = watched(tmp_path, TwoParts(), few)
    assert View(log).has_learned != is_needed
    assert "detached" in {clue.cause.value for clue in clues(log)}
    assert ("detached" in told(log)) == is_needed


def test_where_one_answer_is_right_for_all_nothing_is_a_share_of_what_it_leaves():
    error = np.linspace(2.0, 0.1, 30)
    assert np.isnan(share_of(error, np.full(30, 1e-9)).value)
    assert share_of(error, np.full(30, 2.0)).value == pytest.approx(1 - error[-10:].mean() / 2.0)


@pytest.mark.parametrize("is_by_heart", [False, True])
def test_losses_of_single_samples_are_compared_by_their_mean(is_by_heart):
    rng = np.random.default_rng(0)
    steps = np.arange(600)
    level = 0.02 + 0.6 * np.exp(-steps / 60)
    # half of the samples are next to nothing, a few are all of the loss
    losses = level * rng.lognormal(-0.5, 1.0, 600) if is_by_heart else level * rng.lognormal(0.0, 2.5, 600)
    val = np.full(600, np.nan)
    val[24::25] = 0.35 + 0.05 * np.exp(-steps[24::25] / 100)
    log = RunLog.from_arrays(loss=losses, lr=[1e-3] * 600, val_loss=val)
    assert np.median(losses[-60:]) < 0.1 * losses[:5].mean()
    assert ("overfitting" in told(log)) == is_by_heart


@pytest.mark.parametrize(("share", "is_told"), [(0.43, False), (0.6, True)])
def test_gradients_that_grow_while_answers_spread_out(share, is_told):
    """Of embeddings that leave a point more and more is asked; it is what the inputs foretell that counts."""
    steps = np.arange(0, 250, 10)
    asked = np.linspace(1.0, 6.0, 25)
    values = np.stack([asked, (1 - share) * asked, asked], axis=1)
    leftover = Signal(("error", "plain_error", "baseline"), steps, values)
    losses = 4.1 - 1.2 * np.arange(250) / 250 + 0.05 * np.random.default_rng(0).normal(size=250)
    log = RunLog.from_arrays(loss=losses, lr=[1e-3] * 250, signals={"leftover": leftover})
    assert View(log).still_asked > 2
    assert ("underfitting" in {clue.cause.value for clue in clues(log)}) == is_told


@pytest.mark.slow
@pytest.mark.parametrize("is_weak", [False, True])
def test_a_weak_signal_is_not_nothing(tmp_path, is_weak):
    """Of what can be known a few hundredths: that is learned, and cannot be more."""

    def returns(model):
        x = torch.randn(128, 16)
        signal = 0.3 * x[:, :1] if is_weak else 0.0
        return F.mse_loss(model(x), signal + torch.randn(128, 1))

    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 1))
    log = watched(tmp_path, model, returns, steps=300)
    assert View(log).explained.value < 0.15
    assert bool({"at_chance", "label_trouble", "plateau"} & set(told(log))) != is_weak


@pytest.mark.parametrize("val_falls", [False, True])
def test_a_loss_in_balance_is_judged_by_what_validation_says(val_falls):
    rng = np.random.default_rng(0)
    losses = 3 * np.log(2) + 0.01 * rng.normal(size=300)
    val = np.full(300, np.nan)
    val[9::10] = (np.exp(-np.arange(30) / 5) if val_falls else 1.0) * (1 + 0.02 * rng.normal(size=30))
    log = RunLog.from_arrays(loss=losses, lr=[1e-3] * 300, val_loss=val)
    assert bool(told(log)) != val_falls


@pytest.mark.slow
@pytest.mark.parametrize(("size", "is_sorted"), [(4, False), (4, True), (32, True)])
def test_batches_of_a_few_rows_scatter_by_themselves(tmp_path, size, is_sorted):
    place = iter(range(10_000))

    def number(model):
        x = torch.randn(size, 16)
        if is_sorted:  # one end of the targets after the other
            x[:, 0] = 0.3 * x[:, 0] + 2 * np.sin(next(place) / 3)
        return F.mse_loss(model(x), x[:, :1] + 1.2 * torch.randn(size, 1))

    model = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 1))
    found = told(watched(tmp_path, model, number, steps=300, lr=1e-3))
    assert is_sorted or found == []


@pytest.mark.slow
def test_an_output_bias_at_what_is_frequent_begins_well(tmp_path):
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1))
    with torch.no_grad():
        model[4].weight.mul_(1e-2)
        model[4].bias.fill_(-3.0)

    def rare(model):
        x = torch.randn(96, 16)
        is_one = (torch.rand(96, 1) < torch.sigmoid(x[:, :1] - 3.2)).float()
        return F.binary_cross_entropy_with_logits(model(x), is_one)

    log = watched(tmp_path, model, rare)
    assert "bad_init" not in {clue.cause.value for clue in clues(log)}
    assert told(log) == []


@pytest.mark.slow
def test_linear_maps_to_the_outputs_may_begin_alike(tmp_path):
    class Split(nn.Module):
        """A trend and the rest, each by one map whose weights begin as a mean (Zeng et al. 2023)."""

        def __init__(self):
            super().__init__()
            self.trend, self.rest = nn.Linear(24, 12), nn.Linear(24, 12)
            for layer in (self.trend, self.rest):
                nn.init.constant_(layer.weight, 1 / 24)

        def forward(self, x):
            mean = x.mean(1, keepdim=True).expand_as(x)
            return self.trend(mean) + self.rest(x - mean)

    def forecast(model):
        phase = 6.28 * torch.rand(64, 1)
        series = torch.sin(phase + torch.arange(36) / 3) + 0.1 * torch.randn(64, 36)
        return F.l1_loss(model(series[:, :24]), series[:, 24:])

    assert told(watched(tmp_path, Split(), forecast)) == []


@pytest.mark.parametrize("val_falls", [False, True])
def test_rows_that_become_harder_are_no_divergence(val_falls):
    rng, steps = np.random.default_rng(0), np.arange(400)
    level = 0.06 + np.exp(-steps / 15) + 0.35 * np.clip((steps - 120) / 280, 0, 1)
    val = np.full(400, np.nan)
    val[24::25] = (0.3 * np.exp(-np.arange(16) / 6) if val_falls else level[24::25]) + 0.02
    losses = level * np.exp(0.1 * rng.normal(size=400))
    found = told(RunLog.from_arrays(loss=losses, lr=[1e-3] * 400, val_loss=val))
    assert bool(found) != val_falls


class Dropping(nn.Module):
    """A net with dropout in one of several wrong ways, or in the right one."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.body, self.head = kind, network(), nn.Linear(4, 4)

    def forward(self, x):
        h = self.body(x)
        h = F.dropout(h, 0.3, training=self.kind == "always" or self.training)
        out = self.head(h)
        return F.dropout(out, 0.5, self.training) if self.kind == "outputs" else out


@pytest.mark.parametrize(
    ("kind", "cause"), [("right", None), ("always", "wrong_mode"), ("outputs", "over_regularized")]
)
def test_dropout_where_it_does_not_belong(tmp_path, kind, cause):
    model = Dropping(kind)

    def validate(step):
        if step % 25 == 24:
            model.eval()
            with torch.no_grad():
                model(torch.randn(64, 16))
            model.train()

    assert told(watched(tmp_path, model, sums, alter=validate)) == ([] if cause is None else [cause])


@pytest.mark.parametrize("second", [0.0, 0.95])
def test_a_second_moment_without_a_past(tmp_path, second):
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, betas=(0.0, second))
    with Guard(model, optimizer, record=tmp_path, diagnose=Diagnose(every=10, budget=1.0)) as guard:
        for _ in range(80):
            optimizer.zero_grad()
            loss = sums(model)
            loss.backward()
            guard.step(loss)
    assert ("second_moment" in told(read(tmp_path))) == (second == 0)


@pytest.mark.parametrize("scale", [1e-5, 1.0])
def test_gradients_that_were_rounded_next_to_zero(tmp_path, scale):
    model = network()

    def through_half(step):
        for parameter in model.parameters():
            parameter.grad = parameter.grad.half().float()

    log = watched(tmp_path, model, lambda m: scale * sums(m), steps=100, alter=through_half)
    assert ("fp16_underflow" in told(log)) == (scale < 1)
    assert (np.nanmean(log.signals["gradient_subnormal_share"].values) > 0.9) == (scale < 1)


@pytest.mark.parametrize("decay", [0.3, 0.001])
def test_a_decay_that_outweighs_the_loss(tmp_path, decay):
    model, directions = network(), torch.randn(16, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=decay)
    with Guard(model, optimizer, record=tmp_path, diagnose=Diagnose(every=10, budget=1.0)) as guard:
        for _ in range(200):
            x = torch.randn(64, 16)
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), (x @ directions + torch.randn(64, 4)).argmax(1))
            loss.backward()
            guard.step(loss)
    found = told(read(tmp_path))
    assert found == (["over_regularized"] if decay > 0.1 else [])


@pytest.mark.parametrize("momentum", [1e-4, 0.1])
def test_running_statistics_that_cannot_follow(tmp_path, momentum):
    model = network()
    model.insert(1, nn.BatchNorm1d(64, momentum=momentum))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

    def loss():
        x = torch.randn(64, 16)
        return F.cross_entropy(model(5 * x + 3), x.reshape(-1, 4, 4).sum(-1).argmax(1))

    with Guard(model, optimizer, record=tmp_path, diagnose=Diagnose(every=10, budget=1.0)) as guard:
        for step in range(200):
            optimizer.zero_grad()
            value = loss()
            value.backward()
            guard.step(value)
            if step % 25 == 24:
                model.eval()
                with torch.no_grad():
                    guard.log(val_loss=float(loss()))
                model.train()
    assert told(read(tmp_path)) == (["wrong_mode"] if momentum < 0.01 else [])


@pytest.mark.parametrize(
    ("kind", "cause"),
    [("replaced", "stale_optimizer"), ("thawed", "parameter_not_in_optimizer"), ("let_go", None)],
)
def test_what_the_optimizer_no_longer_holds(tmp_path, kind, cause):
    model = network()
    if kind == "thawed":
        model[0].requires_grad_(False)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    if kind == "let_go":
        optimizer = torch.optim.Adam([{"params": list(layer.parameters())} for layer in model[::2]], lr=3e-3)
    with Guard(model, optimizer, record=tmp_path, diagnose=Diagnose(every=10, budget=1.0)) as guard:
        for step in range(120):
            optimizer.zero_grad()
            loss = sums(model)
            loss.backward()
            guard.step(loss)
            if step == 15 and kind == "replaced":
                model[2] = copy.deepcopy(model[2])
            elif step == 15 and kind == "thawed":
                model[0].requires_grad_(True)
            elif step == 60 and kind == "let_go":  # as FreezeOut does with layers that have learned
                optimizer.param_groups.pop(0)
    assert told(read(tmp_path)) == ([] if cause is None else [cause])
