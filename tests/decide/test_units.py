from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import agc, as_array
from torch import Tensor, nn

import trimtab as tt
from trimtab import act, measure
from trimtab.decide.units import UnitClip


class Everything(nn.Module):
    """One of each kind of parameter whose units lie somewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.conv = nn.Conv2d(1, 3, 2)
        self.up = nn.ConvTranspose2d(3, 2, 2)
        self.lstm = nn.LSTM(4, 4, batch_first=True)
        self.head = nn.Linear(4, 5)
        self.gain = nn.Parameter(torch.tensor(0.7))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        x = self.lstm(x)[0]
        image = self.up(self.conv(x[:, None]))
        return self.head(self.gain * x).square().sum() + image.square().sum()


# Written down once more, by hand: along which dimension the units lie
DIMS = {
    "embedding.weight": 0,
    "attention.in_proj_weight": 0,
    "attention.out_proj.weight": 0,
    "conv.weight": 0,
    "up.weight": 1,
    "lstm.weight_ih_l0": 0,
    "lstm.weight_hh_l0": 0,
    "head.weight": 0,
}


def build(seed=0, scale=1.0):
    torch.manual_seed(seed)
    model = Everything()
    (model(torch.randint(7, (3, 4))) * scale).backward()
    return model


def clip_(model, clip, state=None):
    watched = measure.Watched(model, torch.optim.SGD(model.parameters(), lr=0.1))
    parameters, gradients = watched.with_gradient()
    seen = watched.seen_by(clip.needs, measure.step_stats(gradients), parameters)
    rescaling, state = clip.rescale(seen, clip.init(watched.layout()) if state is None else state)
    act.rescale_grads_(gradients, watched.picked(rescaling, parameters))
    return state


@given(ratio=st.sampled_from([1e-3, 0.01, 0.1, 10.0]), scale=st.floats(1e-3, 1e3), seed=st.integers(0, 50))
@settings(max_examples=20, deadline=None)
def test_it_is_agc_along_the_right_dimension_of_each_layer(ratio, scale, seed):
    model = build(seed, scale)
    expected = {
        name: agc(as_array(p), as_array(p.grad), DIMS.get(name), ratio, 1e-3)
        for name, p in model.named_parameters()
        if not _begins_small(name, p)
    }
    clip_(model, UnitClip(max_ratio=ratio))
    assert len(expected) > 10
    for name, gradient in expected.items():
        got = as_array(dict(model.named_parameters())[name].grad)
        np.testing.assert_allclose(got, gradient, rtol=1e-5, atol=1e-12, err_msg=name)


def _begins_small(name, parameter):
    weight = as_array(parameter)
    dim = DIMS.get(name)
    others = tuple(d for d in range(weight.ndim) if d != dim)
    return bool((np.sqrt((weight**2).sum(axis=others)) < 1e-3).any())


def test_no_unit_is_above_its_bound_and_the_others_are_untouched():
    model, before = build(scale=5.0), build(scale=5.0)
    clip_(model, UnitClip(max_ratio=0.1))
    num_clipped = num = 0
    for (name, p), old in zip(model.named_parameters(), before.parameters(), strict=True):
        dim = DIMS.get(name)
        weights, after = measure.units([p], [dim])[1][0], measure.units([p], [dim])[0][0]
        assert bool((after <= 0.1 * weights.clamp(min=1 / math.sqrt(3)) * (1 + 1e-6)).all())
        is_clipped = measure.units([old], [dim])[0][0] > after * (1 + 1e-6)
        same = (p.grad == old.grad).all(dim=[d for d in range(p.dim()) if d != dim] or None, keepdim=True)
        if name in DIMS:
            assert bool((same | is_clipped).all()), name
        num_clipped += int(is_clipped.sum())
        num += is_clipped.numel()
    assert 0 < num_clipped < num


def test_what_is_excluded_is_untouched():
    model, before = build(scale=100.0), build(scale=100.0)
    clip_(model, UnitClip(exclude=("head", "*.bias_?h_l0")))
    for (name, p), old in zip(model.named_parameters(), before.parameters(), strict=True):
        is_excluded = name.startswith("head.") or name in ("lstm.bias_ih_l0", "lstm.bias_hh_l0")
        assert torch.equal(p.grad, old.grad) == (is_excluded or not p.grad.any()), name


def test_an_exclusion_that_matches_nothing_is_an_error():
    model = build()
    with pytest.raises(ValueError, match=r"UnitClip\(exclude\): no parameter.*'haed'.*'head'"):
        tt.Guard(model, torch.optim.SGD(model.parameters(), lr=0.1), clip=UnitClip(exclude=("haed",)))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_bad_unit_leaves_all_others_as_they_would_have_been(bad):
    model, clean = build(scale=100.0), build(scale=100.0)
    model.head.weight.grad[2, 1] = bad
    clip_(model, UnitClip())
    clip_(clean, UnitClip())
    assert not model.head.weight.grad[2].isfinite().all()  # and the bad one is no clean one now
    model.head.weight.grad[2] = clean.head.weight.grad[2] = 0.0
    for p, q in zip(model.parameters(), clean.parameters(), strict=True):
        # with a bad element the norms of that tensor are taken again, in float64
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-6, atol=0.0)


def test_huge_finite_gradients_are_clipped_and_not_let_through():
    """The squares of 1e25 leave the range of float32: a norm of infinity would give a factor of 0."""
    layer = nn.Linear(3, 2)
    layer.weight.grad, layer.bias.grad = torch.full((2, 3), 1e25), torch.ones(2)
    assert layer.weight.grad[0].norm() == math.inf
    clip_(layer, UnitClip())
    norms = layer.weight.detach().norm(dim=1)
    torch.testing.assert_close(layer.weight.grad.norm(dim=1), 0.01 * norms, rtol=1e-5, atol=0.0)


class Residual(nn.Module):
    """y = x + branch(x), with the branch at zero in one of the ways that networks begin there."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)
        self.gain = nn.Parameter(torch.full((8,), 1.0))
        zero = {"last layer": self.down.weight, "gain": self.gain, "small gain": self.gain}[kind]
        nn.init.constant_(zero, 1e-5 if kind == "small gain" else 0.0)
        nn.init.zeros_(self.down.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.gain * self.down(torch.tanh(self.up(x)))


def train(kind, clip_step):
    """Loss over the loss at the start, after 300 steps towards another residual network."""
    torch.manual_seed(1)
    teacher, model = Residual("gain"), Residual(kind)
    nn.init.normal_(teacher.gain)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    x = torch.randn(64, 8)
    target, losses = teacher(x).detach(), []
    for _ in range(300):
        optimizer.zero_grad()
        loss = (model(x) - target).square().sum(dim=1).mean()
        loss.backward()
        losses.append(loss.item())
        clip_step(model)
        optimizer.step()
    return losses[-1] / losses[0]


def published_(model):
    for p in model.parameters():
        clipped = agc(as_array(p), as_array(p.grad), 0 if p.dim() > 1 else None, 0.01, 1e-3)
        p.grad.copy_(torch.from_numpy(clipped))


@pytest.mark.parametrize("kind", ["last layer", "gain", "small gain"])
def test_a_residual_branch_that_begins_at_zero_learns_and_with_the_published_rule_does_not(kind):
    state = None

    def ours_(model):
        nonlocal state
        state = clip_(model, UnitClip(), state)

    assert train(kind, published_) > 0.9
    assert train(kind, ours_) < 0.5


def test_a_unit_that_begins_at_zero_counts_as_the_median_of_the_others():
    layer = nn.Linear(2, 5, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 2.0], [0.0, 7.0], [0.0, 0.0]]))
    layer.weight.grad = torch.full((5, 2), 10.0)
    state = clip_(layer, UnitClip(max_ratio=0.1))
    assert layer.weight.grad.norm(dim=1).tolist() == pytest.approx([0.5, 0.5, 0.2, 0.7, 0.5])
    with torch.no_grad():
        layer.weight[0] = torch.tensor([0.0, 1e-2])  # it has begun to grow: the floor stays
        layer.weight[2] = 0.0  # it began elsewhere: the published rule
    layer.weight.grad = torch.full((5, 2), 10.0)
    clip_(layer, UnitClip(max_ratio=0.1), state)
    assert layer.weight.grad.norm(dim=1).tolist() == pytest.approx([0.5, 0.5, 1e-4, 0.7, 0.5])


def test_the_norm_of_a_row_as_torch_initialises_it():
    """Where 1/sqrt(3) comes from."""
    for layer in (nn.Linear(1000, 50), nn.Conv2d(100, 50, 3)):
        norms = layer.weight.detach().flatten(1).norm(dim=1)
        assert norms.mean().item() == pytest.approx(1 / math.sqrt(3), rel=0.02)


def test_floors_are_taken_when_a_parameter_first_has_a_gradient():
    model = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    nn.init.zeros_(model["b"].weight)
    for p in model["a"].parameters():
        p.grad = torch.ones_like(p)
    state = clip_(model, UnitClip())
    assert state.is_known == (True, True, False, False)
    for p in model["b"].parameters():
        p.grad = torch.ones_like(p)
    clip_(model, UnitClip(), state)
    assert model["b"].weight.grad.norm(dim=1).tolist() == pytest.approx([0.01 / math.sqrt(3)] * 2)


@pytest.mark.parametrize("exclude", ["head", (1,), ("",)], ids=str)
def test_exclusions_are_several_patterns(exclude):
    with pytest.raises((TypeError, ValueError), match="UnitClip"):
        UnitClip(exclude=exclude)
    assert UnitClip(exclude=["head"]) == UnitClip(exclude=("head",))
