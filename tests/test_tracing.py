"""A guard names the birth of a failed step's bad values, and leaves nothing of the replay behind."""

from __future__ import annotations

import copy
import dataclasses
import json
import linecache
import logging

import pytest
import torch
from torch import Tensor, nn

import trimtab as tt
from trimtab import evidence
from trimtab.act import rng
from trimtab.types import Action, Cause, Phase


class Scale(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / x.pow(2).sum(-1, keepdim=True).sqrt()  # BIRTH: a row of zeros


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4, bias=False)
        self.norm = nn.BatchNorm1d(4)
        self.scale = Scale()
        self.drop = nn.Dropout(0.2)
        self.last = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.drop(self.scale(self.first(x)) + 0 * self.norm(x)))


def good_batch() -> Tensor:
    return torch.randn(8, 4)


def bad_batch() -> Tensor:
    x = torch.randn(8, 4)
    x[5] = 0
    return x


def built(optimizer=torch.optim.AdamW, **options) -> tuple[Model, tt.Guard]:
    torch.manual_seed(0)
    model = Model()
    return model, tt.Guard(model, optimizer(model.parameters(), lr=1e-2), **options)


def step(model: nn.Module, guard: tt.Guard, x: Tensor, way: str = "loss"):
    def closure() -> Tensor:
        guard.optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        return loss

    if way == "closure":
        return guard.step(closure)
    if way == "attach":
        with guard.attach():
            closure()
            guard.optimizer.step()
        return guard.outcome
    return guard.step(closure())


def is_birth(origin: tt.Origin) -> bool:
    return origin.file == __file__ and "# BIRTH" in linecache.getline(origin.file, origin.line)


@pytest.mark.parametrize("way", ["loss", "closure", "attach"])
def test_a_failed_step_names_the_line_where_it_began(way):
    model, guard = built()
    assert step(model, guard, good_batch(), way).origin is None
    outcome = step(model, guard, bad_batch(), way)
    assert outcome.action is Action.SKIP
    assert is_birth(outcome.origin)
    assert (outcome.origin.module, outcome.origin.phase) == ("scale", Phase.FORWARD)
    assert outcome.origin.cause is Cause.DIV_ZERO
    assert step(model, guard, good_batch(), way).origin is None


@pytest.mark.parametrize("way", ["loss", "closure", "attach"])
@pytest.mark.parametrize("remedy", [tt.Skip(), tt.Observe()])
def test_tracing_changes_nothing(way, remedy):
    """Everything after a traced step is bit-identical to the same run that was not traced."""
    ends = []
    for trace in (tt.TraceFaults(), None):
        model, guard = built(remedy=remedy, trace=trace)
        torch.manual_seed(1)
        for x in (good_batch(), bad_batch(), good_batch()):
            step(model, guard, x, way)
        grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
        ends.append((model.state_dict(), guard.optimizer.state_dict(), grads, rng.capture()))
        assert not model.drop._forward_hooks
    torch.testing.assert_close(ends[0][:3], ends[1][:3], rtol=0, atol=0, equal_nan=True)
    assert torch.equal(ends[0][3]["torch"], ends[1][3]["torch"])


def test_batch_statistics_after_an_observed_step_are_those_of_its_forward_pass():
    model, guard = built(remedy=tt.Skip())
    step(model, guard, good_batch())
    before = copy.deepcopy(model.norm.state_dict())
    step(model, guard, bad_batch())
    torch.testing.assert_close(model.norm.state_dict(), before, rtol=0, atol=0)


def test_no_more_is_traced_than_the_budget_allows():
    model, guard = built(remedy=tt.Skip(budget=100), trace=tt.TraceFaults(budget=2))
    origins = [step(model, guard, bad_batch()).origin for _ in range(4)]
    # two by the budget; the third is the second one that follows another, and nothing new comes after it
    assert [origin is not None for origin in origins] == [True, True, True, False]


def test_another_kind_of_fault_is_traced_though_the_budget_is_spent():
    model, guard = built(remedy=tt.Skip(budget=100), trace=tt.TraceFaults(budget=1))
    for _ in range(5):
        step(model, guard, bad_batch())
    step(model, guard, good_batch())
    spoiled = good_batch()
    spoiled[2, 1] = torch.inf
    origin = step(model, guard, spoiled).origin
    assert (origin.cause, origin.phase) == (Cause.BAD_INPUT, Phase.INPUT)


def test_a_step_that_came_out_well_the_second_time_has_no_birthplace():
    model, guard = built(remedy=tt.Retry())
    calls = []

    def closure() -> Tensor:
        calls.append(1)
        guard.optimizer.zero_grad()
        loss = model(good_batch()).square().mean() * (torch.nan if len(calls) == 1 else 1.0)
        loss.backward()
        return loss

    outcome = guard.step(closure)
    assert (outcome.applied, outcome.origin, len(calls)) == (True, None, 2)


def test_trace_none_does_not_trace():
    model, guard = built(trace=None)
    assert step(model, guard, bad_batch()).origin is None
    assert not model._forward_hooks


def test_no_fault_is_seen_without_remedy_and_record():
    model, guard = built(remedy=None)
    assert step(model, guard, bad_batch()).origin is None
    assert not model._forward_hooks


def test_a_loss_scale_that_is_too_large_is_no_birthplace():
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    scaler = tt.LossScaler(init_scale=2.0**16)
    guard = tt.Guard(model, torch.optim.SGD(model.parameters(), lr=0.1), scaler=scaler)
    with torch.autocast("cpu", torch.float16):
        loss = 100 * model(torch.full((8, 4), 100.0)).float().square().mean()
    scaler.scale(loss).backward()
    model.weight.grad.fill_(float("inf"))
    outcome = guard.step(loss)
    assert (outcome.action, outcome.origin) == (Action.SKIP, None)


def test_a_loss_function_without_a_closure_is_known_by_its_nodes():
    model, guard = built()
    out = model(good_batch())
    loss = out.sum() / (out.detach() * 0).sum()
    loss.backward()
    origin = guard.step(loss).origin
    assert (origin.phase, origin.op, origin.line) == (Phase.LOSS, "DivBackward0", None)
    assert "closure" in origin.advice


def test_an_update_that_made_parameters_bad_is_blamed_on_the_optimizer():
    torch.manual_seed(0)
    model = nn.Embedding(6, 4).half()
    guard = tt.Guard(model, torch.optim.Adam(model.parameters(), lr=1e-3))  # eps is 0 in float16

    def made() -> tt.StepOutcome:
        guard.optimizer.zero_grad()
        loss = model(torch.tensor([0, 1])).float().square().mean()
        loss.backward()
        return guard.step(loss)

    assert made().applied
    assert not model.weight.isfinite().all()
    before = [state.clone() for state in guard.optimizer.state[model.weight].values()]
    with torch.no_grad():
        model.weight[0] = model.weight[2]  # the next batch meets what the update made
    outcome = made()
    assert (outcome.origin.phase, outcome.origin.parameter) == (Phase.OPTIMIZER, "weight")
    after = guard.optimizer.state[model.weight].values()
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert not model.weight.isfinite().all()


def test_each_origin_leaves_its_evidence_once(tmp_path):
    model, guard = built(remedy=tt.Skip(), record=tmp_path)
    first = step(model, guard, bad_batch())
    again = step(model, guard, bad_batch())
    assert first.evidence == again.evidence == tmp_path / "faults" / "step-000000"
    guard.close()
    (event, later) = tt.read(tmp_path).origins
    assert (event.step, event.origin, event.evidence) == (0, first.origin, str(first.evidence))
    assert later.origin.identity == event.origin.identity
    assert sorted(p.name for p in first.evidence.iterdir()) == [
        "evidence.json",
        "origin.json",
        "state.json",
        "state.safetensors",
    ]


def test_the_step_runs_again_from_its_folder(tmp_path):
    model, guard = built(record=tmp_path)
    for _ in range(3):
        step(model, guard, good_batch())
    outcome = step(model, guard, bad_batch())
    guard.close()
    torch.manual_seed(99)
    state = torch.get_rng_state()
    origin = tt.retrace(outcome.evidence, Model)
    assert torch.equal(torch.get_rng_state(), state)
    assert origin.identity == outcome.origin.identity
    assert origin.why == outcome.origin.why


def test_with_a_batch_the_loss_function_runs_again_too(tmp_path):
    def loss_fn(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return model(batch["x"]).sum() / batch["num"].sum()

    model, guard = built(record=tmp_path)
    batch = {"x": good_batch(), "num": torch.zeros(3)}
    loss = loss_fn(model, batch)
    loss.backward()
    outcome = guard.step(loss, batch=batch)
    guard.close()
    assert outcome.origin.line is None
    origin = tt.retrace(outcome.evidence, lambda: (Model(), loss_fn))
    assert (origin.phase, origin.op) == (Phase.LOSS, "aten.div")
    assert 'batch["num"].sum()' in origin.code


def test_what_must_not_be_kept_is_not(tmp_path):
    model, guard = built(record=tmp_path, trace=tt.TraceFaults(leave_out=("batch", "optimizer")))
    found = evidence.read(step(model, guard, bad_batch()).evidence)
    assert (found.calls, found.batch, found.optimizer) == ((), None, None)
    assert set(found.left_out) == {"batch", "gradients", "optimizer"}
    assert found.model.keys() == model.state_dict().keys()
    with pytest.raises(tt.EvidenceError, match="holds no batch to run the model on: left out on request"):
        tt.retrace(found.path, Model)


def test_what_does_not_fit_is_left_out_and_said(tmp_path):
    model, guard = built(record=tmp_path, trace=tt.TraceFaults(max_bytes=5300))
    step(model, guard, good_batch())
    found = evidence.read(step(model, guard, bad_batch()).evidence)
    assert found.model is None
    assert "more than max_bytes=5300" in found.left_out["model"]


def test_the_first_and_the_newest_folders_stay(tmp_path):
    model, guard = built(record=tmp_path, remedy=tt.Skip(budget=20), trace=tt.TraceFaults(keep=2))
    spoilers = (
        lambda m, a, out: out.log(),
        lambda m, a, out: (out - 9).log(),
        lambda m, a, out: (out - 9).sqrt(),
        lambda m, a, out: out / 0,
    )
    for spoil in spoilers:
        handle = model.first.register_forward_hook(spoil)
        step(model, guard, good_batch())
        handle.remove()
    assert sorted(p.name for p in (tmp_path / "faults").iterdir()) == ["step-000000", "step-000003"]


def test_a_batch_of_a_foreign_class_is_left_out_and_said(tmp_path):
    class Batch:
        def __init__(self, x: Tensor) -> None:
            self.x = x

    class Outer(Model):
        def forward(self, batch: Batch) -> Tensor:
            return super().forward(batch.x)

    torch.manual_seed(0)
    model = Outer()
    guard = tt.Guard(model, torch.optim.SGD(model.parameters(), lr=0.1), record=tmp_path)
    loss = model(Batch(bad_batch())).mean()
    loss.backward()
    outcome = guard.step(loss)
    assert is_birth(outcome.origin)
    assert "Batch" in evidence.read(outcome.evidence).left_out["batch"]


def test_evidence_that_cannot_be_written_does_not_end_the_run(tmp_path, caplog, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(evidence, "write", full)
    model, guard = built(record=tmp_path)
    with caplog.at_level(logging.WARNING):
        outcome = step(model, guard, bad_batch())
    assert is_birth(outcome.origin)
    assert outcome.evidence is None
    assert "No space left on device" in caplog.text


def test_the_replay_computes_in_the_types_that_the_step_did(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    guard = tt.Guard(model, torch.optim.SGD(model.parameters(), lr=0.1), record=tmp_path)
    x = torch.full((8, 4), 1e4)
    with torch.no_grad():
        model[0].weight.fill_(2.0)  # 80,000: beyond float16, not beyond float32
    with torch.autocast("cpu", torch.float16):
        loss = model(x).float().square().mean()
    loss.backward()
    outcome = guard.step(loss)
    assert (outcome.origin.module, outcome.origin.cause) == ("0", Cause.HALF_OVERFLOW)
    again = tt.retrace(outcome.evidence, lambda: nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)))
    assert again.identity == outcome.origin.identity


def test_a_replay_that_raises_does_not_end_the_run(caplog):
    model, guard = built()
    loss = model(bad_batch()).square().mean()
    loss.backward()
    model.forward = None  # as code that runs only once would
    outcome = guard.step(loss)
    assert (outcome.action, outcome.origin) == (Action.SKIP, None)
    assert "could not be run again" in caplog.text


@pytest.mark.parametrize("damage", ["flip", "truncate", "json", "missing"])
def test_a_damaged_folder_is_refused(tmp_path, damage):
    model, guard = built(record=tmp_path)
    folder = step(model, guard, bad_batch()).evidence
    file = folder / "state.safetensors"
    if damage == "flip":
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    elif damage == "truncate":
        file.write_bytes(file.read_bytes()[:-8])
    elif damage == "json":
        (folder / "evidence.json").write_text("{")
    else:
        (folder / "evidence.json").unlink()
    with pytest.raises(tt.EvidenceError, match=r"damaged|no fault folder"):
        evidence.read(folder)


def test_a_folder_of_another_model_is_refused(tmp_path):
    model, guard = built(record=tmp_path)
    folder = step(model, guard, bad_batch()).evidence
    with pytest.raises(tt.EvidenceError, match="is of another model"):
        tt.retrace(folder, lambda: nn.Linear(4, 1))
    with pytest.raises(TypeError, match="the factory returned int"):
        tt.retrace(folder, lambda: 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": -1}, r"TraceFaults\(budget=-1\): expected a whole number >= 0"),
        ({"keep": 1.5}, r"TraceFaults\(keep=1.5\): expected a whole number >= 0"),
        ({"leave_out": ("data",)}, "expected a tuple of batch, gradients, model, optimizer"),
        ({"leave_out": "batch"}, "expected a tuple of"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        tt.TraceFaults(**options)


def test_the_outcome_tells_the_birth_and_the_json_holds_it(tmp_path):
    model, guard = built(record=tmp_path)
    outcome = step(model, guard, bad_batch())
    guard.close()
    text = outcome.describe()
    assert "born in   div" in text
    assert "scale (Scale)" in text
    assert str(outcome.evidence) in text
    exported = json.loads(tt.read(tmp_path).to_json(tmp_path / "log.json").read_text())
    assert exported["origins"][0]["origin"]["op"] == "aten.div"


def test_the_page_escapes_what_an_origin_holds(tmp_path):
    model, guard = built(record=tmp_path)
    step(model, guard, bad_batch())
    guard.close()
    log = tt.read(tmp_path)
    event = log.origins[0]
    wicked = dataclasses.replace(event.origin, code="<script>x</script>", why="<b>")
    log = dataclasses.replace(log, origins=(dataclasses.replace(event, origin=wicked),))
    page = tt.report(log, tmp_path / "page.html").read_text()
    assert "<script>x" not in page
    assert "&lt;script&gt;x" in page
    assert "Where it began" in page
