from __future__ import annotations

import math

import pytest
import torch

from trimtab.numerics import FLOAT_FORMATS, float_format, machine_epsilon

STORED = [row for row in FLOAT_FORMATS if row.dtype is not None]


def by_halving(dtype: torch.dtype) -> float:
    eps = 1.0
    while (torch.tensor(1 + eps / 2, dtype=torch.float64).to(dtype)).item() != 1:
        eps /= 2
    return eps


@pytest.mark.parametrize("row", STORED, ids=lambda r: r.name)
def test_a_stored_format_is_what_casting_shows(row):
    # 1 + eps / 2 is half way and rounds to the even 1; in float64 itself it is not even representable
    assert row.eps == by_halving(row.dtype)
    largest, smallest = (torch.tensor(v, dtype=torch.float64) for v in (row.largest, row.smallest_subnormal))
    assert largest.to(row.dtype).item() == row.largest
    assert smallest.to(row.dtype).item() == row.smallest_subnormal
    assert (smallest * 0.49).to(row.dtype).item() == 0
    assert row.has_inf == torch.tensor(math.inf).to(row.dtype).double().isinf().item()
    assert row.largest == (2 - row.eps) * 2.0 ** (2 ** (row.exponent_bits - 1) - 1) or not row.has_inf


@pytest.mark.parametrize("row", FLOAT_FORMATS, ids=lambda r: r.name)
def test_facts_agree_with_each_other(row):
    assert row.eps == 2.0**-row.mantissa_bits == 2 * row.unit_roundoff
    assert row.smallest_subnormal == row.smallest_normal * row.eps
    assert row.smallest_normal == 2.0 ** (2 - 2 ** (row.exponent_bits - 1))
    assert row.decimal_digits == pytest.approx(row.mantissa_bits * math.log10(2))


def test_tf32_has_the_range_of_float32_and_the_fraction_of_float16():
    tf32 = float_format("tf32")
    assert tf32.eps == machine_epsilon(torch.float16)
    assert tf32.dtype is None
    assert tf32.smallest_normal == float_format(torch.float32).smallest_normal


@pytest.mark.parametrize("name", ["float12", torch.int8, ""])
def test_unknown_format(name):
    with pytest.raises(ValueError, match="one of float64, float32, tf32"):
        machine_epsilon(name)
