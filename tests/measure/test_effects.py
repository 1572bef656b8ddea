from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import as_array, norm
from torch import Tensor

from trimtab import act, measure
from trimtab.types import Clamp, Each, Scale, StepStats

P = pytest.mark.parametrize("p", [1.0, 2.0, 3.5, math.inf])


def gradients_of(seed: int, dtype: torch.dtype = torch.float32, scale: float = 1.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(4, 3), (5,), (), (2, 0), (1, 1)]
    return [(torch.randn(shape, generator=generator) * scale).to(dtype) for shape in shapes]


def sparse(dtype: torch.dtype = torch.float32) -> Tensor:
    values = torch.tensor([[3.0, 4.0], [1.0, -9.0], [0.5, 0.5]], dtype=dtype)
    return torch.sparse_coo_tensor([[1, 1, 4]], values, (6, 2), check_invariants=True)


def effect(gradients: Sequence[Tensor], rescaling, p: float = 2.0) -> tuple[float, float]:
    """What is measured: factor and share."""
    stats = measure.with_clipping(
        measure.step_stats(gradients, norm_type=p), rescaling, gradients, norm_type=p
    )
    return stats.clip_factor.item(), stats.clip_share.item()


def what_came(gradients: Sequence[Tensor], rescaling, p: float = 2.0) -> float:
    """The norm after over the norm before, from what `act` makes of the gradients."""
    after = [g.clone() for g in gradients]
    act.rescale_grads_(after, rescaling)
    return norm(after, p) / norm(gradients, p)


@P
@given(seed=st.integers(0, 100), scale=st.floats(1e-3, 1e3))
@settings(max_examples=15, deadline=None)
def test_a_factor_for_each_tensor(p, seed, scale):
    gradients = gradients_of(seed, scale=scale)
    scaling = Scale(torch.tensor([0.5, 1.0, 0.25, 0.125, 1.0], dtype=torch.float64))
    factor, share = effect(gradients, scaling, p)
    assert factor == pytest.approx(what_came(gradients, scaling, p), rel=1e-5)
    assert share == 3 / 5


@P
@given(seed=st.integers(0, 100), low=st.floats(-2.0, -1e-3), high=st.floats(1e-3, 2.0))
@settings(max_examples=25, deadline=None)
def test_clamping_counts_elements(p, seed, low, high):
    gradients = gradients_of(seed)
    factor, share = effect(gradients, Clamp(low, high), p)
    assert factor == pytest.approx(what_came(gradients, Clamp(low, high), p), rel=1e-5)
    values = np.concatenate([as_array(g).reshape(-1) for g in gradients])
    bounds = np.float32([low, high])  # what float32 elements are compared with
    assert share == pytest.approx(((values < bounds[0]) | (values > bounds[1])).mean())


@P
@given(seed=st.integers(0, 100))
@settings(max_examples=15, deadline=None)
def test_units_count_units(p, seed):
    gradients = gradients_of(seed)
    generator = torch.Generator().manual_seed(seed)
    rows = torch.rand((4, 1), generator=generator)
    rows[2] = 1.0
    parts = Each((Scale(rows), Scale(torch.tensor([0.5])), None, None, Scale(torch.tensor([[1.0]]))))
    factor, share = effect(gradients, parts, p)
    assert factor == pytest.approx(what_came(gradients, parts, p), rel=1e-5)
    assert share == 4 / 6  # three of four rows and one vector, of four rows, a vector and a 1x1


def test_what_nobody_looks_at_counts_for_nothing():
    gradients = [torch.ones(3), torch.tensor([1.0, 5.0])]
    _, share = effect(gradients, Each((None, Clamp(-2.0, 2.0))))
    assert share == 0.5
    assert effect(gradients, Each((None, None))) == (1.0, 0.0)


def test_one_factor_for_all_is_passed_on_and_none_leaves_the_statistics():
    gradients = gradients_of(0)
    stats = measure.step_stats(gradients)
    factor = torch.tensor(0.5)
    assert measure.with_clipping(stats, Scale(factor), gradients).clip_factor is factor
    assert measure.with_clipping(stats, Scale(factor), gradients).clip_share is None
    assert measure.with_clipping(stats, None, gradients) is stats


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(
    "rescaling",
    [
        Clamp(-0.5, 0.5),
        Scale(torch.tensor([0.5, 1.0, 0.25, 0.125, 1.0])),
        Each((Scale(torch.full((4, 1), 0.5)), Clamp(-0.25, 0.25), Scale(torch.tensor(0.5)), None, None)),
    ],
    ids=["clamp", "scale", "each"],
)
def test_other_types(dtype, rescaling):
    gradients = gradients_of(3, dtype)
    factor, _ = effect(gradients, rescaling)
    assert factor == pytest.approx(what_came(gradients, rescaling), rel=1e-6 if dtype.itemsize > 2 else 1e-2)


@P
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_sparse_gradients_count_what_is_stored_after_adding_up(dtype, p):
    gradients = [sparse(dtype), torch.ones(2, dtype=dtype)]
    parts = dtype.is_complex + 1  # the imaginary ones are stored too
    factor, share = effect(gradients, Clamp(-4.0, 4.0), p)
    assert factor == pytest.approx(what_came(gradients, Clamp(-4.0, 4.0), p), rel=1e-5)
    assert share == 1 / (6 * parts)  # -5; 4 is within
    rows = torch.ones(6, 1)
    rows[1] = 0.5
    units = Each((Scale(rows), None))
    factor, share = effect(gradients, units, p)
    assert factor == pytest.approx(what_came(gradients, units, p), rel=1e-5)
    assert share == 1 / 6


@P
def test_of_a_complex_element_each_part_is_counted_and_the_share_is_never_above_one(p):
    gradients = [torch.tensor([3 + 4j, 0.5 - 2j], dtype=torch.complex64)]
    factor, share = effect(gradients, Clamp(-1.0, 1.0), p)
    assert share == 3 / 4
    assert factor == pytest.approx(what_came(gradients, Clamp(-1.0, 1.0), p), rel=1e-5)
    assert effect([torch.full((3,), 9 + 9j)], Clamp(-1.0, 1.0))[1] == 1.0


@pytest.mark.parametrize(
    "bounds", [(torch.tensor(-0.5), torch.tensor(0.5)), (-0.5, torch.tensor(0.5)), (torch.tensor(-0.5), 0.5)]
)
def test_bounds_may_be_on_the_device(bounds):
    gradients = gradients_of(1)
    assert effect(gradients, Clamp(*bounds)) == effect(gradients, Clamp(-0.5, 0.5))
    assert what_came(gradients, Clamp(*bounds)) == what_came(gradients, Clamp(-0.5, 0.5))


def test_open_bounds_change_nothing():
    gradients = gradients_of(1)
    infinite = Clamp(torch.tensor(-math.inf), torch.tensor(math.inf))
    assert effect(gradients, infinite) == (1.0, 0.0)
    assert effect(gradients, Clamp(-1e9, 1e9)) == (1.0, 0.0)


@pytest.mark.parametrize("unusable", [0.0, math.nan])
def test_a_factor_that_is_not_applied_is_not_counted(unusable):
    gradients = gradients_of(2)
    for rescaling in (
        Scale(torch.tensor([unusable, 1.0, 1.0, 1.0, 1.0])),
        Each((Scale(torch.full((4, 1), unusable)), *[None] * 4)),
        Each((Scale(torch.tensor(unusable)), *[None] * 4)),
    ):
        assert what_came(gradients, rescaling) == 1.0
        assert effect(gradients, rescaling) == (1.0, 0.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_of_a_bad_norm_no_finite_part_is_left(bad):
    gradients = [torch.tensor([bad, 1.0]), torch.ones(3)]
    for rescaling in (Scale(torch.tensor([0.5, 1.0])), Each((Scale(torch.tensor([0.5])), None))):
        assert math.isnan(effect(gradients, rescaling)[0])
    assert not effect(gradients, Clamp(-0.5, 0.5))[0] > 0


def test_zero_gradients_keep_all_of_nothing():
    assert effect([torch.zeros(3)], Clamp(-1.0, 1.0)) == (1.0, 0.0)
    assert effect([torch.zeros(3)], Scale(torch.tensor([0.5]))) == (1.0, 1.0)


def test_norms_that_nobody_measured_are_measured():
    gradients = gradients_of(0)
    bare = StepStats(None, measure.step_stats(gradients).grad_norm)
    scaling = Scale(torch.full((5,), 0.5))
    assert measure.with_clipping(bare, scaling, gradients).clip_factor.item() == pytest.approx(0.5)


TINY = [
    (torch.float32, 1.2e-38, 1e-38),
    (torch.float16, 6.2e-5, 5.9e-5),
    (torch.bfloat16, 1.2e-38, 1e-38),
    (torch.float64, 2.3e-308, 2e-308),
    (torch.complex64, 1.2e-38, 1e-38),
]


@pytest.mark.parametrize(("dtype", "normal", "subnormal"), TINY, ids=str)
def test_underflow_is_zero_or_subnormal_in_the_type(dtype, normal, subnormal):
    values = torch.tensor([0.0, -0.0, normal, -normal, subnormal, -subnormal, 1.0, math.nan], dtype=dtype)
    share = measure.underflow_share([values, torch.zeros((), dtype=dtype), torch.zeros(0, dtype=dtype)])
    assert share.item() == 5 / 9
    assert share.dim() == 0


def test_underflow_of_many_types_and_of_sparse_ones():
    stored = torch.sparse_coo_tensor([[0, 3]], torch.tensor([0.0, 2.0]), (100,), check_invariants=True)
    half = torch.tensor([1e-5, 1.0, 1.0], dtype=torch.float16)
    assert measure.underflow_share([stored, half]).item() == pytest.approx(2 / 5)
    small = torch.tensor([0.0, 1.0, 2.0**-17], dtype=torch.float32).to(torch.float8_e5m2)
    assert measure.underflow_share([small]).item() == pytest.approx(2 / 3)


def test_underflow_of_nothing_is_nothing():
    assert measure.underflow_share([torch.zeros(0)]).item() == 0.0


@pytest.mark.parametrize("dim", [0, 1])
def test_known_norms_of_units_save_a_pass_and_give_the_same(dim):
    gradient = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    units = gradient.norm(dim=1 - dim, keepdim=True)
    factor = torch.linspace(0.1, 1.0, units.numel()).reshape(units.shape)
    stats = measure.step_stats([gradient])
    told, alone = (
        measure.with_clipping(stats, Each((Scale(factor),)), [gradient], unit_norms=known)
        for known in ([units], None)
    )
    assert told.clip_factor.item() == pytest.approx(alone.clip_factor.item(), rel=1e-6)
    assert told.clip_factor.item() == pytest.approx(
        (gradient * factor).norm().item() / gradient.norm().item(), rel=1e-6
    )
    assert told.clip_share == alone.clip_share
    # of another norm they say nothing
    first = measure.with_clipping(
        measure.step_stats([gradient], norm_type=1.0),
        Each((Scale(factor),)),
        [gradient],
        norm_type=1.0,
        unit_norms=[units],
    )
    expected = (gradient * factor).abs().sum() / gradient.abs().sum()
    assert first.clip_factor.item() == pytest.approx(expected.item(), rel=1e-6)
