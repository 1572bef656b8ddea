from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import trimtab as tt
from trimtab import act, measure
from trimtab.decide.layers import LayerClip
from trimtab.types import Layout

CPU = torch.device("cpu")


def model_with_gradients(seed=0, scale=10.0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2)))
    (model(torch.randn(5, 4)).square().sum() * scale).backward()
    return model


def clip_(model, clip):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watched = measure.Watched(model, optimizer)
    parameters, gradients = watched.with_gradient()
    stats = measure.step_stats(gradients, norm_type=clip.norm_type)
    rescaling, _ = clip.rescale(watched.seen_by(clip.needs, stats, parameters), clip.init(watched.layout()))
    act.rescale_grads_(gradients, watched.picked(rescaling, parameters))


@pytest.mark.parametrize("p", [1.0, 2.0, math.inf])
@given(threshold=st.floats(1e-2, 1e2), seed=st.integers(0, 100))
@settings(max_examples=15, deadline=None)
def test_each_tensor_is_what_torch_makes_of_it_alone(p, threshold, seed):
    ours, theirs = model_with_gradients(seed), model_with_gradients(seed)
    clip_(ours, LayerClip({"2": threshold, "0.bias": 0.5 * threshold}, default=2 * threshold, norm_type=p))
    for name, parameter in theirs.named_parameters():
        own = 0.5 * threshold if name == "0.bias" else threshold if name.startswith("2") else 2 * threshold
        nn.utils.clip_grad_norm_([parameter], own, norm_type=p)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-5, atol=0.0)


def test_what_no_pattern_matches_is_left_alone_to_the_bit():
    model = model_with_gradients()
    before = model_with_gradients()
    clip_(model, LayerClip({"2.1": 1e-3}))
    for (name, p), old in zip(model.named_parameters(), before.parameters(), strict=True):
        assert torch.equal(p.grad, old.grad) == (not name.startswith("2.1"))


def test_a_threshold_means_each_tensor_not_the_part_together():
    model = model_with_gradients()
    clip_(model, LayerClip({"2": 0.25}))
    norms = [p.grad.norm().item() for n, p in model.named_parameters() if n.startswith("2")]
    assert norms == pytest.approx([0.25] * 4, rel=1e-4)


def test_a_parameter_without_a_gradient_changes_nothing():
    model, other = model_with_gradients(), model_with_gradients()
    for m in (model, other):
        m[0].weight.grad = None
    clip_(model, LayerClip({"0.weight": 1e-3, "2": 0.5}))
    assert model[0].weight.grad is None
    nn.utils.clip_grad_norm_([other[2][0].weight], 0.5)
    torch.testing.assert_close(model[2][0].weight.grad, other[2][0].weight.grad)


def test_one_bad_tensor_leaves_the_others_as_torch_does_not():
    ours, theirs, clean = (model_with_gradients() for _ in range(3))
    for m in (ours, theirs):
        m[0].bias.grad[0] = math.nan
    clip_(clean, LayerClip({}, default=0.5))
    clip_(ours, LayerClip({}, default=0.5))
    nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
    assert all(p.grad.isnan().all() for p in theirs.parameters())
    assert torch.equal(ours[0].weight.grad, clean[0].weight.grad)
    assert ours[0].bias.grad.isnan().sum() == 1


def test_a_typo_is_an_error_when_the_guard_is_made():
    model = model_with_gradients()
    with pytest.raises(ValueError, match=r"LayerClip: no parameter.*'0\.wieght'.*Close:.*'0\.weight'"):
        tt.Guard(model, torch.optim.SGD(model.parameters(), lr=0.1), clip=LayerClip({"0.wieght": 1.0}))


def test_what_the_caller_does_to_the_mapping_later_does_not_matter():
    thresholds = {"a": 1.0}
    clip = LayerClip(thresholds)
    thresholds["a"] = 5.0
    assert clip.init(Layout(CPU, ("a.w",))).tolist() == [1.0]
    assert clip == LayerClip({"a": 1.0})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"thresholds": {}}, "at least one pattern"),
        ({"thresholds": {"a": 0.0}}, r"thresholds\['a'\]=0.0.*finite number > 0"),
        ({"thresholds": {"a": math.inf}}, "finite number > 0"),
        ({"thresholds": {"": 1.0}}, "expected a name"),
        ({"thresholds": {"a": 1.0}, "default": -1.0}, "default=-1.0"),
        ({"thresholds": {"a": 1.0}, "norm_type": 0.0}, "norm_type"),
    ],
    ids=str,
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        LayerClip(**arguments)


@pytest.mark.parametrize("thresholds", [1.0, None, [("a", 1.0)], {"a": "1"}, {1: 1.0}], ids=str)
def test_thresholds_of_another_type_are_refused(thresholds):
    with pytest.raises(TypeError, match="LayerClip"):
        LayerClip(thresholds)
