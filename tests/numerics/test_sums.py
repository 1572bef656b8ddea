from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.numerics import cumsum_compensated, dot2, sum_compensated, sum_pairwise

TYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
numbers = st.lists(st.floats(min_value=-1e100, max_value=1e100, allow_nan=False), min_size=1, max_size=60)


@given(numbers)
@settings(max_examples=200, deadline=None)
def test_float64_sum_is_right_to_an_ulp_and_the_square_of_eps(terms):
    x = torch.tensor(terms, dtype=torch.float64)
    exact = math.fsum(terms)
    bound = 2.3e-16 * abs(exact) + 60 * 60 * 1.3e-32 * math.fsum(abs(v) for v in terms)
    assert abs(sum_compensated(x).item() - exact) <= bound + 5e-324
    exact_dot = Fraction(0)
    for term, other in zip(terms, reversed(terms), strict=True):
        exact_dot += Fraction(term) * Fraction(other)
    size = math.fsum(abs(a * b) for a, b in zip(terms, reversed(terms), strict=True))
    # 1e-200: products below 1e-290 lose their error term to underflow
    bound = 2.3e-16 * abs(float(exact_dot)) + 120 * 120 * 1.3e-32 * size + 1e-200
    assert abs(dot2(x, x.flip(0)).item() - float(exact_dot)) <= bound


def test_the_spec_s_cancelling_sums():
    x = torch.cat([torch.tensor([1e8]), torch.ones(1000), torch.tensor([-1e8])])
    assert sum_compensated(x).item() == 1000
    assert abs(x.sum().item() - 1000) > 1  # torch: 987
    noise = torch.randn(1 << 20, generator=torch.Generator().manual_seed(0))
    cancelling = torch.cat([noise, -noise.flip(0) * (1 + 1e-7)])
    exact = math.fsum(cancelling.double().tolist())
    assert sum_compensated(cancelling).item() == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize("dtype", TYPES)
def test_a_sum_is_rounded_once(dtype):
    x = torch.randn(7, 1001, generator=torch.Generator().manual_seed(1)).to(dtype)
    exact = torch.tensor([math.fsum(row) for row in x.double().tolist()], dtype=torch.float64).to(dtype)
    assert torch.equal(sum_compensated(x, 1), exact)
    assert sum_compensated(x, 0, keepdim=True).shape == (1, 1001)
    assert sum_compensated(x, keepdim=True).shape == (1, 1)
    running = torch.tensor(
        [[math.fsum(row[: i + 1]) for i in range(9)] for row in x.double().tolist()], dtype=torch.float64
    )
    assert torch.equal(cumsum_compensated(x, 1)[:, :9], running.to(dtype))
    products = x.double() * x.double().flip(1)
    exact_dot = torch.tensor([math.fsum(row) for row in products.tolist()], dtype=torch.float64)
    torch.testing.assert_close(
        dot2(x, x.flip(1)), exact_dot.to(dtype), rtol=torch.finfo(dtype).eps, atol=1e-13
    )


def test_long_cumulative_sums():
    x = torch.rand(1 << 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 0.3
    ours = cumsum_compensated(x)
    ends = range(1, 1 << 16, 7777)
    exact = torch.tensor([math.fsum(x[:end].tolist()) for end in ends], dtype=torch.float64)
    assert torch.equal(ours[[end - 1 for end in ends]], exact)
    assert not torch.equal(x.cumsum(0)[[end - 1 for end in ends]], exact)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pairwise_sum_is_near_and_the_same_for_every_layout(dtype):
    x = torch.rand(33, 1000, dtype=dtype, generator=torch.Generator().manual_seed(0))
    total = sum_pairwise(x, 1)
    exact = torch.tensor([math.fsum(row) for row in x.double().tolist()], dtype=torch.float64)
    assert (total.double() - exact).abs().max() <= 5 * torch.finfo(dtype).eps * 500
    assert torch.equal(sum_pairwise(x.T.contiguous().T, 1), total)
    assert torch.equal(sum_pairwise(x[3:4], 1), total[3:4])


@pytest.mark.parametrize("sum_", [sum_compensated, sum_pairwise])
def test_infinities_nan_and_nothing(sum_):
    for dtype in (torch.float64, torch.float32):
        rows = torch.tensor([[math.inf, 1, 2], [math.inf, -math.inf, 0], [math.nan, 1, 1]], dtype=dtype)
        assert sum_(rows, 1).tolist()[0] == math.inf
        assert sum_(rows, 1)[1:].isnan().all()
        assert sum_(torch.zeros(0, dtype=dtype)).item() == 0
    huge = torch.full((4,), 1e308, dtype=torch.float64)
    assert sum_(huge).item() == math.inf
    assert dot2(huge, huge).item() == math.inf
    assert cumsum_compensated(rows.double(), 1)[0].tolist() == [math.inf] * 3


def test_dot_near_overflow_falls_back_to_the_plain_one():
    big, small = (
        torch.tensor([1e300, 2.0], dtype=torch.float64),
        torch.tensor([1e-300, 3.0], dtype=torch.float64),
    )
    assert dot2(big, small).item() == pytest.approx(7.0, rel=1e-15)


def test_gradients():
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    y = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: sum_pairwise(v, 1), x)
    assert torch.autograd.gradcheck(lambda v: cumsum_compensated(v, 1), x)
    assert torch.autograd.gradcheck(lambda v: sum_compensated(v, 0), x)
    assert torch.autograd.gradcheck(lambda u, v: dot2(u, v, 0), (x, y))
    assert torch.autograd.gradgradcheck(lambda u, v: dot2(u, v, 0), (x, y))
    assert torch.autograd.gradgradcheck(lambda v: cumsum_compensated(v, 1).square(), x)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # by the compiler
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_compile_without_a_break_and_vmap(dtype):
    x = torch.randn(4, 37, dtype=dtype, requires_grad=True)

    def every(v):
        parts = (
            sum_compensated(v),
            sum_pairwise(v),
            cumsum_compensated(v),
            dot2(v, v.flip(-1)),
            sum_compensated(v, 0),
        )
        return torch.cat([part.flatten() for part in parts])

    compiled = torch.compile(every, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), every(x))
    (eager,) = torch.autograd.grad(every(x).square().sum(), x)
    (traced,) = torch.autograd.grad(compiled(x).square().sum(), x)
    torch.testing.assert_close(eager, traced, rtol=4 * torch.finfo(dtype).eps, atol=0)
    x = x.detach()
    torch.testing.assert_close(torch.vmap(sum_compensated)(x), sum_compensated(x, 1))


@pytest.mark.parametrize(
    "shape", [(70_000,), (1, 70_000), (3, 100_001), (100_001, 3), (2, 5, 40_000), (66_000, 1)]
)
def test_sums_by_blocks_are_whole(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    for dim in (None, *range(len(shape))):
        exact = x.double().sum() if dim is None else x.double().sum(dim)
        torch.testing.assert_close(sum_compensated(x, dim), exact.float(), rtol=1.2e-7, atol=1e-9)
