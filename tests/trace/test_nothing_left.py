"""A replay leaves model, optimizer, gradients, buffers, generators and hooks as they were, bit for bit."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import trimtab as tt
from trimtab.trace import headroom, replay_module

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=0.1, amsgrad=True),
    "adamw foreach": lambda p: torch.optim.AdamW(p, lr=0.1, foreach=True),
    "adam fused": lambda p: torch.optim.Adam(p, lr=0.1, fused=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.1, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1),
    "adadelta": lambda p: torch.optim.Adadelta(p),
    "lbfgs": lambda p: torch.optim.LBFGS(p),
}


class Net(nn.Module):
    """With all that a step may change: statistics, spectral norm, dropout, counters, plain tensors."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.3))
        self.head = nn.utils.parametrizations.spectral_norm(nn.Linear(8, 1))
        self.mean = torch.zeros(8)
        self.num_calls = 0
        self.seen = []

    def forward(self, x):
        h = self.body(x)
        self.mean.mul_(0.9).add_(h.detach().mean(0), alpha=0.1)
        self.num_calls += 1
        self.seen.append(float(h.detach().mean()))
        self.last = h
        noise = random.random() + np.random.rand()
        return self.head(h * (1 + noise * torch.rand(8)))


def image(model, optimizer):
    """Everything, by value, with the identity of the tensors that hold it."""
    parameters = dict(model.named_parameters())
    tensors = {**parameters, **dict(model.named_buffers()), "mean": model.mean}
    return {
        "tensors": {n: (id(t), t.data_ptr(), t.detach().clone()) for n, t in tensors.items()},
        "gradients": {
            n: (id(p.grad), None if p.grad is None else p.grad.clone()) for n, p in parameters.items()
        },
        "plain": (model.num_calls, list(model.seen), hasattr(model, "last"), sorted(vars(model))),
        "modes": [m.training for m in model.modules()],
        "hooks": [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()],
        "groups": [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups],
        "state": {
            id(p): {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in s.items() if k != "prev"}
            for p, s in optimizer.state.items()
        },
        "rng": (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()),
    }


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0)) and torch.equal(a.isnan(), b.isnan())
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def step_of(model, optimizer, *, is_bad, set_to_none=True, fails=False):
    x = torch.randn(6, 4)

    def closure():
        optimizer.zero_grad(set_to_none=set_to_none)
        out = model(x)
        if fails:
            raise ZeroDivisionError("the closure fails")
        loss = F.mse_loss(out, torch.zeros(6, 1))
        if is_bad:
            loss = loss + (out * 0).sqrt().sum()
        loss.backward()
        return loss

    return closure


@pytest.mark.parametrize("is_bad", [False, True], ids=["sound", "bad"])
@pytest.mark.parametrize("steps_before", [0, 2])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_replay_leaves_nothing_behind(name, steps_before, is_bad):
    model = Net()
    optimizer = OPTIMIZERS[name](model.parameters())
    for _ in range(steps_before):
        closure = step_of(model, optimizer, is_bad=False)
        optimizer.step(closure) if name == "lbfgs" else (closure(), optimizer.step())
    before = image(model, optimizer)
    origin = tt.trace(
        model, step_of(model, optimizer, is_bad=is_bad, set_to_none=steps_before == 0), optimizer
    )
    after = image(model, optimizer)
    for part in before:
        if part != "rng":  # making the batch draws
            assert same(before[part], after[part]), part
    assert (origin is not None) == is_bad


@pytest.mark.parametrize("run", [tt.trace, headroom], ids=["trace", "headroom"])
def test_nothing_is_left_when_the_closure_raises(run):
    model = Net()
    optimizer = torch.optim.Adam(model.parameters())
    closure = step_of(model, optimizer, is_bad=False, fails=True)
    before = image(model, optimizer)
    with pytest.raises(ZeroDivisionError, match="the closure fails"):
        run(model, closure)
    assert same(before, image(model, optimizer))


def test_generators_and_the_next_step_are_the_same():
    def losses(*, is_traced):
        torch.manual_seed(3)
        random.seed(3)
        np.random.seed(3)
        model = Net()
        optimizer = torch.optim.Adam(model.parameters())
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(6, 4)

        def closure():
            optimizer.zero_grad()
            loss = (model(x) * torch.rand(6, 1, generator=generator)).pow(2).mean()
            loss.backward()
            return loss

        found = []
        for _ in range(4):
            if is_traced:
                assert tt.trace(model, closure, optimizer) is None
            found.append(closure().item())
            optimizer.step()
        return found

    assert losses(is_traced=True) == losses(is_traced=False)


def test_batch_that_is_written_in_place_is_put_back():
    model = nn.Linear(3, 1)
    x = torch.ones(2, 3)
    tt.trace(model, lambda: model(x.mul_(2)).sum())
    assert torch.equal(x, torch.ones(2, 3))


def test_parameter_whose_data_is_exchanged_is_put_back():
    model = nn.Linear(3, 1)
    weight = model.weight.data.clone()

    def closure():
        model.weight.data = torch.zeros(1, 3)
        return model(torch.ones(2, 3)).sum()

    tt.trace(model, closure)
    assert torch.equal(model.weight.data, weight)


def test_step_hooks_do_not_run():
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    calls = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("pre"))

    def closure():
        loss = model(torch.ones(2, 3)).sum()
        loss.backward()
        return loss

    assert tt.trace(model, closure, optimizer) is None
    assert calls == []
    optimizer.step()
    assert calls == ["pre"]


def test_replay_of_a_module_leaves_nothing_behind():
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, gradient = torch.randn(6, 4), torch.full((6, 1), float("nan"))
    before = image(model, optimizer)
    origin = replay_module(model, [x], {}, [gradient])
    after = image(model, optimizer)
    assert same(before, after)
    assert origin.phase == "loss"
