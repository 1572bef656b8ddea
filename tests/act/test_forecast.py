from __future__ import annotations

import math
import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.act.forecast import NormForecast
from trimtab.act.optimizer import SMALLEST_IN_KERNEL

CPU = torch.device("cpu")
EPS = 1e-6
LIMIT = math.sqrt(2.0)
NORMS = st.floats(1e-3, 1e3)


def play(passes, max_norm=1.0, forecast=None):
    """Factors and stats of passes; each is a list of norms, or of (index, norm) in order of arrival."""
    passes = [[*enumerate(p)] if not isinstance(p[0], tuple) else p for p in passes]
    num = max(i for p in passes for i, _ in p) + 1
    forecast = forecast or NormForecast(num, max_norm=max_norm, device=CPU)
    factors, stats = [], []
    for arrivals in passes:
        factors.append([forecast.arrive(i, torch.tensor(n, dtype=torch.float64)).item() for i, n in arrivals])
        stats.append(forecast.end_pass())
    return factors, stats


def true_factor(norms, max_norm=1.0):
    return min(1.0, max_norm / (math.hypot(*norms) + EPS))


def applied(factors, norms):
    return math.hypot(*(f * n for f, n in zip(factors, norms, strict=True)))


def factors_by_the_book(history, now, max_norm):
    """The rule as its docstring has it, for passes in which every gradient arrives."""
    num = len(now)
    kept = [[(n / math.hypot(*row)) ** 2 for n in row] for row in history[-9:]]
    shares = [statistics.median(column) for column in zip(*kept, strict=True)] if kept else [1 / num] * num
    shares = [q / sum(shares) for q in shares]
    total_root = sum(math.sqrt(q) for q in shares)
    prior = statistics.median(math.hypot(*row) for row in history[-9:]) if kept else max_norm
    claims = [(1e-3, prior)]
    budget, factors = 2.0, []
    for k, n in enumerate(now):
        claims.append((math.sqrt(shares[k]) / total_root, max(n / math.sqrt(shares[k]), max_norm / 20)))
        mean = math.exp(sum(w * math.log(c) for w, c in claims) / sum(w for w, _ in claims))
        forecast = math.sqrt(sum(x * x for x in now[: k + 1]) + (1 - sum(shares[: k + 1])) * mean**2)
        factor = min(1.0, max_norm / (forecast + EPS), math.sqrt(budget / 2) * max_norm / n)
        budget -= (factor * n / max_norm) ** 2
        factors.append(factor)
    return factors


@given(
    passes=st.integers(2, 5).flatmap(
        lambda n: st.lists(st.lists(NORMS, min_size=n, max_size=n), min_size=1, max_size=14)
    ),
    max_norm=st.sampled_from([0.1, 1.0, 50.0]),
)
@settings(max_examples=80, deadline=None)
def test_factors_are_those_of_the_written_rule(passes, max_norm):
    got, _ = play(passes, max_norm)
    for t, now in enumerate(passes):
        assert got[t] == pytest.approx(factors_by_the_book(passes[:t], now, max_norm), rel=1e-6)


@given(norms=st.lists(st.floats(0.0, 1e30), min_size=1, max_size=20), max_norm=st.floats(1e-3, 1e3))
@settings(max_examples=80, deadline=None)
def test_one_gradient_alone_is_clipped_exactly(norms, max_norm):
    got, stats = play([[n] for n in norms], max_norm)
    for factors, n, s in zip(got, norms, stats, strict=True):
        assert factors[0] == pytest.approx(true_factor([n], max_norm), rel=1e-12)
        assert s.error.item() == pytest.approx(0.0, abs=1e-12)


@given(norms=st.lists(NORMS, min_size=1, max_size=8), max_norm=st.floats(1e-3, 1e3))
@settings(max_examples=80, deadline=None)
def test_constant_gradients_are_clipped_exactly_from_the_second_pass_on(norms, max_norm):
    got, stats = play([norms] * 4, max_norm)
    for factors, s in zip(got[1:], stats[1:], strict=True):
        # the least claim counts only far below the bound, where nothing is clipped
        assert factors == pytest.approx([true_factor(norms, max_norm)] * len(norms), rel=1e-6)
        assert s.error.item() < 1e-6


@st.composite
def any_passes(draw):
    num = draw(st.integers(1, 6))
    size = st.one_of(st.just(0.0), st.floats(1e-30, 1e30), NORMS)
    order = st.permutations(range(num)).flatmap(
        lambda p: st.integers(1, num).flatmap(
            lambda k: st.tuples(*[st.tuples(st.just(i), size) for i in p[:k]])
        )
    )
    return [[(0, 1.0), (num - 1, 1.0)][: min(num, 2)], *(list(p) for p in draw(st.lists(order, max_size=12)))]


@given(passes=any_passes(), max_norm=st.floats(1e-3, 1e3))
@settings(max_examples=300, deadline=None)
def test_the_applied_norm_is_bounded_whatever_arrives_in_whatever_order(passes, max_norm):
    got, stats = play(passes, max_norm)
    for factors, arrivals, s in zip(got, passes, stats, strict=True):
        norms = [n for _, n in arrivals]
        assert applied(factors, norms) < LIMIT * max_norm * (1 + 1e-9)
        assert s.norm.item() == pytest.approx(math.hypot(*norms), rel=1e-9)
        assert s.applied_norm.item() == pytest.approx(applied(factors, norms), rel=1e-9, abs=1e-30)


def test_the_bound_is_nearly_reached_so_it_is_not_slack():
    spiral = [10.0**k for k in range(12)]  # each gradient dwarfs all before it
    _, stats = play([[1.0] * 12] * 9 + [spiral])
    assert 1.40 < stats[-1].applied_norm.item() < LIMIT


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e300])
@given(
    norms=st.lists(st.lists(NORMS, min_size=3, max_size=3), min_size=1, max_size=12), at=st.integers(0, 12)
)
@settings(max_examples=40, deadline=None)
def test_one_bad_norm_changes_no_later_decision(bad, norms, at):
    at = min(at, len(norms))
    clean, _ = play(norms)
    poisoned, stats = play([*norms[:at], [1.0, bad, 1.0], *norms[at:]])
    assert poisoned[:at] + poisoned[at + 1 :] == clean
    first, *rest = poisoned[at]
    assert first > 0
    assert not any(f >= SMALLEST_IN_KERNEL for f in rest)  # the bad one and what comes after it
    assert stats[at].is_refused.tolist() == [False, True, True]


USUAL = [0.05, 0.6, 0.2, 0.3, 0.1, 0.7]


def noisy(num, seed=0, level=1.0):
    """Passes around the usual norms with 10 % of independent noise."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(num, len(USUAL), generator=generator, dtype=torch.float64)
    return (level * torch.tensor(USUAL, dtype=torch.float64) * (0.1 * noise).exp()).tolist()


def test_a_spike_of_all_layers_is_met_from_the_first_gradient_on():
    passes = noisy(12)
    spike = [1000 * n for n in passes[-1]]
    factors = play([*passes, spike])[0][-1]
    true = true_factor(spike)
    assert all(0.7 < f / true < 1.5 for f in factors)
    assert 0.9 < applied(factors, spike) < 1.1
    # a norm of the last step, or any average of past ones, lets it all in
    assert applied([true_factor(passes[-1])] * len(spike), spike) > 500


def test_a_spike_of_the_gradient_that_arrives_last_cannot_be_foreseen_but_is_limited():
    passes = noisy(12)
    spike = [*passes[-1][:-1], 1000 * passes[-1][-1]]
    without, with_spike = (play([*passes[:-1], last])[0][-1] for last in (passes[-1], spike))
    assert with_spike[:-1] == without[:-1]
    assert with_spike[-1] <= true_factor(spike)
    assert applied(with_spike, spike) < LIMIT


def test_a_gradient_that_spikes_alone_is_not_taken_for_the_whole_network():
    passes = noisy(12)
    spike = [*passes[-1][:4], 100 * passes[-1][4], passes[-1][5]]
    factors = play([*passes, spike])[0][-1]
    true = true_factor(spike)
    shares = [n * n / math.fsum(x * x for x in USUAL) for n in USUAL]
    extrapolated = math.sqrt(math.fsum(n * n for n in spike[:5]) / sum(shares[:5]))
    assert factors[4] / true > 0.85
    assert 1 / (extrapolated * true) < 0.75


def test_a_new_level_needs_no_learning_because_shares_stay():
    level = play([*noisy(12), *noisy(3, seed=1, level=100.0), *noisy(3, seed=1, level=0.01)])[1]
    assert all(s.error.item() < 0.1 for s in level[12:])


def test_a_gradient_of_unknown_share_neither_starves_nor_misleads():
    """The first gradient is there in the last pass only."""
    known = [[(i + 1, n) for i, n in enumerate(row)] for row in noisy(12)]
    factors = play([*known, [(0, 0.1), *known[-1]]])[0][-1]
    norms = [0.1, *(n for _, n in known[-1])]
    assert all(0.8 < f / true_factor(norms) < 1.25 for f in factors)


def test_a_gradient_that_vanishes_counts_for_a_twentieth_of_the_bound_and_no_less():
    passes = noisy(12, level=10.0)
    claim = 1 / 20 * 0.6 / math.hypot(*USUAL)
    factors = [
        play([*passes, [passes[-1][0], gone, *passes[-1][2:]]])[0][-1] for gone in (0.0, 1e-20, 0.9 * claim)
    ]
    assert factors[0] == pytest.approx(factors[1], rel=1e-12)
    assert factors[0] == pytest.approx(factors[2], rel=1e-3)


def test_a_pass_of_zeros_is_left_out():
    clean, _ = play([*noisy(3), *noisy(2, seed=1)])
    with_zeros, stats = play([*noisy(3), [0.0] * len(USUAL), *noisy(2, seed=1)])
    assert with_zeros[:3] + with_zeros[4:] == clean
    assert with_zeros[3] == [1.0] * len(USUAL)
    assert stats[3].error.item() == stats[3].norm.item() == 0.0
