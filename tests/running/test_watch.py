from __future__ import annotations

import copy
import gc
import weakref

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks
from torch.utils.checkpoint import checkpoint

import trimtab as tt
from trimtab.running import Policies, Watch
from trimtab.running.finding import Assembled, find_model


class Encoder(nn.Linear):
    pass


class Both(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = Encoder(2, 2), nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))

    def forward(self, x):
        return self.second(self.first(x))


def sgd(*parameters):
    return torch.optim.SGD(parameters, lr=0.1)


def backward(model, scale=1.0):
    loss = scale * model(torch.ones(3, 2)).square().mean()
    loss.backward()
    return loss.item()


@pytest.fixture
def watched(tmp_path):
    with Watch(Policies(record=tmp_path / "log")) as watch:
        yield watch, lambda name="log": tt.read(tmp_path / name)


def test_everything_is_put_back(tmp_path):
    def state():
        return (
            torch.autograd.backward,
            torch.optim.Optimizer.__init__,
            torch.amp.GradScaler.scale,
            torch.amp.GradScaler.step,
            nn.Module.__call__,
            len(_global_optimizer_pre_hooks),
            len(_global_optimizer_post_hooks),
        )

    before = state()
    watch = Watch(Policies(record=tmp_path / "log"))
    watch.open()
    model = Both()
    optimizer = sgd(*model.parameters())
    assert state() != before
    watch.close()
    watch.close()
    assert state() == before
    assert list(tmp_path.iterdir()) == []
    backward(model)
    optimizer.step()
    assert not optimizer._optimizer_step_pre_hooks


def test_what_somebody_else_replaced_meanwhile_stays(monkeypatch):
    watch = Watch(Policies())
    watch.open()
    ours = torch.autograd.backward
    theirs = lambda *a, **k: ours(*a, **k)  # noqa: E731
    monkeypatch.setattr(torch.autograd, "backward", theirs)
    watch.close()
    assert torch.autograd.backward is theirs
    backward(Both())


def test_guards_keep_nothing_alive(watched):
    watch, _ = watched
    model = Both()
    optimizer = sgd(*model.parameters())
    backward(model)
    optimizer.step()
    refs = [weakref.ref(model), weakref.ref(optimizer)]
    del model, optimizer
    gc.collect()
    assert [ref() for ref in refs] == [None, None]
    assert [tally.num_steps for tally in watch.tallies] == [1]


def test_losses_of_accumulated_and_scaled_micro_batches_add_up(watched):
    _, log = watched
    model = Both()
    optimizer = sgd(*model.parameters())
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    expected = []
    for _ in range(3):
        optimizer.zero_grad()
        total = 0.0
        for _ in range(4):
            loss = model(torch.randn(3, 2)).square().mean() / 4
            scaler.scale(loss).backward()
            total += loss.item()
        scaler.step(optimizer)
        scaler.update()
        expected.append(total)
    np.testing.assert_allclose(log().loss, expected, rtol=1e-6)


@pytest.mark.parametrize("set_to_none", [True, False])
def test_losses_of_two_optimizers_are_told_apart(set_to_none, watched):
    _, log = watched
    model = Both()
    first, second = sgd(*model.first.parameters()), sgd(*model.second.parameters())
    expected = {"log": [], "log/optimizer-2": []}
    for _ in range(3):
        for optimizer, scale, folder in ((first, 1.0, "log"), (second, 100.0, "log/optimizer-2")):
            model.zero_grad(set_to_none=set_to_none)
            expected[folder].append(backward(model, scale))
            optimizer.step()
    for folder, losses in expected.items():
        np.testing.assert_allclose(log(folder).loss, losses, rtol=1e-6)


def test_one_loss_for_two_optimizers_is_that_of_both(watched):
    _, log = watched
    model = Both()
    optimizers = sgd(*model.first.parameters()), sgd(*model.second.parameters())
    expected = []
    for _ in range(3):
        for optimizer in optimizers:
            optimizer.zero_grad()
        expected.append(backward(model))
        for optimizer in optimizers:
            optimizer.step()
    for folder in ("log", "log/optimizer-2"):
        np.testing.assert_allclose(log(folder).loss, expected, rtol=1e-6)


def test_what_is_no_loss_is_none(watched):
    _, log = watched
    model = Both()
    optimizer = sgd(*model.parameters())
    out = model(torch.ones(3, 2))
    out.backward(torch.ones_like(out))
    optimizer.step()
    optimizer.zero_grad()
    inside = checkpoint(model.first, torch.ones(3, 2, requires_grad=True), use_reentrant=True)
    loss = model.second(inside).square().mean()  # a backward pass within the backward pass
    loss.backward()
    optimizer.step()
    assert np.isnan(log().loss).tolist() == [True, False]
    assert log().loss[1] == pytest.approx(loss.item())


def test_an_attack_on_the_inputs_before_the_step_is_not_in_its_loss(watched):
    _, log = watched
    model = Both()
    optimizer = sgd(*model.parameters())
    x = torch.ones(3, 2, requires_grad=True)
    for _ in range(3):
        (100 * model(x).square().mean()).backward()
    optimizer.zero_grad()
    loss = backward(model)
    optimizer.step()
    assert log().loss[0] == pytest.approx(loss)


def test_the_buffers_of_the_very_first_step_are_put_back_too(watched):
    model = nn.BatchNorm1d(2)  # the buffers are the outermost module's own
    optimizer = sgd(*model.parameters())
    before = copy.deepcopy(model.state_dict())
    model(torch.full((3, 2), float("nan"))).sum().backward()
    optimizer.step()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_an_optimizer_within_another_is_guarded_once(watched):
    watch, _ = watched

    class Outer(torch.optim.Optimizer):
        def __init__(self, inner):
            super().__init__(inner.param_groups, {})
            self.inner = inner

        def step(self, closure=None):
            with torch.enable_grad():
                loss = closure()
                again = closure()
            self.inner.step()
            return loss, again

    model, calls = Both(), []
    optimizer = Outer(sgd(*model.parameters()))

    def closure():
        optimizer.zero_grad()
        calls.append(backward(model))
        return len(calls)

    assert optimizer.step(closure) == (1, 2)  # each evaluation is one
    assert [(tally.optimizer, tally.num_steps) for tally in watch.tallies] == [("SGD", 1)]


def test_what_cannot_be_guarded_goes_on_and_is_told(watched):
    watch, _ = watched
    model = Both()
    optimizer = sgd(*model.parameters())
    with tt.Guard(model, optimizer) as guard:
        guard.step(torch.tensor(backward(model)))
    (tally,) = watch.tallies
    assert "another Guard holds this optimizer" in tally.unguarded_because
    assert "SGD was not guarded: another Guard" in tt.running.sentence([tally])


def test_float16_gradients_in_a_fused_kernel_are_left_to_it(watched):
    watch, _ = watched
    model = nn.Linear(2, 2).half()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    model.weight.grad, model.bias.grad = torch.ones_like(model.weight), torch.ones_like(model.bias)
    scaler.scale(torch.ones(()))
    before = model.weight.detach().clone()
    scaler.step(optimizer)
    assert (model.weight != before).all()
    assert "float16 gradients" in watch.tallies[0].unguarded_because


# The model of an optimizer


def test_the_outermost_module_without_strangers_is_found():
    model = Both()
    assert find_model(sgd(*model.parameters()), set()) is model
    assert find_model(sgd(*model.first.parameters()), set()) is model
    assert find_model(sgd(*model.first.parameters()), set(model.second.parameters())) is model.first
    whole = find_model(sgd(model.first.weight, model.second[0].bias), {model.first.bias})
    assert whole is model  # no part without the stranger holds both


def test_wrappers_are_looked_through():
    model = Both()
    wrapped = nn.DataParallel(model), torch.compile(model, backend="eager")
    assert find_model(sgd(*wrapped[0].parameters()), set()) is model


def test_parts_are_named_after_their_classes():
    parts = Encoder(1, 1), Encoder(1, 1), nn.Tanh()
    loose = torch.ones(2, requires_grad=True)
    optimizer = sgd(*parts[0].parameters(), loose, parts[1].weight)
    found = find_model(optimizer, set())
    assert isinstance(found, Assembled)
    names = [name for name, _ in found.named_parameters()]
    assert names == ["parameter", "Encoder.weight", "Encoder.bias", "Encoder2.weight", "Encoder2.bias"]
    guard = tt.Guard(found, optimizer, remedy=tt.Rewind(), snapshots=tt.Snapshots(every=1))
    for step, scale in enumerate((1.0, 1.0, float("nan"))):
        optimizer.zero_grad()
        loss = (parts[1](parts[0](torch.ones(1, 1))) * loose).sum() * scale
        loss.backward()
        assert (guard.step(loss).action is tt.types.Action.REWIND) == (step == 2)
