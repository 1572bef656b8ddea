from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import as_array
from torch import nn

from trimtab import act, measure
from trimtab.decide.elementwise import ValueClip
from trimtab.types import Clamp, StepStats

NUMBERS = st.floats(allow_nan=True, allow_infinity=True, width=32)


def clip_(gradients, clip):
    rescaling, _ = clip.rescale(measure.step_stats(gradients), None)
    act.rescale_grads_(gradients, rescaling)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@given(values=st.lists(NUMBERS, min_size=1, max_size=20), bound=st.floats(1e-2, 1e3))
@settings(max_examples=30, deadline=None)
def test_equal_to_torch_on_a_whole_model(dtype, values, bound):
    parameters = [
        nn.Parameter(torch.zeros(len(values), dtype=dtype)),
        nn.Parameter(torch.zeros((), dtype=dtype)),
    ]
    parameters[0].grad = torch.tensor(values, dtype=dtype)
    parameters[1].grad = parameters[0].grad[0].clone()
    ours = copy.deepcopy([p.grad for p in parameters])
    nn.utils.clip_grad_value_(parameters, bound)
    clip_(ours, ValueClip(bound))
    for mine, parameter in zip(ours, parameters, strict=True):
        assert torch.equal(mine.nan_to_num(7.0), parameter.grad.nan_to_num(7.0))


@given(
    values=st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=20),
    low=st.floats(-1e2, 0),
    high=st.floats(1e-3, 1e2),
)
@settings(max_examples=50, deadline=None)
def test_asymmetric_bounds(values, low, high):
    gradient = torch.tensor(values, dtype=torch.float64)
    clip_([gradient], ValueClip(high, min_value=low))
    assert gradient.tolist() == [min(max(v, low), high) for v in values]


def test_one_bound_can_be_open():
    gradient = torch.tensor([-1e30, 0.5, 1e30])
    clip_([gradient], ValueClip(math.inf, min_value=-1.0))
    assert gradient.tolist() == torch.tensor([-1.0, 0.5, 1e30]).tolist()


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_real_and_imaginary_parts_are_limited_each(dtype):
    gradient = torch.tensor([3 - 4j, 0.5 + 0.25j], dtype=dtype)
    clip_([gradient], ValueClip(1.0))
    assert gradient.tolist() == [1 - 1j, 0.5 + 0.25j]


def test_duplicate_rows_of_a_sparse_gradient_add_up_first():
    gradient = torch.sparse_coo_tensor([[1, 1, 0]], [[0.75], [0.75], [-3.0]], (3, 1), check_invariants=True)
    clip_([gradient], ValueClip(1.0))
    assert as_array(gradient).tolist() == [[-1.0], [1.0], [0.0]]


def test_elements_are_counted_not_tensors():
    """M3: of two tensors with norms above the bound, one holds no element beyond it."""
    gradients = [torch.full((100,), 0.5), torch.tensor([2.0, 0.1, -3.0, 0.0])]
    rescaling, _ = ValueClip(1.0).rescale(measure.step_stats(gradients), None)
    stats = measure.with_clipping(measure.step_stats(gradients), rescaling, gradients)
    assert all(g.norm() > 1.0 for g in gradients)
    assert stats.clip_share.item() == 2 / 104


def test_the_decision_is_plain_numbers():
    decision, state = ValueClip(2, min_value=-1).rescale(StepStats(None, torch.tensor(1.0)), None)
    assert decision == Clamp(-1.0, 2.0)
    assert isinstance(decision.low, float)
    assert state is None


@pytest.mark.parametrize(
    "arguments",
    [
        {"max_value": 0.0},
        {"max_value": -1.0},
        {"max_value": math.nan},
        {"max_value": math.inf},
        {"max_value": 1.0, "min_value": 0.5},
        {"max_value": -1.0, "min_value": -2.0},
        {"max_value": 0.0, "min_value": 0.0},
        {"max_value": math.inf, "min_value": -math.inf},
        {"max_value": 1.0, "min_value": math.nan},
        {"max_value": 1.0, "norm_type": 0.0},
    ],
    ids=str,
)
def test_bounds_that_make_no_sense_are_refused(arguments):
    with pytest.raises(ValueError, match="expected"):
        ValueClip(**arguments)


def test_bounds_above_zero_would_make_gradients_of_nothing():
    """Why they are refused: torch's clamp takes them."""
    assert torch.zeros(2).clamp(0.5, 1.0).tolist() == [0.5, 0.5]
    with pytest.raises(ValueError, match="min_value <= 0 <= max_value"):
        ValueClip(1.0, min_value=0.5)
