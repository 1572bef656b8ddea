"""Which elements are bad, and where they lie: against the plain answer, for every layout."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trimtab.trace.marks import (
    NAN,
    NEGATIVE,
    POSITIVE,
    Marks,
    Region,
    broadcast_position,
    codes_of,
    is_finite,
    unravel,
)

VALUES = st.sampled_from([0.0, 1.0, -3.5, math.nan, math.inf, -math.inf])
CODES = {math.inf: POSITIVE, -math.inf: NEGATIVE}


def code(x):
    return NAN if math.isnan(x) else CODES.get(x, 0)


@given(st.lists(VALUES, min_size=1, max_size=300), st.integers(1, 40))
def test_marks_are_the_codes(values, repeats):
    values = values * repeats  # few and many, sparse and dense
    tensor = torch.tensor(values)
    expected = [code(x) for x in values]
    marks = Marks.of(tensor)
    assert (marks is None) == is_finite(tensor) == (not any(expected))
    if marks is None:
        return
    numbers = [marks.at(i) for i in range(len(values))]
    # all NaN is kept without a length
    assert numbers == expected
    for kind in (NAN, POSITIVE, NEGATIVE):
        where = [i for i, c in enumerate(expected) if c == kind]
        assert marks.first(kind) == (where[0] if where else None)
    assert marks.array((len(values),)).tolist() == expected


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e5m2, torch.complex64]
)
def test_every_type(dtype):
    good = torch.tensor([1.0, 2.0, 0.0]).to(dtype)
    assert Marks.of(good) is None
    bad = torch.tensor([1.0, math.nan, math.inf]).to(dtype)
    marks = Marks.of(bad)
    assert marks.at(0) == 0
    assert marks.at(1) == NAN
    assert marks.at(2) in (POSITIVE, NAN)  # float8 may have no infinity


def test_sum_that_overflows_is_no_fault():
    assert is_finite(torch.full((4,), 3e38))
    assert Marks.of(torch.full((4,), 3e38)) is None
    assert Marks.of(torch.full((4,), 6e4, dtype=torch.float16)) is None


def test_imaginary_part_counts():
    z = torch.complex(torch.tensor([0.0, 1.0]), torch.tensor([0.0, -math.inf]))
    assert codes_of(z).tolist() == [0, NEGATIVE]


@given(
    st.lists(st.integers(1, 4), min_size=0, max_size=3),
    st.permutations([0, 1, 2]),
    st.integers(0, 3),
    st.data(),
)
def test_region_finds_each_element(shape, order, skip, data):
    base = torch.arange(200.0)[skip:]
    size = math.prod(shape)
    view = base[:size].reshape(shape).permute([d for d in order if d < len(shape)])
    region = Region.of(view)
    position = data.draw(st.integers(0, size - 1))
    offset = region.offset_of(position)
    assert base.untyped_storage().data_ptr() + offset == view[unravel(position, tuple(view.shape))].data_ptr()
    assert region.position_of(offset) == position
    assert region.position_of(region.offset + 4 * 500) is None


def test_region_of_a_step_through_memory():
    base = torch.zeros(10)
    region = Region.of(base[1::3])
    assert [region.position_of(4 * i) for i in range(10)] == [
        None,
        0,
        None,
        None,
        1,
        None,
        None,
        2,
        None,
        None,
    ]


def test_broadcast_position():
    result, operand = (2, 3, 4), (3, 1)
    expected = torch.arange(3.0).reshape(operand).expand(result).reshape(-1)
    assert [broadcast_position(i, result, operand) for i in range(24)] == expected.tolist()
    assert broadcast_position(23, result, ()) == 0
