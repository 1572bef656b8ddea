"""Remedies that mend, rewind, retry and escalate: which decision they make, and when they give up."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import trimtab as tt
from trimtab.decide import pack, severity, unpack
from trimtab.types import (
    Action,
    Back,
    Culprit,
    Fault,
    Kind,
    Place,
    Replace,
    RescaleTensors,
    StepStats,
    ZeroTensors,
)

STATS = StepStats(loss=2.0, grad_norm=float("nan"))


def fault(kind=Kind.NAN, place=Place.GRADIENT, num=1, of=100):
    bad = {"num_nan": 0, "num_inf": 0, "num_overflow": 0}
    bad[{Kind.NAN: "num_nan", Kind.INF: "num_inf"}.get(kind, "num_overflow")] = num
    culprit = Culprit("w", place, (of,), **bad, first_bad_index=(0,), largest=1.0)
    return Fault(kind, place, (culprit,))


SPIKE = Fault(Kind.SPIKE, Place.GRADIENT, threshold=3.0)


def play(remedy, steps, state=None):
    """Decisions for a list of fault tuples."""
    state = remedy.init() if state is None else state
    decisions = []
    for faults in steps:
        decision, state = remedy.decide(faults, STATS, state)
        decisions.append(decision)
    return decisions, state


def actions(remedy, steps):
    return [decision.action.value for decision in play(remedy, steps)[0]]


BAD, GOOD = (fault(),), ()


@pytest.mark.parametrize("remedy", [tt.ZeroBad(budget=2), tt.ReplaceBad(budget=2), tt.RescaleBad(budget=2)])
def test_a_mending_remedy_mends_while_its_budget_lasts_and_a_healthy_step_refills_it(remedy):
    assert actions(remedy, [BAD, BAD, GOOD, BAD, BAD, BAD]) == [
        *("mend", "mend", "apply", "mend", "mend", "raise")
    ]


def test_what_each_mending_remedy_writes():
    def mend(remedy):
        return play(remedy, [BAD])[0][0].mends

    assert mend(tt.ZeroBad()) == ((Place.GRADIENT, Replace(nan=0.0, inf=0.0, overflow=0.0)),)
    assert mend(tt.ZeroBad(scope="tensors")) == ((Place.GRADIENT, ZeroTensors()),)
    assert mend(tt.ReplaceBad(nan=1.0, inf=5.0, overflow=4.0)) == ((Place.GRADIENT, Replace(1.0, 5.0, 4.0)),)
    assert mend(tt.RescaleBad()) == ((Place.GRADIENT, RescaleTensors()),)


@pytest.mark.parametrize("place", [Place.PARAMETER, Place.BUFFER, Place.OPTIMIZER_STATE])
def test_gradients_are_not_mended_while_the_fault_lies_deeper(place):
    (decision,), _ = play(tt.ZeroBad(), [(fault(), fault(place=place))])
    assert decision.action is Action.RAISE
    assert place.value in decision.reason


def test_a_spike_has_nothing_to_zero_but_can_be_scaled():
    assert actions(tt.ZeroBad(), [(SPIKE,)]) == ["apply"]
    assert actions(tt.RescaleBad(), [(SPIKE,)]) == ["mend"]


def test_rescaling_says_how_many_elements_it_had_to_zero():
    (decision,), _ = play(tt.RescaleBad(), [(fault(num=3), fault(Kind.INF, num=2))])
    assert "5 non-finite elements set to 0" in decision.reason


def test_rewinds_go_further_back_each_time_until_calm():
    remedy = tt.Rewind(budget=2, calm_steps=3)
    decisions, _ = play(remedy, [BAD, GOOD, BAD, GOOD, GOOD, GOOD, BAD, BAD, BAD])
    assert [d.back for d in decisions if d.back] == [Back(1), Back(2), Back(1), Back(2)]
    assert decisions[-1].action is Action.RAISE
    assert "rewound 2 times within 3 healthy steps" in decisions[-1].reason


def test_a_retry_says_what_to_do_when_it_fails():
    decisions, _ = play(tt.Retry(tt.Skip(budget=1)), [BAD, BAD, GOOD])
    assert [d.action for d in decisions] == [Action.RETRY, Action.RETRY, Action.APPLY]
    assert [d.otherwise.action for d in decisions[:2]] == [Action.SKIP, Action.RAISE]


def test_each_place_has_its_remedy_and_the_severest_decision_wins():
    remedy = tt.PerPlace(loss=tt.Observe(), gradient=tt.ZeroBad(), parameter=tt.Raise())
    loss, parameter = fault(place=Place.LOSS), fault(place=Place.PARAMETER)
    assert actions(remedy, [(fault(),), (loss,), (loss, fault()), (fault(), parameter)]) == [
        *("mend", "apply", "mend", "raise")
    ]


def test_a_mending_remedy_for_parameters_mends_parameters():
    remedy = tt.PerPlace(gradient=tt.ZeroBad(), parameter=tt.ReplaceBad(nan=0.5), loss=tt.ZeroBad())
    (decision,), _ = play(remedy, [(fault(), fault(place=Place.PARAMETER), fault(place=Place.LOSS))])
    assert decision.mends == (
        (Place.GRADIENT, Replace(0.0, 0.0, 0.0)),
        (Place.PARAMETER, Replace(0.5, 1e6, 1e6)),
    )


def test_severity():
    assert severity([SPIKE]) == severity([fault(num=1, of=100)]) == 0
    assert severity([fault(num=2, of=100)]) == severity([fault(place=Place.LOSS)]) == 1
    assert severity([fault(), fault(place=Place.PARAMETER)]) == 2
    # one tensor that is bad in two ways counts once
    twice = replace(fault(num=1).culprits[0], num_inf=0)
    assert (
        severity([Fault(Kind.NAN, Place.GRADIENT, (twice,)), Fault(Kind.INF, Place.GRADIENT, (twice,))]) == 0
    )


LADDER = tt.Escalate((tt.ZeroBad(budget=2), tt.Skip(budget=1), tt.Rewind(budget=1)), calm_steps=3)


def test_a_rung_that_is_used_up_passes_on_and_the_last_one_raises():
    decisions, _ = play(LADDER, [BAD] * 5)
    assert [d.action.value for d in decisions] == ["mend", "mend", "skip", "rewind", "raise"]
    assert all(name in decisions[-1].reason for name in ("ZeroBad", "Skip", "Rewind", "used up"))
    assert decisions[2].reason.startswith("rung 2 of 3")


def test_graver_faults_start_higher():
    assert actions(LADDER, [(fault(place=Place.LOSS), fault())]) == ["skip"]
    assert actions(LADDER, [(fault(place=Place.PARAMETER),)]) == ["rewind"]


def test_calm_steps_refill_all_rungs_and_fewer_do_not():
    assert actions(LADDER, [BAD, BAD, GOOD, GOOD, BAD])[-1] == "skip"
    assert actions(LADDER, [BAD, BAD, GOOD, GOOD, GOOD, BAD])[-1] == "mend"


@given(st.lists(st.sampled_from([GOOD, BAD, (SPIKE,), (fault(place=Place.LOSS),)]), max_size=30), st.data())
def test_resumed_equals_uninterrupted(steps, data):
    remedy = tt.Escalate((tt.RescaleBad(1), tt.Retry(tt.Skip(2)), tt.Rewind(budget=2)), calm_steps=2)
    cut = data.draw(st.integers(0, len(steps)))
    whole, end = play(remedy, steps)
    first, state = play(remedy, steps[:cut])
    file = io.BytesIO()
    torch.save(pack(state), file)
    file.seek(0)
    second, resumed_end = play(
        remedy, steps[cut:], unpack(torch.load(file, weights_only=True), remedy.init())
    )
    assert first + second == whole
    assert resumed_end == end


@given(st.lists(st.booleans(), max_size=60))
def test_a_ladder_never_applies_a_step_that_is_not_mended(bad):
    decisions, _ = play(LADDER, [BAD if is_bad else GOOD for is_bad in bad])
    for decision, is_bad in zip(decisions, bad, strict=True):
        assert (decision.action is Action.APPLY) == (not is_bad)


@pytest.mark.parametrize(
    "make", [lambda: tt.Retry(1), lambda: tt.PerPlace(loss=tt.Skip), lambda: tt.Escalate((tt.Skip(), 3))]
)
def test_what_is_no_remedy_is_refused(make):
    with pytest.raises(TypeError, match=r"expected (a )?remed"):
        make()


def test_a_cool_down_returns_by_itself():
    factors = [tt.CoolDown(factor=0.1, steps=4).factor_of(left) for left in range(4, -1, -1)]
    assert factors == pytest.approx([0.1, 0.1**0.75, 0.1**0.5, 0.1**0.25, 1.0])


def watch(detector, stats):
    state, said = detector.init(), []
    for one in stats:
        faults, state = detector.detect(one, state)
        said.append(len(faults))
    return said


def test_steady_clipping_is_said_once_and_again_after_it_has_passed():
    hard, soft = (StepStats(1.0, 9.0, clip_factor=factor) for factor in (0.05, 0.8))
    said = watch(tt.SteadyClipping(share=0.75, window=4), [hard] * 8 + [soft] * 4 + [hard] * 4)
    assert [index for index, num in enumerate(said) if num] == [2, 14]
    assert not any(watch(tt.SteadyClipping(window=4), [soft] * 50))
    nan = StepStats(1.0, float("nan"), clip_factor=float("nan"))
    assert not any(watch(tt.SteadyClipping(window=4), [hard, hard, hard, nan, nan]))


def test_underflow_is_a_rise_not_a_level():
    def looks(*shares):
        return [StepStats(1.0, 1.0, underflow=share) for share in shares]

    assert not any(watch(tt.Underflow(), looks(*[0.95] * 30)))  # an embedding is mostly zero
    said = watch(tt.Underflow(), looks(*[0.2] * 5, 0.5, 0.65, 0.9, 0.3, 0.7))
    assert [index for index, num in enumerate(said) if num] == [6, 9]
    assert not any(watch(tt.Underflow(), [StepStats(1.0, 1.0)] * 20))


# Ladders with a second try, and without a snapshot

AGAIN = tt.Escalate((tt.Retry(tt.ZeroBad(budget=1)), tt.Skip(budget=1)))


def test_a_rung_that_retries_is_used_up_like_any_other():
    decisions, _ = play(AGAIN, [BAD] * 3)
    assert [d.action for d in decisions] == [Action.RETRY] * 3
    assert [d.otherwise.action.value for d in decisions] == ["mend", "skip", "raise"]
    assert decisions[1].otherwise.reason.startswith("rung 2 of 2")
    assert "every rung is used up" in decisions[2].otherwise.reason


def test_of_two_rungs_the_second_one_is_for_a_bad_loss():
    assert actions(tt.Escalate(), [(fault(place=Place.LOSS), fault(num=100))]) == ["skip"]
    assert actions(tt.Escalate(), [BAD]) == ["mend"]


def test_a_rung_that_rewinds_says_what_to_do_without_a_snapshot():
    ladder = tt.Escalate((tt.Rewind(budget=2), tt.Skip(budget=1), tt.Rewind(budget=1)))
    decisions, _ = play(ladder, [BAD] * 2)
    assert [d.action for d in decisions] == [Action.REWIND] * 2
    assert decisions[0].otherwise.reason == "rung 2 of 3: 1 of 1 faulty steps in a row"
    assert decisions[1].otherwise == decisions[0].otherwise  # nothing was spent of that rung
    (last,), _ = play(ladder, [(fault(place=Place.PARAMETER),)])
    assert (last.action, last.otherwise) == (Action.REWIND, None)


def test_a_second_try_is_for_all_places_and_each_has_its_say_after_it():
    remedy = tt.PerPlace(
        loss=tt.Retry(tt.Observe()), gradient=tt.ZeroBad(), parameter=tt.Retry(tt.ReplaceBad(nan=0.5))
    )
    every = tuple(fault(place=place) for place in (Place.PARAMETER, Place.LOSS, Place.GRADIENT))
    (decision,), _ = play(remedy, [every])
    assert decision.action is Action.RETRY
    assert decision.otherwise.action is Action.MEND
    assert [(place, mend.nan) for place, mend in decision.otherwise.mends] == [
        (Place.GRADIENT, 0.0),
        (Place.PARAMETER, 0.5),
    ]
