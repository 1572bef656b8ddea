"""torch.compile, torch.func and autocast give what eager code gives."""

from __future__ import annotations

import math

import pytest
import torch
from torch.func import grad, hessian, jacrev, vmap

from trimtab import numerics

X = torch.randn(4, 5, generator=torch.Generator().manual_seed(0)) * 2
OTHER = torch.randn(4, 5, generator=torch.Generator().manual_seed(1)) * 2
TARGET = torch.tensor([0, 3, 4, -100])
MASK = X > -1
UNIT = torch.sigmoid(X)
ROUNDED = UNIT.bfloat16()
LONG = torch.randn(4, 300, generator=torch.Generator().manual_seed(2))

FUNCTIONS = {
    "cross_entropy": (lambda x: numerics.cross_entropy(x, TARGET), X),
    "kl_from_logits": (lambda x: numerics.kl_from_logits(x, OTHER).sum(), X),
    "bce_with_logits": (lambda x: numerics.bce_with_logits(x, UNIT), X),
    "sigmoid": (lambda x: numerics.sigmoid(x).sum(), X),
    "cross_entropy, smooth": (lambda x: numerics.cross_entropy(x, TARGET, label_smoothing=0.1), X),
    "cross_entropy, probabilities": (lambda x: numerics.cross_entropy(x, UNIT), X),
    "js_divergence": (lambda x: numerics.js_divergence(OTHER, x).sum(), X),
    "entropy_from_logits": (lambda x: numerics.entropy_from_logits(x).sum(), X),
    "sigmoid_focal_loss": (lambda x: numerics.sigmoid_focal_loss(x, UNIT).sum(), X),
    "softmax": (lambda x: (numerics.softmax(x, temperature=0.5) * OTHER).sum(), X),
    "log_softmax": (lambda x: (numerics.log_softmax(x, 0) * OTHER).sum(), X),
    "logsumexp": (lambda x: numerics.logsumexp(x).sum(), X),
    "logcumsumexp": (lambda x: numerics.logcumsumexp(x).sum(), X),
    "masked_softmax": (lambda x: (numerics.masked_softmax(x, MASK) * OTHER).sum(), X),
    "masked_std": (lambda x: numerics.masked_std(x, MASK).sum(), X),
    "safe_norm": (lambda x: numerics.safe_norm(x, dim=0).sum(), X),
    "normalize": (lambda x: (numerics.normalize(x) * OTHER).sum(), X),
    "cosine_similarity": (lambda x: numerics.cosine_similarity(x, OTHER).sum(), X),
    "standardize": (lambda x: (numerics.standardize(x) * OTHER).sum(), X),
    "tanh": (lambda x: numerics.tanh(x).sum(), X),
    "log1mexp": (lambda x: numerics.log1mexp(x).sum(), -X.abs() - 0.1),
    "log_cosh": (lambda x: numerics.log_cosh(x).sum(), X),
    "softplus_inverse": (lambda x: numerics.softplus_inverse(x).sum(), X.abs() + 0.1),
    "logit": (lambda x: numerics.logit(x).sum(), UNIT),
    "log_ndtr": (lambda x: numerics.log_ndtr(x).sum(), X),
    "gelu": (lambda x: numerics.gelu(x).sum(), X),
    "silu": (lambda x: numerics.silu(x).sum(), X),
    "asin": (lambda x: numerics.asin(x).sum(), UNIT),
    "safe_acos": (lambda x: numerics.safe_acos(x).sum(), UNIT),
    "hypot": (lambda x: numerics.hypot(x, OTHER).sum(), X),
    "atan2": (lambda x: numerics.atan2(x, OTHER).sum(), X),
    "logaddexp": (lambda x: numerics.logaddexp(x, OTHER).sum(), X),
    "logsubexp": (lambda x: numerics.logsubexp(x + 9, OTHER).sum(), X),
    "safe_sqrt": (lambda x: numerics.safe_sqrt(x).sum(), X),
    "safe_pow": (lambda x: numerics.safe_pow(x, 1.5).sum(), X),
    "safe_div": (lambda x: numerics.safe_div(OTHER, x).sum(), X),
    "signed_logsumexp": (lambda x: numerics.signed_logsumexp(x, OTHER).log.sum(), X),
    "masked_logsumexp": (lambda x: numerics.masked_logsumexp(x, MASK).sum(), X),
    "masked_normalize": (lambda x: (numerics.masked_normalize(x, MASK) * OTHER).sum(), X),
    "safe_log": (lambda x: numerics.safe_log(x).sum(), X),
    "xlog1py": (lambda x: numerics.xlog1py(OTHER, x).sum(), X.abs()),
    "acosh": (lambda x: numerics.acosh(x).sum(), X.abs() + 1),
    "asinh": (lambda x: numerics.asinh(x).sum(), X),
    "cdist": (lambda x: numerics.cdist(x, OTHER).sum(), X),
    "dot2": (lambda x: numerics.dot2(x.flatten(), OTHER.flatten()), X),
    "mish": (lambda x: numerics.mish(x).sum(), X),
    "expm1_minus_x": (lambda x: numerics.expm1_minus_x(x).sum(), X),
    "log1p_minus_x": (lambda x: numerics.log1p_minus_x(x).sum(), X.abs() - 0.9),
    "sqrt1pm1": (lambda x: numerics.sqrt1pm1(x).sum(), X.abs() - 0.9),
    "digamma": (lambda x: numerics.digamma(x).sum(), X.abs() + 0.1),
    "trigamma": (lambda x: numerics.trigamma(x).sum(), X.abs() + 0.1),
    "ndtr": (lambda x: numerics.ndtr(x).sum(), X),
    "expm1": (lambda x: numerics.expm1(x).sum(), X),
    "bernoulli_entropy": (lambda x: numerics.bernoulli_entropy(x).sum(), X),
    "logmeanexp": (lambda x: numerics.logmeanexp(x).sum(), X),
    "bce_with_logits, pos_weight": (
        lambda x: numerics.bce_with_logits(x, UNIT, pos_weight=OTHER[0].abs()),
        X,
    ),
    "softmax of long rows": (lambda x: (numerics.softmax(x.repeat(1, 60)) * LONG).sum(), X),
    "xlogy": (lambda x: numerics.xlogy(OTHER, x).sum(), X.abs()),
}
FAST = ("cross_entropy",)


def with_grad(function, x):
    leaf = x.clone().requires_grad_()
    result = function(leaf)
    return result.detach(), torch.autograd.grad(result, leaf)[0]


def check_compiled(name, backend):
    function, x = FUNCTIONS[name]
    torch.compiler.reset()
    compiled = torch.compile(function, fullgraph=True, backend=backend)
    for got, wanted in zip(with_grad(compiled, x), with_grad(function, x), strict=True):
        assert torch.allclose(got, wanted, rtol=1e-5, atol=1e-7)


QUIET = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"
)


@QUIET
@pytest.mark.parametrize(
    "name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in FUNCTIONS]
)
def test_traced_without_a_graph_break(name):
    check_compiled(name, "aot_eager")


@QUIET
@pytest.mark.slow
@pytest.mark.parametrize("name", ["cross_entropy", "kl_from_logits", "sigmoid", "safe_norm"])
def test_compiled_by_inductor(name):
    check_compiled(name, "inductor")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functional_gradients(name):
    function, x = FUNCTIONS[name]
    assert torch.allclose(grad(function)(x), with_grad(function, x)[1], rtol=1e-5, atol=1e-7)


# Functions of a row, so that vmap over rows is the function of the whole
ROWWISE = {
    "softmax": numerics.softmax,
    "log_softmax": numerics.log_softmax,
    "logsumexp": numerics.logsumexp,
    "logcumsumexp": numerics.logcumsumexp,
    "entropy_from_logits": numerics.entropy_from_logits,
    "sigmoid": numerics.sigmoid,
    "log_ndtr": numerics.log_ndtr,
    "safe_norm": lambda x: numerics.safe_norm(x, dim=-1),
    "normalize": lambda x: numerics.normalize(x, dim=-1),
    "standardize": numerics.standardize,
    "safe_sqrt": numerics.safe_sqrt,
    "kl_from_logits": lambda x: numerics.kl_from_logits(x, OTHER[0]),
    "js_divergence": lambda x: numerics.js_divergence(OTHER[0], x),
    "cross_entropy": lambda x: (
        numerics.cross_entropy(x, torch.tensor(2))
        if x.dim() == 1
        else numerics.cross_entropy(x, torch.full((4,), 2), reduction="none")
    ),
}


@pytest.mark.parametrize("name", ROWWISE)
def test_vmap_over_rows(name):
    function = ROWWISE[name]
    assert torch.allclose(vmap(function)(X), function(X), rtol=1e-6)
    per_row = vmap(grad(lambda row: function(row).square().sum()))(X)
    whole = with_grad(lambda x: function(x).square().sum(), X)[1]
    assert torch.allclose(per_row, whole, rtol=1e-5, atol=1e-6)
    assert torch.allclose(vmap(jacrev(function))(X)[1], jacrev(function)(X[1]), rtol=1e-5, atol=1e-6)


def test_vmap_over_targets_or_logits_alone():
    logits, targets = X[0], torch.tensor([0, 3, 4])
    got = vmap(numerics.cross_entropy, in_dims=(None, 0))(logits, targets)
    wanted = torch.stack([numerics.cross_entropy(logits, t) for t in targets])
    assert torch.allclose(got, wanted)
    got = vmap(numerics.cross_entropy, in_dims=(1, None))(X, torch.tensor(2))
    wanted = torch.stack([numerics.cross_entropy(x, torch.tensor(2)) for x in X.T])
    assert torch.allclose(got, wanted)


@QUIET  # forward mode loads torch.jit
def test_hessian_of_an_elementwise_function():
    x = X[0].double()
    curve = hessian(lambda v: numerics.sigmoid(v).sum())(x).diagonal()
    s = torch.sigmoid(x)
    assert torch.allclose(curve, s * (1 - s) * (1 - 2 * s))


LOSSES = {
    "cross_entropy": lambda x: numerics.cross_entropy(x, TARGET),
    "bce_with_logits": lambda x: numerics.bce_with_logits(x, ROUNDED.to(x.dtype), reduction="none"),
    "kl_from_logits": lambda x: numerics.kl_from_logits(x, OTHER.to(x.dtype)),
    "softmax": numerics.softmax,
    "log_softmax": numerics.log_softmax,
    "entropy_from_logits": numerics.entropy_from_logits,
    "sigmoid_focal_loss": lambda x: numerics.sigmoid_focal_loss(x, ROUNDED.to(x.dtype)),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_keeps_losses_in_float32(name, dtype):
    x = X.to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = LOSSES[name](x)
    assert loss.dtype == torch.float32
    wide = LOSSES[name](x.detach().float())
    assert torch.allclose(loss, wide, rtol=2e-2, atol=1e-3 if name != "cross_entropy" else 1e-6)
    (gradient,) = torch.autograd.grad(loss.sum(), x)
    assert gradient.dtype == dtype
    assert LOSSES[name](x).dtype == dtype


def test_a_scaled_loss_in_float16_does_not_lose_small_gradients():
    x = torch.tensor([18.0, 0.0], dtype=torch.float16, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = numerics.cross_entropy(x, torch.tensor(0)) * 65536
    loss.backward()
    assert x.grad[0].item() == pytest.approx(-65536 / (1 + math.exp(18)), rel=1e-3)
