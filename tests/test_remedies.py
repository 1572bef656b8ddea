"""Guards with remedies that mend, retry and leave micro-batches out, on real models."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import trimtab as tt
from trimtab import act
from trimtab.types import Action, Blame, Kind, Place, Replace, RescaleTensors, ZeroTensors


def net(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).to(dtype)


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1)


def with_gradients(model, bad=None, index=0):
    """Gradients of 0.5 everywhere, with one element of the first weight replaced."""
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 0.5)
    if bad is not None:
        model[0].weight.grad.view(-1)[index] = bad
    return torch.tensor(1.0)


def moved(model):
    """What SGD took from each parameter, over the learning rate."""
    start = net(next(model.parameters()).dtype)
    return [(a - b) / 0.1 for a, b in zip(start.parameters(), model.parameters(), strict=True)]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_zero_bad_zeroes_the_bad_elements_and_applies_the_rest(bad):
    model = net()
    outcome = tt.Guard(model, sgd(model), remedy=tt.ZeroBad()).step(with_gradients(model, bad))
    assert (outcome.action, outcome.applied) == (Action.MEND, True)
    assert outcome.culprits[0].name == "0.weight"
    expected = torch.full((4, 3), 0.5)
    expected[0, 0] = 0.0
    torch.testing.assert_close(moved(model)[0], expected)
    torch.testing.assert_close(moved(model)[3], torch.tensor([0.5]))


def test_zeroing_whole_tensors_leaves_the_others():
    model = net()
    tt.Guard(model, sgd(model), remedy=tt.ZeroBad(scope="tensors")).step(with_gradients(model, math.nan))
    assert moved(model)[0].abs().max() == 0
    torch.testing.assert_close(moved(model)[1], torch.full((4,), 0.5))


@pytest.mark.parametrize(("bad", "written"), [(math.nan, 0.25), (math.inf, 8.0), (-math.inf, -8.0)])
def test_replacing_keeps_the_sign_which_the_original_does_not(bad, written):
    model = net()
    remedy = tt.ReplaceBad(nan=0.25, inf=8.0)
    tt.Guard(model, sgd(model), remedy=remedy).step(with_gradients(model, bad))
    assert moved(model)[0][0, 0].item() == pytest.approx(written, rel=1e-5)
    # the hazard: a mask of infinities does not know their sign
    gradient = torch.tensor([-math.inf])
    gradient[gradient.isinf()] = 8.0
    assert gradient.item() == 8.0


def test_a_replacement_that_the_type_cannot_hold_becomes_its_largest():
    gradient = torch.tensor([math.inf, -math.inf, 1.0], dtype=torch.float16)
    act.mend_([gradient], Replace(inf=1e6))
    assert gradient.tolist() == [65504.0, -65504.0, 1.0]


def test_overflow_is_mended_by_its_own_value():
    model = net()
    guard = tt.Guard(model, sgd(model), detect=[tt.Overflow(100.0)], remedy=tt.ReplaceBad(overflow=2.0))
    outcome = guard.step(with_gradients(model, -3e5))
    assert [f.kind for f in outcome.faults] == [Kind.OVERFLOW]
    assert moved(model)[0][0, 0].item() == pytest.approx(-2.0)


def test_rescaling_brings_a_tensor_to_the_threshold_and_keeps_its_direction():
    model = net()
    guard = tt.Guard(model, sgd(model), detect=[tt.Overflow(100.0)], remedy=tt.RescaleBad())
    guard.step(with_gradients(model, 400.0))
    torch.testing.assert_close(
        moved(model)[0].view(-1)[:2], torch.tensor([100.0, 0.125]), rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(moved(model)[1], torch.full((4,), 0.5))


def test_a_spike_of_the_norm_is_scaled_to_the_bound():
    model = net()
    rule = tt.SpikeRule(min_history=4, delay=0)
    guard = tt.Guard(model, sgd(model), detect=[tt.NormSpike(rule)], remedy=tt.RescaleBad())
    for _ in range(6):
        usual = guard.step(with_gradients(model)).grad_norm
    for parameter in model.parameters():
        parameter.grad.mul_(100)
    outcome = guard.step(torch.tensor(1.0))
    assert outcome.action is Action.MEND
    assert outcome.faults[0].kind is Kind.SPIKE
    assert outcome.grad_norm == pytest.approx(outcome.faults[0].threshold, rel=1e-4)
    assert outcome.grad_norm == pytest.approx(2 * usual, rel=0.1)


def test_mended_gradients_are_clipped_by_their_own_norm():
    model = net()
    guard = tt.Guard(model, sgd(model), clip=tt.NormClip(0.1), remedy=tt.ZeroBad())
    guard.step(with_gradients(model, math.nan))
    assert torch.cat([m.flatten() for m in moved(model)]).norm().item() == pytest.approx(0.1, rel=1e-4)


def test_bad_parameters_are_mended_when_asked_for():
    model = net()
    with torch.no_grad():
        model[0].weight[0, 0] = math.nan
    remedy = tt.PerPlace(
        loss=tt.ZeroBad(), gradient=tt.ZeroBad(scope="tensors"), parameter=tt.ReplaceBad(nan=0.75)
    )
    guard = tt.Guard(model, sgd(model), remedy=remedy)
    loss = model(torch.ones(2, 3)).sum()
    loss.backward()
    outcome = guard.step(loss)
    assert outcome.action is Action.MEND
    assert {f.place for f in outcome.faults} == {Place.PARAMETER, Place.LOSS, Place.GRADIENT}
    assert model[0].weight[0, 0].item() == 0.75
    assert all(p.isfinite().all() for p in model.parameters())


def test_a_mended_step_works_with_a_fused_optimizer_and_by_attachment():
    model, other = net(), net()
    fused = torch.optim.AdamW(model.parameters(), fused=True)
    plain = torch.optim.AdamW(other.parameters(), fused=True)
    guard, attached = tt.Guard(model, fused, remedy=tt.ZeroBad()), tt.Guard(other, plain, remedy=tt.ZeroBad())
    attached.attach()
    for bad in (None, math.nan, None):
        guard.step(with_gradients(model, bad))
        with_gradients(other, bad)
        plain.step()
    assert all(a.equal(b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    assert all(p.isfinite().all() for p in model.parameters())


MENDS = st.sampled_from([Replace(0.0, 0.0, 0.0), Replace(1.0, 1e6, 5.0), ZeroTensors(), RescaleTensors()])
ODD = st.floats(width=32)


@settings(max_examples=200)
@given(
    values=st.lists(ODD, min_size=1, max_size=12),
    mend=MENDS,
    limit=st.sampled_from([10.0, math.inf]),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.float16, torch.bfloat16]),
)
def test_nothing_bad_is_left_and_signs_are_kept(values, mend, limit, dtype):
    before = torch.tensor(values, dtype=torch.float64).to(dtype)
    after = before.clone()
    act.mend_([after], mend, limit=limit)
    assert after.isfinite().all()
    assert not ((after.sign() * before.sign().nan_to_num(0.0)) < 0).any()
    if isinstance(mend, RescaleTensors):
        assert after.abs().max().item() <= limit * (1 + torch.finfo(dtype).eps)
    untouched = before.isfinite() & (before.abs() <= limit)
    if isinstance(mend, Replace):
        assert after[untouched].equal(before[untouched])


def test_mending_sparse_and_complex_tensors():
    index = torch.tensor([[0, 1, 1]])
    sparse = torch.sparse_coo_tensor(index, torch.tensor([math.nan, 60.0, 60.0]), (3,), check_invariants=True)
    act.mend_([sparse], Replace(0.0, 0.0, 7.0), limit=100.0)
    assert sparse.to_dense().tolist() == [0.0, 7.0, 0.0]
    z = torch.tensor([complex(math.nan, 1.0), complex(2.0, -math.inf)])
    act.mend_([z], Replace(0.0, 3.0))
    assert z.tolist() == [complex(0, 1), complex(2, -3)]


# Trying again


class Flaky(nn.Module):
    """A model whose forward pass goes wrong when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.linear = nn.BatchNorm1d(3), nn.Linear(3, 1)
        self.num_bad = 0

    def forward(self, x):
        x = self.linear(nn.functional.dropout(self.norm(x), 0.3))
        if self.num_bad > 0:
            self.num_bad -= 1
            x = x * math.nan
        return x


X = torch.arange(12.0).view(4, 3)


def flaky(**kwargs):
    torch.manual_seed(0)
    model = Flaky()
    guard = tt.Guard(model, torch.optim.AdamW(model.parameters()), remedy=tt.Retry(), **kwargs)

    def closure(x=X):
        guard.optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        return loss

    return guard, closure


def test_a_transient_fault_is_run_again_and_leaves_no_trace():
    (guard, closure), (spoiled, again) = flaky(), flaky()
    for number in range(4):
        torch.manual_seed(number)
        outcome = guard.step(closure)
        torch.manual_seed(number)
        spoiled.model.num_bad = int(number == 2)
        other = spoiled.step(again)
        assert other.applied
        assert other.loss == outcome.loss
        assert (other.verdict is not None) == (number == 2)
        if other.verdict:
            assert other.verdict.blame is Blame.TRANSIENT
            assert "well when run again" in other.reason
    for a, b in zip(guard.model.state_dict().values(), spoiled.model.state_dict().values(), strict=True):
        assert a.equal(b)


def test_a_fault_that_stays_is_left_to_the_next_remedy():
    guard, closure = flaky()
    before = copy.deepcopy(guard.model.state_dict())
    guard.model.num_bad = 2
    outcome = guard.step(closure)
    assert outcome.action is Action.SKIP
    assert outcome.verdict.blame is Blame.DETERMINISTIC
    assert "the same kind of fault again" in outcome.describe()
    assert all(a.equal(b) for a, b in zip(before.values(), guard.model.state_dict().values(), strict=True))


def test_without_a_closure_there_is_no_second_try():
    guard, closure = flaky()
    guard.model.num_bad = 1
    outcome = guard.step(closure())
    assert (outcome.action, outcome.verdict) == (Action.SKIP, None)


@pytest.mark.parametrize("spoiled", ["batch", "state"])
def test_a_reference_batch_tells_bad_data_from_a_bad_state(spoiled):
    def reference():
        guard.optimizer.zero_grad()
        loss = guard.model(torch.ones(4, 3)).square().mean()
        loss.backward()
        return loss

    guard, closure = flaky(reference=reference)
    guard.step(closure)
    x = torch.ones(4, 3)
    if spoiled == "batch":
        x[0, 0] = math.nan
    else:
        with torch.no_grad():
            guard.model.linear.weight[0, 0] = math.inf
    before = copy.deepcopy(guard.model.state_dict())
    outcome = guard.step(lambda: closure(x))
    assert outcome.verdict.blame is (Blame.DATA if spoiled == "batch" else Blame.STATE)
    assert "reference batch" in outcome.verdict.evidence[-1]
    assert all(a.equal(b) for a, b in zip(before.values(), guard.model.state_dict().values(), strict=True))


def test_a_step_that_is_bad_in_another_way_each_time_is_no_matter_of_data_or_state():
    model = net()
    optimizer = sgd(model)
    guard = tt.Guard(model, optimizer, remedy=tt.Retry(tt.ZeroBad()))
    places = iter([model[0].weight, model[2].bias])

    def closure():
        optimizer.zero_grad()
        loss = model(torch.ones(2, 3)).sum()
        loss.backward()
        next(places).grad.fill_(math.inf)
        return loss

    outcome = guard.step(closure)
    assert outcome.verdict.blame is Blame.TRANSIENT
    assert "in another way" in outcome.describe()
    assert [c.name for c in outcome.culprits] == ["2.bias"]  # and what was mended is what was found
    assert outcome.action is Action.MEND


def test_a_try_within_a_try_is_made_once():
    guard, closure = flaky()
    guard.close()
    remedy = tt.Retry(tt.Escalate((tt.Retry(tt.Skip(budget=1)), tt.Retry(tt.Skip(budget=1)))))
    guard = tt.Guard(guard.model, guard.optimizer, remedy=remedy)
    guard.model.num_bad = 2
    outcome = guard.step(closure)
    assert (outcome.action, guard.model.num_bad) == (Action.SKIP, 0)


# Buffers that the faulty step itself made bad


def normed():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))


def step_on(guard, x):
    guard.optimizer.zero_grad()
    loss = guard.model(x).square().mean()
    loss.backward()
    return guard.step(loss)


@pytest.mark.parametrize(
    ("remedy", "action"),
    [
        (tt.Escalate((tt.ZeroBad(), tt.Skip(), tt.Raise())), Action.SKIP),
        (tt.PerPlace(), Action.SKIP),
        (tt.ZeroBad(), Action.MEND),
        (tt.PerPlace(loss=tt.ReplaceBad(), gradient=tt.ReplaceBad()), Action.MEND),
    ],
)
def test_statistics_that_a_bad_batch_spoils_are_taken_back_and_no_fault_of_the_state(remedy, action):
    model = normed()
    guard = tt.Guard(model, sgd(model), remedy=remedy)
    step_on(guard, X)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    outcome = step_on(guard, X * math.nan)
    assert outcome.action is action
    assert "1.running_mean" in {c.name for f in outcome.faults for c in f.culprits}  # told all the same
    assert all(buffer.equal(before[name]) for name, buffer in model.named_buffers())
    assert step_on(guard, X).faults == ()


def test_statistics_that_were_bad_before_are_a_fault_of_the_state():
    model = normed()
    guard = tt.Guard(model, sgd(model), remedy=tt.Escalate((tt.Skip(), tt.PerPlace(buffer=tt.Raise()))))
    model[1].running_var[0] = math.inf
    with pytest.raises(tt.NonFiniteError, match=r"buffer of 1\.running"):
        step_on(guard, X * math.nan)


def test_a_mended_step_keeps_the_statistics_of_a_good_forward_pass():
    model = normed()
    guard = tt.Guard(model, sgd(model), remedy=tt.ZeroBad())
    loss = model(X).square().mean()
    loss.backward()
    model[0].weight.grad[0, 0] = math.nan
    assert guard.step(loss).action is Action.MEND
    assert model[1].num_batches_tracked.item() == 1


# Micro-batches


def accumulate(guard, batches, weights=None):
    micro = guard.accumulate()
    for x, weight in zip(batches, weights or [1.0] * len(batches), strict=True):
        micro.backward(guard.model(x).square().mean(), weight=weight)
    return guard.step(micro)


BATCHES = [torch.randn(n, 3, generator=torch.Generator().manual_seed(n)) for n in (2, 5, 3)]


def test_weighted_micro_batches_equal_one_large_batch():
    model, whole = net(torch.float64), net(torch.float64)
    batches = [x.double() for x in BATCHES]
    outcome = accumulate(tt.Guard(model, sgd(model)), batches, [2.0, 5.0, 3.0])
    optimizer = sgd(whole)
    loss = whole(torch.cat(batches)).square().mean()
    loss.backward()
    optimizer.step()
    assert outcome.loss == pytest.approx(loss.item(), rel=1e-12)
    for a, b in zip(model.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("where", [0, 1, 3])
def test_a_bad_micro_batch_is_as_if_it_had_not_been(where):
    (guard, _), (other, _) = flaky(), flaky()
    spoiled = list(BATCHES)
    spoiled.insert(where, torch.full((4, 3), math.nan))
    guard.model.eval()
    other.model.eval()  # no dropout
    guard.model.norm.train()
    other.model.norm.train()
    assert accumulate(guard, spoiled).num_dropped == 1
    assert accumulate(other, BATCHES).num_dropped == 0
    for a, b in zip(guard.model.state_dict().values(), other.model.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_if_all_are_bad_the_remedy_decides_and_nothing_moves():
    model = net()
    guard = tt.Guard(model, sgd(model))
    outcome = accumulate(guard, [torch.full((2, 3), math.nan)] * 2)
    assert (outcome.action, outcome.num_dropped) == (Action.SKIP, 2)
    assert all(m.abs().max() == 0 for m in moved(model))


def test_a_batch_of_weight_zero_is_empty_and_not_bad():
    model, other = net(), net()
    outcome = accumulate(
        tt.Guard(model, sgd(model)), [BATCHES[0], torch.full((2, 3), math.nan)], weights=[1.0, 0.0]
    )
    accumulate(tt.Guard(other, sgd(other)), BATCHES[:1])
    assert (outcome.applied, outcome.num_dropped) == (True, 0)
    assert all(a.equal(b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("nothing", [0, 0.0, torch.tensor(0)], ids=repr)
def test_an_empty_micro_batch_leaves_the_statistics_alone(nothing):
    (guard, _), (other, _) = flaky(), flaky()
    for each in (guard, other):
        each.model.eval()
        each.model.norm.train()
    accumulate(guard, [*BATCHES, torch.full((2, 3), math.nan)], [1.0, 1.0, 1.0, nothing])
    accumulate(other, BATCHES)
    for a, b in zip(guard.model.state_dict().values(), other.model.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_a_weight_may_stay_on_the_device():
    model, other = net(), net()
    spoiled = [*BATCHES, torch.full((2, 3), math.nan), BATCHES[0], BATCHES[0]]
    weights = [torch.tensor(w) for w in (2, 5, 3, 0, math.nan, -1.0)]
    outcome = accumulate(tt.Guard(model, sgd(model)), spoiled, weights)
    accumulate(tt.Guard(other, sgd(other)), BATCHES, [2, 5, 3])
    assert (outcome.applied, outcome.num_dropped) == (True, 2)
    assert all(a.equal(b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("weight", ["3", True, None, torch.ones(2)], ids=str)
def test_a_weight_that_is_no_number_is_refused(weight):
    model = net()
    micro = tt.Guard(model, sgd(model)).accumulate()
    with pytest.raises(TypeError, match=r"weight=.*expected a number"):
        micro.backward(model(BATCHES[0]).mean(), weight=weight)


def test_a_step_of_empty_micro_batches_is_passed_over_without_a_fault(tmp_path):
    model = net()
    before = [p.clone() for p in model.parameters()]
    guard = tt.Guard(model, sgd(model), record=tmp_path)
    for _ in range(20):  # more than any budget
        outcome = accumulate(guard, BATCHES, weights=[0.0] * 3)
    assert (outcome.step, outcome.applied, outcome.action, outcome.faults) == (19, False, Action.SKIP, ())
    assert outcome.describe() == "step 19: skip (every micro-batch was empty)"
    assert all(a.equal(b) for a, b in zip(model.parameters(), before, strict=True))
    assert accumulate(guard, BATCHES).step == 20
    guard.close()
    log = tt.read(tmp_path)
    assert len(log.step) == 21
    assert not log.faults


def test_gradients_of_parameters_added_later_are_no_leftovers():
    model = net()
    first, *rest = model.parameters()
    optimizer = torch.optim.SGD([first], lr=0.0)
    guard = tt.Guard(model, optimizer)
    optimizer.add_param_group({"params": rest})
    with_gradients(model, 1e3)
    outcome = accumulate(guard, BATCHES)
    assert outcome.grad_norm == accumulate(guard, BATCHES).grad_norm < 1e3


def test_stale_gradients_do_not_enter_and_misuse_is_refused():
    model, other = net(), net()
    guard = tt.Guard(model, sgd(model))
    with_gradients(model, math.nan)
    accumulate(guard, BATCHES)
    accumulate(tt.Guard(other, sgd(other)), BATCHES)
    assert all(a.equal(b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    micro = guard.accumulate()
    with pytest.raises(RuntimeError, match="holds no gradient"):
        guard.step(micro)
    with pytest.raises(ValueError, match="weight=-1"):
        micro.backward(model(BATCHES[0]).mean(), weight=-1)
    micro.backward(model(BATCHES[0]).mean())
    guard.step(micro)
    with pytest.raises(RuntimeError, match="has made its step"):
        micro.backward(model(BATCHES[0]).mean())


def test_half_precision_gradients_are_summed_in_float32():
    model = nn.Linear(1, 1, bias=False).to(torch.bfloat16)
    guard = tt.Guard(model, sgd(model))
    micro = guard.accumulate()
    for _ in range(512):
        micro.backward(model(torch.ones(1, 1, dtype=torch.bfloat16)).mean())
    guard.step(micro)
    assert model.weight.grad.item() == 1.0
    naive = torch.zeros((), dtype=torch.bfloat16)
    for _ in range(512):
        naive += 1.0
    assert naive.item() == 256.0  # what adding in bfloat16 gives


# Learning rate


def test_steady_clipping_cools_the_learning_rate_and_it_returns():
    model = net()
    optimizer = sgd(model)
    guard = tt.Guard(
        model,
        optimizer,
        clip=tt.NormClip(1e-3),
        detect=[tt.SteadyClipping(window=5)],
        cooldown=tt.CoolDown(factor=0.25, steps=2),
    )
    sizes = []
    for _ in range(9):
        before = model[0].bias.detach().clone()
        outcome = guard.step(with_gradients(model))
        sizes.append((before - model[0].bias).norm().item() / outcome.clip_factor)
        assert outcome.applied
        assert optimizer.param_groups[0]["lr"] == 0.1
    ratios = [size / sizes[0] for size in sizes]
    assert ratios == pytest.approx([1, 1, 1, 1, 1, 0.25, 0.5, 1, 1], rel=0.01)
