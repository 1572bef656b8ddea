"""Errors in ULP of value and gradient against mpmath, four types, inputs of every size."""

from __future__ import annotations

import math

import mpmath
import pytest
import torch
from mpmath import mpf
from numerics.grid import CASES, DTYPES, measure, ulp_errors

from trimtab import numerics

HALF = (torch.bfloat16, torch.float16)


def check(case, dtype, num_points):
    errors = measure(case, case.ours, dtype, num_points)
    half = dtype in HALF
    assert errors.value <= (1.0 if half else case.value_ulp), f"value at {errors.value_at}"
    assert errors.gradient <= (1.0 if half else case.gradient_ulp), f"gradient at {errors.gradient_at}"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=repr)
def test_elementwise(case, dtype):
    check(case, dtype, 60)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=repr)
def test_elementwise_on_a_dense_grid(case, dtype):
    check(case, dtype, 400)


def test_the_measure_finds_what_torch_loses():
    case = next(c for c in CASES if c.name == "sigmoid")
    errors = measure(case, case.torch, torch.float32, 60)
    assert errors.gradient > 1e3


@pytest.mark.parametrize(
    ("value", "wanted", "error"),
    [
        (1.0, mpf(1), 0.0),
        (1.0 + 2.0**-23, mpf(1), 1.0),
        (0.0, mpf(2) ** -149, 1.0),
        (math.inf, mpf(2) ** 128, 0.0),
        (math.inf, mpf(2) ** 100, math.inf),
        (math.nan, mpf(0), math.inf),
        (-math.inf, mpmath.inf, math.inf),
    ],
)
def test_ulp(value, wanted, error):
    assert ulp_errors([value], [wanted], torch.float32) == [error]


# Roots and cancellation between inputs make a relative error meaningless for functions of two variables
PAIRS = [(1.0, 0.5), (3.0, -2.0), (1e-3, 2e-3), (-5.0, -90.0), (0.7, 100.0), (20.0, 19.99), (-700.0, -700.5)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(
    ("ours", "value", "by_a", "by_b"),
    [
        (
            numerics.logaddexp,
            lambda a, b: mpmath.log(mpmath.exp(a) + mpmath.exp(b)),
            lambda a, b: 1 / (1 + mpmath.exp(b - a)),
            lambda a, b: 1 / (1 + mpmath.exp(a - b)),
        ),
        (
            lambda a, b: numerics.logsubexp(torch.maximum(a, b), torch.minimum(a, b)),
            lambda a, b: max(a, b) + mpmath.log1p(-mpmath.exp(-abs(a - b))),
            lambda a, b: 1 / (1 - mpmath.exp(b - a)),
            lambda a, b: 1 / (1 - mpmath.exp(a - b)),
        ),
        (
            numerics.hypot,
            mpmath.hypot,
            lambda a, b: a / mpmath.hypot(a, b),
            lambda a, b: b / mpmath.hypot(a, b),
        ),
        (
            numerics.atan2,
            mpmath.atan2,
            lambda a, b: b / (a * a + b * b),
            lambda a, b: -a / (a * a + b * b),
        ),
    ],
    ids=["logaddexp", "logsubexp", "hypot", "atan2"],
)
def test_functions_of_two(ours, value, by_a, by_b, dtype):
    for first, second in PAIRS:
        a = torch.tensor(first, dtype=dtype, requires_grad=True)
        b = torch.tensor(second, dtype=dtype, requires_grad=True)
        y = ours(a, b)
        grads = torch.autograd.grad(y, (a, b))
        exact = [mpf(a.item()), mpf(b.item())]
        with mpmath.workdps(50):
            wanted = [f(*exact) for f in (value, by_a, by_b)]
            scale = max(abs(v) for v in exact)  # of a log that passes 0
        eps = torch.finfo(dtype).eps
        assert abs(y.item() - wanted[0]) <= 2 * eps * max(
            abs(wanted[0]), scale * (ours is not numerics.hypot)
        )
        for grad, exact_grad in zip(grads, wanted[1:], strict=True):
            # a - b is rounded before it is an exponent
            allowed = eps * (4 + abs(exact[0] - exact[1])) * abs(exact_grad)
            assert abs(grad.item() - exact_grad) <= allowed + torch.finfo(dtype).smallest_normal * eps


def test_trigamma_and_the_gradient_of_digamma():
    x = torch.tensor([1e-300, 1e-8, 0.3, 1.0, 7.7, 50.0, 1e9, 1e300, -0.3, -5.6], dtype=torch.float64)
    with mpmath.workdps(40):
        wanted = [
            mpmath.psi(1, mpf(v)) if abs(v) < 1e8 else (1 + 1 / (2 * mpf(v))) / mpf(v) for v in x.tolist()
        ]
    assert max(ulp_errors(numerics.trigamma(x).tolist(), wanted, torch.float64)) <= 16
    leaf = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(numerics.digamma(leaf).sum(), leaf)
    assert torch.equal(grad, numerics.trigamma(x))
    narrow = numerics.trigamma(x[2:6].bfloat16())
    assert torch.equal(narrow, numerics.trigamma(x[2:6].bfloat16().double()).bfloat16())
