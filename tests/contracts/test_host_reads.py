"""A healthy step reads the device once, or never: counted, and looked up in the source."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest
import torch
from cases import CLIPS as CLIP_CASES
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import trimtab as tt
from trimtab import act, measure, stepping, types
from trimtab.types import Layout, StepStats

SOURCE = Path(tt.__file__).parent


class CountReads(TorchDispatchMode):
    """Counts what makes a host wait for its device: item() and copies to the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0
        self.ops: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func)
        self.ops[name.split(".")[1]] += 1
        if "_local_scalar_dense" in name:
            self.reads += 1
        return func(*args, **(kwargs or {}))


CLIP = tt.NormClip(0.5)


def guarded(remedy, record=None, clip=CLIP):
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    # fused: torch's own for-loop Adam reads its step counters on the CPU, which is not ours to count
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    guard = tt.Guard(model, optimizer, clip=clip, remedy=remedy, record=record)
    return guard


def count(guard: tt.Guard, monkeypatch) -> tuple[int, int]:
    """Dispatched reads and packed copies of one healthy step after a first one."""
    copies = []
    original = types.StepStats.read

    def read(self):
        if isinstance(self.grad_norm, Tensor):
            copies.append(1)
        return original(self)

    monkeypatch.setattr(types.StepStats, "read", read)
    for _ in range(2):
        copies.clear()
        loss = guard.model(torch.ones(3, 4)).square().mean()
        guard.optimizer.zero_grad()
        loss.backward()
        with CountReads() as counter:
            guard.step(loss)
    return counter.reads, len(copies)


@pytest.mark.parametrize("clip", [None, tt.NormClip(0.5), tt.NormClip(1e6)], ids=repr)
def test_no_read_without_remedy_and_record(clip, monkeypatch):
    assert count(guarded(None, clip=clip), monkeypatch) == (0, 0)


@pytest.mark.parametrize("remedy", [tt.Skip(), tt.Raise(), tt.Observe()], ids=repr)
def test_one_packed_copy_with_a_remedy(remedy, monkeypatch):
    assert count(guarded(remedy), monkeypatch) == (
        0,
        1,
    )  # the copy is a tolist(), which dispatch does not show


def test_one_packed_copy_with_a_record_layers_included(tmp_path, monkeypatch):
    record = tt.RunWriter(tmp_path, layers_every=1)
    assert count(guarded(tt.Skip(), record), monkeypatch) == (0, 1)
    assert count(guarded(None, tt.RunWriter(tmp_path / "other", layers_every=1)), monkeypatch) == (0, 1)


def test_the_counter_counts():
    with CountReads() as counter:
        torch.ones(1).item()
        float(torch.ones(()))
        bool(torch.ones(()) > 0)
    assert counter.reads == 3


def test_outcome_of_an_unread_step_reads_once_when_asked(monkeypatch):
    guard = guarded(None)
    loss = guard.model(torch.ones(3, 4)).square().mean()
    loss.backward()
    outcome = guard.step(loss)
    assert outcome.loss == pytest.approx(loss.item())
    assert outcome.grad_norm > 0
    assert outcome.stability_score > 0


CLIPS = [case.policy(**arguments) for case in CLIP_CASES for arguments in case.valid]


# those that need more than the norm are counted with a whole model, in tests/decide/test_clips.py
JUDGES = [clip for clip in CLIPS if clip.needs == types.Needs.NOTHING]


@pytest.mark.parametrize("clip", JUDGES, ids=repr)
def test_a_clip_reads_nothing(clip):
    state = clip.init(Layout(torch.device("cpu")))
    with CountReads() as counter:
        for norm in (1.0, 5.0, float("nan")):
            _, state = clip.rescale(StepStats(None, torch.tensor(norm, dtype=torch.float64)), state)
    assert counter.reads == 0


@pytest.mark.parametrize("p", [1.0, 2.0, float("inf")])
def test_live_stages_never_read_an_accelerator(p):
    """Fake CUDA tensors have no data: any read of one is an error."""
    with FakeTensorMode():
        parameters = [nn.Parameter(torch.empty(shape, device="cuda")) for shape in [(1000, 1000), (1000,)]]
        gradients = [torch.empty_like(p) for p in parameters]
        gradients += [torch.empty(10, device="cuda", dtype=torch.bfloat16), torch.empty(3, device="cuda")]
        clip = tt.NormClip(1.0, norm_type=p)
        stats = measure.step_stats(gradients, torch.empty((), device="cuda"), norm_type=p)
        scale, _ = clip.rescale(stats, clip.init(Layout(torch.device("cuda"))))
        assert stats.grad_norm.device.type == scale.factor.device.type == "cuda"
        act.scale_grads_(gradients, scale)
        optimizer = torch.optim.AdamW(parameters, foreach=True)
        with act.fused_inputs(optimizer, factor=scale.factor, refuse=stats.grad_norm.isnan()):
            assert vars(optimizer)["grad_scale"].dtype == vars(optimizer)["found_inf"].dtype == torch.float32
            assert vars(optimizer)["found_inf"].dim() == 0


def test_one_norm_pass_over_the_gradients(monkeypatch):
    guard = guarded(tt.Skip(), clip=tt.NormClip(1e6))
    loss = guard.model(torch.ones(3, 4)).square().mean()
    loss.backward()
    with CountReads() as counter:
        guard.step(loss)
    assert counter.ops["_foreach_norm"] == 1
    assert counter.ops["_foreach_mul_"] == 0  # below the bound nothing is scaled


@pytest.mark.parametrize(
    "clip",
    [
        tt.UnitClip(),
        tt.ValueClip(1e3),
        tt.TensorClip(),
        tt.Grouped(tt.QuantileClip()),
        tt.ByName({"0": tt.NormClip(1.0)}, rest=tt.NormClip(2.0)),
    ],
    ids=repr,
)
def test_many_small_tensors_are_judged_in_one_go(clip):
    model = nn.ParameterList([nn.Parameter(torch.ones(4)) for _ in range(600)])
    guard = tt.Guard(model, torch.optim.SGD(model.parameters(), lr=0.0), clip=clip, remedy=None)
    for p in model:
        p.grad = torch.full_like(p, 1e-6)
    guard.step(torch.tensor(1.0))
    with CountReads() as counter:
        measured = stepping.measure_step(guard, torch.tensor(1.0))
    computing = {op: num for op, num in counter.ops.items() if op not in VIEWS}
    assert max(computing.values()) < 20, computing
    assert measured.stats.clip_share is not None


VIEWS = {"detach", "reshape", "view", "unbind", "select", "alias", "unsqueeze", "cat", "_unsafe_view"}

READS = {"item", "tolist", "cpu", "numpy"}
ALLOWED = {
    ("step.py", "read"),  # the one packed copy
    ("norms.py", "_host_norms"),  # memory of the host itself
    ("effects.py", "_may_clamp"),  # the same; a list of the host
    ("units.py", "_norms"),  # the same
    ("updates.py", "_shrink_"),  # the same
    ("scaling_gradients.py", "read"),  # a scaler used without a guard: one packed copy
    ("in_backward.py", "check"),  # asked for by the caller
    ("inputs.py", "as_number"),  # a number that the caller has read already, as for early stopping
    ("norms.py", "_rescaled"),  # the same
    ("census.py", "_count_all"),  # a faulty step
    ("census.py", "_count"),  # the same
    ("census.py", "_where"),  # the same
}


def reads_in(source: str, file: str) -> set[tuple[str, str]]:
    found = set()
    for function in ast.walk(ast.parse(source)):
        if isinstance(function, ast.FunctionDef):
            found |= {
                (file, function.name)
                for node in ast.walk(function)
                if isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in READS
            }
    return found


# Only in the few steps that a diagnosis looks at, or when they are called by hand
LOOKS = {
    ("activation_probe.py", "take"),
    ("parameter_probe.py", "after"),
    ("parameter_probe.py", "_compare"),
    ("row_memory.py", "take"),
    ("gradient_flow.py", "_norms"),
    ("gradient_stats.py", "_moments"),
}


def test_live_stages_read_nowhere_else():
    files = [file for file in SOURCE.glob("*.py") if file.name not in ("cli.py", "__main__.py")]
    files += [f for stage in ("types", "measure", "decide", "act") for f in (SOURCE / stage).glob("*.py")]
    found = set().union(*(reads_in(file.read_text(), file.name) for file in files))
    assert found == ALLOWED | LOOKS


def test_that_search_finds_a_read():
    assert reads_in("def f(x):\n    return x.norm().item()", "a.py") == {("a.py", "f")}
