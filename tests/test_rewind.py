"""A guard that rewinds: bit-exact replay, the loop that goes on by itself, and a resumed process."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import trimtab as tt
from trimtab import act
from trimtab.report.story import episodes, sentence
from trimtab.resuming import progress
from trimtab.types import Action


class Run:
    """A training run with everything that has state."""

    def __init__(self, *, remedy, every=50, folder=None, poison=lambda run, step: None, **kwargs) -> None:
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        self.poison = poison
        self.model = nn.Sequential(
            nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 1)
        )
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-2)
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, T_max=400)
        self.ema = torch.optim.swa_utils.AveragedModel(
            self.model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9), use_buffers=True
        )
        data = torch.randn(130, 4)
        loader = DataLoader(TensorDataset(data, data.sum(1, keepdim=True)), batch_size=8, shuffle=True)
        self.batches = act.Batches(loader)
        self.scaler = act.LossScaler(2.0**4, growth_interval=40)
        self.snapshots = act.Snapshots(
            every=every,
            folder=folder,
            also={"data": self.batches, "scheduler": self.scheduler, "ema": self.ema},
        )
        self.guard = tt.Guard(
            self.model,
            self.optimizer,
            clip=tt.EmaClip(),
            detect=[tt.LossSpike()],
            remedy=remedy,
            snapshots=self.snapshots,
            scaler=self.scaler,
            **kwargs,
        )
        self.outcomes = []

    def train(self, num_steps):
        """Until the guard has counted so many steps."""
        while self.guard.num_steps < num_steps:
            for x, y in self.batches:
                self.step(x, y)
                if self.guard.num_steps >= num_steps:
                    break

    def step(self, x, y):
        x = x + 0.01 * random.random() + 0.01 * np.random.rand()
        self.optimizer.zero_grad()
        loss = (self.model(x) - y).square().mean()
        self.scaler.scale(loss).backward()
        self.poison(self, self.guard.num_steps)
        outcome = self.guard.step(loss)
        self.outcomes.append(outcome)
        if outcome.applied:
            self.scheduler.step()
            self.ema.update_parameters(self.model)

    def state(self):
        tree = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "ema": self.ema.state_dict(),
            "scaler": self.scaler.state_dict(),
            "guard": {k: v for k, v in self.guard.state_dict().items() if k in ("step", "clip", "detect")},
            "rng": (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()),
        }
        return {path: value for path, value in leaves(tree)}


def leaves(tree, path=""):
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from leaves(value, f"{path}.{key}")
    elif isinstance(tree, (list, tuple)):
        for index, value in enumerate(tree):
            yield from leaves(value, f"{path}[{index}]")
    else:
        yield path, tree


def assert_same(a, b):
    assert a.keys() == b.keys()
    for path, value in a.items():
        same = value.equal(b[path]) if isinstance(value, torch.Tensor) else value == b[path]
        assert same or value != value, path


def spoil(at, *, times=1):
    """Spoils weights and moments once the guard has made `at` steps, as a fault of the machine would."""
    left = [times]

    def poison(run, step):
        if step == at and left[0]:
            left[0] -= 1
            with torch.no_grad():
                for parameter in run.model.parameters():
                    parameter.fill_(math.nan)
                    for value in run.optimizer.state.get(parameter, {}).values():
                        value.fill_(math.nan)
                    parameter.grad.fill_(math.nan)

    return poison


@pytest.mark.parametrize("at", [151, 163, 199])
def test_rewind_and_replay_is_bit_exact(at):
    straight = Run(remedy=tt.Skip())
    straight.train(300)
    rewound = Run(remedy=tt.Rewind(skip_batches=0), poison=spoil(at))
    rewound.train(300)
    (back,) = [o for o in rewound.outcomes if o.action is Action.REWIND]
    assert (back.step, back.rewound_to, back.applied) == (at, 151, False)
    assert len(rewound.outcomes) == 300 + 1 + at - 151
    assert_same(straight.state(), rewound.state())


def test_the_default_rewind_goes_on_with_the_next_batch():
    run = Run(remedy=tt.Rewind(), poison=spoil(60))
    seen = []
    for x, y in run.batches:
        seen.append(x)
        run.step(x, y)
        if len(seen) == 17:
            break
    run.train(70)
    position = run.batches.epoch * 17 + run.batches.state_dict()["position"]
    assert position == len(run.outcomes)  # every batch was given once
    assert all(p.isfinite().all() for p in run.model.parameters())


def test_more_batches_are_left_out_when_asked_for():
    run = Run(remedy=tt.Rewind(skip_batches=4), poison=spoil(60))
    run.train(80)
    position = run.batches.epoch * 17 + run.batches.state_dict()["position"]
    assert position == len(run.outcomes) + 3


def test_a_second_fault_soon_after_goes_one_snapshot_further_and_the_budget_ends():
    run = Run(remedy=tt.Rewind(budget=2, calm_steps=60), every=20, poison=spoil(62, times=9))
    with pytest.raises(tt.NonFiniteError, match="rewound 2 times within 60 healthy steps"):
        run.train(200)
    assert [o.rewound_to for o in run.outcomes if o.action is Action.REWIND] == [61, 41]


def test_a_cool_down_after_a_rewind_returns_by_itself():
    run = Run(remedy=tt.Rewind(), poison=spoil(60), cooldown=tt.CoolDown(factor=0.1, steps=10))
    run.train(80)
    at = next(i for i, o in enumerate(run.outcomes) if o.action is Action.REWIND)
    assert run.outcomes[at].rewound_to == 51
    assert run.guard._lr_factor() == 1.0
    run.poison = spoil(run.guard.num_steps)
    for x, y in run.batches:
        run.step(x, y)
        break
    assert run.guard._lr_factor() == pytest.approx(0.1)


def test_without_a_snapshot_yet_the_step_is_refused():
    run = Run(remedy=tt.Rewind(), poison=spoil(0))
    with pytest.raises(tt.NonFiniteError, match="no snapshot yet"):
        run.train(10)


def test_without_a_snapshot_yet_a_ladder_goes_on_with_its_next_rung():
    model = nn.Linear(200, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    ladder = tt.Escalate((tt.Rewind(), tt.Skip()))
    guard = tt.Guard(model, optimizer, remedy=ladder, snapshots=act.Snapshots())
    loss = model(torch.ones(1, 200)).sum()
    loss.backward()
    model.weight.grad[0, 3] = math.inf
    outcome = guard.step(loss)
    assert outcome.action is Action.SKIP
    assert "no snapshot yet; rung 2 of 2" in outcome.reason


# Loops in which the beginning of a step is not seen at the first look


class Unusual:
    """A small model, called in the way of its name."""

    def __init__(self, how):
        torch.manual_seed(0)
        self.how = how
        self.model = self.guarded = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
        match how:
            case "in eval mode":
                self.model.eval()
            case "below its masters":
                self.guarded = tt.MasterWeights(self.model.bfloat16())
            case "by its parts":
                self.guarded = nn.ModuleList([self.model[0], nn.ModuleDict({"last": self.model[1]})])

    def loss(self):
        first, last = self.model
        x = torch.ones(2, 3, dtype=first.weight.dtype)
        match self.how:
            case "by its parts":
                y = last(first(x))
            case "not as a module":
                y = self.model.forward(x)
            case "without its modules":
                y = nn.functional.linear(nn.functional.linear(x, first.weight), last.weight)
            case _:
                y = self.model(x)
        return y.float().square().mean()


@pytest.mark.parametrize(
    ("how", "expected", "warns"),
    [
        ("by its parts", (0, 2, 4), False),
        ("in eval mode", (1, 2, 4), False),
        ("below its masters", (1, 2, 4), False),
        ("not as a module", (1, 2, 4), False),
        ("without its modules", (2, 4, 6), True),
    ],
)
def test_snapshots_are_taken_however_a_model_is_called(how, expected, warns, caplog):
    model = Unusual(how)
    optimizer = torch.optim.SGD(model.guarded.parameters(), lr=0.01)
    guard = tt.Guard(model.guarded, optimizer, remedy=tt.Rewind(), snapshots=act.Snapshots(every=2, keep=3))

    def step():
        optimizer.zero_grad()
        loss = model.loss()
        loss.backward()
        outcome = guard.step(loss)
        with torch.no_grad():
            model.loss()  # validation begins no step
        return outcome

    for _ in range(6 + warns):
        step()
    assert guard._rewinding.snapshots.steps == expected
    assert ("the beginning of step 2 was not seen" in caplog.text) is warns
    with torch.no_grad():
        next(iter(model.guarded.parameters())).fill_(math.nan)
    outcome = step()
    assert outcome.rewound_to is not None
    assert all(p.isfinite().all() for p in model.guarded.parameters())
    guard.close()
    assert not any(
        type(h).__module__ == "trimtab.rewinding"
        for m in model.guarded.modules()
        for h in m._forward_pre_hooks.values()
    )


def test_a_model_compiled_as_one_graph_has_snapshots_too(caplog):
    torch._dynamo.reset()
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    guard = tt.Guard(model, optimizer, remedy=tt.Rewind(), snapshots=act.Snapshots(every=2, keep=9))
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    for _ in range(5):
        optimizer.zero_grad()
        loss = compiled(torch.randn(6, 3)).square().mean()
        loss.backward()
        guard.step(loss)
    assert guard._rewinding.snapshots.steps == (1, 2, 4)
    assert "give the compiled model to Guard" in caplog.text
    torch._dynamo.reset()


def test_a_rewind_without_snapshots_is_refused_at_once():
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    remedy = tt.Escalate((tt.Skip(), tt.Rewind()))
    with pytest.raises(ValueError, match=r"nothing to go back to.*snapshots=Snapshots"):
        tt.Guard(model, optimizer, remedy=remedy)
    tt.Guard(model, optimizer)  # and left no claim on the optimizer


def test_a_bad_state_is_never_taken_for_a_good_one(caplog):
    run = Run(remedy=tt.Skip(budget=500), every=10)
    run.train(25)
    with torch.no_grad():
        run.optimizer.state[run.model[0].weight]["exp_avg_sq"][0, 0] = math.inf
    before = run.snapshots.steps
    run.train(45)
    assert run.snapshots.steps == before
    assert "no snapshot after step 30" in caplog.text
    assert "0.weight.exp_avg_sq" in caplog.text


def test_a_plain_loop_without_batches_is_rewound_too():
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.Adam(model.parameters())
    guard = tt.Guard(model, optimizer, remedy=tt.Rewind(), snapshots=act.Snapshots(every=5))
    for number in range(13):
        optimizer.zero_grad()
        loss = model(torch.full((2, 3), float(number))).mean()
        loss.backward()
        if number == 12:
            kept = {k: v.clone() for k, v in guard.model.state_dict().items()}
            model.weight.grad.fill_(math.nan)
        outcome = guard.step(loss)
    assert (outcome.action, outcome.rewound_to) == (Action.REWIND, 11)
    assert not model.weight.equal(kept["weight"])
    assert optimizer.state[model.weight]["step"].item() == 11


def test_the_log_tells_of_the_rewind(tmp_path):
    run = Run(remedy=tt.Rewind(), poison=spoil(60), record=tmp_path)
    run.train(100)
    run.guard.close()
    log = tt.read(tmp_path)
    assert log.step.tolist() == list(range(100))
    assert {(f.step, f.action) for f in log.faults} == {(60, Action.REWIND)}
    assert any("the run went back to a snapshot" in sentence(episode) for episode in episodes(log))


def test_a_resumed_process_goes_on_bit_for_bit(tmp_path):
    pytest.importorskip("safetensors")
    straight = Run(remedy=tt.Skip(), folder=tmp_path / "a")
    straight.train(300)
    killed = Run(remedy=tt.Skip(), folder=tmp_path / "b")
    killed.train(180)
    killed.guard.close()
    resumed = Run(remedy=tt.Skip(), folder=tmp_path / "b")
    assert resumed.guard.resume() == 151
    resumed.train(300)
    assert_same(straight.state(), resumed.state())


def test_resume_of_an_empty_folder_begins_at_the_start(tmp_path):
    pytest.importorskip("safetensors")
    run = Run(remedy=tt.Skip(), folder=tmp_path)
    assert run.guard.resume() == 0


def test_resume_needs_a_folder():
    with pytest.raises(RuntimeError, match=r"needs snapshots=Snapshots\(folder=..."):
        Run(remedy=tt.Skip()).guard.resume()


def test_the_same_batch_on_an_older_snapshot_tells_the_state_from_the_data():
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    guard = tt.Guard(model, optimizer, remedy=tt.Retry(), snapshots=act.Snapshots(every=2))

    def closure(x):
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        return loss

    x = torch.ones(2, 3)
    for _ in range(4):
        assert guard.step(lambda: closure(x)).applied
    data = guard.step(lambda: closure(x * math.nan))
    assert data.verdict.blame is tt.types.Blame.DATA
    assert "this batch on the last snapshot came out badly too" in data.verdict.evidence
    before = model.bias.item()
    with torch.no_grad():
        model.weight[0, 0] = math.inf
    state = guard.step(lambda: closure(x))
    assert state.verdict.blame is tt.types.Blame.STATE
    assert model.weight[0, 0].item() == math.inf
    assert model.bias.item() == before


# Ways back that there are not


def small(folder, *, optimizer=torch.optim.AdamW, **kwargs):
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    own = optimizer(model.parameters(), lr=0.01)
    return tt.Guard(model, own, snapshots=act.Snapshots(every=2, folder=folder), **kwargs)


def step(guard, factor=1.0):
    guard.optimizer.zero_grad()
    loss = guard.model(torch.ones(2, 3) * factor).square().mean()
    loss.backward()
    return guard.step(loss)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"optimizer": torch.optim.SGD}, "optimizer is SGD, but in the snapshot of step 2 it is AdamW"),
        ({"clip": tt.ZScoreClip()}, r"clip, detectors and scaler None.*this one has ZScoreClip"),
        ({"detect": [tt.LossSpike()]}, r"this one has .*LossSpike"),
        ({"scaler": act.LossScaler(2.0)}, "NoneType; this one has .*LossScaler"),
    ],
)
def test_resuming_with_other_parts_is_refused_and_changes_nothing(tmp_path, kwargs, message):
    with small(tmp_path) as guard:
        for _ in range(4):
            step(guard)
    other = small(tmp_path, **kwargs)
    before = other.model.weight.detach().clone()
    groups = repr(other.optimizer.state_dict())
    with pytest.raises(tt.SnapshotError, match=message):
        other.resume()
    assert other.model.weight.equal(before)
    assert (repr(other.optimizer.state_dict()), other.num_steps) == (groups, 0)
    other.close()
    with small(tmp_path, remedy=tt.Skip(budget=1)) as again:  # what is done about faults may change
        assert again.resume() == 3


def test_the_log_of_a_resumed_run_is_one(tmp_path):
    for num_steps in (6, 4):
        with small(tmp_path / "snapshots", record=tmp_path / "log") as guard:
            guard.resume()
            for _ in range(num_steps):
                step(guard)
    assert tt.read(tmp_path / "log").step.tolist() == list(range(9))  # step 5 was made twice


def test_resuming_comes_first(tmp_path):
    with small(tmp_path) as guard:
        step(guard)
        with pytest.raises(RuntimeError, match="came after 1 steps"):
            guard.resume()


def test_a_later_release_of_the_optimizer_keeps_what_it_knows_besides(tmp_path, monkeypatch):
    with small(tmp_path) as guard, monkeypatch.context() as earlier:
        for group in guard.optimizer.param_groups:
            earlier.delitem(group, "capturable")  # as if AdamW had not had it then
        guard._rewinding.snapshots.take(0, progress(guard))
    with small(tmp_path) as again:
        again.resume()
        assert again.optimizer.param_groups[0]["capturable"] is False


def test_when_the_way_back_fails_the_run_ends_with_its_report(tmp_path):
    guard = small(tmp_path / "folder", remedy=tt.Rewind(), record=tmp_path / "log")
    for _ in range(4):
        step(guard)
    guard._rewinding.snapshots._files.wait()
    (tmp_path / "folder").rename(tmp_path / "elsewhere")
    before = guard.model.weight.detach().clone()
    with pytest.raises(tt.NonFiniteError, match=r"no way back: Newer snapshots could not be") as caught:
        step(guard, math.nan)
    assert isinstance(caught.value.__cause__, tt.SnapshotError)
    assert guard.outcome.action is Action.RAISE
    assert guard.model.weight.equal(before)
    guard.close()
    assert tt.read(tmp_path / "log").faults


def test_closing_lets_go_of_everything_also_when_the_disk_is_full(tmp_path):
    guard = small(tmp_path / "folder", record=tmp_path / "log")
    step(guard)
    (tmp_path / "folder").rename(tmp_path / "elsewhere")
    guard.model(torch.ones(1, 3))
    with pytest.raises(tt.SnapshotError, match="could not be written"):
        guard.close()
    assert not guard.model._forward_pre_hooks
    assert tt.read(tmp_path / "log").num_steps == 1  # closed, so all of it is there
    tt.Guard(guard.model, guard.optimizer).close()


@pytest.mark.parametrize("skip_batches", [0, 2])
def test_moving_in_data_that_no_snapshot_knows_is_refused(skip_batches):
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    remedy = tt.Escalate((tt.Skip(), tt.Rewind(skip_batches=skip_batches)))
    with pytest.raises(ValueError, match=r"moves in the data.*batches = Batches\(loader\)"):
        tt.Guard(model, optimizer, remedy=remedy, snapshots=act.Snapshots())
    tt.Guard(model, optimizer).close()
