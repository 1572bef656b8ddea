from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from trimtab.measure.loss_graph import loss_facts

Y = torch.tensor([0, 1, 2, 0])
CASES = {
    "raw": (
        lambda z: F.cross_entropy(z, Y),
        {"is_entropy": 1, "softmax_twice": 0, "activated": 0, "is_sum": 0},
    ),
    "softmax": (lambda z: F.cross_entropy(z.softmax(1), Y), {"softmax_twice": 1, "activated": 0}),
    "softmax with a temperature": (lambda z: F.cross_entropy(z.softmax(1) / 0.5, Y), {"softmax_twice": 1}),
    "softmax reshaped": (
        lambda z: F.cross_entropy(z.softmax(1).view(2, 2, 3).flatten(0, 1), Y),
        {"softmax_twice": 1},
    ),
    "relu": (lambda z: F.cross_entropy(z.relu(), Y), {"activated": 1, "softmax_twice": 0}),
    # a product of two values takes all values, whatever one of them went through
    "a gate": (lambda z: F.cross_entropy(z.sigmoid() * z, Y), {"activated": 0}),
    "attention": (lambda z: F.cross_entropy((z @ z.T).softmax(1) @ z, Y), {"softmax_twice": 0}),
    "summed": (lambda z: 0.1 * F.cross_entropy(z, Y, reduction="sum"), {"is_sum": 1}),
    "smoothed": (lambda z: F.cross_entropy(z, Y, label_smoothing=0.1), {"is_entropy": 1, "softmax_twice": 0}),
    "images": (
        lambda z: F.cross_entropy(z.softmax(1)[..., None, None], Y[:, None, None]),
        {"is_entropy": 1, "softmax_twice": 1},
    ),
    "sigmoid": (
        lambda z: F.binary_cross_entropy_with_logits(z.sigmoid(), torch.ones(4, 3)),
        {"sigmoid_twice": 1, "is_entropy": 0, "softmax_twice": math.nan},
    ),
    "gated sigmoid": (
        lambda z: F.binary_cross_entropy_with_logits(z.sigmoid() * z, torch.ones(4, 3)),
        {"sigmoid_twice": 0},
    ),
    "two losses": (
        lambda z: F.cross_entropy(z, Y) + F.mse_loss(z, z.detach(), reduction="sum"),
        {"is_sum": 1},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_the_graph_tells(name):
    make, wanted = CASES[name]
    z = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    loss = make(z)
    before = loss_facts(loss)
    loss.backward()
    for facts in (before, loss_facts(loss)):  # a graph that was used up tells the same
        for field, value in wanted.items():
            assert getattr(facts, field) == pytest.approx(value, nan_ok=True), field


def test_what_has_no_graph_tells_nothing():
    assert loss_facts(1.0) is None
    assert loss_facts(torch.tensor(1.0)) is None
