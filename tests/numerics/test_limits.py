"""At infinities, and second derivatives in the tails: what finite differences do not see."""

from __future__ import annotations

import math

import mpmath
import pytest
import torch
from mpmath import mp, mpf
from numerics.grid import CASES, DTYPES

from trimtab import numerics

INF, NAN = math.inf, math.nan
BY_NAME = {case.name: case for case in CASES}

# Value, first and second derivative at -inf, then at +inf
LIMITS = {
    "sigmoid": ((0, 0, 0), (1, 0, 0)),
    "tanh": ((-1, 0, 0), (1, 0, 0)),
    "softplus": ((0, 0, 0), (INF, 1, 0)),
    "silu": ((0, 0, 0), (INF, 1, 0)),
    "gelu": ((0, 0, 0), (INF, 1, 0)),
    "mish": ((0, 0, 0), (INF, 1, 0)),
    "log_cosh": ((INF, -1, 0), (INF, 1, 0)),
    "expm1": ((-1, 0, 0), (INF, INF, INF)),
    "expm1_minus_x": ((INF, -1, 0), (INF, INF, INF)),
    "ndtr": ((0, 0, 0), (1, 0, 0)),
    "log_ndtr": ((-INF, INF, -1), (0, 0, 0)),
    "asinh": ((-INF, 0, 0), (INF, 0, 0)),
    "acosh": (None, (INF, 0, 0)),
    "log1mexp": ((0, 0, 0), None),
    "softplus_inverse": (None, (INF, 1, 0)),
    "bernoulli_entropy": ((0, 0, 0), (0, 0, 0)),
    "digamma": (None, (INF, 0, 0)),
    "trigamma": (None, (0, 0, 0)),
    "safe_acos": ((math.pi, None, 0), (0, None, 0)),
    "safe_asin": ((-math.pi / 2, None, 0), (math.pi / 2, None, 0)),
    "safe_sqrt": ((0, 0, 0), (INF, 0, 0)),
    "safe_rsqrt": ((0, 0, 0), (0, 0, 0)),
    "safe_log": ((0, 0, 0), (INF, 0, 0)),
}


def derivatives(function, x):
    x = x.clone().requires_grad_()
    value = function(x)
    (first,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    return value.detach(), first.detach(), second


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", LIMITS)
def test_values_and_derivatives_at_infinities(name, dtype):
    for end, wanted in zip((-INF, INF), LIMITS[name], strict=True):
        if wanted is None:
            continue
        x = torch.tensor([end, 0.5], dtype=dtype)  # two: kernels take one element apart from many
        for got, exact in zip(derivatives(getattr(numerics, name), x), wanted, strict=True):
            if exact is not None:
                assert got[0].item() == torch.tensor(exact, dtype=dtype).item()


def test_torch_s_own_at_infinities():
    """Why these are ours: when torch is mended here, this test says so."""
    x = torch.tensor([-INF])
    assert torch.nn.functional.silu(x).isnan()
    assert torch.nn.functional.mish(x).isnan()
    assert torch.nn.functional.gelu(x).isnan()


@pytest.mark.parametrize(
    ("name", "point", "wanted"),
    [
        ("asin", 1.0, INF),
        ("asin", -1.0, -INF),
        ("atanh", 1.0, INF),
        ("acosh", 1.0, -INF),
        ("logit", 0.0, -INF),
        ("logit", 1.0, INF),
        ("log1mexp", 0.0, -INF),
        ("softplus_inverse", 0.0, -INF),
    ],
)
def test_second_derivatives_at_poles_are_infinite(name, point, wanted):
    assert derivatives(getattr(numerics, name), torch.tensor([point]))[2].item() == wanted


TAILS = {
    "sigmoid": [-60.0, -20.0, 3.0, 20.0, 60.0],
    "tanh": [-30.0, -9.5, 1.0, 9.5, 30.0],
    "softplus": [-60.0, -20.0, 3.0, 20.0, 60.0],
    "silu": [-60.0, -20.0, 3.0, 20.0, 60.0],
    "mish": [-60.0, -3.0, 10.0, 40.0],
    "log_cosh": [-30.0, 9.5, 30.0],
    "ndtr": [-9.0, -3.0, 3.0, 9.0],
    "log_ndtr": [-1e8, -1e6, -2e4, -300.5, -299.5, -30.0, -1.0, 2.0, 8.0],
    "log1mexp": [-60.0, -1e-3, -1e-6],
    "softplus_inverse": [1e-6, 1e-3, 20.0, 60.0],
    "asinh": [1e-3, 1e6],
    "acosh": [1.0001, 1e6],
    "logit": [1e-6, 0.3, 0.999],
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", TAILS)
def test_second_derivatives_in_the_tails(name, dtype):
    x = torch.tensor(TAILS[name], dtype=dtype)
    second = derivatives(getattr(numerics, name), x)[2].tolist()
    with mp.workdps(120):
        for point, got in zip(x.tolist(), second, strict=True):
            h = abs(mpf(point)) * mpf(10) ** -25
            slope = BY_NAME[name].derivative
            exact = (slope(mpf(point) + h) - slope(mpf(point) - h)) / (2 * h)
            if name == "log_ndtr" and point < -1e4:  # the case's own series is too short to differentiate
                exact = mpf(-1) + mpf(point) ** -2
            assert abs(got - exact) <= abs(exact) * (1e-5 if dtype == torch.float32 else 1e-10), point
            assert mpmath.isfinite(exact)


def test_torch_loses_the_second_derivative_of_softplus():
    second = derivatives(torch.nn.functional.softplus, torch.tensor([20.0]))[2]
    assert second.item() == 0
    assert derivatives(numerics.softplus, torch.tensor([20.0]))[2].item() == pytest.approx(2.0611536e-9)
    scaled = derivatives(lambda x: numerics.softplus(x, 2.0), torch.tensor([10.0]))[2]
    assert scaled.item() == pytest.approx(2 * 2.0611536e-9)
