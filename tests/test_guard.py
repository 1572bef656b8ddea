from __future__ import annotations

import contextlib
import copy
import gc
import io
import logging
import math
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import trimtab as tt
from trimtab.types import Action, Kind, Place


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def batch(seed: int) -> Tensor:
    return torch.randn(5, 3, generator=torch.Generator().manual_seed(seed))


def backward(guard: tt.Guard, x: Tensor) -> Tensor:
    guard.optimizer.zero_grad()
    loss = guard.model(x).square().mean()
    loss.backward()
    return loss


def bad_batch(value: float = math.nan) -> Tensor:
    x = batch(0)
    x[1, 2] = value
    return x


# a healthy step


@pytest.mark.parametrize("remedy", [tt.Skip(), tt.Observe(), tt.Raise(), None], ids=repr)
@pytest.mark.parametrize("max_norm", [1e-2, 1e3])
def test_healthy_steps_equal_clip_grad_norm_and_a_plain_step(max_norm, remedy):
    model, plain = mlp(), mlp()
    guard = tt.Guard(model, sgd(model), clip=tt.NormClip(max_norm), remedy=remedy)
    optimizer = sgd(plain)
    for step in range(6):
        outcome = guard.step(backward(guard, batch(step)))
        optimizer.zero_grad()
        loss = plain(batch(step)).square().mean()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(plain.parameters(), max_norm)
        optimizer.step()
        assert outcome.step == step
        assert outcome.applied
        assert outcome.action is Action.APPLY
        assert outcome.faults == outcome.culprits == ()
        assert outcome.loss == pytest.approx(loss.item(), rel=1e-6)
        assert outcome.grad_norm == pytest.approx(norm.item(), rel=1e-6)
        assert outcome.clip_factor == pytest.approx(min(1.0, max_norm / (norm.item() + 1e-6)), rel=1e-6)
        assert type(outcome.loss) is type(outcome.grad_norm) is type(outcome.clip_factor) is float
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-8)


def test_closure_and_loss_give_the_same_run():
    runs = []
    for use_closure in (True, False):
        model = mlp()
        guard = tt.Guard(model, sgd(model), clip=tt.NormClip(0.1))
        for step in range(4):
            x = batch(step)
            guard.step((lambda x=x, g=guard: backward(g, x)) if use_closure else backward(guard, x))
        runs.append(torch.cat([p.flatten() for p in model.parameters()]))
    assert runs[0].equal(runs[1])


# a faulty step


def test_outcome_names_culprits_counts_and_first_bad_index():
    model = mlp()
    guard = tt.Guard(model, sgd(model))
    loss = backward(guard, batch(0))
    model[2].weight.grad[1, 3] = math.nan
    model[2].weight.grad[1, 5] = -math.inf
    model[0].bias.grad[4] = math.inf
    outcome = guard.step(loss)
    assert [(c.name, c.num_nan, c.num_inf, c.first_bad_index) for c in outcome.culprits] == [
        ("2.weight", 1, 1, (1, 3)),
        ("0.bias", 0, 1, (4,)),
    ]
    assert {(f.kind, f.place) for f in outcome.faults} == {
        (Kind.NAN, Place.GRADIENT),
        (Kind.INF, Place.GRADIENT),
    }
    assert outcome.stability_score == pytest.approx(0.5)
    assert math.isfinite(outcome.loss)
    assert outcome.clip_factor == 1.0


@pytest.mark.parametrize("remedy", [tt.Skip(), tt.Observe(), None], ids=repr)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_one_bad_tensor_never_reaches_another(remedy, bad):
    model = mlp()
    guard = tt.Guard(
        model, torch.optim.SGD(model.parameters(), lr=0.1), clip=tt.NormClip(0.01), remedy=remedy
    )
    loss = backward(guard, batch(0))
    model[0].weight.grad[0, 0] = bad
    before = {n: (p.clone(), p.grad.clone()) for n, p in model.named_parameters()}
    guard.step(loss)
    for name, p in model.named_parameters():
        if name != "0.weight":
            assert p.isfinite().all()
            assert p.grad.equal(before[name][1])  # not scaled by a factor that a NaN has made


def test_each_fault_has_the_first_index_of_its_own_kind():
    model = mlp()
    guard = tt.Guard(model, sgd(model), detect=[tt.Overflow(1e4)])
    loss = backward(guard, batch(0))
    model[0].weight.grad.fill_(6e4)
    model[0].weight.grad[1, 2] = math.inf
    model[0].weight.grad[2, 0] = math.nan
    outcome = guard.step(loss)
    firsts = {f.kind: f.culprits[0].first_bad_index for f in outcome.faults}
    assert firsts == {Kind.NAN: (2, 0), Kind.INF: (1, 2), Kind.OVERFLOW: (0, 0)}
    assert outcome.culprits[0].first_bad_index == (0, 0)


def test_inspect_looks_where_a_healthy_step_does_not():
    model = Normed()
    guard = tt.Guard(model, torch.optim.Adam(model.parameters()))
    guard.step(backward(guard, batch(0)))
    assert guard.inspect() == ()
    model.norm.running_var[1] = math.nan
    guard.optimizer.state[model.out.bias]["exp_avg_sq"].fill_(math.inf)
    assert [(f.place, f.kind, f.culprits[0].name) for f in guard.inspect()] == [
        (Place.BUFFER, Kind.NAN, "norm.running_var"),
        (Place.OPTIMIZER_STATE, Kind.INF, "out.bias.exp_avg_sq"),
    ]


def test_a_large_finite_gradient_beside_a_nan_loss_is_no_overflow():
    model = mlp()
    guard = tt.Guard(model, sgd(model), detect=[tt.Overflow(10.0)])
    loss = backward(guard, batch(0))
    for p in model.parameters():
        p.grad.fill_(9.0)  # the norm is above the threshold, no element is
    outcome = guard.step(loss * math.nan)
    assert [(f.kind, f.place) for f in outcome.faults] == [(Kind.NAN, Place.LOSS)]


def test_loss_alone_can_be_at_fault():
    model = mlp()
    guard = tt.Guard(model, sgd(model))
    backward(guard, batch(0))
    outcome = guard.step(torch.tensor(math.nan))
    assert not outcome.applied
    assert [(f.kind, f.place) for f in outcome.faults] == [(Kind.NAN, Place.LOSS)]
    assert outcome.culprits == ()


def test_bad_parameter_and_state_are_found_as_the_cause():
    model = mlp()
    guard = tt.Guard(model, sgd(model))
    guard.step(backward(guard, batch(0)))
    with torch.no_grad():
        model[0].weight[1, 1] = math.nan
    guard.optimizer.state[model[2].bias]["momentum_buffer"][0] = math.inf
    outcome = guard.step(backward(guard, batch(1)))
    found = [(f.place, f.kind, f.culprits[0].name) for f in outcome.faults[:2]]
    assert found == [
        (Place.PARAMETER, Kind.NAN, "0.weight"),
        (Place.OPTIMIZER_STATE, Kind.INF, "2.bias.momentum_buffer"),
    ]


def test_overflow_is_counted_by_element_and_refused():
    model = mlp()
    guard = tt.Guard(model, sgd(model), detect=[tt.Overflow(1e4)], clip=tt.NormClip(1.0))
    loss = backward(guard, batch(0))
    model[0].weight.grad.fill_(9e3)  # the norm is above the threshold, no element is
    assert guard.step(loss).applied
    loss = backward(guard, batch(1))
    model[0].weight.grad[2, 1] = -2e4
    outcome = guard.step(loss)
    assert not outcome.applied
    assert (outcome.faults[0].kind, outcome.culprits[0].num_overflow) == (Kind.OVERFLOW, 1)
    assert outcome.stability_score == pytest.approx(0.9)


def test_finite_gradients_with_overflowing_squares_are_a_healthy_clipped_step():
    model = mlp()
    guard = tt.Guard(model, torch.optim.SGD(model.parameters(), lr=1.0), clip=tt.NormClip(1.0))
    loss = backward(guard, batch(0))
    before = [p.detach().clone() for p in model.parameters()]
    for p in model.parameters():
        p.grad.fill_(1e30)
    outcome = guard.step(loss)
    assert outcome.applied
    moved = torch.cat([(b - p.detach()).flatten() for b, p in zip(before, model.parameters(), strict=True)])
    assert moved.norm().item() == pytest.approx(1.0, rel=1e-5)


def test_skip_budget_then_error_with_the_whole_report_and_an_unchanged_model():
    model = mlp()
    guard = tt.Guard(model, sgd(model), remedy=tt.Skip(budget=2))
    guard.step(backward(guard, batch(0)))
    before = copy.deepcopy(model.state_dict())
    for _ in range(2):
        assert guard.step(backward(guard, bad_batch())).action is Action.SKIP
    with pytest.raises(tt.NonFiniteError, match=r"3 faulty steps in a row, 2 allowed") as caught:
        guard.step(backward(guard, bad_batch()))
    assert (caught.value.step, caught.value.outcome.action) == (3, Action.RAISE)
    assert "0.weight" in str(caught.value)
    assert guard.outcome is caught.value.outcome
    assert all(v.equal(before[k]) for k, v in model.state_dict().items())
    assert guard.step(backward(guard, batch(1))).applied  # the guard is still usable
    assert guard.step(backward(guard, bad_batch())).action is Action.SKIP  # and its budget refilled


def test_warnings_are_rate_limited(caplog):
    model = mlp()
    guard = tt.Guard(model, sgd(model), remedy=tt.Observe())
    with caplog.at_level(logging.WARNING, logger="trimtab"):
        for _ in range(40):
            loss = backward(guard, batch(0))
            guard.step(loss * math.nan)
    assert len(caplog.records) == 8  # 1 to 5, 8, 16, 32


# buffers


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.out = nn.Linear(3, 1)
        self.register_buffer("mask", torch.full((4,), -math.inf))
        self.register_buffer("table", torch.zeros(100_000))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.norm(x))


def test_buffers_changed_between_steps_survive_a_skip():
    model = Normed()
    guard = tt.Guard(model, sgd(model))
    guard.step(backward(guard, batch(0)))
    model.table.add_(1.0)
    model.norm.running_mean.fill_(7.0)
    model.norm.eval()
    model(batch(1))  # validation: changes nothing
    model.norm.train()
    assert not guard.step(backward(guard, bad_batch())).applied
    assert model.norm.running_mean.tolist() == [7.0] * 3
    assert model.norm.num_batches_tracked.item() == 1
    assert model.table.eq(1.0).all()


def test_several_forward_passes_in_one_step_are_taken_back_together():
    model = Normed()
    guard = tt.Guard(model, sgd(model))
    before = copy.deepcopy(model.state_dict())
    model(batch(3))
    assert not guard.step(backward(guard, bad_batch())).applied
    assert all(v.equal(before[k]) for k, v in model.state_dict().items())


def test_a_mask_of_minus_infinity_is_nobodys_fault():
    model = Normed()
    guard = tt.Guard(model, sgd(model))
    outcome = guard.step(backward(guard, bad_batch()))
    assert {c.name for f in outcome.faults if f.place is Place.BUFFER for c in f.culprits} == {
        "norm.running_mean",
        "norm.running_var",
    }


def test_copies_and_pickles_of_a_guarded_model_carry_nothing_of_ours():
    model = Normed()
    guard = tt.Guard(model, sgd(model))
    clone = copy.deepcopy(model)
    stored = io.BytesIO()
    torch.save(model, stored)
    assert b"trimtab" not in pickle.dumps(model.norm)
    stored.seek(0)
    loaded = torch.load(stored, weights_only=False)
    clone(batch(0))
    loaded(batch(0))
    guard.step(backward(guard, batch(0)))
    assert all(a.equal(b) for a, b in zip(clone.buffers(), loaded.buffers(), strict=True))


def test_hooks_go_with_the_guard():
    model = Normed()
    guard = tt.Guard(model, sgd(model))
    assert model.norm._forward_pre_hooks
    guard.close()
    guard.close()
    assert not any(m._forward_pre_hooks for m in model.modules())
    guard = tt.Guard(model, guard.optimizer)
    del guard
    gc.collect()
    assert not any(m._forward_pre_hooks for m in model.modules())


class Hostile(nn.Module):
    """Buffers that change in every way that forward passes have."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(3, 1)
        self.register_buffer("reassigned", torch.zeros(70_000))
        self.register_buffer("by_data", torch.zeros(70_000))
        self.register_buffer("in_place", torch.zeros(70_000))
        self.register_buffer("counts", torch.zeros(70_000, dtype=torch.int64))
        self.register_buffer("queue", torch.zeros(2))
        self.register_buffer("empty", None)

    def forward(self, x: Tensor) -> Tensor:
        mean = x.detach().mean()
        self.reassigned = 0.9 * self.reassigned + mean
        self.by_data.data.mul_(0.9).add_(mean)
        self.in_place.mul_(0.9).add_(mean)
        self.counts += 1
        self.queue = torch.cat([self.queue, mean[None]])
        self.empty = mean
        return self.out(x)


def test_buffers_changed_in_every_way_are_taken_back():
    model = Hostile()
    guard = tt.Guard(model, sgd(model))
    guard.step(backward(guard, batch(0)))
    before = {name: value.clone() for name, value in model.named_buffers()}
    for _ in range(2):
        assert not guard.step(backward(guard, bad_batch())).applied
        assert {name: v.equal(before[name]) for name, v in model.named_buffers()} == dict.fromkeys(
            before, True
        )
    assert guard.step(backward(guard, batch(1))).applied
    assert len(model.queue) == 4
    assert model.counts[0].item() == 2


def test_a_buffer_that_was_none_is_none_again():
    model = Hostile()
    guard = tt.Guard(model, sgd(model))
    guard.step(backward(guard, bad_batch()))
    assert model.empty is None


def test_power_iteration_of_spectral_norm_is_taken_back():
    torch.manual_seed(0)
    model = nn.Sequential(torch.nn.utils.spectral_norm(nn.Linear(3, 4)), nn.Linear(4, 1))
    guard = tt.Guard(model, sgd(model))
    before = copy.deepcopy({k: v for k, v in model.state_dict().items()})
    assert not guard.step(backward(guard, bad_batch())).applied
    assert all(v.equal(before[k]) for k, v in model.state_dict().items())


def test_a_loaded_checkpoint_is_not_overwritten_by_older_buffers():
    model = Normed()
    guard = tt.Guard(model, sgd(model))
    model(batch(0))  # a dry run
    state = copy.deepcopy(model.state_dict())
    state["norm.running_mean"].fill_(7.0)
    model.load_state_dict(state)
    assert not guard.step(backward(guard, bad_batch())).applied
    assert model.norm.running_mean.tolist() == [7.0] * 3


@pytest.mark.parametrize("compiles_first", [True, False])
def test_compiled_model_is_guarded_without_a_graph_break(compiles_first):
    torch._dynamo.reset()
    model = Normed()
    optimizer = sgd(model)
    if compiles_first:
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        guard = tt.Guard(compiled, optimizer)
    else:
        guard = tt.Guard(model, optimizer)
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for step in range(5):
        x = bad_batch() if step in (2, 3) else batch(step)
        before = copy.deepcopy(model.state_dict())
        optimizer.zero_grad()
        loss = compiled(x).square().mean()
        loss.backward()
        outcome = guard.step(loss)
        assert outcome.applied is (step not in (2, 3))
        if not outcome.applied:
            assert all(v.equal(before[k]) for k, v in model.state_dict().items())
            named = {c.name for f in outcome.faults for c in f.culprits}
            assert {"norm.running_mean", "out.weight"} <= named
    torch._dynamo.reset()


# attach


def test_attached_guard_clips_skips_and_leaves_the_callers_loop_alone():
    model, reference = mlp(), mlp()
    guard = tt.Guard(model, sgd(model), clip=tt.NormClip(0.05))
    own = tt.Guard(reference, sgd(reference), clip=tt.NormClip(0.05))
    with guard.attach():
        for x in (batch(0), bad_batch(), batch(1)):
            backward(guard, x)
            guard.optimizer.step()
            own.step(backward(own, x))
            assert guard.outcome.applied is own.outcome.applied
            assert math.isnan(guard.outcome.loss)  # nobody told it
            assert all(p.grad is not None for p in model.parameters())
    assert all(a.equal(b) for a, b in zip(model.parameters(), reference.parameters(), strict=True))
    assert not guard.optimizer._optimizer_step_pre_hooks
    assert not guard.optimizer._optimizer_step_post_hooks
    guard.step(backward(guard, batch(2)))


def test_attached_guard_runs_a_closure_before_it_decides():
    """As Lightning steps: at the pre-hook the gradients are still those of the last step."""
    model = mlp()
    guard = tt.Guard(model, sgd(model), trace=None)  # which would run the closure once more
    calls = []

    def closure_of(x):
        def closure():
            calls.append(1)
            return backward(guard, x)

        return closure

    guard.attach()
    returned = guard.optimizer.step(closure_of(batch(0)))
    assert guard.outcome.loss == pytest.approx(returned.item())
    before = copy.deepcopy(model.state_dict())
    guard.optimizer.step(closure=closure_of(bad_batch()))
    assert not guard.outcome.applied
    assert len(calls) == 2
    assert all(v.equal(before[k]) for k, v in model.state_dict().items())


def test_attached_guard_raises_out_of_the_callers_step():
    model = mlp()
    guard = tt.Guard(model, sgd(model), remedy=tt.Raise())
    with guard.attach():
        backward(guard, bad_batch())
        before = copy.deepcopy(model.state_dict())
        with pytest.raises(tt.NonFiniteError):
            guard.optimizer.step()
    assert all(v.equal(before[k]) for k, v in model.state_dict().items())


def test_gradients_of_a_step_that_broke_off_do_not_come_back():
    model = mlp()
    guard = tt.Guard(model, sgd(model))

    def breaks(*_: object) -> None:
        raise KeyboardInterrupt

    hook = guard.optimizer.register_step_post_hook(breaks)
    with guard.attach():  # its own post-hook comes after the one that raises
        backward(guard, bad_batch())
        with pytest.raises(KeyboardInterrupt):
            guard.optimizer.step()
        hook.remove()
        backward(guard, batch(0))
        guard.optimizer.step()
    assert guard.outcome.applied
    assert all(p.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("clip", [None, tt.NormClip(1e9)], ids=repr)
def test_scaled_gradients_are_never_measured(clip):
    model = mlp()
    guard = tt.Guard(model, torch.optim.AdamW(model.parameters(), fused=True), clip=clip)
    scaler = torch.amp.GradScaler("cpu")
    with guard.attach():
        scaler.scale(model(batch(0)).square().mean()).backward()
        with pytest.raises(RuntimeError, match=r"scaler.unscale_\(optimizer\)"):
            scaler.step(guard.optimizer)
    assert guard.outcome is None


def test_attached_step_without_any_gradient_passes():
    model = mlp()
    guard = tt.Guard(model, sgd(model))
    with guard.attach():
        guard.optimizer.step()
        guard.optimizer.step(lambda: torch.tensor(1.0))
    assert guard.outcome is None


def test_fused_optimizer_under_attach_is_clipped_in_its_kernel():
    runs = []
    for arguments in ({"fused": True}, {"foreach": False, "fused": False}):
        model = mlp()
        guard = tt.Guard(
            model, torch.optim.AdamW(model.parameters(), lr=0.1, **arguments), clip=tt.NormClip(0.01)
        )
        with guard.attach():
            for step in range(3):
                backward(guard, batch(step))
                guard.optimizer.step()
        assert guard.outcome.clip_factor < 1
        assert "grad_scale" not in vars(guard.optimizer)
        runs.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    torch.testing.assert_close(*runs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("line_search", [None, "strong_wolfe"])
@pytest.mark.parametrize("bad", [(), (5,), (8, 9)])
def test_an_attached_guard_sees_every_evaluation_of_a_search(line_search, bad):
    def search(step_by_guard):
        torch.manual_seed(0)
        model = mlp()
        optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=4, line_search_fn=line_search)
        guard = tt.Guard(model, optimizer, clip=tt.NormClip(0.5))
        x, y = batch(0), batch(1)[:, :2]
        num = 0

        def closure():
            nonlocal num
            num += 1
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(model(x), y) * (float("nan") if num in bad else 1.0)
            loss.backward()
            return loss

        outcomes = []
        with contextlib.nullcontext() if step_by_guard else guard.attach():
            for _ in range(5):
                if step_by_guard:
                    guard.step(closure)
                else:
                    optimizer.step(closure)
                outcomes.append((guard.outcome.applied, guard.outcome.loss, guard.outcome.step))
        return outcomes, model.state_dict(), num

    (by_guard, expected, num), (attached, weights, num_attached) = search(True), search(False)
    assert [str(o) for o in attached] == [str(o) for o in by_guard]
    assert num == num_attached
    assert all(applied for applied, _, _ in attached) == (not bad)
    for name, value in expected.items():
        assert torch.equal(weights[name], value)


def test_an_attached_search_that_raises_is_put_back_first():
    model = mlp()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=4)
    guard = tt.Guard(model, optimizer, remedy=tt.Raise(), trace=None)
    x, y = batch(0), batch(1)[:, :2]
    num = 0

    def closure():
        nonlocal num
        num += 1
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y) * (float("nan") if num == 3 else 1.0)
        loss.backward()
        return loss

    before = copy.deepcopy(model.state_dict())
    with guard.attach(), pytest.raises(tt.NonFiniteError):
        optimizer.step(closure)
    assert num == 3
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not optimizer.state


def test_an_attached_guard_may_be_told_the_loss():
    model = mlp()
    optimizer = sgd(model)
    guard = tt.Guard(model, optimizer)
    losses = iter([torch.tensor(1.5), torch.tensor(float("nan")), None])
    with guard.attach(loss=lambda: next(losses)):
        outcomes = []
        for _ in range(3):
            backward(guard, batch(0))
            optimizer.step()
            outcomes.append((guard.outcome.loss, guard.outcome.applied))
    assert outcomes[0] == (1.5, True)
    assert outcomes[1][1] is False
    assert math.isnan(outcomes[2][0])
    assert outcomes[2][1]


def test_grad_scaler_steps_an_attached_guard():
    model = mlp()
    guard = tt.Guard(model, torch.optim.AdamW(model.parameters(), fused=True), clip=tt.NormClip(1.0))
    scaler = torch.amp.GradScaler("cpu")
    with guard.attach():
        for unscales in (True, False):
            guard.optimizer.zero_grad()
            scaler.scale(model(batch(0)).square().mean()).backward()
            if unscales:
                scaler.unscale_(guard.optimizer)
                scaler.step(guard.optimizer)
                scaler.update()
                assert guard.outcome.grad_norm < 100
            else:
                with pytest.raises(RuntimeError, match=r"scaler.unscale_\(optimizer\)"):
                    scaler.step(guard.optimizer)


# LBFGS


@pytest.mark.parametrize("search", [None, "strong_wolfe"])
def test_lbfgs_rolls_back_when_a_later_evaluation_goes_bad(search):
    model = mlp()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=6, line_search_fn=search)
    guard = tt.Guard(model, optimizer, trace=None)
    guard.step(lambda: backward(guard, batch(0)))
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    evaluations = []

    def closure() -> Tensor:
        evaluations.append(1)
        loss = backward(guard, batch(0))
        if len(evaluations) == 2:
            model[0].weight.grad[0, 0] = math.nan
        return loss

    outcome = guard.step(closure)
    assert len(evaluations) == 2
    assert not outcome.applied
    after = (model.state_dict(), optimizer.state_dict())
    assert all(v.equal(before[0][k]) for k, v in after[0].items())
    assert str(after[1]) == str(before[1])
    assert guard.step(lambda: backward(guard, batch(0))).applied


def test_lbfgs_budget_counts_steps_not_evaluations():
    model = mlp()
    guard = tt.Guard(model, torch.optim.LBFGS(model.parameters()), remedy=tt.Skip(budget=1))
    evaluations: list[int] = []

    def closure() -> Tensor:
        evaluations.append(1)
        loss = backward(guard, batch(0))
        return loss * math.nan if len(evaluations) % 2 == 0 else loss

    assert guard.step(closure).action is Action.SKIP
    with pytest.raises(tt.NonFiniteError):
        guard.step(closure)


# the contract


def test_errors_say_what_to_do():
    model = mlp()
    optimizer = sgd(model)
    guard = tt.Guard(model, optimizer)
    with pytest.raises(
        RuntimeError, match=r"no parameter of the optimizer has a gradient. Call loss.backward"
    ):
        guard.step(torch.tensor(1.0))
    with pytest.raises(RuntimeError, match=r"another Guard holds this optimizer.*close\(\)"):
        tt.Guard(model, optimizer)
    loss = backward(guard, batch(0))
    with pytest.raises(ValueError, match=r"loss of shape \(5, 2\).*loss.mean"):
        guard.step(model(batch(0)))
    with pytest.raises(TypeError, match="got str"):
        guard.step("loss")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="closure returned None"):
        guard.step(lambda: None)
    with pytest.raises(ValueError, match="expected one real number"):
        guard.step(torch.tensor(1j))
    with guard.attach(), pytest.raises(RuntimeError, match="this guard is attached"):
        guard.step(loss)
    with guard.attach(), pytest.raises(RuntimeError, match="attached already"):
        guard.attach()
    guard.close()


def test_errors_of_construction_and_order_say_what_to_do():
    model = mlp()
    optimizer = sgd(model)
    guard = tt.Guard(model, optimizer)
    loss = backward(guard, batch(0))
    guard.close()
    with pytest.raises(RuntimeError, match=r"closed\. Make a new Guard"):
        guard.step(loss)
    tt.Guard(model, optimizer).step(loss)
    with pytest.raises(ValueError, match="4 of the optimizer's 4 parameters are not the model's"):
        tt.Guard(mlp(), sgd(mlp()))
    with pytest.raises(ValueError, match="Tanh has no parameters: there is nothing to guard"):
        tt.Guard(nn.Tanh(), sgd(mlp()))
    with pytest.raises(RuntimeError, match="pass a closure"):
        tt.Guard(model, torch.optim.LBFGS(model.parameters())).step(loss)
    with pytest.raises(RuntimeError, match="Pass record="):
        tt.Guard(model, sgd(model)).log(val_loss=1.0)


def test_a_refused_call_changes_nothing():
    model = mlp()
    guard = tt.Guard(model, sgd(model))
    before = copy.deepcopy((model.state_dict(), guard.state_dict()))
    with pytest.raises(ValueError, match="expected one real number"):
        guard.step(backward(guard, batch(0)).repeat(2))
    assert all(v.equal(before[0][k]) for k, v in model.state_dict().items())
    assert guard.state_dict() == before[1]


def test_gradients_of_another_optimizer_are_not_this_guards():
    model = nn.ModuleDict({"g": mlp(), "d": mlp()})
    guard = tt.Guard(model, sgd(model["g"]))
    other = tt.Guard(model, sgd(model["d"]))
    (model["g"](batch(0)).sum() + model["d"](batch(0)).sum()).backward()
    model["d"][0].weight.grad.fill_(math.nan)
    assert guard.step(torch.tensor(1.0)).applied
    outcome = other.step(torch.tensor(1.0))
    assert [c.name for c in outcome.culprits] == ["d.0.weight"]


def test_parameters_added_later_are_guarded():
    model = mlp()
    optimizer = torch.optim.SGD(model[0].parameters(), lr=0.1)
    guard = tt.Guard(model, optimizer)
    guard.step(backward(guard, batch(0)))
    optimizer.add_param_group({"params": model[2].parameters()})
    loss = backward(guard, batch(0))
    model[2].bias.grad.fill_(math.inf)
    assert [c.name for c in guard.step(loss).culprits] == ["2.bias"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"clip": 1.0}, r"clip=1.0\): expected a clip such as NormClip"),
        ({"snapshots": 100}, r"snapshots=100\): expected snapshots such as Snapshots"),
        ({"snapshots": tt.Snapshots}, r"Did you mean Snapshots\(\)"),
        ({"cooldown": 0.1}, r"cooldown=0.1\): expected CoolDown"),
        ({"reference": 3}, r"reference=3\): expected a closure"),
        ({"clip": tt.Skip()}, "expected a clip"),
        ({"detect": tt.Overflow()}, r"expected a list of detectors, such as \[Overflow"),
        ({"detect": [tt.Skip()]}, "expected detectors such as"),
        ({"remedy": "skip"}, r"remedy='skip'\): expected a remedy such as Skip"),
        ({"remedy": tt.Skip}, r"Did you mean Skip\(\)"),
    ],
)
def test_a_policy_in_the_wrong_place_is_refused(arguments, message):
    model = mlp()
    optimizer = sgd(model)
    with pytest.raises(TypeError, match=message):
        tt.Guard(model, optimizer, **arguments)
    tt.Guard(model, optimizer)  # nothing was left behind


class Counting:
    """A clip that counts the steps it has seen."""

    norm_type = 2.0
    needs = tt.types.Needs.NOTHING

    def init(self, layout: tt.types.Layout) -> int:
        return 0

    def rescale(self, stats: Any, state: int) -> tuple[tt.types.Scale, int]:
        return tt.types.Scale(torch.ones_like(stats.grad_norm)), state + 1


def test_state_of_a_clip_moves_only_with_applied_steps():
    model = mlp()
    guard = tt.Guard(model, sgd(model), clip=Counting())
    for x in (batch(0), bad_batch(), bad_batch(), batch(1)):
        guard.step(backward(guard, x))
    assert guard.state_dict()["clip"] == 2


def test_state_loaded_into_a_running_record_is_refused(tmp_path):
    model = mlp()
    with tt.Guard(model, sgd(model), record=tmp_path) as guard:
        guard.step(backward(guard, batch(0)))
        with pytest.raises(RuntimeError, match="Load the state before it"):
            guard.load_state_dict(guard.state_dict())


@pytest.mark.parametrize("saved_at", [0, 3, 5])
def test_resumed_run_decides_as_the_uninterrupted_one(saved_at):
    xs = [
        batch(0),
        batch(1),
        bad_batch(),
        bad_batch(),
        bad_batch(),
        batch(2),
        bad_batch(),
        bad_batch(),
        bad_batch(),
    ]

    def play(guard: tt.Guard, xs: list[Tensor]) -> list[Any]:
        seen = []
        for x in xs:
            try:
                outcome = guard.step(backward(guard, x))
            except tt.NonFiniteError as error:
                outcome = error.outcome
            seen.append(
                (outcome.step, outcome.action, outcome.reason, outcome.grad_norm if outcome.applied else None)
            )
        return seen

    def fresh() -> tt.Guard:
        model = mlp()
        return tt.Guard(model, sgd(model), clip=tt.NormClip(0.1), remedy=tt.Skip(budget=2))

    straight = play(fresh(), xs)
    first = fresh()
    play(first, xs[:saved_at])
    stored = io.BytesIO()
    torch.save([first.model.state_dict(), first.optimizer.state_dict(), first.state_dict()], stored)
    stored.seek(0)
    model_state, optimizer_state, guard_state = torch.load(stored, weights_only=True)
    second = fresh()
    second.model.load_state_dict(model_state)
    second.optimizer.load_state_dict(optimizer_state)
    second.load_state_dict(guard_state)
    assert play(second, xs[saved_at:]) == straight[saved_at:]


def test_state_of_other_policies_is_refused():
    model, other = mlp(), mlp()
    state = tt.Guard(model, sgd(model), clip=tt.NormClip(1.0)).state_dict()
    with pytest.raises(ValueError, match=r"NormClip\(max_norm=1.0.*this one has.*None"):
        tt.Guard(other, sgd(other)).load_state_dict(state)
    with pytest.raises(ValueError, match="version 7"):
        tt.Guard(model, sgd(model)).load_state_dict({**state, "version": 7})


# record


def test_record_holds_what_happened(tmp_path):
    model = Normed()
    with tt.Guard(model, sgd(model), clip=tt.NormClip(0.1), record=tmp_path / "run") as guard:
        outcomes = [guard.step(backward(guard, x)) for x in (batch(0), bad_batch(), batch(1))]
        guard.log(val_loss=0.5)
    log = tt.read(tmp_path / "run")
    assert log.step.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(log.loss, [o.loss for o in outcomes])
    np.testing.assert_array_equal(log.grad_norm, [o.grad_norm for o in outcomes])
    assert log.applied.tolist() == [True, False, True]
    assert log.layer_names == ("norm.weight", "norm.bias", "out.weight", "out.bias")
    assert log.header.policies["clip"] == "NormClip(max_norm=0.1, norm_type=2.0)"
    assert {fault.step for fault in log.faults} == {1}
    assert log.metrics["val_loss"][1].tolist() == [0.5]


def test_resumed_guard_continues_its_log_and_a_new_one_starts_its_own(tmp_path):
    model = mlp()
    with tt.Guard(model, optimizer := sgd(model), record=tmp_path) as guard:
        guard.step(backward(guard, batch(0)))
        state = guard.state_dict()
    with tt.Guard(model, optimizer, record=tmp_path) as guard:
        guard.load_state_dict(state)
        guard.step(backward(guard, batch(1)))
    assert tt.read(tmp_path).step.tolist() == [0, 1]
    with tt.Guard(model, optimizer, record=tmp_path) as guard:
        guard.step(backward(guard, batch(1)))
    assert tt.read(tmp_path).step.tolist() == [0]
    assert len(list(tmp_path.glob("run*.sqlite"))) == 2


def test_log_marks_layers_without_a_gradient(tmp_path):
    model = mlp()
    with tt.Guard(model, sgd(model), record=tmp_path) as guard:
        loss = backward(guard, batch(0))
        model[0].bias.grad = None
        guard.step(loss)
    norms = tt.read(tmp_path).layer_norms
    assert norms.mask[0].tolist() == [False, True, False, False]


def test_log_keeps_its_layers_when_parameters_are_added(tmp_path):
    model = nn.ParameterDict({name: nn.Parameter(torch.ones(1)) for name in "abc"})
    optimizer = torch.optim.SGD([model["a"], model["b"]], lr=0.0)
    with tt.Guard(model, optimizer, record=tt.RunWriter(tmp_path, layers_every=1)) as guard:
        for names, norms in (("ab", (2.0, 3.0)), ("ac", (4.0, 200.0))):
            if names == "ac":
                optimizer.add_param_group({"params": [model["c"]]})
            for parameter in model.values():
                parameter.grad = None
            for name, value in zip(names, norms, strict=True):
                model[name].grad = torch.tensor([value])
            guard.step(1.0)
    log = tt.read(tmp_path)
    assert log.layer_names == ("a", "b")
    assert log.layer_norms.tolist() == [[2.0, 3.0], [4.0, None]]


@pytest.mark.parametrize("remedy", [tt.Skip(), None], ids=repr)
def test_cadence_of_rows(tmp_path, remedy):
    model = mlp()
    with tt.Guard(
        model, sgd(model), remedy=remedy, record=tt.RunWriter(tmp_path, every=4, layers_every=8)
    ) as guard:
        for step in range(10):
            guard.step(backward(guard, bad_batch() if step == 5 else batch(step)))
    log = tt.read(tmp_path)
    # without a remedy nothing is read between the rows, so the fault goes unseen until the next one
    assert log.step.tolist() == ([0, 4, 5, 8] if remedy else [0, 4, 8])
    assert log.layer_steps.tolist() == ([0, 5, 8] if remedy else [0, 8])
