from __future__ import annotations

import dataclasses
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.record import FaultEvent, RunLog
from trimtab.report import ClippingEpisode, FaultEpisode, LearningRateEpisode, episodes, sentence
from trimtab.report.rates import learning_rate_episodes
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


def rated(lr, **more):
    return RunLog.from_arrays(lr=np.asarray(lr, dtype=np.float64), **more)


def raised(first, num, factor=15.0, num_steps=400):
    lr = np.full(num_steps, 1e-3)
    lr[first : first + num] *= factor
    return lr


def test_a_short_stretch_with_a_large_learning_rate_is_told():
    loss = np.ones(400)
    loss[202], loss[210], loss[203] = 2.0, 3.5, NAN
    told = tell(rated(raised(200, 5), loss=loss))
    assert told[0] == (
        "Steps 200-204: the learning rate was 0.015, against 0.001 before and after; the loss went "
        "from 1 to 3.5 at worst."
    )
    assert tell(rated(raised(200, 1))) == [
        "Step 200: the learning rate was 0.015, against 0.001 before and after."
    ]
    lr = raised(200, 50)
    lr[250:] = 5e-4
    (text,) = tell(rated(lr, loss=np.linspace(2.0, 1.0, 400)))
    assert text.startswith(
        "Steps 200-249: the learning rate was 0.015, against 0.001 before and 0.0005 after"
    )
    assert text.endswith("the loss did not rise (before: 1.53).")


def test_gaps_and_the_order_of_the_levels_do_not_hide_a_stretch():
    lr = raised(200, 5)
    lr[205:] = 4e-3
    (episode,) = episodes(rated(lr))
    assert isinstance(episode, LearningRateEpisode)
    assert (episode.lr_before, episode.lr_after) == (1e-3, 4e-3)
    lr = raised(200, 5)
    lr[[50, 202, 300]] = NAN
    assert [(e.first, e.last) for e in episodes(rated([None if np.isnan(x) else x for x in lr]))] == [
        (200, 204)
    ]


def warm_restarts(period, low):
    place = np.arange(2000) % period
    return low + (1 - low) * (1 + np.cos(np.pi * place / period)) / 2


def one_cycle(num):
    up = np.linspace(0.04, 1.0, num // 3)
    return np.concatenate((up, (1 + np.cos(np.linspace(0, np.pi, num - len(up)))) / 2 + 1e-6))


STEP = np.arange(2000)
SCHEDULES = {
    **{f"restarts {p} {low}": warm_restarts(p, low) for p in (8, 20, 40, 49, 100) for low in (0, 1e-5, 0.05)},
    **{f"one cycle {num}": one_cycle(num) for num in (12, 40, 100, 1000)},
    "warm-up": np.minimum(1.0, STEP / 10),
    "constant warm-up": np.where(STEP < 20, 0.1, 1.0),
    "warm-up, then a fall": np.where((STEP < 5) | (STEP >= 40), 0.1, 1.0),
    "step decay": 0.1 ** (STEP // 30).clip(max=20),
    "exponential": 0.99**STEP,
    "cyclic": 0.01 + np.abs((STEP % 400) / 200 - 1),
    "long square": np.where(STEP // 100 % 2 == 0, 0.1, 1.0),
    "short square": np.where(STEP // 20 % 2 == 0, 0.1, 1.0),
    "alternating": np.where(STEP % 2 == 0, 0.1, 1.0),
    "zeros": np.where(STEP % 100 == 0, 1.0, 0.0),
    "too weak": raised(200, 5, 2.9),
    "too long": raised(200, 51),
    "to the end": raised(395, 5),
    "from the start": raised(0, 5),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_are_no_accident(name):
    assert episodes(rated(SCHEDULES[name])) == ()


def test_clipping_that_tells_the_learning_rate_is_told_alone():
    norm = np.exp(np.random.default_rng(0).normal(0.7, 0.2, 400))
    norm[201:206] *= 40.0
    both = RunLog.from_arrays(grad_norm=norm, clip_factor=np.minimum(1.0, 1 / norm), lr=raised(200, 5))
    (text,) = tell(both)
    assert "clipped far more strongly" in text
    assert "the learning rate was 0.015, against 0.001 around" in text
    apart = dataclasses.replace(both, lr=raised(300, 5))
    assert len(tell(apart)) == 2


def test_a_million_rows_of_a_wild_learning_rate_are_quick():
    rates = np.random.default_rng(0).lognormal(size=1_000_000, sigma=3.0)
    log = rated(rates)
    start = time.process_time()
    assert learning_rate_episodes(log) == []
    assert time.process_time() - start < 1.0


def test_spikes_in_words():
    loss = FaultEvent(3, Kind.SPIKE, Place.LOSS, Action.SKIP, "why", 4.5)
    norm = FaultEvent(3, Kind.SPIKE, Place.GRADIENT, Action.SKIP, "why", 70.25)
    assert tell(log_with(9, norm, loss)) == [
        "Step 3: the norm of the gradients spiked above 70.2; the loss spiked above 4.5 as well; "
        "the update was skipped."
    ]
    later = dataclasses.replace(loss, step=4, threshold=3.5)
    assert tell(log_with(9, loss, later)) == [
        "Steps 3-4: the loss spiked above 3.5; the updates were skipped."
    ]


def test_nothing_to_tell():
    assert episodes(RunLog.from_arrays(loss=[])) == ()
    assert episodes(RunLog.from_arrays(loss=[1.0, 2.0])) == ()
