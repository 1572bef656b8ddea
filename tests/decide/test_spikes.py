from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import trimtab as tt
from trimtab.decide import pack, unpack
from trimtab.types import Action, Kind, Place, StepStats

DETECTORS = [
    tt.LossSpike(),
    tt.NormSpike(),
    tt.LossSpike(tt.SpikeRule(z=4.0, ratio=1.5, window=20, min_history=5, delay=0, rebaseline_steps=30)),
    tt.NormSpike(tt.SpikeRule(window=10, min_history=4, delay=3, persistence=2, rebaseline_steps=5)),
]
VALUES = st.lists(st.floats(0.5, 40.0), min_size=1, max_size=80)


def calm(num: int, seed: int = 0) -> list[float]:
    return np.exp(np.random.default_rng(seed).normal(0.0, 0.1, num)).tolist()


def play(detector, values, state=None):
    """For each value the bound it broke, or None; and the final state."""
    state = detector.init() if state is None else state
    bounds = []
    for value in values:
        faults, state = detector.detect(StepStats(loss=value, grad_norm=value), state)
        bounds.append(faults[0].threshold if faults else None)
    return bounds, state


def reference(rule: tt.SpikeRule, values: list[float]) -> list[bool]:
    """The rule by list surgery: which values are spikes."""
    usual: list[float] = []
    waiting: list[float] = []
    outliers: list[float] = []
    found = []
    for value in values:
        logs = np.log(usual[-rule.window :])
        bound = math.inf
        if len(logs) >= rule.min_history:
            sigma = max(1.4826 * float(np.median(np.abs(logs - np.median(logs)))), 0.02)
            bound = math.exp(float(np.median(logs)) + max(rule.z * sigma, math.log(rule.ratio)))
        if value <= bound:
            waiting.append(value)
            outliers = []
            while len(waiting) > rule.delay:
                usual.append(waiting.pop(0))
            found.append(False)
            continue
        outliers.append(value)
        is_new_level = len(outliers) == rule.rebaseline_steps
        found.append(len(outliers) >= rule.persistence and not is_new_level)
        if is_new_level:
            usual, waiting, outliers = outliers, [], []
    return found


@pytest.mark.parametrize("detector", DETECTORS, ids=repr)
@given(values=VALUES)
@settings(max_examples=60, deadline=None)
def test_spikes_are_those_of_the_rule(detector, values):
    got, _ = play(detector, values)
    assert [bound is not None for bound in got] == reference(detector.rule, values)


@pytest.mark.parametrize("detector", DETECTORS[:2], ids=repr)
def test_the_kth_equal_spike_scores_as_the_first(detector):
    values = calm(100)
    for _ in range(6):
        values += [30.0, *calm(5, seed=1)]
    bounds, _ = play(detector, values)
    broken = [bound for value, bound in zip(values, bounds, strict=True) if value == 30.0]
    assert None not in broken
    assert max(broken) < 1.2 * min(broken)


@pytest.mark.parametrize("detector", DETECTORS, ids=repr)
@pytest.mark.parametrize("bad", [math.nan, math.inf, 0.0, -3.0])
@given(values=VALUES, position=st.integers(0, 80))
@settings(max_examples=20, deadline=None)
def test_one_bad_value_leaves_every_later_decision_unchanged(detector, bad, values, position):
    position = min(position, len(values))
    clean, state = play(detector, values)
    poisoned, other = play(detector, [*values[:position], bad, *values[position:]])
    assert poisoned[:position] + poisoned[position + 1 :] == clean
    assert poisoned[position] is None
    assert state == other


@pytest.mark.parametrize("detector", DETECTORS, ids=repr)
@given(values=VALUES, at=st.integers(0, 80))
@settings(max_examples=20, deadline=None)
def test_resumed_equals_uninterrupted(detector, values, at):
    straight, end = play(detector, values)
    first, state = play(detector, values[:at])
    stored = io.BytesIO()
    torch.save(pack(state), stored)
    stored.seek(0)
    resumed = unpack(torch.load(stored, weights_only=True), detector.init())
    second, other = play(detector, values[at:], resumed)
    assert first + second == straight
    assert other == end


def test_a_new_level_is_learned_within_the_budget_of_skip():
    detector = tt.NormSpike()
    values = [*calm(100), *(20.0 * x for x in calm(200))]
    bounds, _ = play(detector, values)
    flagged = [step for step, bound in enumerate(bounds) if bound is not None]
    assert flagged == list(range(100, 100 + detector.rule.rebaseline_steps - 1))
    assert len(flagged) < tt.Skip().budget


@pytest.mark.parametrize("seed", range(20))
def test_healthy_noise_and_decay_are_no_spikes(seed):
    rng = np.random.default_rng(seed)
    steps = np.arange(3000)
    losses = (0.5 + 3.0 * np.exp(-steps / 300)) * np.exp(rng.normal(0, 0.15, len(steps)))
    assert play(tt.LossSpike(), losses.tolist())[0] == [None] * len(steps)
    norms = (1.0 + 2.0 * np.exp(-steps / 100)) * np.exp(rng.normal(0, 0.25, len(steps)))
    assert play(tt.NormSpike(), norms.tolist())[0] == [None] * len(steps)


def test_persistence_waits_for_the_second_in_a_row():
    detector = tt.LossSpike(tt.SpikeRule(persistence=2))
    bounds, _ = play(detector, [*calm(60), 30.0, 1.0, 30.0, 30.0, 1.0])
    assert [bound is not None for bound in bounds[60:]] == [False, False, False, True, False]


def test_a_guard_skips_a_spike_and_says_so(tmp_path):
    torch.manual_seed(0)
    model = nn.Linear(2, 1)
    guard = tt.Guard(
        model,
        torch.optim.SGD(model.parameters(), lr=1e-3),
        detect=[tt.LossSpike(), tt.NormSpike()],
        record=tmp_path,
    )
    generator = torch.Generator().manual_seed(0)
    for step in range(120):
        x = torch.randn(64, 2, generator=generator) + 1.0
        guard.optimizer.zero_grad()
        loss = (model(x * (1000.0 if step == 100 else 1.0)) - 5.0).square().mean()
        loss.backward()
        before = model.weight.detach().clone()
        outcome = guard.step(loss)
        assert outcome.applied is (step != 100)
        if step == 100:
            assert model.weight.equal(before)
            assert outcome.action is Action.SKIP
            assert [(f.kind, f.place) for f in outcome.faults] == [
                (Kind.SPIKE, Place.LOSS),
                (Kind.SPIKE, Place.GRADIENT),
            ]
            assert outcome.culprits == ()
            assert outcome.stability_score == 1.0
            assert "spike in the loss (above " in outcome.describe()
    guard.close()
    log = tt.read(tmp_path)
    from trimtab.report.story import episodes, sentence

    (episode,) = episodes(log)
    assert sentence(episode).startswith("Step 100: the norm of the gradients spiked above ")
    log.plot_faults()
