"""Rules of warm-up, of single layers, of Adam's moments, of frozen parts and of leaks: when they speak."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from trimtab import Diagnose, Guard, NormClip, Observe, RunLog, read
from trimtab.diagnose import diagnose
from trimtab.diagnose.engine import clues

RNG = np.random.default_rng(0)


def causes(log):
    return [finding.cause.value for finding in diagnose(log)]


def seen(log):
    return {clue.cause.value for clue in clues(log)}


def run(folder, *, model, optimizer, batch, steps=120, spoil=None, loss=F.cross_entropy, evaluate=None):
    watch = Diagnose(every=10, budget=1.0)
    with Guard(model, optimizer, remedy=Observe(), record=folder, diagnose=watch) as guard:
        for step in range(steps):
            optimizer.zero_grad()
            x, y = batch(step)
            value = loss(model(x), y)
            value.backward()
            if spoil is not None:
                spoil(step)
            guard.step(value)
            if evaluate is not None and step % 10 == 9:
                guard.log(val_loss=evaluate())
    return read(folder)


def sums(size=48):
    x = torch.randn(size, 16)
    return x, x.reshape(-1, 4, 4).sum(-1).argmax(1)


def network():
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))


@pytest.mark.parametrize("is_poisoned", [False, True])
def test_a_poisoned_second_moment(tmp_path, is_poisoned):
    torch.manual_seed(0)
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, betas=(0.0, 0.9999))

    def spoil(step):
        if step == 3 and is_poisoned:
            for p in model.parameters():
                p.grad.mul_(1e6)

    log = run(tmp_path / "run", model=model, optimizer=optimizer, batch=lambda k: sums(), spoil=spoil)
    assert ("second_moment" in seen(log)) == is_poisoned
    assert causes(log) == (["second_moment"] if is_poisoned else [])


def thrown(num_back, *, length=400):
    """A loss that rises fivefold at once, is back after so many steps, and then falls."""
    k = np.arange(length)
    up = 2.3 + 9 * np.exp(-k / (num_back / 3.0)) * (k > 0)
    down = np.where(k > num_back, 2.0 * (1 - np.exp(-(k - num_back) / 80)), 0.0)
    return (up - down) * np.exp(0.03 * RNG.normal(size=length))


def test_missing_warm_up():
    late = causes(RunLog.from_arrays(loss=thrown(120), lr=[0.1] * 400))
    assert late == ["no_warmup"]


def test_a_short_transient_and_a_warm_up_are_no_finding():
    assert causes(RunLog.from_arrays(loss=thrown(12), lr=[0.1] * 400)) == []
    rate = np.minimum(np.arange(1, 401) / 100, 1.0) * 0.1
    assert "no_warmup" not in seen(RunLog.from_arrays(loss=thrown(120), lr=rate))


def test_one_layer_with_a_rate_of_its_own(tmp_path):
    torch.manual_seed(0)
    model = network()
    groups = [{"params": model[:2].parameters()}, {"params": model[2:].parameters(), "lr": 1e-9}]
    optimizer = torch.optim.Adam(groups, lr=1e-2)
    log = run(tmp_path / "a", model=model, optimizer=optimizer, batch=lambda k: sums())
    assert "update_ratio" not in seen(log)  # two of three weights stand still: which is the odd one?
    torch.manual_seed(0)
    model = network()
    groups = [{"params": [*model[:4].parameters()]}, {"params": model[4:].parameters(), "lr": 3.0}]
    log = run(
        tmp_path / "b", model=model, optimizer=torch.optim.Adam(groups, lr=1e-4), batch=lambda k: sums()
    )
    found = {clue.cause.value: clue for clue in clues(log)}
    assert found["update_ratio"].layer == "4.weight"


def test_random_layers_may_be_frozen_if_the_run_learns(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 256), nn.ReLU(), nn.Linear(256, 4))
    model[0].requires_grad_(False)
    optimizer = torch.optim.Adam(model[2].parameters(), lr=1e-2)
    log = run(tmp_path / "run", model=model, optimizer=optimizer, batch=lambda k: sums())
    assert "frozen" in seen(log)
    assert causes(log) == []


def test_frozen_layers_that_were_never_trained_are_told_in_a_slow_run(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))
    model[:4].requires_grad_(False)
    model[3].register_forward_hook(lambda m, a, out: 0.05 * out)  # what is frozen lets little through
    optimizer = torch.optim.Adam(model[4:].parameters(), lr=1e-2)
    log = run(tmp_path / "run", model=model, optimizer=optimizer, batch=lambda k: sums())
    assert "frozen" in causes(log)
    with torch.no_grad():  # a part that was trained has other weights
        for parameter in model[:4].parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    log = run(tmp_path / "trained", model=model, optimizer=optimizer, batch=lambda k: sums())
    assert "frozen" not in seen(log)


def test_a_gradient_that_is_turned_around(tmp_path):
    torch.manual_seed(0)
    model = network()
    model[2].weight.register_hook(lambda g: g)  # a hook that changes nothing is no trouble
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    log = run(tmp_path / "sound", model=model, optimizer=optimizer, batch=lambda k: sums())
    assert causes(log) == []

    def spoil(step):
        model[2].weight.grad.neg_()

    log = run(tmp_path / "turned", model=model, optimizer=optimizer, batch=lambda k: sums(), spoil=spoil)
    assert "gradients_altered" in causes(log)


class Rounded(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = network()[:4], nn.Linear(32, 4)

    def forward(self, x):
        hidden = self.body(x)
        return self.head((10 * hidden).round() / 10)


def test_a_rounding_cuts_the_gradient(tmp_path):
    torch.manual_seed(0)
    model = Rounded()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    log = run(tmp_path / "run", model=model, optimizer=optimizer, batch=lambda k: sums())
    (finding,) = diagnose(log)
    assert (finding.cause, finding.layer) == ("detached", "body.0.weight")


def test_what_is_learned_by_heart(tmp_path):
    loss = 2.3 * np.exp(-np.arange(300) / 60) + 0.01
    val = [2.3 - 0.8 * min(k / 60, 1) if k % 20 == 19 else None for k in range(300)]
    assert causes(RunLog.from_arrays(loss=loss, val_loss=val, lr=[0.1] * 300)) == ["overfitting"]
    falling = [2.3 - k / 300 if k % 20 == 19 else None for k in range(300)]
    assert causes(RunLog.from_arrays(loss=loss, val_loss=falling, lr=[0.1] * 300)) == []
    rising = [1.2 + abs(k - 100) / 200 if k % 20 == 19 else None for k in range(300)]
    (finding,) = diagnose(RunLog.from_arrays(loss=loss, val_loss=rising, lr=[0.1] * 300))
    assert "best at step 99" in finding.summary
    good = [0.5 + 1.5 * np.exp(-k / 60) if k % 20 == 19 else None for k in range(300)]
    assert causes(RunLog.from_arrays(loss=loss, val_loss=good, lr=[0.1] * 300)) == []


@pytest.mark.parametrize("leaks", [False, True])
def test_an_evaluation_on_training_rows(tmp_path, leaks):
    torch.manual_seed(0)
    model = network()
    x, y = sums(300)
    held = (x[:50], y[:50]) if leaks else sums(50)

    def batch(step):
        rows = torch.randperm(300)[:48]
        return x[rows], y[rows]

    def evaluate():
        model.eval()
        with torch.no_grad():
            value = float(F.cross_entropy(model(held[0]), held[1]))
        model.train()
        return value

    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    log = run(tmp_path / "run", model=model, optimizer=optimizer, batch=batch, evaluate=evaluate, steps=150)
    assert ("leak" in causes(log)) == leaks


def test_underfitting_needs_both_losses_to_stop_together():
    loss = np.concatenate([np.linspace(2.3, 2.2, 20), np.full(380, 2.2)])
    loss *= np.exp(0.01 * RNG.normal(size=400))
    val = [2.2 if k % 20 == 19 else None for k in range(400)]
    assert "underfitting" in seen(RunLog.from_arrays(loss=loss, val_loss=val, lr=[0.1] * 400))
    gap = [2.9 if k % 20 == 19 else None for k in range(400)]
    assert "underfitting" not in seen(RunLog.from_arrays(loss=loss, val_loss=gap, lr=[0.1] * 400))


def test_clipping_is_not_blamed_for_a_run_that_learns(tmp_path):
    torch.manual_seed(0)
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    with Guard(model, optimizer, clip=NormClip(1e-3), record=tmp_path, diagnose=Diagnose(every=10)) as guard:
        for _ in range(100):
            optimizer.zero_grad()
            x, y = sums()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            guard.step(loss)
    assert causes(read(tmp_path)) == []


def test_a_dead_layer_is_no_cut(tmp_path):
    torch.manual_seed(0)
    model = network()
    with torch.no_grad():
        model[2].bias.fill_(-30.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    log = run(tmp_path / "run", model=model, optimizer=optimizer, batch=lambda k: sums())
    (finding,) = diagnose(log)
    assert finding.cause.value in ("dead_units", "bad_init")
    assert "detached" not in seen(log)


def test_equal_weights_are_told_though_the_first_step_parts_them(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 24), nn.Dropout(0.3), nn.ReLU(), nn.Linear(24, 4))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    log = run(tmp_path / "run", model=model, optimizer=optimizer, batch=lambda k: sums())
    assert "symmetric_init" in causes(log)
