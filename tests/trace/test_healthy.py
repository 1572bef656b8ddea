"""Sound steps with scary values: the tracer stays silent."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import trimtab as tt


def silent(model, loss_of, steps=3, optimizer=None):
    optimizer = optimizer or torch.optim.Adam(model.parameters(), lr=1e-3)

    def closure():
        optimizer.zero_grad()
        loss = loss_of()
        loss.backward()
        return loss

    for _ in range(steps):
        origin = tt.trace(model, closure, optimizer)
        assert origin is None, str(origin)
        closure()
        optimizer.step()


def test_lstm_with_ctc():
    model = nn.LSTM(6, 8, bidirectional=True)
    x, y = torch.randn(12, 2, 6), torch.randint(1, 16, (2, 4))

    def loss():
        return F.ctc_loss(model(x)[0].log_softmax(-1), y, torch.tensor([12, 12]), torch.tensor([4, 3]))

    silent(model, loss)


def test_gradient_penalty():
    model = nn.Sequential(nn.Linear(4, 8), nn.LeakyReLU(), nn.Linear(8, 1))

    def loss():
        x = torch.randn(5, 4, requires_grad=True)
        (slope,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
        return ((slope.norm(dim=1) - 1) ** 2).mean()

    silent(model, loss)


def test_convolutions_with_batch_norm():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3)
    )
    x, y = torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 0])
    silent(model, lambda: F.cross_entropy(model(x), y))


def test_encoder_with_padding_and_causal_mask():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.1)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    pad = torch.zeros(3, 5, dtype=torch.bool)
    pad[1, 3:] = True
    mask = torch.ones(5, 5, dtype=torch.bool).triu(1)
    x = torch.randn(3, 5, 8)
    silent(model, lambda: model(x, mask=mask, src_key_padding_mask=pad)[~pad].pow(2).mean())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype):
    model = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.LayerNorm(16), nn.Linear(16, 4))
    x, y = torch.randn(6, 8), torch.tensor([0, 1, 2, 3, 0, 1])

    def loss():
        with torch.autocast("cpu", dtype):
            return F.cross_entropy(model(x).float(), y)

    silent(model, loss)


def test_forward_algorithm_in_the_log_semiring():
    raw = nn.Linear(4, 4, bias=False)
    allowed = torch.triu(torch.ones(4, 4))

    def loss():
        trans = (raw.weight + allowed.log()).log_softmax(1)
        alpha = torch.tensor([0.0, -math.inf, -math.inf, -math.inf])
        for _ in range(3):
            alpha = torch.logsumexp(alpha.clamp(min=-1e9)[:, None] + trans.clamp(min=-1e9), 0)
        return -alpha[-1]

    silent(raw, loss)


def test_inverse_root_of_degree_that_is_replaced():
    model = nn.Linear(3, 2)
    adjacency = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])

    def loss():
        scale = adjacency.sum(1) ** -0.5
        scale = scale.masked_fill(scale == math.inf, 0.0)
        return model(scale[:, None] * adjacency * scale).pow(2).mean()

    silent(model, loss)


def test_missing_values_that_are_selected_away():
    model = nn.Linear(3, 1)
    x = torch.tensor([[1.0, math.nan, 2.0], [0.0, 1.0, math.nan]])
    y = torch.tensor([math.nan, 1.0])

    def loss():
        out = model(torch.where(x.isnan(), torch.zeros(()), x)).squeeze(1)
        return F.mse_loss(out[~y.isnan()], y[~y.isnan()])

    silent(model, loss)


def test_minimum_with_infinite_neutral_element():
    model = nn.Linear(3, 4)
    index = torch.tensor([0, 0, 2, 2])
    x = torch.randn(2, 3)

    def loss():
        out = model(x)
        least = torch.full((2, 3), math.inf).scatter_reduce(1, index.expand(2, 4), out, "amin")
        return least[least.isfinite()].pow(2).sum()

    silent(model, loss)


def test_sigmoid_by_hand_saturates():
    model = nn.Linear(3, 2)

    def loss():
        return (1 / (1 + torch.exp(-(model(torch.ones(2, 3)).detach() * 0 - 200)))).sum() + model(
            torch.ones(2, 3)
        ).mean()

    silent(model, loss)


def test_sparse_gradients_and_max_norm():
    model = nn.EmbeddingBag(10, 4, mode="sum", sparse=True, max_norm=1.0)
    ids = torch.tensor([[1, 2], [3, 4]])
    silent(model, lambda: model(ids).pow(2).sum(), optimizer=torch.optim.SGD(model.parameters(), lr=0.1))


def test_dropout_of_everything_and_empty_selection():
    model = nn.Linear(3, 2)
    silent(model, lambda: F.dropout(model(torch.ones(2, 3)), 1.0).sum() + model(torch.ones(0, 3)).sum())


def test_workspace_that_is_filled_before_it_is_read():
    model = nn.Linear(3, 2)

    def loss():
        out = torch.empty(2, 2)
        out[:1], out[1:] = model(torch.ones(1, 3)).detach(), 0.0
        scores = torch.baddbmm(torch.empty(1, 2, 2), out[None], out[None], beta=0)
        return scores.sum() + model(torch.ones(2, 3)).sum()

    silent(model, loss)


def test_functional_call_and_vmap():
    model = nn.Linear(3, 1)

    def loss():
        parameters = dict(model.named_parameters())

        def one(x):
            return torch.func.functional_call(model, parameters, (x,)).sum()

        slopes = torch.func.vmap(torch.func.grad(one))(torch.randn(4, 3))
        return slopes.pow(2).sum() + model(torch.ones(1, 3)).sum()

    silent(model, loss)


def test_nested_tensors():
    model = nn.Linear(3, 2)
    parts = torch.nested.nested_tensor([torch.randn(2, 3), torch.randn(4, 3)], layout=torch.jagged)
    silent(model, lambda: model(parts).values().pow(2).mean())
