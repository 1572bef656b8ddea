from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import adagc

from trimtab.decide.tensors import TensorClip
from trimtab.types import Layout, StepStats

CPU = torch.device("cpu")
NEVER = 10**6


def play(clip, norms, state=None):
    """The norm of each tensor after clipping in each step, and the final state."""
    if state is None:
        state = clip.init(Layout(CPU, names=tuple(f"p{i}" for i in range(len(norms[0])))))
    clipped = []
    for of_step in norms:
        own = torch.tensor(of_step, dtype=torch.float64)
        scale, state = clip.rescale(StepStats(None, own.norm(), tensor_norms=own), state)
        usable = torch.where(scale.factor > 0, scale.factor, 1.0)
        clipped.append((own * usable).tolist())
    return clipped, state


SEQUENCES = st.integers(1, 4).flatmap(
    lambda n: st.lists(st.lists(st.floats(1e-6, 1e6), min_size=n, max_size=n), min_size=1, max_size=40)
)


@given(
    norms=SEQUENCES,
    warmup=st.integers(2, 30),
    absolute=st.sampled_from([0.1, 1.0, 100.0]),
    relative=st.sampled_from([1.05, 2.0]),
)
@settings(max_examples=100, deadline=None)
def test_it_is_adagc_as_long_as_no_norm_stays_above(norms, warmup, absolute, relative):
    clip = TensorClip(max_norm=absolute, factor=relative, warmup=warmup, rebaseline_steps=NEVER)
    got, _ = play(clip, norms)
    expected = adagc(norms, absolute=absolute, relative=relative, warmup=warmup)
    np.testing.assert_allclose(got, expected, rtol=1e-9)


def test_the_defaults_are_the_published_ones():
    norms = np.random.default_rng(0).lognormal(0, 1, (300, 3)).tolist()
    got, _ = play(TensorClip(rebaseline_steps=NEVER), norms)
    np.testing.assert_allclose(got, adagc(norms), rtol=1e-9)


def test_the_first_norms_are_not_above_the_bound_and_the_others_not_above_their_level():
    norms = np.random.default_rng(1).lognormal(0, 1, (300, 3)).tolist()
    clip, state = TensorClip(), None
    for t, of_step in enumerate(norms, start=1):
        level = None if state is None else state.level
        [left], state = play(clip, [of_step], state)
        if t < 100:
            assert math.hypot(*left) <= 1.0
        else:
            assert all(
                n <= limit * (1 + 1e-12) for n, limit in zip(left, (1.05 * level).tolist(), strict=True)
            )


def test_a_zero_gradient_divides_nothing_where_the_published_rule_makes_nan():
    norms = [[0.5, 0.0]] * 120
    with np.errstate(invalid="ignore"):
        assert math.isnan(adagc(norms)[-1][1])
    got, state = play(TensorClip(), norms)
    assert np.isfinite(got).all()
    assert state.num.tolist() == [120, 0]
    more, _ = play(TensorClip(), [[0.5, 0.5]] * 150, state)
    assert more[-1] == [0.5, 0.5]


def test_a_tensor_that_comes_late_has_a_warmup_of_its_own():
    """The implementations that were read go by the global step, and leave its gamma as it happens to be."""
    norms = [[0.5, 0.0]] * 200 + [[0.5, 0.3]] * 200
    with np.errstate(invalid="ignore"):
        assert np.isnan(adagc(norms)[-1][1])
    got, state = play(TensorClip(), norms)
    assert got[-1] == [0.5, 0.3]
    assert state.level.tolist() == pytest.approx([0.5, 0.3])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@given(norms=SEQUENCES, position=st.integers(0, 40), tensor=st.integers(0, 3))
@settings(max_examples=30, deadline=None)
def test_one_bad_norm_leaves_every_later_decision_unchanged(bad, norms, position, tensor):
    clip = TensorClip(warmup=8, rebaseline_steps=5)
    position, tensor = min(position, len(norms)), min(tensor, len(norms[0]) - 1)
    odd = list(norms[0])
    odd[tensor] = bad
    clean, _ = play(clip, norms)
    poisoned, _ = play(clip, [*norms[:position], odd, *norms[position:]])
    assert poisoned[:position] + poisoned[position + 1 :] == clean
    assert not math.isfinite(poisoned[position][tensor])


def shifted(num_before=200, num_after=300, ratio=10.0):
    rng = np.random.default_rng(0)
    calm = rng.uniform(0.98, 1.02, num_before) * 0.5
    return [[n] for n in (*calm, *(rng.uniform(0.98, 1.02, num_after) * 0.5 * ratio))]


def test_a_level_shift_is_learned_and_with_the_published_rule_clipped_for_ever():
    norms = shifted()
    theirs, (ours, _) = adagc(norms), play(TensorClip(), norms)
    kept = [np.mean(np.array(left[-200:]) / np.array(norms[-200:])) for left in (theirs, ours)]
    assert kept[0] < 0.2
    assert kept[1] > 0.9
    assert max(n for [n] in ours[200:249]) < 0.6  # as long as it may be a burst it is held down


def test_a_published_level_needs_hundreds_of_steps_to_double():
    norms = [[0.5]] * 200 + [[50.0]] * 800
    levels = [n for [n] in adagc(norms)]
    num = next(t for t, n in enumerate(levels[200:]) if n > 2 * levels[200])
    assert 600 < num < 800


def test_one_odd_small_norm_in_the_warmup_is_forgotten_and_by_the_published_rule_it_is_not():
    norms = shifted(num_before=400, num_after=0)
    norms[30] = [1e-4]
    theirs, (ours, _) = adagc(norms), play(TensorClip(), norms)
    assert theirs[-1][0] < 1e-3 * norms[-1][0]
    assert np.median(np.array(ours[-200:]) / np.array(norms[-200:])) > 0.9


def test_a_burst_shorter_than_that_is_no_new_level():
    norms = shifted(num_before=200, num_after=49) + shifted(num_before=100, num_after=0)
    ours, _ = play(TensorClip(), norms)
    np.testing.assert_allclose(ours, adagc(norms), rtol=1e-9)


def test_noise_makes_no_new_level():
    """In AdaGC's equilibrium most norms are clipped a little, but hardly ever so many in a row."""
    rng = np.random.default_rng(0)
    clip = TensorClip()
    _, state = play(clip, rng.lognormal(0, 0.5, (1000, 20)).tolist())
    norms = rng.lognormal(0, 0.5, (3000, 20)).tolist()
    ours, _ = play(clip, norms, state)
    never, _ = play(TensorClip(rebaseline_steps=NEVER), norms, state)
    assert ours == never


def test_one_spike_within_a_new_level_hardly_moves_it():
    norms = shifted(num_before=200, num_after=50)
    norms[-20] = [5e4]  # 10,000 times as large
    _, state = play(TensorClip(), norms)
    assert state.num_above.tolist() == [0]  # it has just been learned
    assert 4.0 < state.level.item() < 7.0


@given(norms=SEQUENCES)
@settings(max_examples=20, deadline=None)
def test_the_order_of_the_tensors_does_not_matter(norms):
    clip = TensorClip(warmup=5, rebaseline_steps=4)
    reverse, _ = play(clip, [of_step[::-1] for of_step in norms])
    straight, _ = play(clip, norms)
    np.testing.assert_allclose(np.array(reverse)[:, ::-1], straight, rtol=1e-12)
