from __future__ import annotations

import math

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import as_array, counts

from trimtab import measure
from trimtab.types import Fault, Kind, Place

VALUES = st.sampled_from([0.0, 1.0, -2.5, 50.0, -60.0, math.nan, math.inf, -math.inf])


@given(
    values=st.lists(VALUES, min_size=1, max_size=24),
    columns=st.integers(1, 4),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64]),
)
@settings(max_examples=120, deadline=None)
def test_counts_and_first_index_equal_a_numpy_count(values, columns, dtype):
    rows = -(-len(values) // columns)
    tensor = torch.zeros(rows, columns, dtype=dtype)
    tensor.view(-1)[: len(values)] = torch.tensor(values).to(dtype)
    found = measure.census([("w", tensor)], Place.GRADIENT, threshold=10.0)
    expected = counts(tensor, threshold=10.0)
    if not any(expected):
        assert found == ()
        return
    (culprit,) = found
    assert (culprit.num_nan, culprit.num_inf, culprit.num_overflow) == expected
    array = as_array(tensor)
    is_bad = ~np.isfinite(array) | (np.abs(array) > 10.0)
    assert culprit.first_bad_index == tuple(np.argwhere(is_bad)[0])
    finite = np.abs(array[np.isfinite(array)])
    assert culprit.largest == finite.max() if finite.size else math.isnan(culprit.largest)
    assert culprit.num_elements == tensor.numel()


def test_only_bad_tensors_are_named_in_the_order_given():
    tensors = [
        ("a", torch.ones(3)),
        ("b", torch.tensor([math.nan])),
        ("c", torch.tensor(math.inf)),
        ("d", torch.ones(2)),
    ]
    found = measure.census(tensors, Place.PARAMETER)
    assert [(c.name, c.place, c.first_bad_index, c.shape) for c in found] == [
        ("b", Place.PARAMETER, (0,), (1,)),
        ("c", Place.PARAMETER, (), ()),
    ]


def test_large_finite_numbers_are_not_bad_without_a_threshold():
    assert measure.census([("w", torch.full((3,), 1e30))], Place.GRADIENT) == ()


def test_integers_and_empty_tensors_are_passed_over():
    tensors = [("i", torch.ones(3, dtype=torch.int64)), ("e", torch.empty(0)), ("b", torch.tensor([True]))]
    assert measure.census(tensors, Place.BUFFER) == ()


def test_sparse_index_is_that_of_the_dense_tensor():
    values = torch.tensor([[1.0, 2.0], [3.0, math.nan]])
    sparse = torch.sparse_coo_tensor(torch.tensor([[4, 1]]), values, (6, 2), check_invariants=True)
    (culprit,) = measure.census([("table", sparse)], Place.GRADIENT)
    assert (culprit.first_bad_index, culprit.shape, culprit.num_nan) == ((1, 1), (6, 2), 1)


def test_float16_threshold_beyond_its_range():
    tensor = torch.tensor([6e4, math.inf], dtype=torch.float16)
    (culprit,) = measure.census([("w", tensor)], Place.GRADIENT, threshold=1e6)
    assert (culprit.num_inf, culprit.num_overflow) == (1, 0)


def test_examine_puts_causes_first_and_splits_kinds():
    bad = torch.tensor([math.nan, math.inf, 1.0])
    suspects = measure.Suspects(
        gradients=[("w", bad)], parameters=[("w", bad)], optimizer_state=[("w.exp_avg", bad)]
    )
    faults = measure.examine(
        [Fault(Kind.NAN, Place.LOSS), Fault(Kind.NAN, Place.GRADIENT)], suspects, loss=math.nan
    )
    assert [(f.place, f.kind) for f in faults] == [
        (Place.PARAMETER, Kind.NAN),
        (Place.PARAMETER, Kind.INF),
        (Place.OPTIMIZER_STATE, Kind.NAN),
        (Place.OPTIMIZER_STATE, Kind.INF),
        (Place.LOSS, Kind.NAN),
        (Place.GRADIENT, Kind.NAN),
        (Place.GRADIENT, Kind.INF),
    ]
    assert "NaN in the gradient of w: 1 of 3 elements, first bad index (0,)" in faults[5].summary


def test_suspected_overflow_without_a_large_element_is_dropped():
    suspects = measure.Suspects(gradients=[("w", torch.full((100,), 9.0))])
    suspicion = Fault(Kind.OVERFLOW, Place.GRADIENT, threshold=10.0)
    assert measure.examine([suspicion], suspects, loss=1.0) == ()


def test_infinite_norm_of_finite_elements_is_an_overflow_without_culprit():
    suspects = measure.Suspects(gradients=[("w", torch.ones(2))])
    (fault,) = measure.examine([Fault(Kind.INF, Place.GRADIENT)], suspects, loss=1.0)
    assert (fault.kind, fault.culprits) == (Kind.OVERFLOW, ())
