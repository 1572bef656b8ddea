from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.numerics import (
    RunningSum,
    add_,
    ema_,
    embedding,
    index_add,
    index_put,
    segment_sum,
    stochastic_round,
    take_rows,
)

HALF = [torch.bfloat16, torch.float16]
NARROW = [*HALF, torch.float8_e4m3fn, torch.float8_e5m2]


@pytest.mark.parametrize("dtype", HALF)
def test_4096_ones_are_4096(dtype):
    ones, index = torch.ones(4096, dtype=dtype), torch.zeros(4096, dtype=torch.long)
    zero = torch.zeros(2, dtype=dtype)
    assert index_add(zero, 0, index, ones).tolist() == [4096, 0]
    assert index_put(zero, (index,), ones, accumulate=True).tolist() == [4096, 0]
    assert segment_sum(ones, torch.tensor([4096])).tolist() == [4096]
    for rows in (take_rows, lambda w, i: embedding(i, w)):
        weight = torch.zeros(2, 1, dtype=dtype, requires_grad=True)
        rows(weight, index).sum().backward()
        assert weight.grad.flatten().tolist() == [4096, 0]
    total = RunningSum()
    for _ in range(4096):
        total.add([ones[:1], None])
    assert total.rounded()[0].tolist() == [4096]
    assert total.rounded()[1] is None
    assert total.rounded()[0].dtype is dtype


@pytest.mark.parametrize("dtype", [*HALF, torch.float32, torch.float64])
def test_the_same_as_torch_in_float64_rounded_once(dtype):
    generator = torch.Generator().manual_seed(0)
    x, source = (torch.randn(n, 3, generator=generator).to(dtype) for n in (5, 200))
    index = torch.randint(0, 5, (200,), generator=generator)
    exact = x.double().index_add(0, index, source.double(), alpha=0.5)
    eps = max(torch.finfo(dtype).eps, 1e-6 if dtype is torch.float32 else 0)
    torch.testing.assert_close(
        index_add(x, 0, index, source, alpha=0.5).double(), exact, rtol=eps, atol=4 * eps
    )
    exact = x.double().index_put((index,), source.double(), accumulate=True)
    torch.testing.assert_close(
        index_put(x, (index,), source, accumulate=True).double(), exact, rtol=eps, atol=4 * eps
    )
    lengths = torch.tensor([0, 50, 149, 1])
    exact = torch.segment_reduce(source.double(), "sum", lengths=lengths)
    torch.testing.assert_close(segment_sum(source, lengths).double(), exact, rtol=eps, atol=4 * eps)


def test_embedding_is_torch_s_but_for_the_sum():
    weight = torch.randn(6, 3).to(torch.bfloat16).requires_grad_()
    index = torch.tensor([[0, 1, 1], [5, 2, 0]])
    for padding in (None, 1, -1):
        ours, theirs = embedding(index, weight, padding), F.embedding(index, weight, padding)
        assert torch.equal(ours, theirs)
        factor = torch.randn_like(ours)
        grads = [torch.autograd.grad((y * factor).sum(), weight)[0] for y in (ours, theirs)]
        torch.testing.assert_close(*grads)
    assert torch.equal(take_rows(weight, torch.tensor(-1)), weight[-1])
    with pytest.raises(ValueError, match="padding_idx=6"):
        embedding(index, weight, 6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # by the compiler
def test_second_derivative_and_compile_of_rows():
    weight = torch.randn(4, 2).to(torch.bfloat16).requires_grad_()
    index = torch.tensor([0, 0, 3])

    def loss(w):
        return take_rows(w, index).float().pow(3).sum()

    (first,) = torch.autograd.grad(loss(weight), weight, create_graph=True)
    (second,) = torch.autograd.grad(first.float().sum(), weight)
    assert second[1].tolist() == [0, 0]
    assert second[3].float().sub(6 * weight[3].float()).abs().max() < 0.1
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    assert torch.equal(torch.autograd.grad(compiled(weight), weight)[0], first)
    for function in (index_add,):
        traced = torch.compile(function, fullgraph=True, backend="aot_eager")
        x, ones = torch.zeros(4, dtype=torch.float16), torch.ones(3, dtype=torch.float16)
        assert torch.equal(traced(x, 0, index, ones), function(x, 0, index, ones))


@pytest.mark.parametrize("dtype", NARROW)
@given(value=st.floats(-400, 400, width=32), seed=st.integers(0, 100))
@settings(max_examples=60, deadline=None)
def test_stochastic_rounding_goes_to_a_neighbor(dtype, value, seed):
    x = torch.tensor([value])
    rounded = stochastic_round(x, dtype, generator=torch.Generator().manual_seed(seed)).double().item()
    nearest = x.to(dtype).double().item()
    if nearest == x.double().item():
        assert rounded == nearest
    # every number of an 8-bit or 16-bit type, to find the two neighbors
    bits = (
        torch.arange(256, dtype=torch.uint8).view(dtype)
        if dtype.itemsize == 1
        else (torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16).view(dtype))
    )
    known = bits.double()
    known = known[known.isfinite()]
    below, above = known[known <= value].max().item(), known[known >= value].min().item()
    assert rounded in (below, above)


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("source", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1.0, 3e-5, 100.0])
def test_stochastic_rounding_is_right_on_average(dtype, source, scale):
    n = 40_000
    x = torch.full((n,), 1.05 * scale, dtype=source)
    rounded = stochastic_round(x, dtype, generator=torch.Generator().manual_seed(0)).double()
    gap = rounded.max() - rounded.min()
    assert abs(rounded.mean() - x[0].double()) <= 4 * gap / (2 * math.sqrt(n)) + 1e-12


def test_large_tensors_are_rounded_by_blocks_to_the_same_mean():
    x = torch.full((2, 40_000), 1 + 2.0**-9)
    for dtype in HALF:
        rounded = stochastic_round(x, dtype, generator=torch.Generator().manual_seed(0))
        assert rounded.shape == x.shape
        assert rounded.double().mean().item() == pytest.approx(1 + 2.0**-9, abs=1e-4)


def test_stochastic_rounding_beyond_the_range_is_a_plain_cast():
    x = torch.tensor([math.nan, math.inf, -math.inf, 1e6, -1e6, 65504.0, 0.0, -0.0])
    rounded = stochastic_round(x, torch.float16)
    assert torch.equal(rounded, x.to(torch.float16)) or (rounded[1:] == x.to(torch.float16)[1:]).all()
    assert rounded[0].isnan()
    with pytest.raises(ValueError, match="expected one of"):
        stochastic_round(x, torch.float32)


@pytest.mark.parametrize("dtype", HALF)
def test_small_additions_are_not_lost(dtype):
    lost = torch.zeros(1, dtype=dtype)
    total = torch.ones(1, dtype=dtype)
    for _ in range(1000):
        add_(total, torch.tensor([1e-3]), compensation=lost)
    assert total.item() == pytest.approx(2.0, rel=torch.finfo(dtype).eps)
    at_random, generator = torch.ones(2000, dtype=dtype), torch.Generator().manual_seed(0)
    for _ in range(1000):
        add_(at_random, torch.full((2000,), 1e-3), generator=generator)
    assert at_random.double().mean().item() == pytest.approx(2.0, abs=0.01)
    plain = torch.ones(1, dtype=dtype)
    for _ in range(1000):
        plain += 1e-3
    assert abs(plain.item() - 2) > 0.02


@pytest.mark.parametrize("dtype", HALF)
def test_moving_average_reaches_its_value(dtype):
    compensated, lost = torch.zeros(1, dtype=dtype), torch.zeros(1, dtype=dtype)
    at_random, generator = torch.zeros(200, dtype=dtype), torch.Generator().manual_seed(0)
    plain = torch.zeros(1, dtype=dtype)
    one = torch.ones(1, dtype=dtype)
    for _ in range(3000):
        ema_(compensated, one, 0.999, compensation=lost)
        ema_(at_random, one.expand(200), 0.999, generator=generator)
        plain.mul_(0.999).add_(one, alpha=0.001)
    wanted = 1 - 0.999**3000
    assert compensated.item() == pytest.approx(wanted, rel=torch.finfo(dtype).eps)
    assert at_random.double().mean().item() == pytest.approx(wanted, abs=0.01)
    assert plain.item() < 0.75
    wide = torch.zeros(1)
    assert ema_(wide, one, 0.9).item() == pytest.approx(0.1)
    with pytest.raises(ValueError, match="from 0 to 1"):
        ema_(wide, one, 1.5)


def test_wrong_compensation_and_lists():
    with pytest.raises(ValueError, match="zeros_like"):
        add_(torch.ones(2), torch.ones(2), compensation=torch.zeros(3))
    total = RunningSum()
    total.add([torch.ones(1)])
    with pytest.raises(ValueError, match="expected 1, as before"):
        total.add([])
    total.reset()
    total.add([None, torch.ones(2)])
    assert total.sums[0] is None


def test_running_sum_does_not_keep_what_it_was_given():
    gradient = torch.ones(2)
    total = RunningSum()
    total.add([gradient])
    total.add([gradient])
    assert gradient.tolist() == [1, 1]
    assert total.rounded()[0].tolist() == [2, 2]


@pytest.mark.parametrize("by_frequency", [False, True])
def test_rows_under_vmap(by_frequency):
    weights, index = torch.randn(2, 4, 3).bfloat16(), torch.tensor([0, 1, 1, 3])

    def rows(weight):
        return embedding(index, weight, scale_grad_by_freq=by_frequency)

    for function in (rows, lambda w: take_rows(w, index)):
        taken = torch.func.vmap(function)(weights)
        assert torch.equal(taken, torch.stack([function(w) for w in weights]))
        each = torch.func.vmap(torch.func.grad(lambda w: function(w).float().square().sum()))(weights)  # noqa: B023
        one = torch.func.grad(lambda w: function(w).float().square().sum())(weights[1])  # noqa: B023
        assert torch.equal(each[1], one)
