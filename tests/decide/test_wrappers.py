from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import trimtab as tt
from trimtab import act
from trimtab.decide.elementwise import ValueClip
from trimtab.decide.grouping import ByName, Grouped
from trimtab.decide.layers import LayerClip
from trimtab.decide.units import UnitClip
from trimtab.decide.wrappers import AfterWarmup, EveryNth, First, LossAbove, NormAbove, When
from trimtab.types import Clamp, Each, Layout, Scale, StepStats, Units

CPU = torch.device("cpu")
LAYOUT = Layout(CPU, ("a", "b"), ((2, 2), ()), (0, None), (0, 0))


def stats_of(norm, loss=1.0):
    own = torch.tensor([norm, 0.0], dtype=torch.float64)
    units = Units((torch.ones(2, 1), torch.ones(())), (torch.ones(2, 1), torch.ones(())))
    return StepStats(torch.tensor(loss), own[0], tensor_norms=own, units=units)


def play(clip, norms, state=None):
    state = clip.init(LAYOUT) if state is None else state
    decisions = []
    for norm in norms:
        decision, state = clip.rescale(stats_of(norm), state)
        decisions.append(decision)
    return [d if d is None else d.factor.item() for d in decisions]


def norm_factor(bound, norm):
    return pytest.approx(min(1.0, bound / (norm + 1e-6)))


def test_after_warmup_acts_then_and_not_before():
    got = play(AfterWarmup(tt.NormClip(1.0), 3), [4.0] * 5)
    assert got == [None, None, None, norm_factor(1.0, 4.0), norm_factor(1.0, 4.0)]
    got = play(AfterWarmup(tt.NormClip(1.0), 3, before=tt.NormClip(2.0)), [4.0] * 5)
    assert got == [norm_factor(2.0, 4.0)] * 3 + [norm_factor(1.0, 4.0)] * 2


def test_after_warmup_has_learned_from_the_first_step_on():
    norms = [1.0, 2.0, 3.0, 4.0, 5.0, 9.0]
    learning = tt.QuantileClip(percentile=50.0, min_history=1, initial=0.5)
    assert play(AfterWarmup(learning, 4), norms)[4:] == play(learning, norms)[4:]


def test_first_acts_in_the_first_steps_and_then_the_other():
    got = play(First(tt.NormClip(1.0), 2), [4.0] * 4)
    assert got == [norm_factor(1.0, 4.0)] * 2 + [None, None]
    norms = [1.0, 2.0, 3.0, 4.0, 9.0]
    learning = tt.MeanClip(window=2, initial=0.5)
    got = play(First(tt.NormClip(1.0), 3, then=learning), norms)
    assert got[:3] == [norm_factor(1.0, n) for n in norms[:3]]
    assert got[3:] == play(learning, norms)[3:]


def test_every_nth_counts_from_one():
    got = play(When(tt.NormClip(1.0), EveryNth(3)), [4.0] * 7)
    assert [factor is not None for factor in got] == [False, False, True, False, False, True, False]
    assert play(When(tt.NormClip(1.0), EveryNth(1)), [4.0] * 2) == [norm_factor(1.0, 4.0)] * 2


def test_norm_above_and_loss_above():
    clip = When(tt.NormClip(1.0), NormAbove(3.0))
    assert play(clip, [2.0, 3.0, 3.5]) == [1.0, 1.0, norm_factor(1.0, 3.5)]
    clip = When(tt.NormClip(1.0), LossAbove(3.0))
    got = [clip.rescale(stats_of(2.0, loss), clip.init(LAYOUT))[0].factor.item() for loss in (2.0, 3.0, 3.5)]
    assert got == [1.0, 1.0, norm_factor(1.0, 2.0)]


def test_a_clip_under_a_condition_learns_from_every_step():
    norms = [1.0, 2.0, 3.0, 4.0, 50.0]
    learning = tt.QuantileClip(percentile=50.0, min_history=1)
    assert play(When(learning, NormAbove(10.0)), norms)[-1] == play(learning, norms)[-1]
    assert play(When(learning, EveryNth(5)), norms)[-1] == play(learning, norms)[-1]


@pytest.mark.parametrize(
    "clip",
    [
        tt.NormClip(0.5),
        ValueClip(0.1, min_value=-0.2),
        LayerClip({"a": 0.25}),
        UnitClip(),
        ByName({"a": ValueClip(0.1)}, rest=tt.NormClip(0.1)),
        Grouped(tt.NormClip(0.1)),
        When(ValueClip(0.1), NormAbove(0.01)),
    ],
    ids=repr,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_condition_is_all_or_nothing_to_the_bit_for_every_kind_of_decision(clip, dtype):
    for loss in (2.0, 4.0):
        plain = torch.tensor([[0.3, -0.3], [1.0, 5.0]], dtype=dtype), torch.tensor(0.7, dtype=dtype)
        conditional, untouched = [tuple(g.clone() for g in plain) for _ in range(2)]
        act.rescale_grads_(plain, clip.rescale(stats_of(5.0), clip.init(LAYOUT))[0])
        decision, _ = When(clip, LossAbove(3.0)).rescale(
            stats_of(5.0, loss), When(clip, LossAbove(3.0)).init(LAYOUT)
        )
        act.rescale_grads_(conditional, decision)
        expected = plain if loss > 3.0 else untouched
        assert all(torch.equal(a, b) for a, b in zip(conditional, expected, strict=True))
        assert not torch.equal(plain[0], untouched[0])


def test_a_condition_within_groups_looks_at_each_group():
    clip = Grouped(When(tt.NormClip(1.0), NormAbove(3.0)))
    own = torch.tensor([2.0, 4.0])
    decision, _ = clip.rescale(StepStats(None, own.norm(), tensor_norms=own), clip.init(LAYOUT))
    assert decision.factor.tolist() == pytest.approx([1.0, 0.25], rel=1e-5)


def test_what_changes_nothing_is_said_with_bounds_of_infinity():
    decision, _ = When(ValueClip(1.0), LossAbove(3.0)).rescale(
        stats_of(1.0, 2.0), When(ValueClip(1.0), LossAbove(3.0)).init(LAYOUT)
    )
    assert isinstance(decision, Clamp)
    assert (decision.low.item(), decision.high.item()) == (-math.inf, math.inf)
    each, _ = When(UnitClip(exclude=("b",)), NormAbove(3.0)).rescale(
        stats_of(1.0), When(UnitClip(exclude=("b",)), NormAbove(3.0)).init(LAYOUT)
    )
    assert isinstance(each, Each)
    assert each.parts[1] is None
    assert isinstance(each.parts[0], Scale)
    assert each.parts[0].factor.tolist() == [[1.0], [1.0]]


def test_a_condition_on_a_loss_that_nobody_gave_says_so():
    clip = When(tt.NormClip(1.0), LossAbove(3.0))
    with pytest.raises(ValueError, match=r"LossAbove\(threshold=3.0\) has no loss.*guard.step\(loss\)"):
        clip.rescale(StepStats(None, torch.tensor(1.0)), clip.init(LAYOUT))


def test_a_skipped_step_is_not_counted():
    torch.manual_seed(0)
    model = nn.Linear(2, 1)
    guard = tt.Guard(
        model, torch.optim.SGD(model.parameters(), lr=0.01), clip=AfterWarmup(tt.NormClip(1e-3), 2)
    )
    factors = []
    for bad in (False, True, True, False, False, False):
        guard.optimizer.zero_grad()
        loss = model(torch.full((1, 2), math.nan if bad else 1.0)).sum()
        loss.backward()
        factors.append(guard.step(loss).clip_factor)
    assert [factor < 1.0 for factor in factors] == [False] * 4 + [True] * 2


@pytest.mark.parametrize("wrapper", [AfterWarmup, First])
def test_wrong_arguments_are_refused(wrapper):
    other = "before" if wrapper is AfterWarmup else "then"
    for steps in (0, -1, 2.5, True, None):
        with pytest.raises(ValueError, match=rf"{wrapper.__name__}\(steps=.*whole number >= 1"):
            wrapper(tt.NormClip(1.0), steps)
    with pytest.raises(TypeError, match=rf"{wrapper.__name__}\(clip=None\)"):
        wrapper(None, 1)
    with pytest.raises(TypeError, match=rf"{wrapper.__name__}\({other}=NormClip\).*Did you mean"):
        wrapper(tt.NormClip(1.0), 1, **{other: tt.NormClip})
    with pytest.raises(ValueError, match=r"same norm_type, got 2.0, 1.0"):
        wrapper(tt.NormClip(1.0), 1, **{other: tt.NormClip(1.0, norm_type=1)})


def test_conditions_are_told_apart_from_clips():
    with pytest.raises(TypeError, match=r"When\(clip=NormAbove"):
        When(NormAbove(1.0), NormAbove(1.0))
    with pytest.raises(TypeError, match=r"When\(condition=NormClip\(.*such as NormAbove"):
        When(tt.NormClip(1.0), tt.NormClip(1.0))
    with pytest.raises(TypeError, match=r"Did you mean EveryNth\(\)"):
        When(tt.NormClip(1.0), EveryNth)


@pytest.mark.parametrize(
    ("condition", "value"),
    [(NormAbove, 0.0), (NormAbove, math.inf), (LossAbove, math.nan), (EveryNth, 0), (EveryNth, 1.5)],
)
def test_wrong_conditions_are_refused(condition, value):
    with pytest.raises(ValueError, match=rf"{condition.__name__}\((threshold|steps)={value}"):
        condition(value)
