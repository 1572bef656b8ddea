"""Tensors that are worked on in parts give what small ones give, whatever their layout."""

from __future__ import annotations

import math

import pytest
import torch
from torch.func import grad, vmap

from trimtab import numerics
from trimtab.numerics import _blocks, normal


@pytest.fixture
def parts(monkeypatch):
    """Parts of a few elements, so that small tensors have many of them; to be called."""
    threads = torch.get_num_threads()

    def cut(num_threads=1):
        torch.set_num_threads(num_threads)
        monkeypatch.setattr(_blocks, "_BLOCK", 10)

    yield cut
    torch.set_num_threads(threads)


X = torch.randn(23, 31, generator=torch.Generator().manual_seed(0)) * 3
LAYOUTS = {
    "contiguous": X,
    "transposed": X.T,
    "strided": X[:, ::2],
    "three dims": X[:, :30].reshape(23, 5, 6),
    "expanded": X[:, :1].expand(23, 31),
}
ELEMENTWISE = {
    "gelu": numerics.gelu,
    "silu": numerics.silu,
    "sigmoid": numerics.sigmoid,
    "logit": lambda x: numerics.logit(torch.sigmoid(x / 3)),
    "softplus_inverse": lambda x: numerics.softplus_inverse(x.abs() + 0.1),
    "log_cosh": numerics.log_cosh,
    "safe_div": lambda x: numerics.safe_div(x, x.flip(0)),
    "xlogy": lambda x: numerics.xlogy(x, x.abs()),
}
ROWS = {
    "kl": lambda x: numerics.kl_from_logits(x, x.flip(0)),
    "kl, 0": lambda x: numerics.kl_from_logits(x, x.flip(0), 0),
    "kl, 1": lambda x: numerics.kl_from_logits(x, x.flip(0), 1),
    "js": lambda x: numerics.js_divergence(x, x.flip(0)),
    "cross entropy": lambda x: numerics.cross_entropy(x, torch.softmax(x.flip(1), 1), reduction="none"),
    "smoothed": lambda x: numerics.cross_entropy(
        x, torch.zeros_like(x[:, 0], dtype=torch.long), label_smoothing=0.2, reduction="none"
    ),
}
ALL = {**ELEMENTWISE, **ROWS}


def value_and_gradients(function, x):
    leaf = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    y = function(leaf)
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)
    first, of_a_sum = (
        torch.autograd.grad(y, leaf, g, retain_graph=True)[0]
        for g in (weights, weights[..., :1].expand_as(y))
    )
    return y.detach(), first, of_a_sum


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_parts_change_nothing(name, layout, dtype, parts):
    x = LAYOUTS[layout].to(dtype)
    whole = value_and_gradients(ALL[name], x)
    parts(1 if layout == "contiguous" else 2)
    for got, wanted in zip(value_and_gradients(ALL[name], x), whole, strict=True):
        assert got.dtype == wanted.dtype
        assert torch.allclose(got, wanted, rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("name", ALL)
def test_transforms_of_what_would_be_cut(name, parts):
    parts()
    x = X.double()
    function = ALL[name]
    assert torch.autograd.gradgradcheck(function, x[:9, :8].clone().requires_grad_(), fast_mode=True)
    if name in ELEMENTWISE and name != "safe_div":  # which mixes rows
        assert torch.allclose(vmap(function)(x), function(x))
    leaf = x.clone().requires_grad_()
    assert torch.allclose(
        grad(lambda v: function(v).sum())(x), torch.autograd.grad(function(leaf).sum(), leaf)[0]
    )


def test_a_zero_gradient_wins_at_a_pole_in_parts(parts):
    parts()
    p = torch.zeros(200, requires_grad=True)
    (grad,) = torch.autograd.grad(numerics.logit(p), p, torch.zeros(200))
    assert torch.equal(grad, torch.zeros(200))


def test_gelu_where_products_round_twice(monkeypatch):
    """The kernels of a machine without a fused multiply-add leave no rounding error to be seen."""
    x = torch.cat([torch.linspace(-15, 15, 999), torch.tensor([math.inf, -math.inf, 3e38, -3e38])])
    with_fma = value_and_gradients(numerics.gelu, x)
    monkeypatch.setattr(normal, "_has_fma", lambda: False)
    value, *gradients = value_and_gradients(numerics.gelu, x)
    assert torch.allclose(value, with_fma[0], rtol=4e-7, atol=1e-37)
    for got, wanted in zip(gradients, with_fma[1:], strict=True):
        assert torch.allclose(got, wanted, rtol=1e-6, atol=1e-7)  # it has a root
