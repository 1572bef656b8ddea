from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import norm, percentile_clipping
from torch import nn

import trimtab as tt
from trimtab.decide.elementwise import ValueClip
from trimtab.decide.grouping import ByGroup, ByName, Grouped, spread
from trimtab.decide.layers import LayerClip
from trimtab.decide.tensors import TensorClip
from trimtab.decide.units import UnitClip
from trimtab.decide.wrappers import AfterWarmup, EveryNth, When
from trimtab.types import Clamp, Each, Layout, Scale, StepStats, Units

CPU = torch.device("cpu")
NAMES = ("a.0.weight", "a.0.bias", "a.1.weight", "b.weight", "b.bias", "scale")
LAYOUT = Layout(
    CPU,
    NAMES,
    shapes=((2, 2), (2,), (2, 2), (3, 2), (3,), ()),
    unit_dims=(0, None, 0, 0, None, None),
    groups=(0, 0, 7, 7, 7, 0),
)
GROUPS = {
    "tensor": [[0], [1], [2], [3], [4], [5]],
    "module": [[0, 1], [2], [3, 4], [5]],
    "group": [[0, 1, 5], [2, 3, 4]],
}
RULES = [
    tt.NormClip(1.0),
    tt.QuantileClip(percentile=60.0, min_history=2, initial=1.0),
    tt.MeanClip(window=2),
    tt.EmaClip(),
    tt.ZScoreClip(warmup=3),
    AfterWarmup(tt.NormClip(0.5), 2, before=tt.NormClip(2.0)),
]
SEQUENCES = st.lists(st.lists(st.floats(1e-3, 1e3), min_size=6, max_size=6), min_size=1, max_size=12)


def stats_of(norms, p=2.0, **others):
    own = torch.tensor(norms, dtype=torch.float64)
    return StepStats(None, torch.linalg.vector_norm(own, p), tensor_norms=own, **others)


def factors(decision, num=6):
    parts = spread(decision, num)
    return [1.0 if part is None else part.factor.item() for part in parts]


@pytest.mark.parametrize("by", list(GROUPS))
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
@given(sequence=SEQUENCES)
@settings(max_examples=15, deadline=None)
def test_any_rule_by_any_grouping_is_that_rule_on_each_group_alone(rule, by, sequence):
    clip = Grouped(rule, by=by)
    state = clip.init(LAYOUT)
    alone = [rule.init(Layout(CPU)) for _ in GROUPS[by]]
    for norms in sequence:
        decision, state = clip.rescale(stats_of(norms), state)
        expected = [0.0] * 6
        for k, members in enumerate(GROUPS[by]):
            joint = torch.tensor(math.sqrt(sum(norms[i] ** 2 for i in members)), dtype=torch.float64)
            own, alone[k] = rule.rescale(StepStats(None, joint), alone[k])
            for i in members:
                expected[i] = own.factor.item()
        assert factors(decision) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("p", [0.5, 1.0, 2.0, 8.0, math.inf])
@pytest.mark.parametrize("by", list(GROUPS))
@given(norms=st.lists(st.sampled_from([0.0, 1e-300, 1e-3, 1.0, 3.0, 1e30, 1e200]), min_size=6, max_size=6))
@settings(max_examples=20, deadline=None)
def test_the_joint_norm_of_a_group_is_exact_at_every_scale(by, p, norms):
    clip = Grouped(tt.NormClip(1.0, norm_type=p), by=by)
    decision, _ = clip.rescale(stats_of(norms, p), clip.init(LAYOUT))
    got = factors(decision)
    for members in GROUPS[by]:
        joint = norm([torch.tensor([norms[i] for i in members], dtype=torch.float64)], p)
        assert [got[i] for i in members] == pytest.approx(
            [min(1.0, 1.0 / (joint + 1e-6))] * len(members), rel=1e-9
        )


@pytest.mark.parametrize("by", list(GROUPS))
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_bad_tensor_spoils_its_own_group_and_no_history(by, bad):
    clip = Grouped(tt.QuantileClip(percentile=50.0, min_history=1), by=by)
    state = clip.init(LAYOUT)
    _, state = clip.rescale(stats_of([1.0] * 6), state)
    poisoned, after = clip.rescale(stats_of([bad, *[2.0] * 5]), state)
    spoiled = next(members for members in GROUPS[by] if 0 in members)
    for i, factor in enumerate(factors(poisoned)):
        assert (0 < factor <= 1.0) == (i not in spoiled)
    clean, _ = clip.rescale(stats_of([2.0] * 6), state)
    later, _ = clip.rescale(stats_of([2.0] * 6), after)
    for i in spoiled:
        assert factors(later)[i] == factors(clean)[i]


@given(norms=st.lists(st.floats(1e-3, 1e3), min_size=120, max_size=320), percentile=st.integers(0, 98))
@settings(max_examples=20, deadline=None)
def test_by_tensor_it_is_the_percentile_clipping_of_bitsandbytes_over_the_norms_before(norms, percentile):
    """Its threshold of the step before: there the current norm is part of its own history.

    Its first 99 steps are left out: the ring is filled up with the first norm, ours is not.
    """
    clip = Grouped(tt.QuantileClip(100 * percentile / 99 or 1e-9, history=100))
    state = clip.init(Layout(CPU, ("w",)))
    theirs = percentile_clipping(norms, percentile)
    for t, n in enumerate(norms):
        own = torch.tensor([n], dtype=torch.float64)
        decision, state = clip.rescale(StepStats(None, own[0], tensor_norms=own), state)
        if t >= 100:
            assert decision.factor.item() == pytest.approx(min(1.0, theirs[t - 1] / (n + 1e-6)), rel=1e-6)


def test_the_published_percentile_lets_a_spike_make_its_own_threshold():
    norms = [1.0] * 150 + [100.0]
    assert percentile_clipping(norms, 99)[-1] == 100.0
    clip = Grouped(tt.QuantileClip(100.0))
    state = clip.init(Layout(CPU, ("w",)))
    for n in norms:
        own = torch.tensor([n])
        decision, state = clip.rescale(StepStats(None, own[0], tensor_norms=own), state)
    assert decision.factor.item() == pytest.approx(0.01)


def test_tensors_have_thresholds_of_their_own():
    clip = Grouped(tt.QuantileClip(percentile=100.0, min_history=5))
    state = clip.init(Layout(CPU, ("small", "large")))
    for _ in range(10):
        _, state = clip.rescale(stats_of([0.01, 10.0]), state)
    decision, _ = clip.rescale(stats_of([0.1, 10.0]), state)
    assert decision.factor.tolist() == pytest.approx([0.1, 1.0], rel=1e-4)


@pytest.mark.parametrize(
    "rule", [ValueClip(), LayerClip({}, default=1.0), UnitClip(), TensorClip(), Grouped(tt.NormClip(1.0))]
)
def test_a_rule_that_looks_at_more_than_the_norm_is_refused(rule):
    with pytest.raises(ValueError, match="judges the norm alone"):
        Grouped(rule)
    with pytest.raises(ValueError, match="judges the norm alone"):
        Grouped(When(rule, EveryNth(2)))


def test_wrong_groupings_and_rules_are_refused():
    with pytest.raises(ValueError, match="'tensor', 'module', 'group'"):
        Grouped(tt.NormClip(1.0), by="layer")
    with pytest.raises(TypeError, match=r"Grouped\(rule=NormClip\).*Did you mean NormClip\(\)"):
        Grouped(tt.NormClip)
    with pytest.raises(TypeError, match=r"Grouped\(rule=1.0\)"):
        Grouped(1.0)


@given(norms=st.lists(st.floats(1e-3, 1e3), min_size=6, max_size=6))
@settings(max_examples=30, deadline=None)
def test_each_rule_by_name_sees_its_part_alone(norms):
    clip = ByName(
        {
            "a": tt.NormClip(1.0),
            "a.1": None,
            "b": LayerClip({"*.bias": 0.1}, default=2.0),
            "scale": ValueClip(0.3),
        }
    )
    decision, _ = clip.rescale(stats_of(norms), clip.init(LAYOUT))
    joint = min(1.0, 1.0 / (math.hypot(norms[0], norms[1]) + 1e-6))
    assert [decision.parts[i].factor.item() for i in (0, 1)] == pytest.approx([joint] * 2)
    assert decision.parts[2] is None
    assert decision.parts[3].factor.item() == pytest.approx(min(1.0, 2.0 / (norms[3] + 1e-6)))
    assert decision.parts[4].factor.item() == pytest.approx(min(1.0, 0.1 / (norms[4] + 1e-6)))
    assert decision.parts[5] == Clamp(-0.3, 0.3)


def test_the_rest_has_a_rule_or_none():
    left, _ = ByName({"a": tt.NormClip(1.0)}).rescale(
        stats_of([3.0] * 6), ByName({"a": tt.NormClip(1.0)}).init(LAYOUT)
    )
    assert left.parts[3:] == (None, None, None)
    clip = ByName({"a": None}, rest=tt.NormClip(1.0))
    decision, _ = clip.rescale(stats_of([3.0, 3.0, 3.0, 2.0, 2.0, 1.0]), clip.init(LAYOUT))
    assert decision.parts[:3] == (None, None, None)
    assert [part.factor.item() for part in decision.parts[3:]] == pytest.approx([1 / 3] * 3, rel=1e-5)


def test_units_and_groups_and_names_within_names():
    ones = [torch.ones(()), *[torch.ones(2, 1)] * 2, torch.ones(3, 1), torch.ones(1), torch.ones(())]
    units = Units(tuple(10 * u for u in ones), tuple(ones))
    clip = ByName(
        {
            "a": ByName({"a.1": tt.NormClip(1.0)}, rest=Grouped(tt.NormClip(1.0), by="module")),
            "b": UnitClip(max_ratio=0.1, exclude=("*.bias",)),
        },
        rest=Grouped(tt.NormClip(4.0), by="group"),
    )
    decision, _ = clip.rescale(stats_of([3.0, 4.0, 2.0, 9.0, 9.0, 8.0], units=units), clip.init(LAYOUT))
    parts = decision.parts
    assert [parts[i].factor.item() for i in (0, 1, 2, 5)] == pytest.approx([0.2, 0.2, 0.5, 0.5], rel=1e-5)
    assert parts[3].factor.tolist() == [pytest.approx([0.01])] * 3
    assert parts[4] is None


def test_a_rule_in_its_quiet_time_leaves_its_part_alone():
    clip = ByName({"a": AfterWarmup(tt.NormClip(1.0), 1)}, rest=tt.NormClip(1.0))
    state = clip.init(LAYOUT)
    first, state = clip.rescale(stats_of([3.0] * 6), state)
    second, state = clip.rescale(stats_of([3.0] * 6), state)
    assert first.parts[:3] == (None,) * 3
    assert second.parts[0].factor.item() < 1.0


def test_spread_keeps_what_is_one_for_each():
    each = Each((None, Clamp(-1.0, 1.0)))
    assert spread(each, 2) == each.parts
    assert spread(None, 2) == (None, None)
    one = Scale(torch.tensor(0.5))
    assert spread(one, 2) == (one, one)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"rules": {}}, ValueError, "expected clips by pattern"),
        ({"rules": [("a", tt.NormClip(1.0))]}, ValueError, "expected clips by pattern"),
        ({"rules": {"a": 1.0}}, TypeError, r"ByName\(rules\['a'\]=1.0\)"),
        ({"rules": {"a": tt.NormClip(1.0)}, "rest": tt.NormClip}, TypeError, r"Did you mean NormClip\(\)"),
        ({"rules": {"": tt.NormClip(1.0)}}, ValueError, "expected a name"),
        (
            {"rules": {"a": tt.NormClip(1.0)}, "rest": tt.NormClip(1.0, norm_type=1.0)},
            ValueError,
            "same norm_type, got 2.0, 1.0",
        ),
    ],
    ids=str,
)
def test_wrong_rules_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        ByName(**arguments)


def test_clips_that_need_no_norm_take_the_others():
    clip = ByName({"a": ValueClip(1.0, norm_type=math.inf)}, rest=tt.NormClip(1.0, norm_type=math.inf))
    assert clip.norm_type == math.inf


def test_a_typo_is_an_error_when_the_guard_is_made():
    model = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"ByName: no parameter.*'0\.weigth'.*'0\.weight'"):
        tt.Guard(
            model, torch.optim.SGD(model.parameters(), lr=0.1), clip=ByName({"0.weigth": tt.NormClip(1.0)})
        )


def test_groups_of_the_optimizer_are_clipped_by_group():
    torch.manual_seed(0)
    model = nn.ModuleDict({"a": nn.Linear(3, 4), "b": nn.Linear(4, 2)})
    groups = [{"params": model["a"].parameters()}, {"params": model["b"].parameters(), "lr": 1.0}]
    optimizer = torch.optim.SGD(groups, lr=0.0)
    with tt.Guard(model, optimizer, clip=Grouped(tt.NormClip(0.5), by="group")) as guard:
        before = [p.detach().clone() for p in model["b"].parameters()]
        loss = (model["b"](model["a"](torch.randn(9, 3))) * 100).square().sum()
        loss.backward()
        guard.step(loss)
        moved = norm([p.detach() - old for p, old in zip(model["b"].parameters(), before, strict=True)])
    assert moved == pytest.approx(0.5, rel=1e-3)
    assert np.isfinite(guard.outcome.clip_factor)
    assert guard.outcome.clip_share == 1.0


def two_groups(clip):
    torch.manual_seed(0)
    model = nn.ModuleDict({name: nn.Linear(3, 3) for name in "abc"})
    optimizer = torch.optim.SGD([{"params": model[name].parameters()} for name in "ab"], lr=1.0)
    guard = tt.Guard(model, optimizer, clip=clip)
    for p in model.parameters():
        p.grad = torch.linspace(-3.0, 3.0, p.numel()).reshape(p.shape)
    return model, optimizer, guard


def moved(model, name, step):
    before = [p.detach().clone() for p in model[name].parameters()]
    step()
    return [old - p.detach() for old, p in zip(before, model[name].parameters(), strict=True)]


def test_groups_of_the_optimizer_have_bounds_of_their_own():
    clip = ByGroup((ValueClip(0.5, min_value=-0.1), ValueClip(2.0)))
    for name, low, high in (("a", -0.1, 0.5), ("b", -2.0, 2.0)):
        model, _, guard = two_groups(clip)
        for update, p in zip(
            moved(model, name, lambda guard=guard: guard.step(torch.tensor(1.0))),
            model[name].parameters(),
            strict=True,
        ):
            wanted = torch.linspace(-3.0, 3.0, p.numel()).reshape(p.shape).clamp(low, high)
            torch.testing.assert_close(update, wanted, rtol=1e-5, atol=1e-6)


def test_a_group_added_later_gets_the_rest():
    model, optimizer, guard = two_groups(ByGroup((tt.NormClip(1.0), None), rest=tt.NormClip(0.25)))
    guard.step(torch.tensor(1.0))
    optimizer.add_param_group({"params": model["c"].parameters()})
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    assert norm(moved(model, "c", lambda: guard.step(torch.tensor(1.0)))) == pytest.approx(0.25, rel=1e-4)


def test_more_rules_than_groups_is_an_error_when_the_guard_is_made():
    with pytest.raises(ValueError, match="3 rules for the 2 parameter groups"):
        two_groups(ByGroup((tt.NormClip(1.0), None, None)))
    with pytest.raises(TypeError, match=r"ByGroup\(rules\[1\]=2.0\)"):
        ByGroup((None, 2.0))
