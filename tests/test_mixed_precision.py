"""The one-call step against the loop written out, and against each kind of bad step."""

from __future__ import annotations

import io
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import trimtab as tt
from trimtab.act.master import MasterWeights
from trimtab.act.scaler import LossScaler
from trimtab.mixed_precision import MixedPrecision, ScaleStatistics
from trimtab.types import Action

INF, NAN = float("inf"), float("nan")
HALVES = [torch.float16, torch.bfloat16]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.norm, self.head = nn.Linear(8, 16), nn.LayerNorm(16), nn.Linear(16, 1)
        self.gain = 1.0

    def forward(self, x):
        return self.head(torch.relu(self.norm(self.body(x)) * self.gain))


def build(**arguments):
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    return model, optimizer, MixedPrecision(model, optimizer, F.mse_loss, **arguments)


def scaler_of(kind: str):
    """One whose scale fits this model from the start."""
    return {"ours": LossScaler(1024.0), "torch": torch.amp.GradScaler("cpu", init_scale=1024.0)}.get(kind)


def batch(seed: int = 0):
    x = torch.randn(32, 8, generator=torch.Generator().manual_seed(seed))
    return x, x[:, :1] * 2.0


def values(model):
    return [p.detach().clone() for p in model.parameters()]


def is_same(model, before) -> bool:
    return all(p.equal(q) for p, q in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize("dtype", HALVES)
def test_equals_the_loop_written_out(dtype):
    model, _, training = build(dtype=dtype, clip=tt.NormClip(0.5))
    torch.manual_seed(0)
    plain = Net()
    optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-2)
    scaler = torch.amp.GradScaler("cpu", enabled=dtype is torch.float16)
    num_skipped = 0
    for step in range(20):
        outcome = training.step(*batch(step))
        x, target = batch(step)
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=dtype):
            loss = F.mse_loss(plain(x), target)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        norm = nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
        scaler.step(optimizer)
        scaler.update()
        assert outcome.applied == bool(norm.isfinite())
        num_skipped += not outcome.applied
        assert outcome.loss == pytest.approx(loss.item(), rel=1e-4)  # not scaled
        if outcome.applied:
            assert outcome.grad_norm == pytest.approx(norm.item(), rel=1e-3)  # nor these
    assert training.statistics().num_overflows == num_skipped == (2 if dtype is torch.float16 else 0)
    for p, q in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(p, q, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", HALVES)
def test_trains(dtype):
    _, _, training = build(dtype=dtype)
    losses = [training.step(*batch(step)).loss for step in range(150)]
    assert losses[-1] < 0.1 * losses[0]
    assert training.statistics().num_steps == 150
    assert training.statistics().overflow_rate < 0.05


def test_defaults_of_the_scale():
    assert isinstance(build()[2].scaler, LossScaler)
    _, _, training = build(dtype=torch.bfloat16)
    assert training.scaler is None
    assert training.statistics() == ScaleStatistics(1.0, 0, 0)
    assert training.statistics().overflow_rate == 0.0


@pytest.mark.parametrize("kind", ["ours", "torch"])
def test_overflow_of_the_scale_skips_without_spending_the_budget(kind):
    """The first steps of this run overflow: the gradient of the head alone is beyond float16 at 2^24."""
    scaler = LossScaler(2.0**24) if kind == "ours" else torch.amp.GradScaler("cpu", init_scale=2.0**24)
    model, _, training = build(scaler=scaler, remedy=tt.Raise())  # would raise at the first fault
    before = values(model)
    num_overflows = 0
    while not (outcome := training.step(*batch())).applied:
        num_overflows += 1
        assert outcome.action is Action.SKIP
        assert outcome.reason.startswith("loss scale")
        assert math.isfinite(outcome.loss)
        assert outcome.culprits  # which layers overflowed
        assert is_same(model, before)
    assert 2 < num_overflows < 20
    statistics = training.statistics()
    assert statistics == ScaleStatistics(2.0 ** (24 - num_overflows), num_overflows, num_overflows + 1)
    assert statistics.overflow_rate == num_overflows / (num_overflows + 1)
    assert all(p.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("kind", ["ours", "torch", "none"])
@pytest.mark.parametrize("born", ["data", "forward"])
def test_a_genuine_fault_is_the_remedys_and_leaves_the_scale(kind, born):
    dtype = torch.bfloat16 if kind == "none" else torch.float16
    model, _, training = build(dtype=dtype, scaler=scaler_of(kind), remedy=tt.Skip(budget=3))
    assert training.step(*batch()).applied
    scale, before = training.statistics().scale, values(model)
    x, target = batch(1)
    if born == "data":
        x[3, 3] = NAN
    else:
        model.gain = 1e39  # beyond both half types
    for _ in range(3):
        outcome = training.step(x, target)
        assert outcome.action is Action.SKIP
        assert not outcome.reason.startswith("loss scale")
        assert is_same(model, before)
    with pytest.raises(tt.NonFiniteError, match="4 faulty steps in a row"):
        training.step(x, target)
    assert training.statistics() == ScaleStatistics(scale, 0, 5)
    model.gain = 1.0
    assert training.step(*batch(2)).applied


@pytest.mark.parametrize("kind", ["ours", "torch"])
def test_a_thousand_bad_steps_write_nothing(kind):
    model, optimizer, training = build(remedy=None, scaler=scaler_of(kind))
    training.step(*batch())
    before = values(model)
    moments = [state["exp_avg"].clone() for state in optimizer.state.values()]
    handles = [p.register_hook(lambda g: g.clone().fill_(INF)) for p in model.head.parameters()]
    for _ in range(1000):
        assert not training.step(*batch()).applied
    assert is_same(model, before)
    now = [state["exp_avg"] for state in optimizer.state.values()]
    assert all(m.equal(n) for m, n in zip(moments, now, strict=True))
    for handle in handles:
        handle.remove()
    assert training.step(*batch()).applied
    assert all(p.isfinite().all() for p in model.parameters())
    assert training.statistics() == ScaleStatistics(1024.0, 5, 1002)


@pytest.mark.parametrize("dtype", HALVES)
def test_a_half_model_with_master_weights(dtype):
    torch.manual_seed(0)
    model = Net().to(dtype)
    masters = MasterWeights(model)
    optimizer = torch.optim.AdamW(masters.parameters(), lr=1e-2, fused=True)
    training = MixedPrecision(masters, optimizer, F.mse_loss, dtype=dtype)
    losses, skipped = [], []
    for step in range(150):
        outcome = training.step(*batch(step))
        losses.append(outcome.loss)
        skipped.append(not outcome.applied)
    assert losses[-1] < 0.1 * losses[0]
    assert sum(skipped[20:]) == 0
    model(batch()[0].to(dtype))  # the last step reaches the half model
    before, half = values(masters), values(model)
    x, target = batch(7)
    x[0] = NAN
    assert not training.step(x, target).applied
    model(batch()[0].to(dtype))
    assert is_same(masters, before)
    assert is_same(model, half)
    assert {p.dtype for p in half} == {dtype}
    assert all(h.equal(m.to(dtype)) for h, m in zip(half, before, strict=True))


def test_masters_rewind_with_the_guard():
    torch.manual_seed(0)
    model = Net().bfloat16()
    masters = MasterWeights(model)
    optimizer = torch.optim.AdamW(masters.parameters(), lr=1e-2)
    guard = tt.Guard(masters, optimizer, remedy=tt.Rewind(), snapshots=tt.Snapshots(every=5))
    seen = {}
    for step in range(15):
        x, target = batch(step)
        optimizer.zero_grad()
        loss = F.mse_loss(masters(x.bfloat16() * (NAN if step == 14 else 1.0)), target.bfloat16())
        seen[step] = values(masters), values(model)  # as they are at the start of this step
        loss.backward()
        outcome = guard.step(loss)
    assert outcome.action is Action.REWIND
    assert outcome.rewound_to < 14
    masters_then, half_then = seen[outcome.rewound_to]
    assert is_same(masters, masters_then)
    masters(batch()[0].bfloat16())
    assert is_same(model, half_then)
    assert not all(p.equal(q) for p, q in zip(half_then, seen[14][1], strict=True))


@pytest.mark.parametrize("kind", ["ours", "torch"])
def test_resumed_equals_uninterrupted(kind):
    def fresh():
        arguments = {"init_scale": 2.0**24, "growth_interval": 5}
        scaler = LossScaler(**arguments) if kind == "ours" else torch.amp.GradScaler("cpu", **arguments)
        return build(scaler=scaler, clip=tt.EmaClip())

    def run(training, steps):
        return [(o.applied, o.loss, o.clip_factor) for o in (training.step(*batch(s)) for s in steps)]

    model, _, whole = fresh()
    expected = run(whole, range(40))
    first_model, first_optimizer, first = fresh()
    got = run(first, range(20))
    file = io.BytesIO()
    states = (first_model.state_dict(), first_optimizer.state_dict(), first.state_dict())
    torch.save(states, file)
    file.seek(0)
    second_model, second_optimizer, second = fresh()
    saved = torch.load(file, weights_only=True)
    for part, state in zip((second_model, second_optimizer, second), saved, strict=True):
        part.load_state_dict(state)
    got += run(second, range(20, 40))
    assert got == expected
    assert second.statistics() == whole.statistics()
    assert is_same(second_model, values(model))
    assert sum(not applied for applied, *_ in expected) == whole.statistics().num_overflows > 2


def test_states_of_other_trainings_are_refused():
    _, _, half = build()
    _, _, brain = build(dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="saved without a loss scale, and this training is with one"):
        half.load_state_dict(brain.state_dict())
    with pytest.raises(ValueError, match="saved with a loss scale, and this training is without one"):
        brain.load_state_dict(half.state_dict())


def test_loss_functions_and_arguments():
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="use Guard alone"):
        MixedPrecision(model, optimizer, dtype=torch.float32)
    with pytest.raises(TypeError, match=r"expected a LossScaler\(\)"):
        MixedPrecision(model, optimizer, scaler=65536.0)
    training = MixedPrecision(model, optimizer)
    before = values(model)
    with pytest.raises(TypeError, match="expected a loss function here or in the constructor"):
        training.step(*batch())
    assert is_same(model, before)
    assert training.statistics().num_steps == 0
    x, target = batch()
    outcome = training.step(x, target, F.l1_loss)
    with torch.no_grad():
        for p, q in zip(model.parameters(), before, strict=True):
            p.copy_(q)
        with torch.autocast("cpu", dtype=torch.float16):
            assert outcome.loss == pytest.approx(F.l1_loss(model(x), target).item())


def test_a_disabled_scaler_does_without():
    _, _, training = build(scaler=torch.amp.GradScaler("cpu", enabled=False))
    assert training.step(*batch()).applied
    assert training.statistics() == ScaleStatistics(1.0, 0, 1)
    again = build(scaler=torch.amp.GradScaler("cpu", enabled=False))[2]
    again.load_state_dict(training.state_dict())
    assert again.statistics() == training.statistics()


def test_close_releases_the_optimizer():
    model, optimizer, training = build()
    with training:
        training.step(*batch())
    tt.Guard(model, optimizer).close()


def test_records_what_it_did(tmp_path):
    with build(scaler=LossScaler(2.0**24), record=str(tmp_path / "run"))[2] as training:
        outcomes = [training.step(*batch(step)) for step in range(20)]
    log = tt.read(tmp_path / "run")
    assert sum(not outcome.applied for outcome in outcomes) == training.statistics().num_overflows > 0
    assert len(log.faults) >= training.statistics().num_overflows


def test_rewinds_with_snapshots_of_its_own():
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with tt.MixedPrecision(
        model,
        optimizer,
        nn.functional.mse_loss,
        scaler=tt.LossScaler(64.0),
        remedy=tt.Rewind(),
        snapshots=tt.Snapshots(every=2),
        cooldown=tt.CoolDown(factor=0.5, steps=4),
    ) as training:
        x, y = torch.ones(2, 4), torch.ones(2, 1)
        outcomes = [training.step(x * (math.nan if number == 4 else 1.0), y) for number in range(6)]
        assert [outcome.rewound_to for outcome in outcomes] == [None, None, None, None, 3, None]
        assert training.guard.num_steps == 4
        assert training.statistics().scale == 64.0
