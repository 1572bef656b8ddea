from __future__ import annotations

import math

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.numerics import quadratic_roots, stable_quadratic


def exact_roots(a: float, b: float, c: float) -> tuple[float, float]:
    with mpmath.workdps(2000):  # differences of 1e300 and 1e-300 take 600 digits
        a, b, c = mpmath.mpf(a), mpmath.mpf(b), mpmath.mpf(c)
        root = mpmath.sqrt(b * b - 4 * a * c)
        pair = sorted([(-b - root) / (2 * a), (-b + root) / (2 * a)])
        return float(pair[0]), float(pair[1])


def ulps(value: float, exact: float, dtype: torch.dtype) -> float:
    info = torch.finfo(dtype)
    spacing = max(2.0 ** (math.frexp(exact)[1] - 1) * info.eps, info.smallest_normal * info.eps)
    return abs(value - exact) / spacing


def roots(a: float, b: float, c: float, dtype: torch.dtype = torch.float64) -> tuple[float, float]:
    low, high = quadratic_roots(*(torch.tensor(v, dtype=dtype) for v in (a, b, c)))
    return low.item(), high.item()


CASES = [
    (1.0, -3.0, 2.0),
    (1e200, 1e200, -1e200),
    (1e-170, 2e-170, 1e-170),
    (94906265.625, -189812534.0, 94906268.375),  # Kahan's
    (1.0, 1e8, 1.0),
    (1.0, -1e8, 1.0),
    (1e-300, 1.0, 1e300 / 1e10),
    (1e300, 3.0, 1e-300),
    (5e-324, 1.0, -5e-324),
    (-2.0, 0.0, 8.0),
    (3.0, -7.0, 0.0),
    (1e-200, 1e-200, -1e200),
]


@pytest.mark.parametrize("case", CASES)
def test_within_an_ulp_or_two_in_float64(case):
    for value, exact in zip(roots(*case), exact_roots(*case), strict=True):
        assert (value == exact) or ulps(value, exact, torch.float64) <= 2, (value, exact)


finite = st.floats(min_value=-1e4, max_value=1e4, allow_nan=False)


@given(a=finite, b=finite, c=finite, exponents=st.tuples(*[st.integers(-250, 250)] * 3))
@settings(max_examples=300, deadline=None)
def test_any_coefficients_in_float64(a, b, c, exponents):
    a, b, c = (math.ldexp(v, e) for v, e in zip((a, b, c), exponents, strict=True))
    with mpmath.workdps(2000):
        discriminant = mpmath.mpf(b) ** 2 - 4 * mpmath.mpf(a) * mpmath.mpf(c)
    low, high = roots(a, b, c)
    if a == 0:
        assert (low == high == -c / b if -c / b else abs(low) == 0) if b else math.isnan(low)
    elif discriminant < 0:
        assert math.isnan(low)
        assert math.isnan(high)
    else:
        for value, exact in zip((low, high), exact_roots(a, b, c), strict=True):
            assert value == exact or ulps(value, exact, torch.float64) <= 4


# Half a rounding of the discriminant under the root, then the root, the sum and the quotient: 3.5 roundings,
# each of up to an ULP of the result. Measured at most 2.3
@pytest.mark.parametrize(
    ("dtype", "allowed"), [(torch.float32, 3.5), (torch.bfloat16, 0.51), (torch.float16, 0.51)]
)
def test_narrower_types(dtype, allowed):
    # Integers: what randn draws depends on the vector instructions of the machine
    draws = torch.randint(-(2**24), 2**24, (3, 2000), generator=torch.Generator().manual_seed(0))
    a, b, c = (draws / 2.0**21).to(dtype)
    low, high = quadratic_roots(a, b, c)
    assert low.dtype == dtype
    for row in torch.stack([a, b, c, low, high], 1).double().tolist():
        if row[1] ** 2 - 4 * row[0] * row[2] >= 0 and row[0]:
            for value, exact in zip(row[3:], exact_roots(*row[:3]), strict=True):
                assert not abs(exact) < torch.finfo(dtype).max or ulps(value, exact, dtype) <= allowed


def test_the_worst_of_many_draws_in_float32():
    """Three roundings of one sign: up to 2.3 ULP; how many there are hangs on the machine's multiply-add."""
    row = (-1.0981194972991943, 0.010529819875955582, 0.2279805839061737)
    low, _ = roots(*row, dtype=torch.float32)
    assert ulps(low, exact_roots(*row)[0], torch.float32) < 2.5


def test_degenerate_equations():
    a = torch.tensor([0.0, 0.0, 0.0, 1.0, 1.0])
    b = torch.tensor([2.0, 0.0, 0.0, 0.0, 0.0])
    c = torch.tensor([1.0, 1.0, 0.0, 0.0, 1.0])
    low, high = quadratic_roots(a, b, c)
    assert low.nan_to_num(7).tolist() == [-0.5, 7, 7, 0, 7]
    assert high.nan_to_num(7).tolist() == [-0.5, 7, 7, 0, 7]


def test_complex_pairs():
    low, high = quadratic_roots(*torch.tensor([1.0, 2.0, 5.0]), nonreal="complex")
    assert low == -1 - 2j
    assert high == -1 + 2j
    low, high = quadratic_roots(*torch.tensor([1.0, -3.0, 2.0]), nonreal="complex")
    assert low == 1
    assert high == 2
    with pytest.raises(ValueError, match="'nan' or 'complex'"):
        quadratic_roots(*torch.ones(3), nonreal="zero")


def coefficients(*rows: list[float]) -> list[torch.Tensor]:
    return [torch.tensor(row, dtype=torch.float64, requires_grad=True) for row in rows]


def test_first_and_second_derivatives():
    inputs = coefficients([1.0, -2.0, 3.0, 0.5], [-3.0, 1.0, 8.0, 4.0], [1.0, 4.0, 2.0, -1.0])
    assert torch.autograd.gradcheck(quadratic_roots, inputs)
    assert torch.autograd.gradgradcheck(quadratic_roots, inputs)
    imaginary = coefficients([1.0, -2.0], [1.0, 0.5], [4.0, -3.0])

    def parts(a, b, c):
        low, high = quadratic_roots(a, b, c, nonreal="complex")
        return torch.view_as_real(low), torch.view_as_real(high)

    assert torch.autograd.gradcheck(parts, imaginary)
    assert torch.autograd.gradgradcheck(parts, imaginary)
    linear = coefficients([0.0], [2.0], [1.0])
    grads = torch.autograd.grad(quadratic_roots(*linear)[0], linear)
    assert [g.item() for g in grads] == [-0.125, 0.25, -0.5]  # -r^2 / b, -r / b, -1 / b


def test_gradient_at_a_double_root_is_that_of_the_sum_of_roots():
    inputs = coefficients([1.0], [-2.0], [1.0])
    low, high = quadratic_roots(*inputs)
    grads = torch.autograd.grad(low + high, inputs)  # the sum is -b / a
    assert [g.item() for g in grads] == [-2.0, -1.0, 0.0]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # by the compiler
def test_broadcasting_vmap_and_compile():
    a, b, c = torch.randn(3, 1), torch.randn(4), torch.tensor(-1.0)
    low, high = quadratic_roots(a, b, c)
    assert low.shape == (3, 4)
    mapped = torch.vmap(quadratic_roots, in_dims=(0, None, None))(a, b, c)
    torch.testing.assert_close(mapped[0], low, equal_nan=True)
    compiled = torch.compile(quadratic_roots, fullgraph=True, backend="aot_eager")(a, b, c)
    torch.testing.assert_close(compiled[1], high, equal_nan=True)
    assert stable_quadratic is quadratic_roots
