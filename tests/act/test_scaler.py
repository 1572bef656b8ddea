from __future__ import annotations

import copy
import io
import itertools
import logging
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from trimtab.act import optimizer as act_optimizer
from trimtab.act import scaling_gradients
from trimtab.act.scaler import LossScaler
from trimtab.act.scaling_rule import Gradients, ScaleRule
from trimtab.act.scaling_torch import as_scaling

INF, NAN = float("inf"), float("nan")
FINITE, OVERFLOWED, BAD = Gradients.FINITE, Gradients.OVERFLOWED, Gradients.BAD
# Nothing but torch's own rule: no bounds, no hold-back, no verdict, no heed of underflow
AS_TORCH = {"floor": 2.0**-126, "ceiling": 2.0**126, "max_wait": 1, "max_jump": INF, "max_underflow": None}
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "momentum_fused": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, fused=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1),
    "adamw_fused": lambda p: torch.optim.AdamW(p, lr=0.1, fused=True),
}


def small_model(name: str = "sgd"):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    return model, OPTIMIZERS[name](model.parameters())


def loss_of(model):
    return model(torch.linspace(-1, 1, 6).view(2, 3)).square().mean()


def too_large(model):
    """A finite loss whose gradient leaves float32 at every scale above 0."""
    return loss_of(model).double() * 1e100


def put_into(model, value: float) -> None:
    """What a float16 overflow leaves: bad elements among good ones."""
    for parameter in model.parameters():
        parameter.grad.view(-1)[0] = value


def one_step(model, optimizer, scaler, *, value: float | None = None, loss_fn=loss_of):
    """The usual loop; with a value put into the scaled gradients."""
    optimizer.zero_grad()
    scaler.scale(loss_fn(model)).backward()
    if value is not None:
        put_into(model, value)
    result = scaler.step(optimizer)
    scaler.update()
    return result


def values(model) -> list[torch.Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def is_same(model, before) -> bool:
    return all(p.equal(q) for p, q in zip(model.parameters(), before, strict=True))


def is_finite(model) -> bool:
    return all(bool(p.isfinite().all()) for p in model.parameters())


# ---- bad steps without end: torch's hazard, and its absence here


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_torch_writes_nan_after_166_overflows(name):
    model, optimizer = small_model(name)
    scaler = torch.amp.GradScaler("cpu")
    for _ in range(166):
        one_step(model, optimizer, scaler, loss_fn=too_large)
    assert is_finite(model)
    assert scaler.get_scale() == 0.0  # 2^16 halved 166 times is below the smallest float32, 2^-149
    one_step(model, optimizer, scaler, loss_fn=too_large)
    assert not is_finite(model)


def test_the_mechanism_of_that():
    model, optimizer = small_model()
    scaler = torch.amp.GradScaler("cpu", init_scale=0.0)
    scaler.scale(too_large(model)).backward()
    assert all((p.grad == 0).all() for p in model.parameters())  # 0 times anything: finite, and so passed
    scaler.unscale_(optimizer)
    assert [float(found) for found in scaler._found_inf_per_device(optimizer).values()] == [0.0]
    assert all(p.grad.isnan().all() for p in model.parameters())  # and only then 0 / 0


def test_torch_writes_inf_or_nan_from_144_overflows_on_once_a_good_step_comes():
    def weights_after(num_bad: int) -> bool:
        model, optimizer = small_model()
        scaler = torch.amp.GradScaler("cpu")
        for _ in range(num_bad):
            one_step(model, optimizer, scaler, value=INF)
        one_step(model, optimizer, scaler)
        return is_finite(model)

    assert weights_after(143)
    assert not weights_after(144)  # 2^-128, whose inverse is no float32


@pytest.mark.parametrize("name", [*OPTIMIZERS, "momentum_fused ahead", "adamw_fused ahead"])
@pytest.mark.parametrize("bad", ["inf", "nan", "too large", "nan loss"])
def test_a_thousand_bad_steps_write_nothing(name, bad, monkeypatch):
    name, _, is_queued = name.partition(" ")
    if is_queued:  # what is done on an accelerator, with the same kernels
        monkeypatch.setattr(act_optimizer, "_HOSTS", frozenset())
    model, optimizer = small_model(name)
    scaler = LossScaler()
    one_step(model, optimizer, scaler)
    before, state = values(model), copy.deepcopy(optimizer.state_dict()["state"])
    loss_fn = {"too large": too_large, "nan loss": lambda m: loss_of(m) * NAN}.get(bad, loss_of)
    value = float(bad) if bad in ("inf", "nan") else None
    for _ in range(1000):
        one_step(model, optimizer, scaler, value=value, loss_fn=loss_fn)
        assert scaler.get_scale() >= 1.0
    assert is_same(model, before)
    for index, entry in optimizer.state_dict()["state"].items():
        assert all(torch.as_tensor(entry[k]).equal(torch.as_tensor(v)) for k, v in state[index].items())
    assert (scaler.outcome, scaler.get_scale()) == (BAD, 2.0**16)
    one_step(model, optimizer, scaler)
    assert scaler.outcome is FINITE
    assert is_finite(model)
    assert not is_same(model, before)


def test_a_thousand_bad_steps_from_the_start_end_at_the_floor():
    model, optimizer = small_model("momentum_fused")
    before, scaler = values(model), LossScaler(floor=0.25)
    for _ in range(1000):
        one_step(model, optimizer, scaler, value=INF)
    assert is_same(model, before)
    assert (scaler.outcome, scaler.get_scale()) == (BAD, 0.25)
    one_step(model, optimizer, scaler)
    assert is_finite(model)


@pytest.mark.parametrize("scale", [2.0**-126, 2.0**126])
def test_the_inverse_is_finite_at_both_ends(scale):
    model, optimizer = small_model()
    scaler = LossScaler(scale, floor=2.0**-126, ceiling=2.0**126)
    scaler.scale(loss_of(model) / scale).backward()
    expected = [p.grad / scale for p in model.parameters()]
    scaler.unscale_(optimizer)
    assert all(p.grad.isfinite().all() for p in model.parameters())
    assert all(p.grad.equal(e) for p, e in zip(model.parameters(), expected, strict=True))


# ---- the same scale as torch


@given(
    are_good=st.lists(st.booleans(), min_size=1, max_size=60),
    growth=st.sampled_from([2.0, 1.5, 3.7]),
    backoff=st.sampled_from([0.5, 0.7, 0.123]),
    interval=st.integers(1, 5),
    init=st.sampled_from([2.0**16, 1.0, 1234.567]),
)
@settings(max_examples=60, deadline=None)
def test_scale_is_that_of_torch_step_for_step(are_good, growth, backoff, interval, init):
    theirs = torch.amp.GradScaler("cpu", init, growth, backoff, interval)
    ours = LossScaler(init, growth, backoff, interval, **AS_TORCH)
    for is_good in are_good:
        seen = []
        for scaler in (theirs, ours):
            weight = nn.Parameter(torch.ones(2))
            optimizer = torch.optim.SGD([weight], lr=0.0)
            scaler.scale(weight.sum()).backward()
            if not is_good:
                weight.grad[1] = INF
            scaler.unscale_(optimizer)
            seen.append((scaler.get_scale(), weight.grad[0].item()))
            scaler.step(optimizer)
            scaler.update()
        assert seen[0] == seen[1]
    own = ours.state_dict()
    assert {key: own[key] for key in theirs.state_dict()} == theirs.state_dict()


@given(are_good=st.lists(st.booleans(), min_size=1, max_size=40))
@settings(max_examples=60, deadline=None)
def test_weights_are_those_of_torch_with_the_defaults(are_good):
    """While no overflow comes back, none lasts and the floor is far, defaults make no difference either."""
    runs = []
    for scaler in (torch.amp.GradScaler("cpu"), LossScaler()):
        model, optimizer = small_model("adamw")
        streak = num_overflows = 0
        for is_good in are_good:
            streak = 0 if is_good else streak + 1
            overflows = 0 < streak <= 5 and num_overflows < 12
            num_overflows += overflows
            one_step(model, optimizer, scaler, value=INF if overflows else None)
        runs.append((values(model), scaler.get_scale()))
    assert runs[0][1] == runs[1][1]
    assert all(p.equal(q) for p, q in zip(runs[0][0], runs[1][0], strict=True))


def test_states_load_into_each_other():
    model, optimizer = small_model()
    theirs = torch.amp.GradScaler("cpu", growth_interval=4, growth_factor=3.0, backoff_factor=0.25)
    for value in (None, INF, None, None):
        one_step(model, optimizer, theirs, value=value)
    ours = LossScaler(**AS_TORCH)
    ours.load_state_dict(theirs.state_dict())
    for value in (None, None, INF, None):
        for scaler in (theirs, ours):
            one_step(model, optimizer, scaler, value=value)
        assert ours.get_scale() == theirs.get_scale()
    back = torch.amp.GradScaler("cpu")
    back.load_state_dict(ours.state_dict())
    assert back.state_dict() == theirs.state_dict()


def test_state_is_plain_and_a_dead_scale_is_revived(tmp_path):
    scaler = LossScaler(growth_interval=2)
    for outcome in (FINITE, OVERFLOWED, FINITE):
        scaler.conclude(outcome, underflow=0.25 if outcome is FINITE else None)
    file = io.BytesIO()
    torch.save(scaler.state_dict(), file)
    file.seek(0)
    again = LossScaler()
    again.load_state_dict(torch.load(file, weights_only=True))
    assert again.state_dict() == scaler.state_dict()
    again.load_state_dict(torch.amp.GradScaler("cpu", init_scale=0.0).state_dict())
    assert again.get_scale() == 1.0
    again.load_state_dict(torch.amp.GradScaler("cpu", init_scale=2.0**40).state_dict())
    assert again.get_scale() == 2.0**24


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale": NAN}, "scale=nan: expected a finite number"),
        ({"scale": -1.0}, "scale=-1.0: expected a finite number"),
        ({"growth_factor": 0.5}, r"growth_factor=0.5\): expected a finite number > 1"),
        ({"_growth_tracker": None}, "without _growth_tracker: expected"),
    ],
)
def test_a_bad_state_changes_nothing(change, message):
    scaler = LossScaler(128.0)
    before = scaler.state_dict()
    state = {**torch.amp.GradScaler("cpu").state_dict(), **change}
    state = {key: value for key, value in state.items() if value is not None}
    with pytest.raises(ValueError, match=message):
        scaler.load_state_dict(state)
    assert scaler.state_dict() == before
    with pytest.raises(ValueError, match="an enabled"):
        scaler.load_state_dict({})


EVENTS = st.lists(
    st.tuples(st.sampled_from(Gradients), st.one_of(st.none(), st.floats(0, 1))), min_size=1, max_size=80
)


@given(events=EVENTS, cut=st.integers(0, 80), hysteresis=st.integers(1, 3))
@settings(max_examples=150, deadline=None)
def test_resumed_equals_uninterrupted(events, cut, hysteresis):
    def build():
        return LossScaler(64.0, growth_interval=3, hysteresis=hysteresis, max_wait=4, ceiling=512.0)

    whole, first = build(), build()
    for event, underflow in events:
        whole.conclude(event, underflow=underflow)
    for event, underflow in events[:cut]:
        first.conclude(event, underflow=underflow)
    second = build()
    second.load_state_dict(first.state_dict())
    for event, underflow in events[cut:]:
        second.conclude(event, underflow=underflow)
    assert second.state_dict() == whole.state_dict()
    assert 1.0 <= whole.get_scale() <= 512.0


# ---- the rule


def follow(rule: ScaleRule, outcomes, init: float = 65536.0) -> list[float]:
    """Scale after each step."""
    state, scales = rule.init(init), []
    for outcome in outcomes:
        state = rule.after(outcome, state)
        scales.append(state.now.scale)
    return scales


def megatron(are_good, *, init, interval, hysteresis, floor):
    """Megatron-LM's rule, step by step: hysteresis is spent by overflows and refilled only by growth."""
    scale, num_good, spare = init, 0, hysteresis
    for is_good in are_good:
        if is_good:
            num_good += 1
            if num_good == interval:
                num_good, spare, scale = 0, hysteresis, scale * 2
        else:
            num_good, spare = 0, spare - 1
            if spare <= 0:
                scale = max(scale / 2, floor)
        yield scale


@given(
    are_good=st.lists(st.booleans(), min_size=1, max_size=80),
    interval=st.integers(1, 4),
    hysteresis=st.integers(1, 4),
)
@settings(max_examples=100, deadline=None)
def test_hysteresis_is_that_of_megatron(are_good, interval, hysteresis):
    arguments = {**AS_TORCH, "floor": 8.0}
    rule = ScaleRule(growth_interval=interval, hysteresis=hysteresis, **arguments)
    got = follow(rule, [FINITE if is_good else OVERFLOWED for is_good in are_good], init=64.0)
    assert got == list(megatron(are_good, init=64.0, interval=interval, hysteresis=hysteresis, floor=8.0))


def test_scale_stays_between_floor_and_ceiling():
    rule = ScaleRule(growth_interval=1, floor=3.0, ceiling=100.0)
    assert follow(rule, [FINITE] * 3, init=40.0) == [80.0, 100.0, 100.0]
    assert follow(rule, [OVERFLOWED] * 3, init=10.0) == [5.0, 3.0, 3.0]


def overflows(rule: ScaleRule, limit, num_steps: int) -> list[int]:
    """Steps that overflow in a world where scales from `limit(step)` on do."""
    state, steps = rule.init(256.0), []
    for step in range(num_steps):
        is_over = state.now.scale >= limit(step)
        state = rule.after(OVERFLOWED if is_over else FINITE, state)
        steps += [step] * is_over
    return steps


def gaps(steps):
    return [b - a for a, b in itertools.pairwise(steps)]


def test_growth_is_held_back_where_it_overflowed():
    assert set(gaps(overflows(ScaleRule(growth_interval=10, max_wait=1), lambda _: 1024.0, 500))) == {11}
    held = gaps(overflows(ScaleRule(growth_interval=10), lambda _: 1024.0, 1000))
    assert held == [11, 21, 41, 81, *[161] * 5]


def test_hold_back_relaxes_once_the_scale_was_survived():
    rule = ScaleRule(growth_interval=10, max_wait=4, ceiling=1024.0)
    # overflows at 512 until step 200, never afterwards, and at 1024 again from step 400 on
    state, waits, scales = rule.init(256.0), [], []
    for step in range(600):
        limit = 512.0 if step < 200 else 1024.0 if step >= 400 else INF
        state = rule.after(OVERFLOWED if state.now.scale >= limit else FINITE, state)
        waits.append(state.now.wait)
        scales.append(state.now.scale)
    assert waits[199] == 4
    assert waits[399] == 2  # halved when a whole interval at 512 was survived
    assert scales[399] == 1024.0
    assert scales[-1] == 512.0
    assert max(waits[400:]) == 4


def test_a_burst_of_overflows_is_one_failure():
    rule = ScaleRule(growth_interval=10)
    state = rule.init(1024.0)
    for _ in range(4):
        state = rule.after(OVERFLOWED, state)
    assert (state.now.scale, state.now.wait, state.now.overflow_scale) == (64.0, 1, 128.0)


def lost(scale: float, *, dead: float = 0.0) -> float:
    """Share of underflow of gradients that are spread log-normally around 2^-30, and of dead units."""
    z = (math.log2(2.0**-14 / scale) + 30.0) / 3.0
    return dead + (1 - dead) * 0.5 * math.erfc(-z / math.sqrt(2))


def grown(rule: ScaleRule, share, num_steps: int, limit: float = INF) -> tuple[float, list[int]]:
    """Final scale, and the steps in which it grew; the share is told every 5 steps."""
    state, steps = rule.init(256.0), []
    for step in range(num_steps):
        before = state.now.scale
        underflow = share(before) if state.now.num_finite % 5 == 0 else None
        state = rule.after(OVERFLOWED if before >= limit else FINITE, state, underflow=underflow)
        steps += [step] * (state.now.scale > before)
    return state.now.scale, steps


def test_underflow_makes_the_scale_grow_early_until_little_is_lost():
    rule = ScaleRule(growth_interval=800)
    scale, steps = grown(rule, lost, 1600)
    early = [step for step in steps if step <= 1400]
    assert gaps(early) == [100] * (len(early) - 1)
    reached = 256.0 * 2 ** len(early)
    assert lost(reached) <= 0.05 < lost(reached / 2)
    assert grown(ScaleRule(growth_interval=800, max_underflow=None), lost, 1600)[1] == [799, 1599]
    assert scale == reached  # the next growth would be a regular one, 800 steps later


def test_zeros_that_are_meant_make_it_grow_early_once():
    scale, steps = grown(ScaleRule(growth_interval=800), lambda _: 0.6, 2000)
    assert steps == [99, 899, 1699]
    assert scale == 256.0 * 8


def test_underflow_never_overrides_the_hold_back():
    rule = ScaleRule(growth_interval=80)
    assert [s for s in grown(rule, lost, 1000, limit=1024.0)[1] if s < 30] == [9, 19]
    state, steps = rule.init(256.0), []
    for step in range(2000):
        is_over = state.now.scale >= 1024.0
        state = rule.after(
            OVERFLOWED if is_over else FINITE, state, underflow=None if is_over else lost(state.now.scale)
        )
        steps += [step] * is_over
    assert gaps(steps) == [81, 161, 321, 641]


def test_the_share_is_counted_as_float16_would_lose_it():
    weight, bias = nn.Parameter(torch.ones(1000)), nn.Parameter(torch.ones(24))
    optimizer = torch.optim.SGD([weight, bias], lr=0.0)
    spread = torch.randn(1000, generator=torch.Generator().manual_seed(0)) * 4.0 - 24.0
    gradient = torch.where(torch.arange(1000) % 10 == 0, 0.0, torch.exp2(spread))
    scaler = LossScaler(256.0, growth_interval=300)
    scaler.scale((weight * gradient).sum() + bias.sum()).backward()
    scaled = weight.grad.half()
    is_lost = (scaled == 0) | (scaled.abs() < torch.finfo(torch.float16).tiny)
    assert scaler.underflow is None
    scaler.unscale_(optimizer)
    assert scaler.underflow.item() == pytest.approx(int(is_lost.sum()) / 1024, abs=1e-12)
    assert 0.1 < scaler.underflow.item() < 0.9
    scaler.step(optimizer)
    scaler.update()
    looks = []
    for step in range(1, 250):
        scaler.scale((weight * gradient).sum() + bias.sum()).backward()
        scaler.unscale_(optimizer)
        looks += [step] * (scaler.underflow is not None)
        scaler.step(optimizer)
        scaler.update()
    # grown in step 36, an eighth of 300 steps, and in every eighth after: the count begins anew
    assert looks == [37, 74, 111, 148, 185, 222]
    assert scaler.get_scale() == 256.0 * 2**6


# ---- who is to blame


def verdicts(rule: ScaleRule, state, losses):
    """What a run of steps with bad gradients is put down to, and the state after it."""
    seen = []
    for loss in losses:
        outcome = OVERFLOWED if rule.is_to_blame(state, loss=loss) else BAD
        state = rule.after(outcome, state)
        seen.append(outcome)
    return seen, state


def test_a_bad_loss_is_never_the_fault_of_the_scale():
    rule = ScaleRule()
    state = rule.init(65536.0)
    for loss in (NAN, INF, -INF):
        assert not rule.is_to_blame(state, loss=loss)
    assert rule.is_to_blame(state, loss=1.0)
    assert rule.is_to_blame(state, loss=None)
    seen, after = verdicts(rule, state, [NAN] * 10)
    assert seen == [BAD] * 10
    assert after == state


def test_the_search_stops_at_a_32_fold_cut_and_everything_is_put_back():
    rule = ScaleRule(growth_interval=5)
    state = rule.init(65536.0)
    for _ in range(3):
        state = rule.after(FINITE, state)
    last_good = state.good
    seen, state = verdicts(rule, state, [1.0] * 5)
    assert (seen, state.now.scale) == ([OVERFLOWED] * 5, 2048.0)
    seen, state = verdicts(rule, state, [1.0] * 20)
    assert seen == [BAD] * 20  # no new search
    assert state.now == last_good
    state = rule.after(FINITE, state)
    assert rule.is_to_blame(state, loss=1.0)


def test_before_any_good_step_the_search_goes_down_to_the_floor():
    rule = ScaleRule(floor=4.0)
    seen, state = verdicts(rule, rule.init(2.0**24), [1.0] * 40)
    assert seen == [OVERFLOWED] * 22 + [BAD] * 18
    assert state.now.scale == 4.0


def test_gradients_that_really_grew_are_not_refused_for_ever():
    rule = ScaleRule()
    state = rule.after(FINITE, rule.init(65536.0))
    limit, num_bad = 100.0, 0  # from now on everything above overflows
    while state.now.scale >= limit:
        outcome = OVERFLOWED if rule.is_to_blame(state, loss=1.0) else BAD
        state = rule.after(outcome, state)
        num_bad += 1
    assert state.now.scale == 64.0
    assert num_bad == 5 + 32 + 5  # the search, the recess, and the search again from 2048
    assert rule.after(FINITE, state).now.scale == 64.0


def test_a_fault_that_lasts_leaves_the_scale_where_it_was():
    rule = ScaleRule()
    state = rule.after(FINITE, rule.init(65536.0))
    seen, state = verdicts(rule, state, [1.0] * 300)
    assert seen == [OVERFLOWED] * 5 + [BAD] * 295
    assert state.now.scale == 65536.0


class HalfNet(nn.Module):
    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 1)
        self.gain = gain

    def forward(self, x):
        return self.second(torch.relu(self.first(x)) * self.gain)


def autocast_step(model, optimizer, scaler, x):
    optimizer.zero_grad()
    with torch.autocast("cpu", dtype=torch.float16):
        loss = model(x).float().square().mean()
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    return loss.item(), scaler.outcome


def half_training(init_scale: float, **arguments):
    torch.manual_seed(0)
    model = HalfNet(**arguments)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    return model, optimizer, LossScaler(init_scale)


def test_true_overflow_of_float16_under_autocast_is_blamed_on_the_scale():
    model, optimizer, scaler = half_training(2.0**24)
    x = torch.randn(32, 8) * 30
    outcomes = []
    while not outcomes or outcomes[-1] is not FINITE:
        loss, outcome = autocast_step(model, optimizer, scaler, x)
        assert math.isfinite(loss)
        outcomes.append(outcome)
    assert set(outcomes[:-1]) == {OVERFLOWED}
    assert 4 < len(outcomes) < 20
    assert scaler.get_scale() == 2.0 ** (25 - len(outcomes))


@pytest.mark.parametrize("born", ["data", "forward"])
def test_nan_in_the_data_and_inf_in_the_forward_pass_are_not(born, caplog):
    model, optimizer, scaler = half_training(1024.0)
    good = torch.randn(32, 8)
    autocast_step(model, optimizer, scaler, good)
    assert scaler.outcome is FINITE
    before, x = values(model), good.clone()
    if born == "data":
        x[3, 3] = NAN
    else:
        model.gain = 1e30  # the product leaves float16
    with caplog.at_level(logging.WARNING):
        for _ in range(50):
            loss, outcome = autocast_step(model, optimizer, scaler, x)
            assert not math.isfinite(loss)
            assert outcome is BAD
            assert scaler.get_scale() == 1024.0
    assert is_same(model, before)
    assert len(caplog.records) == 1
    assert "1024 is not to blame: step skipped; the loss is not finite either" in caplog.text


def test_a_loss_is_not_trusted_where_other_ranks_cannot_see_it(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    model, optimizer = small_model()
    scaler = LossScaler()
    one_step(model, optimizer, scaler, loss_fn=lambda m: loss_of(m) * NAN)
    assert scaler.outcome is OVERFLOWED  # as on the ranks whose loss was finite


# ---- the loop


def test_step_returns_what_the_optimizer_returned():
    model, optimizer = small_model()
    inner = optimizer.step
    optimizer.step = lambda *args, **kwargs: (inner(), "stepped", args, kwargs)[1:]
    scaler = LossScaler()
    scaler.scale(loss_of(model)).backward()
    assert scaler.step(optimizer, 1, other=2) == ("stepped", (1,), {"other": 2})
    scaler.update()
    assert one_step(model, optimizer, scaler, value=INF) is None


def test_closures_are_refused():
    _, optimizer = small_model()
    scaler = LossScaler()
    with pytest.raises(RuntimeError, match="takes no closure"):
        scaler.step(optimizer, closure=lambda: 0.0)
    with pytest.raises(RuntimeError, match="takes no closure"):
        scaler.step(optimizer, lambda: 0.0)


def test_order_of_calls():
    model, optimizer = small_model()
    scaler = LossScaler()
    with pytest.raises(RuntimeError, match=r"update\(\) came before"):
        scaler.update()
    loss_of(model).backward()
    with pytest.raises(RuntimeError, match="no loss was scaled"):
        scaler.step(optimizer)
    optimizer.zero_grad()
    scaler.scale(loss_of(model)).backward()
    expected = torch.autograd.grad(loss_of(model), list(model.parameters()))
    scaler.unscale_(optimizer)
    scaler.unscale_(optimizer)  # a guard cannot know that the caller did it
    got = [p.grad for p in model.parameters()]
    assert all(torch.allclose(g, e, rtol=1e-6) for g, e in zip(got, expected, strict=True))
    scaler.scale(loss_of(model)).backward()
    with pytest.raises(RuntimeError, match="losses were scaled since"):
        scaler.unscale_(optimizer)
    scaler.step(optimizer)
    with pytest.raises(RuntimeError, match="called already"):
        scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()
    scaler.scale(loss_of(model))
    with pytest.raises(RuntimeError, match="no parameter of the optimizer has a gradient"):
        scaler.unscale_(optimizer)


def test_a_step_that_is_run_again_can_be_unscaled_again():
    for scaler in (LossScaler(), as_scaling(torch.amp.GradScaler("cpu"))):
        model, optimizer = small_model()
        for _ in range(2):
            scaler.forget() if _ else None
            optimizer.zero_grad()
            scaler.scale(loss_of(model)).backward()
            scaler.unscale_(optimizer)
        expected = torch.autograd.grad(loss_of(model), list(model.parameters()))
        got = [p.grad for p in model.parameters()]
        assert all(torch.allclose(g, e, rtol=1e-6) for g, e in zip(got, expected, strict=True))
        scaler.conclude(FINITE)
        assert float(scaler.current_scale) == 65536.0


def test_float16_gradients_are_refused():
    weight = nn.Parameter(torch.ones(2, dtype=torch.float16))
    scaler = LossScaler(8.0)
    scaler.scale(weight.sum()).backward()
    before = weight.grad.clone()
    with pytest.raises(ValueError, match=r"MasterWeights\(model\)"):
        scaler.unscale_(torch.optim.SGD([weight], lr=0.1))
    assert weight.grad.equal(before)


def test_several_optimizers_step_each_for_itself():
    (one, first), (two, second) = small_model(), small_model("adamw")
    scaler = LossScaler()
    before = values(one), values(two)
    scaler.scale(loss_of(one)).backward()
    scaler.scale(loss_of(two)).backward()
    put_into(two, NAN)
    scaler.step(first)
    scaler.step(second)
    scaler.update()
    assert not is_same(one, before[0])
    assert is_same(two, before[1])
    assert scaler.get_scale() == 2.0**15


def test_every_gradient_there_is_is_unscaled():
    table = nn.Parameter(torch.ones(4, 2))
    complex_weight = nn.Parameter(torch.ones(2, dtype=torch.complex64))
    double, brain = nn.Parameter(torch.ones(2).double()), nn.Parameter(torch.ones(2).bfloat16())
    optimizer = torch.optim.SGD([table, complex_weight, double, brain], lr=0.1)
    scaler = LossScaler(1024.0)
    scaler.scale(torch.zeros(()))
    table.grad = torch.sparse_coo_tensor([[1, 1]], torch.full((2, 2), 1024.0), (4, 2), check_invariants=True)
    complex_weight.grad = torch.full((2,), 1024j)
    double.grad, brain.grad = torch.full((2,), 1024.0).double(), torch.full((2,), 1024.0).bfloat16()
    scaler.unscale_(optimizer)
    assert table.grad.to_dense()[1].tolist() == [2.0, 2.0]
    assert complex_weight.grad.tolist() == [1j, 1j]
    assert double.grad.tolist() == brain.grad.tolist() == [1.0, 1.0]
    scaler.step(optimizer)
    scaler.update()
    assert scaler.outcome is FINITE
    scaler.scale(torch.zeros(()))
    complex_weight.grad = torch.tensor([1.0, complex(0.0, INF)])
    scaler.step(optimizer)
    scaler.update()
    assert scaler.outcome is OVERFLOWED


def test_scale_takes_what_torch_takes_and_does_not_overflow_half_losses():
    scaler = LossScaler()
    half = torch.tensor(3.0, dtype=torch.float16)
    assert (half * 65536.0).isinf()  # a number does not widen
    assert scaler.scale(half).item() == 3 * 65536.0
    assert scaler.scale(half.expand(2)).tolist() == [3 * 65536.0] * 2
    assert (half.expand(2) * torch.tensor(65536.0)).isinf().all()  # what torch's scaler does
    one = torch.tensor(1.0)
    assert [x.item() for x in scaler.scale([one, one])] == [65536.0] * 2
    assert type(scaler.scale((one,))) is tuple
    assert [x.item() for x in scaler.scale(x for x in [one])] == [65536.0]
    with pytest.raises(TypeError, match="expected a tensor"):
        scaler.scale(1.0)


def test_a_loss_of_many_elements_is_looked_at_whole():
    model, optimizer = small_model()
    scaler = LossScaler()
    outputs = scaler.scale(model(torch.tensor([[1.0, 1.0, 1.0], [NAN, 1.0, 1.0]])))
    outputs.sum().backward()
    scaler.step(optimizer)
    scaler.update()
    assert scaler.outcome is BAD


def test_a_scale_can_be_set():
    model, optimizer = small_model()
    scaler = LossScaler()
    one_step(model, optimizer, scaler)
    for _ in range(6):
        one_step(model, optimizer, scaler, value=NAN)
    assert (scaler.outcome, scaler.get_scale()) == (BAD, 65536.0)
    scaler.update(torch.tensor(32.0))
    one_step(model, optimizer, scaler, value=NAN)
    assert (scaler.outcome, scaler.get_scale()) == (OVERFLOWED, 16.0)  # a new search
    with pytest.raises(ValueError, match=r"init_scale=0.5\): expected floor=1 <="):
        scaler.update(0.5)
    assert scaler.is_enabled()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"init_scale": 0.5}, "floor=1 <= init_scale <= ceiling"),
        ({"init_scale": NAN}, "floor=1 <= init_scale <= ceiling"),
        ({"init_scale": 2.0**25}, "floor=1 <= init_scale <= ceiling"),
        ({"growth_factor": 1.0}, "finite number > 1"),
        ({"growth_factor": INF}, "finite number > 1"),
        ({"backoff_factor": 1.0}, r"in \(0, 1\)"),
        ({"backoff_factor": 0.0}, r"in \(0, 1\)"),
        ({"growth_interval": 0}, "growth_interval=0.*whole number >= 1"),
        ({"growth_interval": 2.5}, "growth_interval=2.5.*whole number >= 1"),
        ({"hysteresis": 0}, "hysteresis=0.*whole number >= 1"),
        ({"max_wait": True}, "max_wait=True.*whole number >= 1"),
        ({"floor": 0.0}, "2.-126 <= floor"),
        ({"floor": 2.0**25}, "2.-126 <= floor"),
        ({"ceiling": 2.0**127}, "floor <= ceiling=.*<= 2.126"),
        ({"max_jump": 1.0}, "pass inf"),
        ({"max_underflow": 1.5}, "share in"),
    ],
)
def test_invalid_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        LossScaler(**arguments)


@pytest.mark.parametrize("name", ["init_scale", "growth_factor", "floor", "max_underflow", "hysteresis"])
def test_what_is_no_number_is_told(name):
    with pytest.raises(TypeError, match=rf"LossScaler\({name}='a'\): expected a number"):
        LossScaler(**{name: "a"})


def test_repr_rebuilds_it():
    scaler = LossScaler(8.0, 3.0, hysteresis=2, max_underflow=None)
    assert repr(eval(repr(scaler))) == repr(scaler)


# ---- host reads


class CountReads(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.reads = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.reads += "_local_scalar_dense" in str(func)
        return func(*args, **(kwargs or {}))


def count_copies(monkeypatch) -> list[int]:
    """Lengths of the packed copies, which dispatch does not show."""
    copies = []
    for module in (scaling_gradients, __import__("trimtab.act.scaler", fromlist=["read"])):
        original = module.read
        monkeypatch.setattr(
            module, "read", lambda t, o=original: (copies.append(len(t)), o(t))[1] if t else o(t)
        )
    return copies


@pytest.mark.parametrize("is_queued", [False, True], ids=["host", "ahead"])
def test_one_read_per_step_alone_none_under_a_guard(is_queued, monkeypatch):
    if is_queued:
        monkeypatch.setattr(act_optimizer, "_HOSTS", frozenset())
    copies = count_copies(monkeypatch)
    model, optimizer = small_model("adamw_fused")
    scaler = LossScaler()
    with CountReads() as counter:
        one_step(model, optimizer, scaler)
        assert copies == [2]  # the flag, and with it the share of underflow
        one_step(model, optimizer, scaler)
        assert copies == [2, 1]
        copies.clear()
        optimizer.zero_grad()
        scaler.scale(loss_of(model)).backward()
        scaler.unscale_(optimizer)
        scaler.conclude(FINITE)
    assert (copies, counter.reads) == ([], 0)
    one_step(model, optimizer, scaler, value=INF)
    assert copies == [1, 1]  # after a bad one the loss too


def test_an_accelerator_is_not_read():
    """Fake CUDA tensors have no data: any read of one is an error."""
    with FakeTensorMode():
        weights = [nn.Parameter(torch.empty(5, 5, device="cuda", dtype=t)) for t in (None, torch.bfloat16)]
        optimizer = torch.optim.SGD(weights, lr=0.1)
        scaler = LossScaler()
        scaled = scaler.scale(torch.empty((), device="cuda", dtype=torch.float16))
        assert (scaled.device.type, scaled.dtype) == ("cuda", torch.float32)
        for weight in weights:
            weight.grad = torch.empty_like(weight)
        scaler.unscale_(optimizer)
        assert scaler.underflow.device.type == "cuda"
        assert scaler.is_to_blame(loss=1.0)
        scaler.conclude(FINITE)


# ---- torch's scaler under a guard


def guarded_step(model, optimizer, scaler, scaling, *, value=None, loss_fn=loss_of):
    """What a guard does, without a guard."""
    optimizer.zero_grad()
    loss = loss_fn(model)
    scaler.scale(loss).backward()
    if value is not None:
        put_into(model, value)
    scaling.unscale_(optimizer)
    if all(bool(p.grad.isfinite().all()) for p in model.parameters()):
        optimizer.step()
        outcome = FINITE
    else:
        outcome = OVERFLOWED if scaling.is_to_blame(loss=loss.item()) else BAD
    scaling.conclude(outcome)
    return outcome


@given(are_good=st.lists(st.booleans(), min_size=1, max_size=40), interval=st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_torchs_scaler_follows_though_its_step_is_never_called(are_good, interval):
    runs = []
    for is_guarded in (False, True):
        model, optimizer = small_model("adamw")
        scaler = torch.amp.GradScaler("cpu", growth_interval=interval)
        scaling = as_scaling(scaler)
        streak, scales = 0, []
        for is_good in are_good:
            streak = 0 if is_good else streak + 1
            value = INF if 0 < streak <= 4 else None
            if is_guarded:
                guarded_step(model, optimizer, scaler, scaling, value=value)
            else:
                one_step(model, optimizer, scaler, value=value)
            scales.append(scaler.get_scale())
        runs.append((scales, values(model)))
    assert runs[0][0] == runs[1][0]
    assert all(p.equal(q) for p, q in zip(runs[0][1], runs[1][1], strict=True))


@pytest.mark.parametrize("has_good", [True, False])
def test_torchs_scale_no_longer_runs_down(has_good):
    model, optimizer = small_model("momentum")
    scaler = torch.amp.GradScaler("cpu")
    scaling = as_scaling(scaler)
    if has_good:
        guarded_step(model, optimizer, scaler, scaling)
    before = values(model)
    outcomes = [guarded_step(model, optimizer, scaler, scaling, value=INF) for _ in range(300)]
    num_search = 5 if has_good else 16
    assert outcomes == [OVERFLOWED] * num_search + [BAD] * (300 - num_search)
    assert scaler.get_scale() == (2.0**16 if has_good else 1.0)
    assert is_same(model, before)
    assert guarded_step(model, optimizer, scaler, scaling) is FINITE
    assert is_finite(model)


def test_torchs_scale_stays_when_the_loss_is_bad():
    model, optimizer = small_model()
    scaler = torch.amp.GradScaler("cpu")
    scaling = as_scaling(scaler)
    for _ in range(20):
        assert guarded_step(model, optimizer, scaler, scaling, loss_fn=lambda m: loss_of(m) * NAN) is BAD
    assert scaler.get_scale() == 65536.0


def test_torchs_scaler_may_have_unscaled_already():
    model, optimizer = small_model()
    scaler = torch.amp.GradScaler("cpu")
    scaling = as_scaling(scaler)
    scaler.scale(loss_of(model)).backward()
    scaler.unscale_(optimizer)
    before = [p.grad.clone() for p in model.parameters()]
    scaling.unscale_(optimizer)
    assert all(p.grad.equal(g) for p, g in zip(model.parameters(), before, strict=True))
    scaling.conclude(FINITE)
    assert float(scaling.current_scale) == 65536.0


def test_resumed_view_of_torchs_scaler_equals_uninterrupted():
    model, optimizer = small_model()
    events = [None, INF, INF, None, None, *[INF] * 60, None, INF]
    scaler = torch.amp.GradScaler("cpu", growth_interval=2)
    scaling, scales = as_scaling(scaler), []
    for value in events:
        guarded_step(model, optimizer, scaler, scaling, value=value)
        scales.append(scaler.get_scale())
        state = scaling.state_dict()
        scaler = torch.amp.GradScaler("cpu", growth_interval=2)
        scaling = as_scaling(scaler)
        scaling.load_state_dict(state)
    whole = torch.amp.GradScaler("cpu", growth_interval=2)
    view = as_scaling(whole)
    for value, scale in zip(events, scales, strict=True):
        guarded_step(model, optimizer, whole, view, value=value)
        assert whole.get_scale() == scale


def test_healthy_steps_with_torchs_scaler_read_nothing():
    model, optimizer = small_model("adamw_fused")
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(loss_of(model)).backward()
    scaling = as_scaling(scaler)
    with CountReads() as counter:
        scaling.unscale_(optimizer)
        optimizer.step()
        assert isinstance(scaling.current_scale, torch.Tensor)
        scaling.conclude(FINITE)
    assert counter.reads == 0


def test_what_a_guard_takes_as_scaler():
    ours = LossScaler()
    assert as_scaling(ours) is ours
    assert as_scaling(torch.amp.GradScaler("cpu", enabled=False)) is None
    assert as_scaling(torch.amp.GradScaler("cpu", init_scale=0.0)).current_scale == 0.0
    for wrong in (None, 65536.0, LossScaler):
        with pytest.raises(TypeError, match=r"expected a LossScaler\(\) or a torch.amp.GradScaler"):
            as_scaling(wrong)
