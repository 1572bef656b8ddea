from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import autoclip, zclip
from torch import nn

import trimtab as tt
from trimtab.types import Layout, StepStats

EPS = 1e-6
CPU = Layout(torch.device("cpu"))
CLIPS = [
    tt.QuantileClip(),
    tt.QuantileClip(percentile=50.0, history=5, min_history=2, initial=1.0),
    tt.MeanClip(),
    tt.MeanClip(factor=1.5, window=3, initial=4.0),
    tt.EmaClip(),
    tt.EmaClip(alpha=0.5, factor=1.2, min_threshold=1e-3),
    tt.ZScoreClip(),
    tt.ZScoreClip(warmup=3, mode="mean", max_norm=None),
    tt.ZScoreClip(warmup=3, mode="percentile", max_norm=5.0),
]
_RNG = np.random.default_rng(0)
LEVEL_SHIFT = [*_RNG.uniform(0.8, 1.2, 100).tolist(), *_RNG.uniform(8, 12, 400).tolist()]
SEQUENCES = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=60)


def play(clip, norms, state=None):
    """Factors and final state."""
    state = clip.init(CPU) if state is None else state
    factors = []
    for norm in norms:
        scale, state = clip.rescale(StepStats(None, torch.tensor(norm, dtype=torch.float64)), state)
        factors.append(scale.factor.item())
    return factors, state


def factor(threshold: float, norm: float) -> float:
    return min(1.0, threshold / (norm + EPS))


@given(norms=SEQUENCES)
@settings(max_examples=60, deadline=None)
def test_quantile_clip_is_autoclip_over_the_norms_before(norms):
    clip = tt.QuantileClip(percentile=30.0, history=100, min_history=1, initial=7.0)
    got, _ = play(clip, norms)
    expected = [7.0, *autoclip(norms, 30.0)[:-1]]  # its threshold of the step before
    assert got == pytest.approx([factor(t, n) for t, n in zip(expected, norms, strict=True)], rel=1e-9)


@given(norms=SEQUENCES)
@settings(max_examples=60, deadline=None)
def test_mean_clip_equals_its_rule(norms):
    clip = tt.MeanClip(factor=2.0, window=3, initial=0.5)
    got, _ = play(clip, norms)
    accepted: list[float] = []
    for n, f in zip(norms, got, strict=True):
        threshold = 2.0 * float(np.mean(accepted[-3:])) if len(accepted) >= 3 else 0.5
        assert f == pytest.approx(factor(threshold, n), rel=1e-9)
        accepted.append(min(n, threshold) if len(accepted) >= 3 else n)


@given(norms=SEQUENCES)
@settings(max_examples=60, deadline=None)
def test_ema_clip_equals_its_rule(norms):
    got, _ = play(tt.EmaClip(alpha=0.9, factor=2.0, min_threshold=0.1), norms)
    total = weights = 0.0
    for n, f in zip(norms, got, strict=True):
        threshold = max(0.1, 2.0 * total / weights) if weights else math.inf
        assert f == pytest.approx(factor(threshold, n), rel=1e-9)
        # the plain weighted mean that a bias-corrected average is
        total, weights = 0.9 * total + 0.1 * min(n, threshold), 0.9 * weights + 0.1


@given(
    norms=st.lists(st.floats(1e-2, 1e2), min_size=1, max_size=60),
    mode=st.sampled_from(["adaptive", "mean", "percentile"]),
    cap=st.sampled_from([None, 1.0, 20.0]),
)
@settings(max_examples=150, deadline=None)
def test_z_score_clip_is_zclip(norms, mode, cap):
    arguments = {"z": 2.5, "alpha": 0.97, "warmup": 5, "mode": mode}
    clip = tt.ZScoreClip(**arguments, clip_factor=1.0, max_norm=cap, rebaseline_steps=10**6)
    got, _ = play(clip, norms)
    expected = zclip(norms, **arguments, factor=1.0, cap=cap)
    for f, threshold, n in zip(got, expected, norms, strict=True):
        assert f == pytest.approx(factor(threshold, n) if threshold < n else 1.0, rel=1e-6)


@given(norms=st.lists(st.floats(1e-8, 0.99), min_size=30, max_size=60))
@settings(max_examples=20, deadline=None)
def test_z_score_clip_leaves_what_is_no_outlier_alone_to_the_bit_and_zclip_does_not(norms):
    got, _ = play(tt.ZScoreClip(z=1e9), norms)
    assert got == [1.0] * len(norms)
    theirs = zclip(norms, z=1e9, alpha=0.97, warmup=25, mode="adaptive", factor=1.0, cap=1.0)
    assert factor(theirs[0], norms[0]) < 1.0
    assert factor(1e-6, 1e-6) == pytest.approx(0.5)  # what the published code makes of a norm of 1e-6


@pytest.mark.parametrize("clip", CLIPS, ids=repr)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@given(norms=SEQUENCES, position=st.integers(0, 60))
@settings(max_examples=25, deadline=None)
def test_one_bad_norm_leaves_every_later_decision_unchanged(clip, bad, norms, position):
    position = min(position, len(norms))
    clean, _ = play(clip, norms)
    poisoned, _ = play(clip, [*norms[:position], bad, *norms[position:]])
    assert poisoned[:position] + poisoned[position + 1 :] == clean
    assert not 0 < poisoned[position] < math.inf  # and the bad step is never a clean one


def test_the_published_rules_are_poisoned_by_one_bad_norm():
    norms = [1.0] * 30 + [math.nan] + [1.0] * 30 + [100.0]
    assert math.isnan(autoclip(norms, 50.0)[-1])
    # nan > z is false: it never clips again
    assert zclip(norms, z=2.5, alpha=0.97, warmup=25, mode="mean", factor=1.0, cap=None)[-1] == 100.0


def test_the_adaptive_threshold_falls_as_the_spike_grows_and_the_percentile_one_does_not():
    calm = np.random.default_rng(0).uniform(0.9, 1.1, 60).tolist()
    kept = {
        mode: [
            spike * play(tt.ZScoreClip(mode=mode, max_norm=None), [*calm, spike])[0][-1]
            for spike in (2.0, 8.0, 32.0)
        ]
        for mode in ("adaptive", "percentile")
    }
    assert kept["adaptive"][0] > kept["adaptive"][1] > kept["adaptive"][2]
    assert kept["percentile"] == pytest.approx([kept["percentile"][0]] * 3, rel=1e-4)


@pytest.mark.parametrize("clip", CLIPS, ids=repr)
def test_a_clip_follows_a_level_shift(clip):
    """Norms that become ten times larger for good are not clipped for ever (the fixed cap apart)."""
    if getattr(clip, "max_norm", None) is not None:
        clip = tt.ZScoreClip(warmup=clip.warmup, mode=clip.mode, max_norm=None)
    factors, _ = play(clip, LEVEL_SHIFT)
    assert np.median(factors[-50:]) > 0.7


@pytest.mark.parametrize("mode", ["adaptive", "mean"])
def test_the_published_zclip_clips_a_level_shift_for_ever(mode):
    thresholds = zclip(LEVEL_SHIFT, z=2.5, alpha=0.97, warmup=25, mode=mode, factor=1.0, cap=None)
    assert max(thresholds[-50:]) < 1.5 < 8.0 < min(LEVEL_SHIFT[-50:])


@pytest.mark.parametrize("clip", CLIPS, ids=repr)
@given(norms=SEQUENCES, at=st.integers(0, 60))
@settings(max_examples=20, deadline=None)
def test_resumed_equals_uninterrupted(clip, norms, at):
    straight, _ = play(clip, norms)
    first, state = play(clip, norms[:at])
    stored = io.BytesIO()
    torch.save(list(state), stored)
    stored.seek(0)
    resumed = type(state)(*torch.load(stored, weights_only=True))
    second, _ = play(clip, norms[at:], resumed)
    assert first + second == straight


@pytest.mark.parametrize("clip", CLIPS, ids=repr)
def test_state_survives_the_guards_state_dict(clip):
    def build():
        torch.manual_seed(0)
        model = nn.Linear(3, 1)
        return model, tt.Guard(model, torch.optim.SGD(model.parameters(), lr=0.01), clip=clip)

    def play_guard(model, guard, steps):
        factors = []
        for step in steps:
            x = torch.randn(4, 3, generator=torch.Generator().manual_seed(step)) * (
                10.0 if step % 7 == 6 else 1.0
            )
            if step == 4:
                x[0, 0] = math.nan
            guard.optimizer.zero_grad()
            loss = model(x).square().mean()
            loss.backward()
            factors.append(guard.step(loss).clip_factor)
        return factors

    model, guard = build()
    straight = play_guard(model, guard, range(20))
    model, guard = build()
    first = play_guard(model, guard, range(9))
    stored = io.BytesIO()
    torch.save([model.state_dict(), guard.state_dict()], stored)
    stored.seek(0)
    model_state, guard_state = torch.load(stored, weights_only=True)
    model, guard = build()
    model.load_state_dict(model_state)
    guard.load_state_dict(guard_state)
    assert first + play_guard(model, guard, range(9, 20)) == straight
