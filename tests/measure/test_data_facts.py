"""What is told of a batch's inputs and outputs, against numbers that are known by construction."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trimtab.measure.data_facts import INPUT_STATISTICS, OUTPUT_STATISTICS, input_facts, output_facts

CPU = torch.device("cpu")


def inputs_of(rows):
    return dict(zip(INPUT_STATISTICS, input_facts(rows, CPU).tolist(), strict=True))


def outputs_of(output, gradient=None):
    return dict(zip(OUTPUT_STATISTICS, output_facts(output, gradient, CPU).tolist(), strict=True))


@given(st.integers(0, 1000), st.integers(1, 6), st.integers(0, 6), st.integers(0, 3))
def test_columns_that_say_nothing_are_counted(seed, fresh, filled, copied):
    generator = torch.Generator().manual_seed(seed)
    own = torch.randn(32, fresh, generator=generator) + 3
    rows = torch.cat([own, torch.full((32, filled), 7.0), own[:, :1].expand(32, copied)], 1)
    order = torch.randperm(rows.shape[1], generator=generator)
    found = inputs_of(rows[:, order])
    assert found["filled_share"] == pytest.approx(filled / rows.shape[1])
    assert found["copied_share"] == pytest.approx(copied / (fresh + copied))
    assert found["constant_share"] == pytest.approx(filled / rows.shape[1])


def test_zeros_are_no_filled_columns_and_pictures_are_no_tables():
    rows = torch.cat([torch.randn(16, 2), torch.zeros(16, 6)], 1)
    assert inputs_of(rows)["filled_share"] == 0
    assert math.isnan(inputs_of(torch.ones(4, 1, 8, 8))["filled_share"])
    assert math.isnan(inputs_of(torch.randn(4, 1, 8, 8).repeat(1, 2, 1, 1))["copied_share"])


def test_of_tokens_only_equal_rows_are_told():
    found = inputs_of(torch.randint(9, (4, 7)))
    assert found.pop("same_rows") == 0
    assert all(math.isnan(number) for number in found.values())
    assert inputs_of(torch.ones(4, 7, dtype=torch.long))["same_rows"] == 1


@given(st.integers(0, 1000), st.floats(1e-30, 1e30))
def test_rows_that_are_heard_do_not_hang_on_the_scale(seed, scale):
    generator = torch.Generator().manual_seed(seed)
    gradient = torch.randn(24, 3, generator=generator, dtype=torch.float64)
    sizes = gradient.square().sum(1).sqrt()
    expected = float(sizes.sum() ** 2 / (24 * (sizes**2).sum()))
    found = outputs_of(gradient.float(), (scale * gradient).float())
    assert found["heard_rows"] == pytest.approx(expected, rel=1e-4)


def test_rows_without_a_gradient_are_not_counted():
    gradient = torch.zeros(8, 2)
    gradient[:4] = 1.0
    assert outputs_of(torch.zeros(8, 2), gradient)["heard_rows"] == pytest.approx(1.0)
    gradient[0] = 1e6
    assert outputs_of(torch.zeros(8, 2), gradient)["heard_rows"] == pytest.approx(1 / 4, rel=1e-4)
    assert math.isnan(outputs_of(torch.zeros(8, 2), torch.zeros(0, 2))["heard_rows"])
    assert math.isnan(outputs_of(torch.zeros(8, 2), torch.zeros(8, 2))["heard_rows"])


def test_ids_beside_numbers_have_no_size():
    rows = torch.cat([torch.randn(64, 3), torch.randint(5000, (64, 2)).float()], 1)
    plain = dict(zip(INPUT_STATISTICS, input_facts(rows, CPU).tolist(), strict=True))
    held = dict(zip(INPUT_STATISTICS, input_facts(rows, CPU, may_hold_ids=True).tolist(), strict=True))
    assert plain["scale_ratio"] > 500
    assert held["scale_ratio"] < 3
    numbers = rows[:, :3]
    assert held["rms"] == pytest.approx(float(numbers.square().mean().sqrt()), rel=1e-5)
    assert held["largest"] == pytest.approx(float(numbers.abs().max()), rel=1e-6)
    whole = input_facts(rows[:, 3:], CPU, may_hold_ids=True).tolist()
    assert whole[INPUT_STATISTICS.index("scale_ratio")] == pytest.approx(1.0, rel=0.3)
