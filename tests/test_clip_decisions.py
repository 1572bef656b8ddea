"""Every clip through a guard: what it decides is what the optimizer sees, and what the outcome says."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from cases import CLIPS
from torch import nn

import trimtab as tt
from trimtab import act
from trimtab.types import Layout, StepStats

POLICIES = [case.policy(**arguments) for case in CLIPS for arguments in case.valid]
EXTRA = [
    tt.ValueClip(0.3),
    tt.ValueClip(max_value=0.4, min_value=-0.1),
    tt.LayerClip({"0.weight": 0.5, "2.": 0.25}, default=1.0),
    tt.UnitClip(),
    tt.TensorClip(),
    tt.Grouped(tt.QuantileClip(min_history=2, percentile=50.0), by="tensor"),
    tt.Grouped(tt.NormClip(0.2), by="module"),
    tt.Grouped(tt.EmaClip(), by="group"),
    tt.ByName({"0.*": tt.ValueClip(0.2), "2.bias": tt.NormClip(0.1)}, rest=tt.UnitClip()),
    tt.AfterWarmup(tt.MeanClip(), 3, before=tt.NormClip(0.1)),
    tt.First(tt.NormClip(0.1), 3, then=tt.ValueClip(0.5)),
    tt.When(tt.NormClip(0.1), tt.NormAbove(2.0)),
]


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2), nn.Linear(2, 2))  # the last is unused


def fill(model, step):
    """Gradients of all but the last layer, of a size that changes from step to step."""
    torch.manual_seed(step)
    size = 5.0 if step % 4 == 3 else 1.0
    for name, parameter in model.named_parameters():
        parameter.grad = None if name.startswith("3") else torch.randn_like(parameter) * size


def norm(tensors):
    return torch.cat([t.flatten().double() for t in tensors]).norm().item()


@pytest.mark.parametrize("clip", [*POLICIES, *EXTRA], ids=repr)
@pytest.mark.parametrize("remedy", [tt.Skip(), None], ids=["read", "unread"])
def test_the_outcome_says_what_the_optimizer_saw(clip, remedy):
    model = net()
    guard = tt.Guard(model, torch.optim.SGD(model.parameters(), lr=1.0), clip=clip, remedy=remedy)
    clipped = []
    for step in range(9):
        fill(model, step)
        before = copy.deepcopy(model)
        gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        outcome = guard.step(torch.tensor(1.0))
        moved = [a - b for a, b in zip(before.parameters(), model.parameters(), strict=True)]
        assert outcome.grad_norm > 0
        if clip.norm_type == 2:
            assert outcome.grad_norm == pytest.approx(norm(gradients), rel=1e-5)
            assert outcome.clip_factor == pytest.approx(norm(moved) / norm(gradients), rel=1e-3)
            assert (outcome.clip_share > 0) == (outcome.clip_factor < 1)
        assert norm(moved) <= norm(gradients) * (1 + 1e-6)
        clipped.append(outcome.clip_share)
    assert all(0 <= share <= 1 for share in clipped)


@pytest.mark.parametrize("clip", EXTRA, ids=repr)
def test_fused_and_attached_see_the_same(clip):
    models = [net() for _ in range(3)]
    plain, fused, attached = (
        torch.optim.AdamW(model.parameters(), fused=index == 1, foreach=False)
        for index, model in enumerate(models)
    )
    guards = [tt.Guard(m, o, clip=clip) for m, o in zip(models, (plain, fused, attached), strict=True)]
    guards[2].attach()
    for step in range(6):
        for model in models:
            fill(model, step)
        guards[0].step(torch.tensor(1.0))
        guards[1].step(torch.tensor(1.0))
        attached.step()
    for a, b, c in zip(*(m.parameters() for m in models), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(a, c, rtol=0, atol=0)


@pytest.mark.parametrize("clip", EXTRA, ids=repr)
@pytest.mark.parametrize("saved_at", [0, 2, 5])
def test_a_resumed_run_clips_as_the_uninterrupted_one(clip, saved_at):
    model = net()
    guard = tt.Guard(model, torch.optim.SGD(model.parameters(), lr=1.0), clip=clip)
    other = net()
    for step in range(9):
        if step == saved_at:
            file = io.BytesIO()
            torch.save((model.state_dict(), guard.state_dict()), file)
            file.seek(0)
            weights, state = torch.load(file, weights_only=True)
            other.load_state_dict(weights)
            resumed = tt.Guard(other, torch.optim.SGD(other.parameters(), lr=1.0), clip=clip)
            resumed.load_state_dict(state)
        fill(model, step)
        outcome = guard.step(torch.tensor(1.0))
        if step >= saved_at:
            fill(other, step)
            assert resumed.step(torch.tensor(1.0)).clip_factor == outcome.clip_factor
    assert all(a.equal(b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("clip", EXTRA, ids=repr)
def test_a_nan_in_one_tensor_reaches_no_other(clip):
    model = net()
    guard = tt.Guard(model, torch.optim.SGD(model.parameters(), lr=1.0), clip=clip, remedy=tt.Observe())
    for step in range(5):
        fill(model, step)
        guard.step(torch.tensor(1.0))
    fill(model, 5)
    model[2].bias.grad[0] = float("nan")
    guard.step(torch.tensor(1.0))
    bad = [name for name, p in model.named_parameters() if not p.isfinite().all()]
    assert bad == ["2.bias"]


@pytest.mark.parametrize("clip", EXTRA, ids=repr)
def test_a_skipped_step_changes_no_later_decision(clip):
    factors = []
    for bad_step in (None, 4):
        model = net()
        guard = tt.Guard(model, torch.optim.SGD(model.parameters(), lr=1.0), clip=clip)
        for step in range(9):
            if step == bad_step:
                fill(model, 0)
                model[0].weight.grad[0, 0] = float("nan")
                assert not guard.step(torch.tensor(1.0)).applied
            fill(model, step)
            factors.append(guard.step(torch.tensor(1.0)).clip_factor)
    assert factors[:9] == factors[9:]


def test_sparse_gradients_by_unit_and_by_element():
    torch.manual_seed(0)
    table, dense = nn.Embedding(10, 3, sparse=True), nn.Embedding(10, 3)
    dense.load_state_dict(table.state_dict())
    for clip in (tt.UnitClip(), tt.ValueClip(0.1), tt.LayerClip({"weight": 0.2})):
        for model in (table, dense):
            model.zero_grad()
            guard = tt.Guard(model, torch.optim.SGD(model.parameters(), lr=0.1), clip=clip)
            loss = (model(torch.tensor([1, 4, 4])) ** 2).sum()
            loss.backward()
            guard.step(loss)
            guard.close()
        torch.testing.assert_close(table.weight, dense.weight)


def test_factors_of_units_on_halves_are_not_rounded_first():
    g = torch.randn(8, 4, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    factor = torch.full((8, 1), 0.3337)
    scaled = g.clone()
    act.rescale_grads_([scaled], tt.types.Each((tt.types.Scale(factor),)))
    assert scaled.equal((g.float() * 0.3337).to(torch.bfloat16))


def test_a_policy_is_told_the_layout():
    model = nn.Sequential(nn.ConvTranspose2d(3, 8, 2), nn.Linear(4, 2, bias=False))
    optimizer = torch.optim.SGD(
        [{"params": model[0].parameters()}, {"params": model[1].parameters()}], lr=0.1
    )
    layout = tt.measure.Watched(model, optimizer).layout()
    assert layout == Layout(
        torch.device("cpu"),
        names=("0.weight", "0.bias", "1.weight"),
        shapes=((3, 8, 2, 2), (8,), (2, 4)),
        unit_dims=(1, None, 0),
        groups=(0, 0, 1),
    )


def test_a_parameter_group_added_later_is_clipped_too():
    model = net()
    optimizer = torch.optim.SGD(model[0].parameters(), lr=1.0)
    guard = tt.Guard(model, optimizer, clip=tt.Grouped(tt.NormClip(0.1), by="tensor"))
    fill(model, 0)
    guard.step(torch.tensor(1.0))
    optimizer.add_param_group({"params": model[2].parameters()})
    fill(model, 1)
    before = model[2].weight.detach().clone()
    guard.step(torch.tensor(1.0))
    assert (before - model[2].weight).norm().item() == pytest.approx(0.1, rel=1e-4)


@pytest.mark.parametrize(
    "clip",
    [
        tt.Grouped(tt.EmaClip()),
        tt.TensorClip(),
        tt.UnitClip(),
        tt.LayerClip({}, default=1.0),
        tt.ByName({"0": tt.NormClip(1.0)}),
    ],
    ids=repr,
)
def test_whoever_looks_first_at_a_group_added_later_the_clip_hears_of_it(clip):
    model = net()
    optimizer = torch.optim.SGD(model[0].parameters(), lr=1.0)
    guard = tt.Guard(model, optimizer, clip=clip)
    fill(model, 0)
    guard.step(torch.tensor(1.0))
    optimizer.add_param_group({"params": model[2].parameters()})
    assert guard.inspect() == ()
    for step in (4, 7):  # the second is five times as large
        fill(model, step)
        guard.step(torch.tensor(1.0))
    assert guard.outcome.clip_share > 0


@pytest.mark.parametrize(
    "clip",
    [tt.TensorClip(), tt.Grouped(tt.NormClip(1.0), by="module"), tt.UnitClip(), tt.LayerClip({}, 1.0)],
    ids=repr,
)
def test_the_state_of_another_model_is_refused_and_changes_nothing(clip):
    small, large = net(), nn.Sequential(net(), nn.Linear(2, 2))
    guards = [tt.Guard(m, torch.optim.SGD(m.parameters(), lr=1.0), clip=clip) for m in (small, large)]
    fill(small, 0)
    guards[0].step(torch.tensor(1.0))
    before = repr(guards[1].state_dict())
    with pytest.raises(ValueError, match="of other parameters"):
        guards[1].load_state_dict(guards[0].state_dict())
    assert repr(guards[1].state_dict()) == before
    assert guards[1].num_steps == 0


def test_stats_keep_their_order_when_read():
    stats = StepStats(
        loss=torch.tensor(1.0),
        grad_norm=torch.tensor(2.0),
        clip_factor=torch.tensor(3.0),
        tensor_norms=torch.tensor([7.0, 8.0]),
        clip_share=torch.tensor(4.0),
        num_dropped=torch.tensor(6.0),
    ).read()
    assert (stats.loss, stats.grad_norm, stats.clip_factor, stats.clip_share) == (1.0, 2.0, 3.0, 4.0)
    assert (stats.underflow, stats.num_dropped, stats.num_overflowed, stats.units) == (None, 6.0, None, None)
    assert stats.tensor_norms.tolist() == [7.0, 8.0]
