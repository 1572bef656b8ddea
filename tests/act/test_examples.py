from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import trimtab as tt
from trimtab.act import clip_examples_


def net(dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 2)).to(dtype)


def loss_fn(model, x, y):
    return (model(x) - y).square().sum(1).mean()


def batch_of(num, seed=0, scale=1.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(num, 3, generator=generator, dtype=torch.float64) * scale
    return x.to(dtype), (5 * torch.randn(num, 2, generator=generator, dtype=torch.float64)).to(dtype)


def reference(model, batch, max_norm):
    """One backward for each example, clipped as torch clips; then the mean of those that are finite."""
    kept, norms = [], []
    for i in range(len(batch[0])):
        own = copy.deepcopy(model)
        loss_fn(own, *(part[i : i + 1] for part in batch)).backward()
        norms.append(float(nn.utils.clip_grad_norm_(own.parameters(), max_norm)))
        if math.isfinite(norms[-1]):
            kept.append([p.grad.numpy() for p in own.parameters()])
    return [np.mean(each, axis=0) for each in zip(*kept, strict=True)], norms


@given(
    num=st.integers(1, 9),
    seed=st.integers(0, 99),
    max_norm=st.sampled_from([0.1, 3.0, 1e3]),
    chunk_size=st.sampled_from([None, 1, 2, 4, 100]),
    bad=st.sets(st.integers(1, 8), max_size=3),
)
@settings(max_examples=40, deadline=None)
def test_it_is_one_clipped_backward_for_each_example(num, seed, max_norm, chunk_size, bad):
    batch = batch_of(num, seed)
    for i in bad & set(range(num)):
        batch[0][i, 0] = math.nan if i % 2 else math.inf
    model = net()
    stats = clip_examples_(model, loss_fn, batch, max_norm=max_norm, chunk_size=chunk_size)
    expected, norms = reference(net(), batch, max_norm)
    for p, gradient in zip(model.parameters(), expected, strict=True):
        np.testing.assert_allclose(p.grad.numpy(), gradient, rtol=1e-9, atol=1e-14)
    good = np.isfinite(norms)
    np.testing.assert_allclose(stats.norms.numpy()[good], np.array(norms)[good], rtol=1e-9)
    assert stats.num_dropped == num - good.sum()
    assert stats.num_clipped == sum(n + 1e-6 > max_norm for n in np.array(norms)[good])


def test_far_below_the_bound_it_is_backward():
    model, other, batch = net(), net(), batch_of(8)
    stats = clip_examples_(model, loss_fn, batch, max_norm=1e9)
    loss = loss_fn(other, *batch)
    loss.backward()
    assert stats.loss.item() == pytest.approx(loss.item(), rel=1e-12)
    assert stats.num_clipped == 0
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-9, atol=1e-12)


def test_one_example_cannot_pull_the_mean_and_a_clip_of_the_mean_lets_it():
    batch = batch_of(10)
    spoiled = tuple(part.clone() for part in batch)
    spoiled[1][3] = 1e6

    def directions(clip_):
        found = []
        for data in (batch, spoiled):
            model = net()
            clip_(model, data)
            found.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
        return nn.functional.cosine_similarity(*found, dim=0).item()

    def mean_clip_(model, data):
        loss_fn(model, *data).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)

    assert directions(mean_clip_) < 0.6
    assert directions(lambda model, data: clip_examples_(model, loss_fn, data, max_norm=1.0)) > 0.9


def test_a_guard_takes_it_from_there_and_all_bad_is_its_business():
    model = net(torch.float32)
    guard = tt.Guard(model, torch.optim.SGD(model.parameters(), lr=0.1))
    stats = clip_examples_(model, loss_fn, batch_of(4, dtype=torch.float32), max_norm=1.0)
    outcome = guard.step(stats.loss)
    assert outcome.applied
    assert outcome.grad_norm <= 1.0
    x, y = batch_of(4, dtype=torch.float32)
    stats = clip_examples_(model, loss_fn, (x * math.nan, y), max_norm=1.0)
    assert not guard.step(stats.loss).applied


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_squares_that_overflow_and_halves(dtype):
    model = nn.Linear(2, 1, bias=False).to(dtype)
    x = torch.full((3, 2), 3e4, dtype=dtype)
    clip_examples_(model, lambda model, x: model(x).sum(), (x,), max_norm=1.0)
    assert model.weight.grad.dtype is dtype
    assert model.weight.grad.float().norm().item() == pytest.approx(1.0, rel=1e-2)


def test_frozen_and_tied_parameters_and_old_gradients():
    model = nn.ModuleDict(
        {"a": nn.Linear(3, 3, bias=False), "b": nn.Linear(3, 3, bias=False), "c": nn.Linear(3, 2)}
    )
    model["b"].weight = model["a"].weight
    model["c"].bias.requires_grad_(False)
    whole = copy.deepcopy(model)

    def loss_of(model, x, y):
        return (model["c"](model["b"](model["a"](x))) - y).square().sum(1).mean()

    batch = batch_of(5, dtype=torch.float32)
    model["a"].weight.grad = torch.full((3, 3), 7.0)
    clip_examples_(model, loss_of, batch, max_norm=1e9)
    loss_of(whole, *batch).backward()
    assert model["c"].bias.grad is None
    for p, q in zip(model.parameters(), whole.parameters(), strict=True):
        if p.requires_grad:
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-5)


def test_each_example_has_random_numbers_of_its_own_and_modes_are_kept():
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(64, 1, bias=False))
    ones = torch.ones(8, 64)
    clip_examples_(model, lambda model, x: model(x).sum(), (ones,), max_norm=1e9)
    assert len(model[1].weight.grad.unique()) > 3
    model.eval()
    clip_examples_(model, lambda model, x: model(x).sum(), (ones,), max_norm=1e9)
    assert model[1].weight.grad.unique().tolist() == [1.0]
    assert not model.training


class Reads(TorchDispatchMode):
    num = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.num += "_local_scalar_dense" in str(func)
        return func(*args, **(kwargs or {}))


def test_it_reads_nothing():
    with Reads() as counter:
        clip_examples_(net(), loss_fn, batch_of(4), max_norm=1.0, chunk_size=2)
    assert counter.num == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_norm": 0.0}, "max_norm=0.0.*finite number > 0"),
        ({"max_norm": math.nan}, "finite number > 0"),
        ({"chunk_size": 0}, "chunk_size=0.*whole number >= 1"),
        ({"batch": torch.ones(3, 3)}, r"write \(batch,\)"),
        ({"batch": (torch.ones(3, 3), torch.ones(2, 2))}, r"\(3, 3\), \(2, 2\)"),
        ({"batch": (torch.ones(0, 3), torch.ones(0, 2))}, "same number of examples"),
        ({"batch": (torch.ones(3, 3), None)}, "same number of examples"),
        ({"model": nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))}, "1 normalizes over the batch"),
        ({"model": nn.Linear(3, 2).requires_grad_(False)}, "no parameter requires a gradient"),
    ],
    ids=str,
)
def test_what_cannot_be_clipped_is_refused_and_nothing_is_changed(arguments, message):
    given_ = {"model": net(), "batch": batch_of(3), "max_norm": 1.0} | arguments
    with pytest.raises(ValueError, match=message):
        clip_examples_(given_.pop("model"), loss_fn, given_.pop("batch"), **given_)
