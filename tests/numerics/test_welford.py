from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.numerics import Moments, batch_norm, batch_stats


def sample(*shape: int, offset: float = 0.0, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) + offset


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e4, 1e6])
def test_merged_parts_are_the_whole(offset):
    x = sample(3000, 4, offset=offset)
    parts = [Moments.of(part, 0) for part in x.split([1, 700, 299, 2000])]
    merged = parts[0] + parts[1] + parts[2] + parts[3]
    exact = x.double().var(0)
    assert merged.count == 3000
    assert ((merged.variance().double() - exact) / exact).abs().max() < 5e-7
    assert ((merged.mean - x.double().mean(0)) / max(offset, 1)).abs().max() < 1e-7
    torch.testing.assert_close(merged.std(0), x.double().std(0, correction=0), rtol=5e-7, atol=0)


@given(sizes=st.lists(st.integers(1, 20), min_size=2, max_size=6), seed=st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_merging_is_associative(sizes, seed):
    parts = [Moments.of(sample(size, seed=seed + i).double(), 0) for i, size in enumerate(sizes)]
    left = parts[0]
    for part in parts[1:]:
        left = left + part
    right = parts[-1]
    for part in reversed(parts[:-1]):
        right = part + right
    torch.testing.assert_close(left.mean, right.mean)
    torch.testing.assert_close(left.squares, right.squares)


def test_edges():
    one = Moments.of(torch.tensor([3.0]), 0)
    assert one.variance().item() == 0
    assert one.std().item() == 0
    x = torch.full((4,), 0.1, requires_grad=True)
    Moments.of(x).std().backward()
    assert x.grad.tolist() == [0, 0, 0, 0]
    assert Moments.of(sample(3, 4, 5), (0, 2)).mean.shape == (4,)
    assert Moments.of(torch.tensor(2.0)).mean.item() == 2
    assert batch_stats(sample(10, 2).to(torch.bfloat16))[0].dtype is torch.float32
    with pytest.raises(ValueError, match="expected observations"):
        Moments.of(torch.zeros(0), 0)


@pytest.mark.parametrize("layout", ["rows", "channels_last", "contiguous"])
def test_batch_statistics_with_a_large_mean(layout):
    x = sample(65536, 2, offset=1e4) if layout == "rows" else sample(64, 2, 32, 32, offset=1e4)
    if layout == "channels_last":
        x = x.contiguous(memory_format=torch.channels_last)
    dims = (0, *range(2, x.dim()))
    variance = batch_stats(x)[1]
    exact = x.double().var(dims, correction=0)
    assert ((variance.double() - exact) / exact).abs().max() < 1e-5
    running_mean, running_var = torch.zeros(2), torch.ones(2)
    y = batch_norm(x, running_mean, running_var, training=True, momentum=1.0)
    center = x.double() - x.double().mean(dims, keepdim=True)
    wanted = center / (x.double().var(dims, correction=0, keepdim=True) + 1e-5).sqrt()
    assert (y.double() - wanted).abs().max() < 1e-3  # section 8's bound; measured 1e-6
    assert (running_var.double() - x.double().var(dims)).abs().max() < 1e-4
    assert (running_mean.double() - x.double().mean(dims)).abs().max() < 2e-3


def test_batch_norm_is_torch_s_on_ordinary_inputs():
    x, weight, bias = sample(16, 3, 5), torch.rand(3), torch.rand(3)
    states = [(torch.zeros(3), torch.ones(3)) for _ in range(2)]
    for training in (True, True, False):
        ours = batch_norm(x, *states[0], weight, bias, training=training)
        theirs = F.batch_norm(x, *states[1], weight, bias, training=training)
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(states[0], states[1])
    half = batch_norm(x.to(torch.bfloat16), None, None, training=True)
    assert half.dtype is torch.bfloat16


def test_batch_norm_derivatives_and_errors():
    x = sample(4, 2, 3).double().requires_grad_()
    weight = torch.rand(2, dtype=torch.float64, requires_grad=True)

    def normalized(x, weight):
        return batch_norm(x, None, None, weight, training=True)

    assert torch.autograd.gradcheck(normalized, (x, weight))
    assert torch.autograd.gradgradcheck(normalized, (x, weight))
    compiled = torch.compile(normalized, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, weight), normalized(x, weight))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        batch_norm(torch.ones(1, 3), None, None, training=True)
    with pytest.raises(ValueError, match=r"expected \(N, C"):
        batch_stats(torch.ones(3))
