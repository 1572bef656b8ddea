"""First and second derivatives against finite differences, and what flows back from nothing."""

from __future__ import annotations

import math

import pytest
import torch
from torch.autograd import forward_ad, gradcheck, gradgradcheck

from trimtab import numerics

D = torch.float64


def draw(*shape):
    return torch.randn(*shape, dtype=D, generator=torch.Generator().manual_seed(0)) * 1.5


X = draw(3, 4)
POSITIVE = X.abs() + 0.1
UNIT = torch.sigmoid(X)
OTHER = draw(4, 3).T.contiguous() + 0.3
TARGET = torch.tensor([0, 2, -100])
MASK = torch.tensor([[True, True, False, True], [True] * 4, [False] * 4])
SHARES = torch.softmax(OTHER, -1)

ONE = {
    "sigmoid": (numerics.sigmoid, X),
    "tanh": (numerics.tanh, X),
    "expm1": (numerics.expm1, X),
    "log1mexp": (numerics.log1mexp, -POSITIVE),
    "log_cosh": (numerics.log_cosh, X),
    "softplus": (numerics.softplus, X),
    "softplus_inverse": (numerics.softplus_inverse, POSITIVE),
    "logit": (numerics.logit, UNIT),
    "silu": (numerics.silu, X),
    "gelu": (numerics.gelu, X),
    "mish": (numerics.mish, X),
    "expm1_minus_x": (numerics.expm1_minus_x, X),
    "log1p_minus_x": (numerics.log1p_minus_x, POSITIVE - 0.9),
    "sqrt1pm1": (numerics.sqrt1pm1, POSITIVE - 0.9),
    "digamma": (numerics.digamma, POSITIVE),
    "trigamma": (numerics.trigamma, POSITIVE),
    "gelu, tanh": (lambda x: numerics.gelu(x, "tanh"), X),
    "ndtr": (numerics.ndtr, X),
    "log_ndtr": (numerics.log_ndtr, X),
    "asin": (numerics.asin, UNIT),
    "acos": (numerics.acos, UNIT),
    "atanh": (numerics.atanh, UNIT),
    "asinh": (numerics.asinh, X),
    "acosh": (numerics.acosh, POSITIVE + 1),
    "safe_acos": (numerics.safe_acos, UNIT),
    "safe_asin": (numerics.safe_asin, UNIT),
    "safe_sqrt": (numerics.safe_sqrt, X),
    "safe_rsqrt": (numerics.safe_rsqrt, POSITIVE),
    "safe_log": (numerics.safe_log, X),
    "safe_pow": (lambda x: numerics.safe_pow(x, 1.5), X),
    "bernoulli_entropy": (numerics.bernoulli_entropy, X),
}
ROWS = {
    "softmax": (numerics.softmax, X),
    "softmax, temperature": (lambda x: numerics.softmax(x, 0, temperature=0.7), X),
    "log_softmax": (numerics.log_softmax, X),
    "log_softmax, confident": (numerics.log_softmax, 4 * X),
    "logsumexp": (numerics.logsumexp, X),
    "logsumexp, two dims": (lambda x: numerics.logsumexp(x, (0, 1)), X),
    "logmeanexp": (numerics.logmeanexp, X),
    "logcumsumexp": (numerics.logcumsumexp, X),
    "entropy_from_logits": (numerics.entropy_from_logits, X),
    "cross_entropy": (lambda x: numerics.cross_entropy(x, TARGET), X),
    "cross_entropy, smooth": (lambda x: numerics.cross_entropy(x, TARGET, label_smoothing=0.2), X),
    "cross_entropy, weights": (lambda x: numerics.cross_entropy(x, TARGET, POSITIVE[0]), X),
    "masked_softmax": (lambda x: numerics.masked_softmax(x, MASK), X),
    "masked_mean": (lambda x: numerics.masked_mean(x, MASK), X),
    "masked_var": (lambda x: numerics.masked_var(x, MASK), X),
    "masked_std": (lambda x: numerics.masked_std(x[:2], MASK[:2]), X),
    "masked_normalize": (lambda x: numerics.masked_normalize(x[:2], MASK[:2]), X),
    "masked_standardize": (lambda x: numerics.masked_standardize(x[:2], MASK[:2]), X),
    "safe_norm": (lambda x: numerics.safe_norm(x, dim=1), X),
    "safe_norm, 3": (lambda x: numerics.safe_norm(x, 3.0), X),
    "normalize": (numerics.normalize, X),
    "normalize, 1": (lambda x: numerics.normalize(x, 1.0), X),
    "standardize": (lambda x: numerics.standardize(x, 1), X),
    "standardize, eps": (lambda x: numerics.standardize(x, (0, 1), eps=0.1), X),
    "safe_std": (numerics.safe_std, X),
}
TWO = {
    "logsubexp": (numerics.logsubexp, (X + 5, OTHER)),
    "logaddexp": (numerics.logaddexp, (X, OTHER[0])),
    "hypot": (numerics.hypot, (X, OTHER)),
    "atan2": (numerics.atan2, (X, OTHER[:, :1])),
    "xlogy": (numerics.xlogy, (X, POSITIVE)),
    "xlog1py": (numerics.xlog1py, (X, POSITIVE)),
    "safe_div": (numerics.safe_div, (X, OTHER)),
    "safe_pow": (numerics.safe_pow, (POSITIVE, OTHER)),
    "bce_with_logits": (lambda x, t: numerics.bce_with_logits(x, t), (X, UNIT)),
    "bce_with_logits, pos_weight": (
        lambda x, w: numerics.bce_with_logits(x, UNIT, pos_weight=w),
        (X, POSITIVE),
    ),
    "sigmoid_focal_loss": (lambda x, t: numerics.sigmoid_focal_loss(x, t), (X, UNIT)),
    "cross_entropy, probabilities": (lambda x, t: numerics.cross_entropy(x, t), (X, SHARES)),
    "kl_from_logits": (lambda p, q: numerics.kl_from_logits(p, q), (X, OTHER)),
    "kl_from_logits, close": (lambda p, q: numerics.kl_from_logits(p, p + q / 100), (X, OTHER)),
    "js_divergence": (lambda p, q: numerics.js_divergence(p, q, 0), (X, OTHER)),
    "signed_logsumexp": (lambda x, w: numerics.signed_logsumexp(x, w).log, (X, OTHER)),
    "cosine_similarity": (numerics.cosine_similarity, (X, OTHER)),
    "pairwise_distance": (numerics.pairwise_distance, (X, OTHER)),
}
ALL = [(name, f, (x,)) for name, (f, x) in {**ONE, **ROWS}.items()]
ALL += [(name + " of two", f, xs) for name, (f, xs) in TWO.items()]
BY_NAME = pytest.mark.parametrize(("name", "function", "inputs"), ALL, ids=[case[0] for case in ALL])


@BY_NAME
def test_first_and_second_derivatives(name, function, inputs):
    leaves = tuple(x.clone().requires_grad_() for x in inputs)
    assert gradcheck(function, leaves, fast_mode=True)
    assert gradgradcheck(function, leaves, fast_mode=True)


@pytest.mark.slow
@BY_NAME
def test_every_entry_of_both_derivatives(name, function, inputs):
    leaves = tuple(x.clone().requires_grad_() for x in inputs)
    assert gradcheck(function, leaves)
    assert gradgradcheck(function, leaves)


@BY_NAME
def test_nothing_flows_back_from_a_zero_gradient(name, function, inputs):
    leaves = [x.clone().requires_grad_() for x in inputs]
    result = function(*leaves)
    for grad in torch.autograd.grad(result, leaves, torch.zeros_like(result)):
        assert torch.equal(grad, torch.zeros_like(grad))


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch's own
@pytest.mark.parametrize(("name", "case"), ONE.items(), ids=ONE)
def test_forward_mode_is_reverse_mode(name, case):
    function, x = case
    leaf = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(function(leaf).sum(), leaf)
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(function(forward_ad.make_dual(x, torch.ones_like(x)))).tangent
    assert torch.allclose(tangent, grad)


INF = math.inf


@pytest.mark.parametrize(
    ("function", "point"),
    [
        (numerics.log1mexp, 0.0),
        (numerics.softplus_inverse, 0.0),
        (numerics.logit, 0.0),
        (numerics.logit, 1.0),
        (numerics.asin, 1.0),
        (numerics.acos, -1.0),
        (numerics.atanh, 1.0),
        (numerics.acosh, 1.0),
        (lambda x: numerics.xlogy(x, torch.zeros_like(x)), 0.0),
        (lambda x: numerics.xlogy(torch.ones_like(x), x), 0.0),
        (lambda x: numerics.kl_from_logits(x, torch.stack([x[0], x[1] - INF])), 0.0),
    ],
)
def test_a_zero_gradient_wins_at_a_pole(function, point):
    x = torch.full((2,), point, requires_grad=True)
    result = function(x)
    (grad,) = torch.autograd.grad(result, x, torch.zeros_like(result))
    assert torch.equal(grad, torch.zeros(2))


def test_the_zero_trick_for_forward_derivatives_works():
    """jvp by double backward starts from a gradient of 0: it must still depend on it."""
    x = POSITIVE.clone().requires_grad_()
    v = torch.zeros_like(x, requires_grad=True)
    (grad,) = torch.autograd.grad(numerics.softplus_inverse(x), x, v, create_graph=True)
    (jvp,) = torch.autograd.grad(grad, v, torch.ones_like(grad))
    assert torch.allclose(jvp, -1 / torch.expm1(-POSITIVE))


@pytest.mark.parametrize("name", ["sigmoid", "logit", "safe_div", "bce_with_logits"])
def test_batched_gradients(name):
    """Gradients with one more dim than the function, as `torch.autograd.functional` asks for."""
    function = {
        **{n: f for n, (f, _) in ONE.items()},
        **{n: (lambda x, f=f, o=xs[1]: f(x, o)) for n, (f, xs) in TWO.items()},
    }[name]
    leaf = UNIT.clone().requires_grad_()
    result = function(leaf)
    directions = torch.stack([torch.ones_like(result), 2 * torch.ones_like(result)])
    (both,) = torch.autograd.grad(result, leaf, directions, is_grads_batched=True)
    (one,) = torch.autograd.grad(function(leaf), leaf, directions[0])
    assert torch.equal(both, torch.stack([one, 2 * one]))


@pytest.mark.parametrize("function", [case[0] for case in ONE.values()], ids=ONE)
def test_nan_stays_nan(function):
    assert function(torch.tensor([math.nan])).isnan().all()
