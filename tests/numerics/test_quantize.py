from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.numerics import CastReport, QuantScheme, cast_report, fake_quantize, float_format, quantize

SCHEMES = [
    QuantScheme(bits, kind, channel_dim)
    for bits in (2, 4, 8, 16)
    for kind in ("symmetric", "affine")
    for channel_dim in (None, 0, -1)
]


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@given(values=st.lists(st.floats(-1e6, 1e6, width=32), min_size=6, max_size=6))
@settings(max_examples=30, deadline=None)
def test_error_is_at_most_half_a_step(scheme, values):
    x = torch.tensor(values).reshape(2, 3)
    found = quantize(x, scheme)
    low, high = scheme.limits
    assert low <= found.integers.min()
    assert found.integers.max() <= high
    # affine steps that keep 0 exact may push one end of the range out by half a step
    error = (found.dequantize() - x).abs()
    assert (error <= found.scale * (0.5 if scheme.kind == "symmetric" else 1.0) + x.abs().max() * 1e-6).all()


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("constant", [0.0, 0.5, -3.0, 1e-7, 6e4])
def test_constant_tensors_come_back(scheme, dtype, constant):
    x = torch.full((2, 3), constant).to(dtype)
    back = quantize(x, scheme).dequantize()
    assert ((back.double() - x.double()).abs() <= 3e-16 * x.double().abs()).all()


def test_the_naive_design_s_counterexamples():
    far = torch.linspace(10, 11, 100)
    assert (fake_quantize(far, QuantScheme(kind="affine")) - far).abs().max() <= 0.5 / 255 + 1e-6
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(4, 256, generator=generator) * torch.tensor([[1.0], [1e-1], [1e-2], [1e-3]])
    for channel_dim, worst in ((None, 0.9), (0, 0.012)):
        error = (fake_quantize(w, QuantScheme(channel_dim=channel_dim)) - w).norm(dim=1) / w.norm(dim=1)
        assert (error[3] > worst) if channel_dim is None else (error.max() < worst)


@pytest.mark.parametrize("kind", ["symmetric", "affine"])
def test_zero_stays_exactly_zero(kind):
    x = torch.tensor([-0.37, 0.0, 1.91])
    found = quantize(x, QuantScheme(bits=4, kind=kind))
    assert found.dequantize()[1].item() == 0
    assert found.zero_point.item() == found.integers[1].item()


def test_channels_are_independent_and_shapes_broadcast():
    x = torch.randn(2, 3, 4)
    found = quantize(x, QuantScheme(channel_dim=1))
    assert found.scale.shape == (1, 3, 1)
    for channel in range(3):
        alone = quantize(x[:, channel], QuantScheme())
        assert torch.equal(found.integers[:, channel], alone.integers)
    assert quantize(torch.randn(5), QuantScheme(channel_dim=0)).scale.shape == (5,)
    assert quantize(torch.zeros(0), QuantScheme()).dequantize().shape == (0,)


def test_full_range_of_float32_does_not_overflow():
    x = torch.tensor([-3.4e38, 0.0, 3.4e38])
    for kind in ("symmetric", "affine"):
        assert (fake_quantize(x, QuantScheme(kind=kind)) - x).abs().max() < 3.4e38 / 100


def test_straight_through_gradient():
    x = torch.randn(5, requires_grad=True)
    (fake_quantize(x, QuantScheme(bits=2)) * torch.arange(5)).sum().backward()
    assert x.grad.tolist() == [0, 1, 2, 3, 4]


def test_what_it_refuses():
    for bits in (1, 17, 8.5):
        with pytest.raises(ValueError, match="2 to 16 bits"):
            QuantScheme(bits=bits)
    with pytest.raises(ValueError, match="'symmetric' or 'affine'"):
        QuantScheme(kind="log")
    with pytest.raises(ValueError, match="NaN or Inf"):
        quantize(torch.tensor([1.0, math.inf]), QuantScheme())
    with pytest.raises(ValueError, match="no such dimension"):
        quantize(torch.ones(2), QuantScheme(channel_dim=1))


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2, torch.float32]
)
def test_cast_report_against_python_floats(dtype):
    info = float_format(dtype)
    generator = torch.Generator().manual_seed(0)
    exponents = torch.rand(3000, generator=generator, dtype=torch.float64) * 90 - 45
    x = torch.randn(3000, generator=generator, dtype=torch.float64) * 10.0**exponents
    x[:3] = torch.tensor([math.nan, math.inf, 0.0])
    cast = x.to(dtype).double()
    over = under = sub = 0
    worst = 0.0
    largest_step = 2.0 ** (math.frexp(info.largest)[1] - 1) * info.eps
    for value, rounded in zip(x.tolist(), cast.tolist(), strict=True):
        if not math.isfinite(value) or value == 0:
            continue
        if abs(value) > info.largest + largest_step / 2:  # would round to a number that the type has not
            over += 1
        elif rounded == 0:
            under += 1
        elif abs(rounded) < info.smallest_normal:
            sub += 1
        elif math.isfinite(rounded):
            worst = max(worst, abs(rounded - value) / abs(value))
    report = cast_report(x, dtype)
    assert report == CastReport(dtype, 3000, 2, over, under, sub, report.largest_relative_error)
    assert report.largest_relative_error == pytest.approx(worst)
    assert worst <= info.unit_roundoff


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2])
def test_the_edge_of_the_range(dtype):
    info = float_format(dtype)
    largest = torch.tensor([info.largest, -info.largest], dtype=torch.float64)
    assert cast_report(largest, dtype).num_overflow == 0
    assert cast_report(largest * (1 + 2 * info.eps), dtype).num_overflow == 2
    assert cast_report(torch.zeros(3), dtype) == CastReport(dtype, 3, 0, 0, 0, 0, 0.0)
    assert cast_report(torch.zeros(0), dtype).num_elements == 0
    with pytest.raises(ValueError, match="one of"):
        cast_report(largest, torch.int8)
