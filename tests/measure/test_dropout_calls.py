"""Which dropout is heard, in which of the two modes, and that nothing stays behind."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import _get_current_function_mode_stack

from trimtab.measure.dropout_calls import DROPOUT_STATISTICS, DropoutCalls


class Net(nn.Module):
    """One linear layer, and something done to what enters it."""

    def __init__(self, drop):
        super().__init__()
        self.layer, self.drop = nn.Linear(8, 8), drop

    def forward(self, x):
        return self.layer(self.drop(x) if isinstance(self.drop, nn.Module) else self.drop(self, x))


def heard(model, *, passes=1):
    rows = torch.ones(4, 8)
    calls = DropoutCalls(model)
    calls.open()
    model.train()(rows).sum().backward()
    model.eval()
    with torch.no_grad():
        for _ in range(passes):
            model(rows)
    found = calls.take()["dropout"]
    calls.close()
    assert not model._forward_hooks
    assert not model._forward_pre_hooks
    assert not _get_current_function_mode_stack()
    assert found[0] == DROPOUT_STATISTICS
    return dict(zip(found[0], found[1].tolist(), strict=True))


def attend(model, x, rate):
    q = x[:, None, None]
    return F.scaled_dot_product_attention(q, q, q, None, rate)[:, 0, 0]


@pytest.mark.parametrize(
    ("drop", "trained", "evaluated"),
    [
        (nn.Dropout(0.3), 0.3, 0.0),
        (nn.Identity(), 0.0, 0.0),
        (lambda m, x: F.dropout(x, 0.4), 0.4, 0.4),
        (lambda m, x: F.dropout(x, p=0.4, training=m.training), 0.4, 0.0),
        (lambda m, x: F.alpha_dropout(x, 0.2), 0.0, 0.0),  # does not drop unless told to
        (lambda m, x: F.dropout1d(x[None], 0.6)[0], 0.6, 0.6),
        (lambda m, x: attend(m, x, 0.25), 0.25, 0.25),
        (lambda m, x: attend(m, x, 0.25 if m.training else 0.0), 0.25, 0.0),
        (lambda m, x: F.dropout(F.dropout(x, 0.1), 0.7, m.training), 0.7, 0.1),
    ],
)
def test_rates(drop, trained, evaluated):
    found = heard(Net(drop))
    assert found["trained"] == pytest.approx(trained)
    assert found["evaluated"] == pytest.approx(evaluated)
    assert found["is_on_output"] == 0


def test_attention_modules_know_the_mode():
    class Attending(nn.Module):
        def __init__(self):
            super().__init__()
            self.attend = nn.MultiheadAttention(8, 2, dropout=0.35, batch_first=True)

        def forward(self, x):
            return self.attend(x[None], x[None], x[None])[0]

    found = heard(Attending())
    assert (found["trained"], found["evaluated"]) == (pytest.approx(0.35), 0.0)


def test_what_is_meant():
    model = Net(nn.Dropout(0.5))
    calls = DropoutCalls(model)
    calls.open()
    model.eval()
    model.drop.train()
    with torch.no_grad():
        model(torch.ones(2, 8))
    assert calls.take()["dropout"][1][1] == 0
    calls.close()
    always = Net(lambda m, x: F.dropout(x, 0.5))
    assert heard(always, passes=3)["is_repeated"] == 1
    assert math.isnan(heard(always, passes=1)["is_repeated"])


def test_dropped_outputs():
    model = nn.Sequential(nn.Linear(8, 4), nn.Dropout(0.5))
    assert heard(model)["is_on_output"] == 1
    assert heard(nn.Sequential(nn.Linear(8, 4), nn.Dropout(0.5), nn.Linear(4, 4)))["is_on_output"] == 0


def test_a_pass_that_fails_leaves_nothing_behind():
    def fail(model, x):
        raise RuntimeError("as it happens")

    model = Net(fail)
    calls = DropoutCalls(model)
    calls.open()
    with pytest.raises(RuntimeError, match="as it happens"):
        model(torch.ones(2, 8))
    assert not _get_current_function_mode_stack()
    calls.close()


def test_hooks_go_when_all_is_heard():
    model = Net(nn.Dropout(0.5))
    calls = DropoutCalls(model)
    calls.open()
    model(torch.ones(2, 8))
    with torch.no_grad():
        model.eval()(torch.ones(2, 8))
    calls.take()
    assert not model._forward_hooks
    assert not model._forward_pre_hooks
    calls.open()
    assert not model._forward_hooks


def test_compiled_parts_are_left_alone():
    model = nn.Sequential(nn.Linear(8, 8), torch.compile(nn.Linear(8, 8), backend="eager"))
    calls = DropoutCalls(model)
    calls.open()
    assert not model._forward_hooks
