from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

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


class _Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.into, self.out = nn.Linear(8, 16), nn.Linear(16, 3)
        self.parts = nn.ModuleList(nn.Linear(16, 16) for _ in range(3))

    def forward(self, x):
        entered = self.into(x)
        queries, keys, values = (part(entered) for part in self.parts)
        return self.out((queries @ keys.T).softmax(-1) @ values)


def _filters(*between):
    return nn.Sequential(
        nn.Unflatten(1, (1, 8)),
        nn.Conv1d(1, 4, 3),
        *between,
        nn.Conv1d(4, 8, 1),
        nn.Flatten(),
        nn.Linear(48, 3),
    )


CHAINS = {
    "activations": (nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)), 0.0),
    "none": (nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 16, bias=False), nn.Linear(16, 3)), 1.0),
    "one of two": (nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 3)), 0.5),
    "a norm of columns": (nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Linear(16, 3)), 1.0),
    "wide, narrow, wide": (nn.Sequential(nn.Linear(8, 2), nn.Linear(2, 2), nn.Linear(2, 8)), 0.0),
    "a norm of rows": (nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.Linear(16, 3)), 0.0),
    "a narrow place": (nn.Sequential(nn.Linear(8, 2), nn.Linear(2, 3)), 0.0),
    "several take it": (_Attention(), 0.0),
    "filters": (_filters(), 1.0),
    "filters that bend": (_filters(nn.GELU()), 0.5),
    "filters by themselves": (_filters(nn.Conv1d(4, 4, 1, groups=4)), 0.5),
    "a single layer": (nn.Linear(8, 3), math.nan),
}


@pytest.mark.parametrize("name", CHAINS)
def test_layers_without_an_activation(name):
    model, share = CHAINS[name]
    loss = F.cross_entropy(model(torch.randn(4, 8, generator=torch.Generator().manual_seed(0))), Y)
    facts = loss_facts(loss)
    assert facts is not None
    assert facts.chained == pytest.approx(share, nan_ok=True)


def test_a_recurrent_layer_is_a_layer():
    cell, head = nn.LSTM(8, 16), nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 3))
    loss = F.cross_entropy(head(cell(torch.randn(5, 4, 8))[0][-1]), Y)
    facts = loss_facts(loss)
    assert facts is not None
    assert facts.chained == 0.5
