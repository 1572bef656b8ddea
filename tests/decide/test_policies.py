from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import norm

import trimtab as tt
from trimtab import measure
from trimtab.act import scale_grads_
from trimtab.types import Action, Fault, Kind, Place, StepStats

FAULT = Fault(Kind.NAN, Place.GRADIENT)
HEALTHY = StepStats(loss=1.0, grad_norm=1.0)


def clip(gradients: list[torch.Tensor], policy: tt.NormClip) -> None:
    """Measure, decide, act: what a guard does."""
    stats = measure.step_stats(gradients, norm_type=policy.norm_type)
    scale_grads_(gradients, policy.rescale(stats, None)[0])


@pytest.mark.parametrize("p", [0.5, 1.0, 2.0, 3.0, math.inf])
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.complex64], ids=str
)
@pytest.mark.parametrize("max_norm", [0.1, 1e3])
def test_norm_clip_equals_torch(dtype, p, max_norm):
    parameters = [torch.nn.Parameter(torch.zeros(n, 3, dtype=dtype)) for n in (2, 5, 1)]
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, dtype=dtype)
    ours = [p.grad.clone() for p in parameters]
    torch.nn.utils.clip_grad_norm_(parameters, max_norm, norm_type=p)
    clip(ours, tt.NormClip(max_norm, norm_type=p))
    # torch rounds the norm of half gradients to half precision before it divides
    tolerance = {"rtol": 1e-2, "atol": 1e-4} if dtype.itemsize == 2 else {"rtol": 1e-5, "atol": 1e-6}
    for mine, parameter in zip(ours, parameters, strict=True):
        torch.testing.assert_close(mine, parameter.grad, **tolerance)


@given(
    seed=st.integers(0, 999),
    exponent=st.integers(-6, 30),
    max_norm=st.floats(1e-3, 1e3),
    p=st.sampled_from([1.0, 2.0, math.inf]),
)
@settings(max_examples=80, deadline=None)
def test_norm_clip_properties(seed, exponent, max_norm, p):
    generator = torch.Generator().manual_seed(seed)
    gradients = [torch.randn(n, generator=generator) * 10.0**exponent for n in (3, 1, 8)]
    before = [g.clone() for g in gradients]
    policy = tt.NormClip(max_norm, norm_type=p)
    clip(gradients, policy)
    after = norm(gradients, p)
    assert after <= max_norm * (1 + 1e-5)  # within the bound
    was = norm(before, p)
    eps = 2e-6 / max_norm  # torch's own constant: a norm within 1e-6 of the bound is scaled a little
    if was <= max_norm * (1 - 1e-5 - eps):
        for g, b in zip(gradients, before, strict=True):
            torch.testing.assert_close(g, b, rtol=1e-5, atol=0.0)  # alone below it
    else:
        assert after == pytest.approx(max_norm, rel=1e-3)  # at the bound, not at 0, however large it was
        direction = torch.cat(gradients).double() / norm(gradients)
        torch.testing.assert_close(direction, torch.cat(before).double() / norm(before), rtol=1e-4, atol=1e-5)
    once = [g.clone() for g in gradients]
    clip(gradients, policy)
    for g, o in zip(gradients, once, strict=True):
        torch.testing.assert_close(g, o, rtol=1e-5 + eps, atol=0.0)  # idempotent


def test_gradients_of_1e30_are_clipped_to_max_norm_and_torch_zeroes_them():
    parameter = torch.nn.Parameter(torch.zeros(4))
    parameter.grad = torch.full((4,), 1e30)
    ours = [parameter.grad.clone()]
    clip(ours, tt.NormClip(1.0))
    assert norm(ours) == pytest.approx(1.0, rel=1e-5)
    torch.nn.utils.clip_grad_norm_([parameter], 1.0)
    assert parameter.grad.eq(0).all()  # retire when torch is mended


@given(order=st.permutations(range(5)))
@settings(max_examples=20, deadline=None)
def test_order_of_parameters_is_irrelevant(order):
    generator = torch.Generator().manual_seed(0)
    gradients = [torch.randn(n, generator=generator) for n in (1, 2, 3, 4, 5)]
    shuffled = [gradients[i].clone() for i in order]
    clip(gradients, tt.NormClip(0.5))
    clip(shuffled, tt.NormClip(0.5))
    for position, i in enumerate(order):
        torch.testing.assert_close(shuffled[position], gradients[i], rtol=1e-6, atol=0.0)


def test_conjugated_and_sparse_gradients_are_scaled_in_place():
    base = torch.tensor([3.0 + 4.0j, 0.0j])
    sparse = torch.sparse_coo_tensor(
        torch.tensor([[1, 1]]), torch.tensor([6.0, 6.0]), (3,), check_invariants=True
    )
    gradients = [base.conj(), sparse]
    clip(gradients, tt.NormClip(6.5))
    torch.testing.assert_close(base, torch.tensor([1.5 + 2.0j, 0.0j]))
    torch.testing.assert_close(sparse.to_dense(), torch.tensor([0.0, 6.0, 0.0]))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_bad_norm_never_becomes_a_clean_step_nor_reaches_another_tensor(bad):
    gradients = [torch.ones(3), torch.tensor([bad, 1.0])]
    clip(gradients, tt.NormClip(1.0))
    assert gradients[0].tolist() == [1.0, 1.0, 1.0]
    assert not gradients[1].isfinite().all()


@pytest.mark.parametrize(
    ("loss", "grad_norm", "expected"),
    [
        (1.0, 1.0, []),
        (None, 1.0, []),
        (math.nan, 1.0, [(Kind.NAN, Place.LOSS)]),
        (-math.inf, 1.0, [(Kind.INF, Place.LOSS)]),
        (1.0, math.inf, [(Kind.INF, Place.GRADIENT)]),
        (math.nan, math.nan, [(Kind.NAN, Place.LOSS), (Kind.NAN, Place.GRADIENT)]),
        (1e300, 1e300, []),
    ],
)
def test_nonfinite_detects(loss, grad_norm, expected):
    faults, _ = tt.NonFinite().detect(StepStats(loss=loss, grad_norm=grad_norm), None)
    assert [(fault.kind, fault.place) for fault in faults] == expected


@pytest.mark.parametrize(
    ("loss", "grad_norm", "places"),
    [
        (1.0, 9.9, []),
        (1.0, 10.0, []),
        (1.0, 10.1, [Place.GRADIENT]),
        (-11.0, 1.0, [Place.LOSS]),
        (None, 1.0, []),
        (math.nan, math.nan, [Place.LOSS, Place.GRADIENT]),  # the census drops it unless an element is large
    ],
)
def test_overflow_suspects(loss, grad_norm, places):
    faults, _ = tt.Overflow(10.0).detect(StepStats(loss=loss, grad_norm=grad_norm), None)
    assert [fault.place for fault in faults] == places
    assert all(fault.kind is Kind.OVERFLOW and fault.threshold == 10.0 for fault in faults)


@given(history=st.lists(st.booleans(), max_size=40), budget=st.integers(0, 4))
@settings(max_examples=100, deadline=None)
def test_skip_raises_exactly_when_the_run_of_faults_exceeds_the_budget(history, budget):
    remedy = tt.Skip(budget=budget)
    state, in_a_row = remedy.init(), 0
    for is_faulty in history:
        decision, state = remedy.decide((FAULT,) if is_faulty else (), HEALTHY, state)
        in_a_row = in_a_row + 1 if is_faulty else 0
        expected = Action.APPLY if not is_faulty else Action.SKIP if in_a_row <= budget else Action.RAISE
        assert decision.action is expected


def test_skip_says_when_skipping_cannot_help():
    decision, _ = tt.Skip(budget=0).decide((Fault(Kind.NAN, Place.PARAMETER),), HEALTHY, 0)
    assert "which skipping cannot mend" in decision.reason


def test_observe_applies_and_raise_raises():
    assert tt.Observe().decide((FAULT,), HEALTHY, None)[0].action is Action.APPLY
    assert tt.Raise().decide((FAULT,), HEALTHY, None)[0].action is Action.RAISE
    assert tt.Raise().decide((), HEALTHY, None)[0].action is Action.APPLY
