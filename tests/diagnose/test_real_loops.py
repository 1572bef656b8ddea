"""Loops as people write them, in which nothing is wrong: nothing is told, and nothing breaks."""

from __future__ import annotations

import copy
import io
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from trimtab import Diagnose, Guard, Observe
from trimtab.diagnose import diagnose


def watched(model, optimizer):
    return Guard(model, optimizer, remedy=Observe(), diagnose=Diagnose(every=10, budget=1.0))


def causes(guard):
    return [finding.cause.value for finding in diagnose(guard._watch.log())]


def network(outputs=4):
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, outputs))


def sums(size=48):
    x = torch.randn(size, 16)
    return x, x.reshape(-1, 4, 4).sum(-1).argmax(1)


def run(model, batch, loss, *, steps=150, lr=3e-3, also=None):
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    with watched(model, optimizer) as guard:
        for step in range(steps):
            optimizer.zero_grad()
            x, y = batch()
            value = loss(model(x), y)
            value.backward()
            guard.step(value)
            if also is not None:
                also(step)
        return causes(guard)


def test_copies_and_saved_models_take_no_hook_along():
    torch.manual_seed(0)
    model, kept = network(), []

    def keep(step):
        if step % 5 == 0:
            kept.append(copy.deepcopy(model))
            torch.save(model, io.BytesIO())
            file = io.BytesIO()
            torch.save(kept[-1], file)
            kept.append(torch.load(io.BytesIO(file.getvalue()), weights_only=False))

    assert run(model, sums, F.cross_entropy, steps=30, also=keep) == []
    for other in kept:
        loss = other(torch.ones(2, 16)).sum()  # hooks that are left do nothing
        loss.backward()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_transforms_and_traces_of_the_model_in_the_loop():
    torch.manual_seed(0)
    model = network()

    def transform(step):
        torch.func.vmap(model)(torch.ones(3, 16))
        torch.func.grad(lambda x: model(x).sum())(torch.ones(2, 16))
        torch.jit.trace(model, torch.ones(2, 16), check_trace=False)

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)  # torch.jit.trace is on its way out
        assert run(model, sums, F.cross_entropy, steps=25, also=transform) == []


@pytest.mark.parametrize("size", [1, 48])
def test_a_batch_of_one_is_not_a_batch_of_equal_rows(size):
    torch.manual_seed(0)
    assert "constant_features" not in run(network(), lambda: sums(size), F.cross_entropy)


def test_logits_that_are_capped_softly():
    torch.manual_seed(0)

    def loss(out, y):
        return F.cross_entropy(30 * torch.tanh(out / 30), y)

    assert run(network(), sums, loss) == []
    assert "activated_logits" in run(network(), sums, lambda out, y: F.cross_entropy(out.tanh(), y))


def test_rare_positives_with_a_weight():
    torch.manual_seed(0)

    def batch():
        x = torch.randn(64, 16)
        return x, (x[:, :4].sum(1, keepdim=True) > 4.0).float()

    def loss(out, y):
        return F.binary_cross_entropy_with_logits(out, y, pos_weight=torch.tensor(40.0))

    assert run(network(1), batch, loss, steps=200) == []


def test_classes_with_weights():
    torch.manual_seed(0)

    def batch():
        x = torch.randn(64, 16)
        return x, (x[:, :4].sum(1) > 4.0).long()

    def loss(out, y):
        return F.cross_entropy(out, y, weight=torch.tensor([1.0, 50.0]))

    assert run(network(2), batch, loss, steps=200) == []


def test_a_pretrained_part_in_eval_mode_under_a_new_head():
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(16, 64), nn.BatchNorm1d(64), nn.ReLU())
    model = nn.Sequential(body, nn.Linear(64, 4))
    run(model, sums, F.cross_entropy, steps=60)
    body.requires_grad_(False)
    model[1].reset_parameters()
    model.eval()
    assert "wrong_mode" not in run(model, sums, F.cross_entropy)


def test_the_two_losses_of_a_gan_in_the_order_of_the_tutorial():
    torch.manual_seed(0)
    maker, judge = network(2), nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 1))
    om, oj = (torch.optim.Adam(m.parameters(), lr=2e-4, betas=(0.5, 0.999)) for m in (maker, judge))
    ones, zeros = torch.ones(64, 1), torch.zeros(64, 1)
    entropy = F.binary_cross_entropy_with_logits
    with watched(maker, om) as gm, watched(judge, oj) as gj:
        for _ in range(200):
            oj.zero_grad()
            fake = maker(torch.randn(64, 16))
            loss = entropy(judge(torch.randn(64, 2) + 1), ones) + entropy(judge(fake.detach()), zeros)
            loss.backward()
            gj.step(loss)
            om.zero_grad()
            loss = entropy(judge(fake), ones)
            loss.backward()  # brings gradients to the judge as well
            gm.step(loss)
        assert "zero_grad_missing" not in causes(gj)
        assert "zero_grad_missing" not in causes(gm)
