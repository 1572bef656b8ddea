"""How an origin reads, and the table of headroom."""

from __future__ import annotations

import json
import math
import re

import pytest
import torch
from torch import nn

import trimtab as tt
from trimtab.trace import Headroom, advice, headroom, loss_origin, replay_module
from trimtab.types import Phase

ORIGIN = tt.Origin(
    phase=Phase.BACKWARD,
    op="SqrtBackward0",
    module="layers.3.norm",
    file="/home/me/project/model.py",
    line=88,
    code="scale = x.pow(2).sum(-1).sqrt()",
    cause=tt.Cause.SINGULAR_GRADIENT,
    why="sqrt has infinite slope at 0; 37 of 4096 inputs were exactly 0 (first: index (5,))",
    advice="scale = (x.pow(2).sum(-1) + 1e-12).sqrt()    or trimtab.numerics.safe_sqrt",
    parameter="layers.3.attn.qkv.weight",
    chain=("sqrt", "mul", "layers.3.norm", "gradient of layers.3.attn.qkv.weight"),
    seen="gradient of layers.3.attn.qkv.weight became NaN",
    poisoned=("layers.3.attn.qkv.weight", *"abcdefghijk"),
    module_type="RMSNorm",
)


def test_rendering():
    assert str(ORIGIN).splitlines() == [
        " gradient of layers.3.attn.qkv.weight became NaN",
        " born in   backward of sqrt   model.py:88   scale = x.pow(2).sum(-1).sqrt()",
        " module    layers.3.norm (RMSNorm)",
        " because   sqrt has infinite slope at 0; 37 of 4096 inputs were exactly 0 (first: index (5,))",
        " travelled sqrt -> mul -> layers.3.norm -> gradient of layers.3.attn.qkv.weight (+ 11 more)",
        " fix       scale = (x.pow(2).sum(-1) + 1e-12).sqrt()    or trimtab.numerics.safe_sqrt",
    ]


def test_json_round_trip():
    assert tt.Origin.from_json(ORIGIN.to_json()) == ORIGIN
    assert json.loads(ORIGIN.to_json())["cause"] == "singular_gradient"


@pytest.mark.parametrize("text", ["[]", "{}", '{"cause": "log_zero", "color": "red"}'])
def test_json_of_something_else(text):
    with pytest.raises(ValueError, match="not an origin"):
        tt.Origin.from_json(text)


def test_causes_carry_explanation_and_fixes():
    for cause in tt.Cause:
        assert cause == cause.value == str(cause)
        assert cause.explanation
        assert cause.fixes


def broken(model, x):
    def closure():
        model.zero_grad()
        loss = model(x).sum()
        loss.backward()
        return loss

    return closure


def test_overflow_is_watched():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False)).half()
    with torch.no_grad():
        model[0].weight.fill_(200.0)
        model[1].weight.fill_(1.0)
    table = tt.trace(model, broken(model, torch.full((1, 2), 100.0).half()), watch="overflow")
    assert isinstance(table, Headroom)
    first = table.levels[0]
    assert (first.module, first.phase, first.dtype) == ("1", Phase.FORWARD, "float16")
    assert (first.largest, first.headroom, first.num_nonfinite) == (math.inf, 0.0, 1)
    # 200 * 100 * 2 = 40000 in the first layer, 80000 in the second
    zero = next(level for level in table.levels if (level.module, level.phase) == ("0", Phase.FORWARD))
    assert zero.largest == 40000.0
    assert zero.headroom == pytest.approx(65504 / 40000)
    assert "headroom" in str(table)
    assert len(json.loads(table.to_json())["levels"]) == len(table.levels)
    assert headroom(model, broken(model, torch.ones(1, 2).half())).levels[0].num_nonfinite == 0


def test_wrong_arguments():
    model = nn.Linear(1, 1)
    with pytest.raises(TypeError, match="trace\\(\\) got Tensor as closure: expected a function"):
        tt.trace(model, torch.zeros(()))
    with pytest.raises(ValueError, match='expected "faults" or "overflow"'):
        tt.trace(model, lambda: None, watch="speed")
    with pytest.raises(ValueError, match="got 2 output gradients for 1 output tensors"):
        replay_module(model, [torch.ones(1, 1)], {}, [None, None])


def test_module_is_replayed_without_the_loss():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.lin = nn.Linear(2, 2)

        def forward(self, x):
            return {"root": (self.lin(x) * 0).sqrt(), "plain": x}

    origin = replay_module(Net(), [torch.ones(1, 2)], {}, [torch.ones(1, 2)])
    assert (origin.op, origin.module, origin.cause) == ("SqrtBackward0", "", "singular_gradient")
    assert origin.code.startswith('return {"root": (self.lin(x) * 0).sqrt()')
    assert replay_module(nn.Linear(2, 1), [torch.ones(1, 2)], {}, [torch.ones(1, 1)]) is None


def test_fault_of_the_loss_is_named_by_its_nodes():
    model = nn.Linear(2, 1)
    loss = (model(torch.ones(1, 2)) * 0).log().mean()
    gradient = torch.full((1, 1), torch.nan)
    assert replay_module(model, [torch.ones(1, 2)], {}, [gradient]).phase == Phase.LOSS
    nodes = []
    node = loss.grad_fn
    while node.next_functions and not node.name().startswith("Addmm"):
        node = node.next_functions[0][0]
        nodes = [(node._sequence_nr(), node.name())]
    origin = loss_origin(loss, nodes)
    assert (origin.phase, origin.op, origin.cause) == (Phase.LOSS, "LogBackward0", "log_zero")
    assert loss_origin(loss, []) is None
    assert "closure" in origin.advice


def test_compiled_module_is_replayed_eagerly():
    model = torch.compile(nn.Linear(2, 2), backend="eager")
    x = torch.ones(1, 2)

    def closure():
        loss = (model(x) * 0).sqrt().sum()
        loss.backward()
        return loss

    origin = tt.trace(model, closure)
    assert origin.op == "SqrtBackward0"
    assert origin.module is None


def test_every_function_that_is_advised_exists():
    named = set(advice._SAFE.values()) | set(advice._BY_OPERATION.values())
    texts = [fix for cause in tt.Cause for fix in cause.fixes]
    named |= {name for text in texts for name in re.findall(r"\b(?:safe|masked)_\w+", text)}
    assert {"safe_sqrt", "masked_softmax"} <= named
    assert all(hasattr(tt.numerics, name) for name in named), named


@pytest.mark.parametrize(("edge", "safe"), [("acos", "safe_acos"), ("asin", "safe_asin"), ("atanh", None)])
def test_no_function_is_advised_for_another_one(edge, safe):
    weight = nn.Linear(1, 1)

    def closure():
        loss = getattr(torch, edge)(weight(torch.zeros(1, 1)) * 0 + 1).sum()
        loss.backward()
        return loss

    told = tt.trace(weight, closure).advice
    assert (f"numerics.{safe}" in told) if safe else ("numerics" not in told)
