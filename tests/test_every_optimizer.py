"""A refused step is as if it never was, for every optimizer that torch has."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import trimtab as tt
from trimtab import guard as guard_module

NEEDS_SPARSE = {"SparseAdam"}
NEEDS_CLOSURE = {"LBFGS"}
NEEDS_MATRICES = {"Muon"}
ARGUMENTS = {"SGD": {"momentum": 0.9}}
OPTIMIZERS = sorted(
    name
    for name, value in vars(torch.optim).items()
    if isinstance(value, type)
    and issubclass(value, torch.optim.Optimizer)
    and value is not torch.optim.Optimizer
)


class Net(nn.Module):
    """BatchNorm, a shared weight, a frozen one, one that never gets a gradient, two groups."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.first = nn.Linear(4, 6, dtype=dtype)
        self.norm = nn.BatchNorm1d(6, dtype=dtype)
        self.second = nn.Linear(6, 6, dtype=dtype)
        self.tied = nn.Linear(6, 6, dtype=dtype)
        self.tied.weight = self.second.weight
        self.frozen = nn.Linear(6, 6, dtype=dtype).requires_grad_(False)
        self.unused = nn.Parameter(torch.ones(3, dtype=dtype))
        self.register_buffer("rotations", torch.arange(70_000, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        return self.tied(self.frozen(self.second(self.norm(self.first(x)))))


class Matrices(nn.Module):
    """Only weights of two dimensions, as Muon wants them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 6, bias=False)
        self.norm = nn.BatchNorm1d(6, affine=False)
        self.second = nn.Linear(6, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.norm(self.first(x)))


class Table(nn.Module):
    """A sparse embedding, as SparseAdam wants it."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 4, sparse=True)
        self.norm = nn.BatchNorm1d(4, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.table(x.abs().long().clamp(max=9).view(-1)[:8])
        return self.norm(rows) * x.sum() + rows


def build(
    name: str, arguments: dict[str, Any], dtype: torch.dtype = torch.float32
) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = Table() if name in NEEDS_SPARSE else Matrices() if name in NEEDS_MATRICES else Net(dtype)
    parameters: Any = [p for p in model.parameters() if p.requires_grad]
    if name not in NEEDS_CLOSURE and len(parameters) > 2:
        parameters = [{"params": parameters[:2], "lr": 1e-3}, {"params": parameters[2:]}]
    optimizer = getattr(torch.optim, name)(parameters, lr=1e-2, **ARGUMENTS.get(name, {}), **arguments)
    return model, optimizer


def everything(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    return {"model": copy.deepcopy(model.state_dict()), "optimizer": copy.deepcopy(optimizer.state_dict())}


def assert_same(a: Any, b: Any, path: str = "") -> None:
    """Equal to the bit, NaN included, and in structure."""
    assert type(a) is type(b), path
    if isinstance(a, Tensor):
        assert a.dtype == b.dtype, path
        assert a.shape == b.shape, path
        whole = a.contiguous().view(-1), b.contiguous().view(-1)
        assert whole[0].view(torch.uint8).equal(whole[1].view(torch.uint8)) if a.numel() else True, path
    elif isinstance(a, dict):
        assert list(a) == list(b), path
        for key in a:
            assert_same(a[key], b[key], f"{path}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), path
        for index, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{path}.{index}")
    else:
        assert a == b or (a != a and b != b), path


def batch(step: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(8, 4, generator=torch.Generator().manual_seed(step)).to(dtype)


def closure_for(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor):
    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = model(x).abs().pow(2).mean()
        loss.backward()
        return loss

    return closure


def implementations(name: str) -> list[dict[str, Any]]:
    """Which of fused, foreach and for-loop this optimizer has on this machine."""
    found: list[dict[str, Any]] = []
    for arguments in ({}, {"foreach": False}, {"foreach": True}, {"fused": True}):
        try:
            build(name, arguments)
        except (TypeError, RuntimeError, ValueError):
            continue
        found.append(arguments)
    return found


CASES = [(name, arguments) for name in OPTIMIZERS for arguments in implementations(name)]
MODES = ["loss", "closure", "attach"]


def run(mode: str, guard: tt.Guard, x: Tensor) -> tt.StepOutcome:
    closure = closure_for(guard.model, guard.optimizer, x)
    if mode == "closure":
        return guard.step(closure)
    if mode == "attach":
        closure()
        guard.optimizer.step()
        return guard.outcome
    return guard.step(closure())


@pytest.mark.parametrize("when", [0, 3], ids=["first-step", "later"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("name", "arguments"), CASES, ids=[f"{n}-{a}" for n, a in CASES])
def test_refused_step_leaves_no_trace_and_the_run_goes_on_as_if_it_never_was(name, arguments, mode, when):
    if name in NEEDS_CLOSURE:
        mode = "closure"  # the others are refused by name, see test_guard.py
    model, optimizer = build(name, arguments)
    straight_model, straight_optimizer = build(name, arguments)
    guard = tt.Guard(model, optimizer)
    straight = tt.Guard(straight_model, straight_optimizer)
    if mode == "attach":
        guard.attach()
    for step in range(when):
        assert run(mode, guard, batch(step)).applied
    before = everything(model, optimizer)
    bad = batch(99)
    bad[2, 1] = math.nan
    outcome = run(mode, guard, bad)
    assert not outcome.applied
    assert outcome.action is tt.types.Action.SKIP
    assert outcome.culprits
    assert_same(everything(model, optimizer), before)
    for step in range(when, when + 3):
        assert run(mode, guard, batch(step)).applied
    for step in range(when + 3):
        run("closure" if name in NEEDS_CLOSURE else "loss", straight, batch(step))
    assert_same(everything(model, optimizer), everything(straight_model, straight_optimizer))


@pytest.mark.parametrize("arguments", [{"fused": True}, {"foreach": True}, {"foreach": False}], ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "Adagrad"])
def test_refused_step_in_other_precisions(name, dtype, arguments):
    if name != "SGD":
        arguments = {**arguments, "eps": 1e-3}  # the default of 1e-8 is 0 in float16, and 0 / 0 follows
    model, optimizer = build(name, arguments, dtype)
    guard = tt.Guard(model, optimizer, clip=tt.NormClip(1.0))
    run("loss", guard, batch(0, dtype))
    before = everything(model, optimizer)
    bad = batch(1, dtype)
    bad[0, 0] = math.inf
    assert not run("loss", guard, bad).applied
    assert_same(everything(model, optimizer), before)
    assert run("loss", guard, batch(2, dtype)).applied


@pytest.mark.parametrize("foreach", [True, False])
@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "RMSprop", "Adagrad"])
def test_refused_step_with_complex_parameters(name, foreach):
    model = nn.ParameterList(
        [nn.Parameter(torch.randn(3, dtype=torch.complex64)), nn.Parameter(torch.randn(2))]
    )
    optimizer = getattr(torch.optim, name)(model.parameters(), lr=0.1, foreach=foreach)
    guard = tt.Guard(model, optimizer, clip=tt.NormClip(1.0))
    for factor, is_good in ((1.0, True), (math.nan, False), (2.0, True)):
        optimizer.zero_grad()
        before = everything(model, optimizer)
        loss = (model[0].abs().sum() + model[1].sum()) * factor
        loss.backward()
        assert guard.step(loss).applied is is_good
        if not is_good:
            assert_same(everything(model, optimizer), before)


def gated() -> list[str]:
    """Optimizers whose fused kernel takes the flag; Adagrad's does not yet in torch 2.6."""
    parameter = nn.Parameter(torch.ones(1))
    classes = {name: getattr(torch.optim, name) for name in ("SGD", "Adam", "AdamW", "Adagrad")}
    return [
        n for n, c in classes.items() if hasattr(c([parameter], fused=True), "_step_supports_amp_scaling")
    ]


@pytest.mark.parametrize("name", gated())
def test_kernel_gate_skips_bit_identically_on_the_cpu_too(name, monkeypatch):
    """The path that accelerators take: the step is queued with found_inf before the host knows."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))
    momentum = ARGUMENTS.get(name, {})
    optimizer = getattr(torch.optim, name)(model.parameters(), lr=1e-2, fused=True, **momentum)
    monkeypatch.setitem(tt.act.gates_on_device.__globals__, "_HOSTS", frozenset())
    guard = tt.Guard(model, optimizer, clip=tt.NormClip(0.5))
    ahead = []
    original = guard_module.step_ahead
    monkeypatch.setattr(guard_module, "step_ahead", lambda *args: ahead.append(1) or original(*args))
    run("loss", guard, batch(0))
    assert bool(ahead) is (name == "Adagrad")  # the others have no state yet, so the host decides
    run("loss", guard, batch(1))
    assert ahead
    before = everything(model, optimizer)
    bad = batch(2)
    bad[0, 0] = math.nan
    assert not run("loss", guard, bad).applied
    assert_same(everything(model, optimizer), before)
    assert "grad_scale" not in vars(optimizer)
    assert "found_inf" not in vars(optimizer)
    assert run("loss", guard, batch(3)).applied


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "Adagrad"])
@pytest.mark.parametrize("remedy", [tt.Skip(), None], ids=repr)
def test_fused_clipping_inside_the_kernel_equals_clipping_before_it(name, remedy):
    results = []
    for arguments in ({"fused": True}, {"foreach": False, "fused": False}):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
        optimizer = getattr(torch.optim, name)(model.parameters(), lr=0.01, **arguments)
        guard = tt.Guard(model, optimizer, clip=tt.NormClip(0.01), remedy=remedy)
        factors = [run("loss", guard, batch(step)).clip_factor for step in range(4)]
        assert max(factors) < 1.0
        results.append(model.state_dict())
    for key, value in results[0].items():
        torch.testing.assert_close(value, results[1][key], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("gates", [True, False])
@pytest.mark.parametrize("arguments", [{"fused": True}, {"foreach": True}, {"foreach": False}], ids=str)
@pytest.mark.parametrize(
    ("dtype", "value"), [(torch.float32, 3e38), (torch.float64, 1e100), (torch.complex128, 1e100)], ids=str
)
def test_gradients_at_the_edge_of_their_range_are_clipped_to_the_bound(
    dtype, value, arguments, gates, monkeypatch
):
    if dtype.is_complex and arguments == {"fused": True}:
        arguments = {}  # torch has no fused kernel for complex parameters
    if gates:
        monkeypatch.setitem(tt.act.gates_on_device.__globals__, "_HOSTS", frozenset())
    model = nn.ParameterList([nn.Parameter(torch.zeros(100, 100, dtype=dtype))])
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.5, **arguments)
    guard = tt.Guard(model, optimizer, clip=tt.NormClip(1.0))
    model[0].grad = torch.zeros_like(model[0])
    guard.step(1.0)  # makes the state that the gate wants
    model[0].grad = torch.full_like(model[0], value)
    assert guard.step(1.0).applied
    assert model[0].detach().abs().double().norm().item() == pytest.approx(1.0, rel=1e-3)
