from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune

from trimtab.numerics import magnitude_mask, magnitude_pruning, prune_globally, prune_layers

few_values = st.lists(st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.5, -2.5, 7.0]), min_size=1, max_size=60)


@given(few_values, st.floats(0, 1))
@settings(max_examples=200, deadline=None)
def test_exactly_as_many_as_asked_for_the_smallest_first_ties_by_index(values, sparsity):
    tensor = torch.tensor(values)
    mask = magnitude_mask(tensor, sparsity)
    count = round(sparsity * len(values))
    order = sorted(range(len(values)), key=lambda i: (abs(values[i]), i))
    assert sorted(i for i, keep in enumerate(mask.tolist()) if not keep) == sorted(order[:count])


def test_the_naive_design_s_counterexamples():
    assert magnitude_mask(torch.ones(100), 0.5).sum() == 50
    assert magnitude_mask(torch.tensor([0.0] * 30 + [1.0] * 70), 0.1).sum() == 90
    assert magnitude_mask(torch.randn(100), 0.29).sum() == 71  # int(0.29 * 100) is 28
    assert magnitude_mask(torch.randn(10), 0.0).all()
    assert not magnitude_mask(torch.randn(10), 1.0).any()
    with_nan = torch.cat([torch.randn(99), torch.tensor([float("nan")])])
    assert magnitude_mask(with_nan, 0.5).sum() == 50
    assert magnitude_mask(with_nan, 0.5)[-1]
    assert not magnitude_mask(with_nan, 1.0).any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_a_copy_of_any_type_and_shape(dtype):
    tensor = torch.randn(3, 4, 5).to(dtype)
    pruned = magnitude_pruning(tensor, 0.25)
    assert pruned.dtype is dtype
    assert (pruned == 0).sum() == 15
    assert torch.equal(pruned[pruned != 0], tensor[pruned != 0])
    assert magnitude_mask(torch.zeros(0), 0.5).shape == (0,)


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 10))


def test_every_layer_alike():
    net = model()
    assert prune_layers(net, 0.5) == {"0.weight": 18, "3.weight": 80}
    assert (net[0].weight == 0).sum() == 18
    assert prune.is_pruned(net)
    output = net(torch.randn(2, 1, 4, 4)).sum()
    output.backward()
    assert (net[3].weight_orig.grad[net[3].weight_mask == 0] == 0).all()
    prune.remove(net[3], "weight")
    assert (net[3].weight == 0).sum() == 80


def test_one_budget_for_the_model():
    net = model()
    net[3].weight.data.mul_(1e-3)
    dropped = prune_globally(net, 0.5)
    assert sum(dropped.values()) == round(0.5 * (36 + 160)) == dropped["3.weight"]
    every = torch.cat([net[0].weight.flatten(), net[3].weight.flatten()])
    assert (every == 0).sum() == 98


@pytest.mark.parametrize("function", [prune_layers, prune_globally])
def test_pruning_again_counts_what_is_gone(function):
    net = model()
    function(net, 0.3)
    first = {name: buffer.clone() for name, buffer in net.named_buffers() if name.endswith("mask")}
    with torch.no_grad():  # what is masked may have moved on to large values
        net[3].weight_orig[net[3].weight_mask == 0] = 100.0
    total = sum(function(net, 0.6).values())
    assert total == (22 + 96 if function is prune_layers else round(0.6 * 196))
    for name, buffer in net.named_buffers():
        if name.endswith("mask"):
            assert (buffer <= first[name]).all()
    again = sum(function(net, 0.1).values())  # nothing comes back
    assert again == total


@pytest.mark.parametrize("function", [prune_layers, prune_globally])
def test_extremes_choice_and_refusals(function):
    net = model()
    assert function(net, 0.0) == {"0.weight": 0, "3.weight": 0}
    assert function(net, 1.0) == {"0.weight": 36, "3.weight": 160}
    net = model()
    assert function(net, 0.5, parameters=[(net[3], "bias")]) == {"3.bias": 5}
    for bad in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="from 0 to 1"):
            function(net, bad)
    with pytest.raises(ValueError, match="two dimensions"):
        function(nn.LayerNorm(3), 0.5)
    with pytest.raises(ValueError, match="not in the model"):
        function(net, 0.5, parameters=[(net[0], "weight"), (nn.Linear(2, 2), "weight")])
    assert not prune.is_pruned(net[0])  # nothing was changed on the way to the error
    with pytest.raises(ValueError, match="from 0 to 1"):
        magnitude_mask(torch.ones(2), 2.0)
