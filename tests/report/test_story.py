from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.record import FaultEvent, RunLog
from trimtab.report import ClippingEpisode, FaultEpisode, episodes, sentence
from trimtab.types import Action, Culprit, Kind, Place

NAN, INF = float("nan"), float("inf")


def log_with(num_steps, *events):
    log = RunLog.from_arrays(loss=np.ones(num_steps))
    return dataclasses.replace(log, faults=tuple(sorted(events, key=lambda event: event.step)))


def gradient_fault(
    step, names=("a",), kind=Kind.NAN, action=Action.SKIP, threshold=None, place=Place.GRADIENT
):
    counts = {Kind.NAN: (3, 0, 0), Kind.INF: (0, 3, 0), Kind.OVERFLOW: (0, 0, 3)}[kind]
    culprits = tuple(Culprit(name, place, (4, 2), *counts, (0, 0), 1.0) for name in names)
    return FaultEvent(step, kind, place, action, "why", threshold, culprits)


def tell(log):
    return [sentence(episode) for episode in episodes(log)]


def test_the_fabricated_run_in_words(eventful):
    told = tell(eventful)
    assert told[0] == (
        "7 steps between 23 and 270: the gradient of head.weight<script>alert(1)</script> became "
        "infinite (1 of 8 elements); the updates were skipped."
    )
    assert told[1].startswith("Steps 120-139: gradients were clipped far more strongly than before")
    assert "the largest layer blocks.6.weight (500)" in told[1]
    assert told[1].endswith("the learning rate was 0.01, against 0.001 around.")
    assert told[2] == (
        "Steps 212-214: gradients of all 26 parameters became NaN (first: embed.weight, 512 of 8192 "
        "elements); the loss was NaN as well; the updates were skipped."
    )
    assert len(told) == 3


def test_one_step_and_one_parameter():
    assert tell(log_with(9, gradient_fault(4))) == [
        "Step 4: the gradient of a became NaN (3 of 8 elements); the update was skipped."
    ]


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (
            gradient_fault(1, kind=Kind.OVERFLOW, threshold=65504.0, action=Action.APPLY),
            "Step 1: the gradient of a grew beyond 65504 (3 of 8 elements); "
            "the update was applied all the same.",
        ),
        (
            gradient_fault(1, place=Place.PARAMETER, action=Action.RAISE, names=("a", "b")),
            "Step 1: 2 parameters became NaN (first: a, 3 of 8 elements); the training was stopped.",
        ),
        (
            gradient_fault(1, place=Place.OPTIMIZER_STATE),
            "Step 1: the optimizer state a became NaN (3 of 8 elements); the update was skipped.",
        ),
        (
            FaultEvent(1, Kind.INF, Place.LOSS, Action.SKIP),
            "Step 1: the loss was infinite; the update was skipped.",
        ),
        (
            FaultEvent(1, Kind.NAN, Place.GRADIENT, Action.SKIP),
            "Step 1: the gradient became NaN; the update was skipped.",
        ),
    ],
)
def test_other_places_kinds_and_actions(event, text):
    assert tell(log_with(3, event)) == [text]


def test_another_nature_is_another_episode():
    found = episodes(log_with(9, gradient_fault(2), gradient_fault(3), gradient_fault(4, kind=Kind.INF)))
    assert [(e.first, e.last, e.num_steps) for e in found] == [(2, 3, 2), (4, 4, 1)]


def test_scattered_steps_are_grouped_and_long_runs_are_not():
    scattered = [gradient_fault(step) for step in (3, 20, 21, 50)]
    long = [gradient_fault(step) for step in range(30, 40)]
    found = episodes(log_with(90, *scattered, *long))
    assert [(e.first, e.last, e.num_steps, e.is_scattered) for e in found] == [
        (3, 50, 4, True),
        (30, 39, 10, False),
    ]
    assert len(episodes(log_with(90, gradient_fault(3), gradient_fault(50)))) == 2


def test_steps_that_were_not_recorded_do_not_tear_an_episode():
    log = RunLog.from_arrays(step=[0, 10, 20, 30], loss=[1.0, NAN, NAN, 1.0])
    assert tell(log) == ["Steps 10-20: the loss was NaN; the updates were applied all the same."]


def test_facts_of_an_episode():
    few = gradient_fault(5, names=("a", "b", "c", "d"))
    more = gradient_fault(6, names=("a", "e"))
    (episode,) = episodes(log_with(9, few, more))
    assert isinstance(episode, FaultEpisode)
    assert episode.num_culprits == (5,)
    assert [culprit.name for culprit in episode.named] == ["a", "b", "c"]
    assert episode.reason == "why"
    assert episode.worst is not None


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_every_faulty_step_is_in_exactly_one_episode(data):
    steps = data.draw(st.sets(st.integers(0, 60)))
    kinds = {step: data.draw(st.sampled_from([Kind.NAN, Kind.INF])) for step in steps}
    found = episodes(log_with(61, *(gradient_fault(step, kind=kinds[step]) for step in steps)))
    assert sum(episode.num_steps for episode in found) == len(steps)
    for episode in found:
        assert sentence(episode).endswith(".")


def clipped(norm, max_norm=1.0):
    norm = np.asarray(norm)
    return RunLog.from_arrays(grad_norm=norm, clip_factor=np.minimum(1.0, max_norm / norm))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("level", [0.1, 1.0, 50.0])
def test_healthy_noise_and_the_start_of_training_are_no_burst(seed, level):
    rng = np.random.default_rng(seed)
    step = np.arange(3000)
    norm = level * (1 + 30 * np.exp(-step / 10)) * np.exp(rng.normal(0, 0.5, 3000))
    assert episodes(clipped(norm)) == ()


def test_heavy_tails_are_no_burst():
    rng = np.random.default_rng(0)
    assert episodes(clipped(np.abs(rng.standard_t(3, 20_000)) + 0.3)) == ()


def test_a_slow_drift_is_no_burst():
    assert episodes(clipped(np.geomspace(0.1, 1000.0, 4000))) == ()


@pytest.mark.parametrize("first", [40, 150, 500, 970])
def test_a_burst_is_found_where_it_is(first):
    rng = np.random.default_rng(first)
    norm = np.exp(rng.normal(0.7, 0.2, 1000))
    norm[first : first + 20] *= 40.0
    (episode,) = episodes(clipped(norm))
    assert isinstance(episode, ClippingEpisode)
    assert (episode.first, episode.last, episode.num_steps) == (first, first + 19, 20)
    assert episode.largest_norm == norm.max()
    assert episode.usual_factor == pytest.approx(0.5, rel=0.3)


def test_a_single_huge_spike_is_told_and_a_weak_one_is_not():
    norm = np.ones(300)
    norm[200] = 100.0
    assert tell(clipped(norm)) == [
        "Step 200: gradients were clipped far more strongly than before, down to 0.01 of their "
        "length (before: 1); the largest norm was 100 (before: 1)."
    ]
    norm[200] = 10.0
    assert episodes(clipped(norm)) == ()


def test_nothing_to_tell():
    assert episodes(RunLog.from_arrays(loss=[])) == ()
    assert episodes(RunLog.from_arrays(loss=[1.0, 2.0])) == ()
