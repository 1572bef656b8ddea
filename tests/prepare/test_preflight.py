from __future__ import annotations

import copy
import math
import random
import time

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from prepare import healthy
from prepare.broken import BROKEN, deep
from prepare.healthy import HEALTHY, Block, Setup, adam, blobs, images
from torch import nn

import trimtab as tt
from trimtab.prepare import CheckVerdict, Preflight
from trimtab.prepare.check_flow import gain_over_depth, watching_layers
from trimtab.prepare.checks import ok, problem
from trimtab.prepare.roots import with_roots


@pytest.mark.parametrize("setup", HEALTHY, ids=lambda f: f.__name__)
def test_a_healthy_setup_raises_no_alarm(setup):
    found = tt.preflight(*setup())
    assert found.is_clean, found.describe()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 5))
@pytest.mark.parametrize("setup", HEALTHY, ids=lambda f: f.__name__)
def test_a_healthy_setup_raises_no_alarm_for_other_seeds(setup, seed):
    torch.manual_seed(seed)
    found = tt.preflight(*setup())
    assert found.is_clean, found.describe()


@pytest.mark.parametrize("setup", BROKEN, ids=lambda f: f.__name__)
def test_what_is_wrong_is_told_with_advice(setup):
    found = tt.preflight(*setup())
    check = found.check(BROKEN[setup])
    assert check.verdict == "problem", found.describe()
    assert check.advice
    # where two say the same, the one that comes first along the way through the model is the root
    root = {"deep_sigmoid": "forward gain", "dead_layer": "zeroed-input control"}.get(
        setup.__name__, check.name
    )
    assert (check.explained_by or check.name) == root
    assert root in [each.name for each in found.problems]


def test_every_point_has_a_verdict_and_the_text_names_them_all():
    found = tt.preflight(*healthy.mlp(), clip=1.0)
    names = [check.name for check in found.checks]
    assert len(set(names)) == len(names) == 24
    text = found.describe()
    assert all(name in text for name in names)
    assert text.splitlines()[-1].startswith("no problem in 24 checks")
    assert found.check("clipping").verdict is CheckVerdict.OK
    with pytest.raises(KeyError, match="initial loss"):
        found.check("no such")


@pytest.mark.slow
def test_it_takes_no_longer_than_it_is_given():
    model = nn.Sequential(nn.Conv2d(1, 32, 3, padding=1), *(Block(32) for _ in range(6)), nn.Flatten())
    model.append(nn.Linear(32 * 256, 4))
    x, y = images(64, 16)
    found = tt.preflight(model, F.cross_entropy, (x, y), adam(model), budget_sec=1.0)
    # each experiment may finish the step that it is in, and makes a few at least
    assert found.seconds < 15
    assert found.is_clean, found.describe()


# What must be as it was


def state_of(setup: Setup) -> list[object]:
    model, optimizer = setup.model, setup.optimizer
    return [
        [(n, p.clone(), None if p.grad is None else p.grad.clone()) for n, p in model.named_parameters()],
        [(n, b.clone()) for n, b in model.named_buffers()],
        [(m.training, len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()],
        [p.requires_grad for p in model.parameters()],
        copy.deepcopy(optimizer.state_dict()),
        torch.get_rng_state(),
        np.random.get_state()[1].copy(),
        random.getstate(),
    ]


def assert_same(a: object, b: object) -> None:
    if isinstance(a, torch.Tensor):
        assert isinstance(b, torch.Tensor)
        assert a.equal(b)
    elif isinstance(a, np.ndarray):
        assert np.array_equal(a, b)
    elif isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        assert a == b


def trained_a_little(setup: Setup) -> Setup:
    """With moments, gradients, statistics and modes that are not those of a fresh model."""
    for _ in range(2):
        setup.optimizer.zero_grad()
        out = setup.model(setup.batch[0])
        F.cross_entropy(out, setup.batch[1]).backward()
        setup.optimizer.step()
    list(setup.model.children())[-1].eval()
    return setup


@pytest.mark.parametrize("make", [healthy.batchnorm_cnn, healthy.zero_init_resnet, healthy.lstm])
def test_everything_is_as_it_was(make):
    setup = trained_a_little(make())
    before = state_of(setup)
    tt.preflight(*setup, budget_sec=2.0)
    tt.find_lr(setup.model, setup.optimizer, F.cross_entropy, [setup.batch], num_steps=12, num_sweeps=2)
    assert_same(before, state_of(setup))


def test_everything_is_as_it_was_after_an_error_in_the_middle():
    setup = trained_a_little(healthy.batchnorm_cnn())
    before = state_of(setup)
    calls = 0

    def fails(model: nn.Module, batch: object) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 40:
            raise OSError("the disk of the data is gone")
        return setup.loss_fn(model, batch)

    with pytest.raises(OSError, match="disk"):
        tt.preflight(setup.model, fails, setup.batch, setup.optimizer)
    assert_same(before, state_of(setup))


def test_a_guard_that_is_attached_sees_none_of_the_trial_steps(tmp_path):
    setup = healthy.mlp()
    with tt.Guard(setup.model, setup.optimizer, record=tmp_path / "run").attach():
        tt.preflight(*setup)
        tt.find_lr(setup.model, setup.optimizer, setup.loss_fn, [setup.batch], num_steps=10)
        loss = setup.loss_fn(setup.model(setup.batch[0]), setup.batch[1])
        loss.backward()
        setup.optimizer.step()
    assert tt.read(tmp_path / "run").num_steps == 1


def test_a_scheduler_and_its_count_of_steps_are_left_alone():
    setup = healthy.mlp()
    scheduler = torch.optim.lr_scheduler.StepLR(setup.optimizer, 1, 0.5)
    before = dict(vars(setup.optimizer))
    tt.preflight(*setup)
    assert set(vars(setup.optimizer)) == set(before)
    setup.optimizer.step()
    scheduler.step()
    assert setup.optimizer.param_groups[0]["lr"] == 5e-4


# Numbers against independent ones


def test_chance_levels_are_those_of_the_observed_targets():
    x, _ = blobs()
    y = torch.tensor([0] * 40 + [1] * 20 + [2] * 4)
    model = nn.Linear(12, 5)
    found = tt.preflight(model, F.cross_entropy, (x, y)).check("initial loss")
    numbers = {n.name: n.value for n in found.evidence}
    shares = np.array([40, 20, 4]) / 64
    assert numbers["without preference"] == pytest.approx(math.log(5))
    assert numbers["best constant"] == pytest.approx(-(shares * np.log(shares)).sum())
    assert numbers["this loss"] == pytest.approx(float(F.cross_entropy(model(x), y).detach()))


def test_variance_is_the_level_of_a_regression_with_ignored_labels_left_out_of_a_classification():
    x = torch.randn(50, 3)
    y = torch.randn(50, 2) * 2
    found = tt.preflight(nn.Linear(3, 2), F.mse_loss, (x, y)).check("initial loss")
    numbers = {n.name: n.value for n in found.evidence}
    assert numbers["best constant"] == pytest.approx(float(y.var(0, unbiased=False).mean()), rel=1e-5)
    labels = torch.tensor([0, 1] * 20 + [-100] * 10)
    found = tt.preflight(nn.Linear(3, 2), F.cross_entropy, (x, labels)).check("initial loss")
    numbers = {n.name: n.value for n in found.evidence}
    assert numbers["best constant"] == pytest.approx(math.log(2))


def test_gain_of_a_linear_chain_is_its_factor():
    model = nn.Sequential(*(nn.Linear(16, 16, bias=False) for _ in range(6)))
    with torch.no_grad():
        for layer in model:
            layer.weight.copy_(0.5 * torch.linalg.qr(torch.randn(16, 16))[0])
    with watching_layers(model) as layers:
        model(torch.randn(32, 16)).square().sum().backward()
        flow = layers()
    forward = gain_over_depth([layer.spread for layer in flow])
    backward = gain_over_depth([layer.gradient for layer in flow])
    assert forward.per_layer == pytest.approx(0.5, rel=1e-4)
    assert 1 / backward.per_layer == pytest.approx(0.5, rel=1e-4)
    assert forward.fit == pytest.approx(1.0)


def test_spread_is_that_of_numpy():
    layer = nn.Linear(4, 3)
    x = torch.randn(20, 4)
    with watching_layers(nn.Sequential(layer)) as layers:
        pass
    model = nn.Sequential(layer)
    with watching_layers(model) as layers:
        model(x)
        [flow] = layers()
    out = layer(x).detach().numpy().astype(np.float64)
    assert flow.spread == pytest.approx(np.sqrt(out.var(0).mean()))
    assert flow.gradient is None


def test_branches_that_begin_at_zero_are_no_vanishing_gradient():
    found = tt.preflight(*healthy.zero_init_resnet())
    assert found.check("backward gain").verdict == "ok"
    assert found.check("parameters used").verdict == "ok"


@pytest.mark.parametrize("depth", [4, 9])
def test_plain_relu_networks_of_usual_depth_are_fine(depth):
    model = deep(nn.ReLU, 1.0, depth)
    assert tt.preflight(model, F.cross_entropy, blobs(), adam(model)).is_clean


# Arguments


def test_both_conventions_of_a_loss_and_of_a_batch_are_understood():
    x, y = blobs()
    model = nn.Linear(12, 5)
    for loss_fn, batch in (
        (F.cross_entropy, (x, y)),
        (nn.CrossEntropyLoss(), [x, y]),
        (lambda out, target: F.cross_entropy(out, target), (x, y)),
        (lambda out, target: F.cross_entropy(out.float(), target), ({"input": x}, y)),
        (lambda m, b: F.cross_entropy(m(b["x"]), b["y"]), {"x": x, "y": y}),
    ):
        assert tt.preflight(model, loss_fn, batch).is_clean


def test_an_error_in_the_loss_is_the_one_that_is_told():
    found = tt.preflight(
        nn.Linear(12, 5), lambda m, b: F.cross_entropy(m(b[0]), b[1], weight_of_classes=1), blobs()
    )
    assert "TypeError" in found.check("forward pass").summary
    assert "weight_of_classes" in found.check("forward pass").summary


def test_a_loss_that_is_no_number_is_refused():
    with pytest.raises(TypeError, match=r"shape \(64,\)"):
        tt.preflight(nn.Linear(12, 5), nn.CrossEntropyLoss(reduction="none"), blobs())
    with pytest.raises(TypeError, match="NoneType"):
        tt.preflight(nn.Linear(12, 5), lambda m, b: None, blobs())
    with pytest.raises(ValueError, match="budget_sec=0"):
        tt.preflight(nn.Linear(12, 5), F.cross_entropy, blobs(), budget_sec=0)


@pytest.mark.parametrize("max_norm", [0.0, -1.0, float("nan")])
def test_a_clip_that_leaves_nothing(max_norm):
    check = tt.preflight(*healthy.mlp(), clip=max_norm).check("clipping")
    assert check.verdict == "problem"


def test_a_bound_relative_to_weights_that_begin_at_zero():
    class Published:
        clipping = 0.01

    setup = healthy.frozen_backbone_and_zero_head()
    assert tt.preflight(*setup, clip=Published()).check("clipping").verdict == "problem"
    assert tt.preflight(*setup, clip=tt.UnitClip(0.01)).check("clipping").verdict == "ok"


def test_weight_decay_of_biases_is_a_note_and_no_problem():
    check = tt.preflight(*healthy.label_smoothing_and_two_heads()).check("optimizer wiring")
    assert check.verdict == "ok"
    assert "biases" in check.advice


def test_a_parameter_that_is_held_twice():
    model = nn.Linear(12, 5)
    optimizer = torch.optim.SGD([{"params": [model.weight]}, {"params": [model.bias]}], lr=0.1)
    optimizer.param_groups[1]["params"].append(model.weight)
    check = tt.preflight(model, F.cross_entropy, blobs(), optimizer).check("optimizer wiring")
    assert check.verdict == "problem"
    assert "twice" in check.summary


# The loop


def loop(setup: Setup, *, zero: bool = True, step: bool = True, clip: bool = False):
    def train_step(batch):
        if zero:
            setup.optimizer.zero_grad()
        F.cross_entropy(setup.model(batch[0]), batch[1]).backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(setup.model.parameters(), 1.0)
        if step:
            setup.optimizer.step()

    return train_step


def test_the_order_of_calls_of_a_loop_is_looked_at():
    setup = healthy.mlp()
    before = state_of(setup)
    good = tt.preflight(*setup, train_step=loop(setup, clip=True)).check("training loop")
    assert (good.verdict, good.summary) == ("ok", "backward -> clip -> step")
    no_zero = tt.preflight(*setup, train_step=loop(setup, zero=False)).check("training loop")
    assert "zero_grad" in no_zero.summary
    no_step = tt.preflight(*setup, train_step=loop(setup, step=False)).check("training loop")
    assert "optimizer.step()" in no_step.summary
    assert_same(before, state_of(setup))


@pytest.mark.parametrize("unscale", [True, False])
def test_clipping_before_unscaling_is_told(unscale):
    setup = healthy.mlp()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)

    def train_step(batch):
        setup.optimizer.zero_grad()
        scaler.scale(F.cross_entropy(setup.model(batch[0]), batch[1])).backward()
        if unscale:
            scaler.unscale_(setup.optimizer)
        torch.nn.utils.clip_grad_norm_(setup.model.parameters(), 1.0)
        scaler.step(setup.optimizer)
        scaler.update()

    check = tt.preflight(*setup, train_step=train_step, scaler=scaler).check("training loop")
    assert (check.verdict == "ok") == unscale, check
    assert scaler.get_scale() == 1024.0


# What looks bad and is fine


class Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(12, 8)
        self.experts = nn.ModuleList(nn.Linear(12, 16) for _ in range(8))
        self.head = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shares, chosen = self.gate(x).softmax(1).max(1)
        out = torch.zeros(len(x), 16)
        for index, expert in enumerate(self.experts):
            rows = (chosen == index).nonzero().flatten()
            if index != 3 and len(rows):
                out = out.index_add(0, rows, F.relu(expert(x[rows])) * shares[rows, None])
        return self.head(out)


def test_an_expert_that_gets_no_sample_is_no_unused_layer():
    model = Experts()
    found = tt.preflight(model, F.cross_entropy, blobs(), adam(model))
    assert found.is_clean, found.describe()
    assert found.check("parameters used").verdict == "could not tell"


def test_rare_features_once_standardized_are_not_constant_ones():
    x = (torch.rand(500, 40) < 0.02).float()
    x = torch.cat([(x - x.mean(0)) / (x.std(0) + 1e-6), torch.randn(500, 8)], 1)
    check = tt.preflight(nn.Linear(48, 1), F.mse_loss, (x[:32], x[:32, -1:])).check("constant features")
    assert check.verdict == "ok"
    assert int(check.summary.split()[0]) > 5


def test_sparse_gradients_soft_targets_and_absolute_errors_are_understood():
    words = torch.randint(50, (48, 7))
    model = nn.Sequential(nn.EmbeddingBag(50, 16, sparse=True), nn.Linear(16, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    assert tt.preflight(model, F.cross_entropy, (words, words[:, 0] % 3), optimizer).is_clean
    x = torch.randn(64, 12)
    assert tt.preflight(nn.Linear(12, 5), F.cross_entropy, (x, x[:, :5].softmax(1))).is_clean
    y = x[:, :1] + 2
    found = tt.preflight(nn.Linear(12, 1), F.l1_loss, (x, y))
    numbers = {n.name: n.value for n in found.check("initial loss").evidence}
    # of the constants the median has the smallest absolute error
    assert numbers["best constant"] == pytest.approx(float((y - y.median()).abs().mean()), rel=0.01)


class Gated(nn.Module):
    def __init__(self, gate: nn.Module) -> None:
        super().__init__()
        self.one, self.two, self.gate = nn.Linear(12, 5), nn.Linear(12, 5), gate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.gate(self.one(x)) * self.two(x)


def test_a_gate_on_the_logits_is_no_last_activation_and_a_temperature_hides_none():
    x = torch.randn(64, 12)
    model = Gated(nn.Softmax(1))
    assert tt.preflight(model, F.cross_entropy, blobs()).check("loss and activation").verdict == "ok"
    model = Gated(nn.Sigmoid())
    found = tt.preflight(model, F.binary_cross_entropy_with_logits, (x, (x[:, :5] > 0).float()))
    assert found.check("loss and activation").verdict == "ok"
    found = tt.preflight(nn.Linear(12, 5), lambda out, y: F.cross_entropy(out.softmax(1) / 0.1, y), blobs())
    assert found.check("loss and activation").verdict == "problem"


def test_a_step_that_takes_long_ends_it_in_time_and_what_was_left_out_says_so():
    class Slow(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(8, 3)

        def forward(self, x):
            time.sleep(0.08)
            return self.layer(x)

    model, batch = Slow(), blobs()
    model.layer = nn.Linear(batch[0].shape[1], int(batch[1].max()) + 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    found = tt.preflight(model, F.cross_entropy, batch, optimizer, budget_sec=1.2)
    assert found.seconds < 1.5 * 1.2 + 0.6  # what a busy machine may add
    late = [check for check in found.checks if "out of time" in check.summary]
    assert "learning rate" in {check.name for check in late}
    assert {check.verdict for check in late} == {CheckVerdict.COULD_NOT_TELL}


def test_what_one_problem_explains_stands_under_it():
    def failed(*names):
        return [problem(name, f"about {name}", advice="Mend it.") for name in names]

    checks = with_roots([*failed("input scale", "forward gain", "learning rate", "clipping")])
    assert [c.explained_by for c in checks] == ["", "input scale", "input scale", ""]
    found = Preflight(checks, 1.0)
    assert [c.name for c in found.problems] == ["input scale", "clipping"]
    text = found.describe().splitlines()
    assert text[-1].startswith("2 problems in 4 checks")
    assert "likely for this reason, forward gain: about forward gain" in text[2]
    # nothing explains what is fine, and what is fine explains nothing
    fine = [ok("input scale", "fine"), *failed("initial loss"), ok("learning rate", "fine")]
    assert [c.explained_by for c in with_roots(fine)] == ["", "", ""]


def test_an_empty_batch_is_an_error():
    with pytest.raises(ValueError, match=r"batch\[0\] is empty, of shape \(0, 4\)"):
        tt.preflight(nn.Linear(4, 3), F.cross_entropy, (torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)))


class Fragile(nn.Module):
    """Raises in one of its passes."""

    def __init__(self, where):
        super().__init__()
        self.where = where
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        if self.where == "forward":
            raise AttributeError("no such head")  # as a TypeError, it is not for the wrong convention
        if self.where == "other batches" and len(x) != 8:
            raise RuntimeError("made for eight rows")
        y = self.layer(x).exp()
        if self.where == "backward":
            y.add_(1)  # exp needs its result
        return y


@pytest.mark.parametrize("loss_fn", [F.mse_loss, lambda model, batch: F.mse_loss(model(batch[0]), batch[1])])
@pytest.mark.parametrize(
    ("where", "words"),
    [
        (
            "forward",
            'AttributeError: no such head ({}, line {}, in forward: raise AttributeError("no such head")',
        ),
        ("backward", "RuntimeError: one of the variables needed for gradient computation has been modified"),
    ],
)
def test_a_pass_that_raises_is_a_problem(where, words, loss_fn):
    model = Fragile(where)
    before = [p.clone() for p in model.parameters()]
    found = tt.preflight(model, loss_fn, (torch.randn(8, 4), torch.randn(8, 4)))
    (check,) = found.problems
    assert check.name == f"{where} pass"
    line = Fragile.forward.__code__.co_firstlineno + 2
    assert words.format(__file__, line) in check.summary
    assert "batch[1]: (8, 4) float32" in check.summary
    assert check.advice
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_loop_or_an_experiment_that_raises_leaves_the_other_checks():
    batch = (torch.randn(8, 4), torch.randn(8, 4))

    def step(batch):
        raise KeyError("inputs")

    model = Fragile("nowhere")
    found = tt.preflight(
        model, F.mse_loss, batch, torch.optim.SGD(model.parameters(), lr=0.01), train_step=step, budget_sec=2
    )
    assert found.check("training loop").verdict == "problem"
    assert "KeyError: 'inputs'" in found.check("training loop").summary
    found = tt.preflight(Fragile("other batches"), F.mse_loss, batch, budget_sec=2)
    assert all(c.verdict != "problem" or "made for eight" not in c.summary for c in found.checks)
    assert len(found.checks) == 24


def test_what_is_no_setup_is_refused():
    model, batch = nn.Linear(2, 2), (torch.ones(4, 2), torch.ones(4, 2))
    for given, error, words in (
        ((None, F.mse_loss, batch), TypeError, "model is NoneType"),
        ((model, "mse", batch), TypeError, "loss_fn is str"),
        ((model, nn.MSELoss, batch), TypeError, r"the class MSELoss: expected a function, MSELoss\(\)"),
        ((model, F.mse_loss, iter([batch])), TypeError, "expected one batch"),
        ((model, F.mse_loss, batch, torch.optim.SGD), TypeError, r"expected SGD\(...\), or None"),
        ((nn.ReLU(), F.mse_loss, batch), ValueError, "no parameters"),
    ):
        with pytest.raises(error, match=words):
            tt.preflight(*given)
    with pytest.raises(ValueError, match="budget_sec='long'"):
        tt.preflight(model, F.mse_loss, batch, budget_sec="long")
