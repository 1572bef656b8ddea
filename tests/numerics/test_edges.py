"""Nothing, one, and several: no elements, scalars, masks over several dims, the ends of the range."""

from __future__ import annotations

import math

import pytest
import torch

from trimtab import numerics

INF = math.inf
NONE, MASK = torch.zeros(3, 0), torch.zeros(3, 0, dtype=torch.bool)

# A function of rows, and what a row of nothing gives
OF_NOTHING = {
    "softmax": (numerics.softmax, None),
    "log_softmax": (numerics.log_softmax, None),
    "gumbel_softmax": (lambda x: numerics.gumbel_softmax(x, hard=True), None),
    "logcumsumexp": (numerics.logcumsumexp, None),
    "normalize": (numerics.normalize, None),
    "normalize, inf": (lambda x: numerics.normalize(x, INF), None),
    "standardize": (numerics.standardize, None),
    "masked_softmax": (lambda x: numerics.masked_softmax(x, MASK), None),
    "masked_normalize": (lambda x: numerics.masked_normalize(x, MASK), None),
    "masked_standardize": (lambda x: numerics.masked_standardize(x, MASK), None),
    "logsumexp": (numerics.logsumexp, -INF),
    "logmeanexp": (numerics.logmeanexp, -INF),
    "signed_logsumexp": (lambda x: numerics.signed_logsumexp(x, x).log, -INF),
    "masked_logsumexp": (lambda x: numerics.masked_logsumexp(x, MASK), -INF),
    "masked_mean": (lambda x: numerics.masked_mean(x, MASK), 0),
    "masked_var": (lambda x: numerics.masked_var(x, MASK), 0),
    "masked_std": (lambda x: numerics.masked_std(x, MASK), 0),
    "safe_std": (numerics.safe_std, 0),
    "safe_norm": (lambda x: numerics.safe_norm(x, dim=1), 0),
    "safe_norm, inf": (lambda x: numerics.safe_norm(x, INF, 1), 0),
    "cosine_similarity": (lambda x: numerics.cosine_similarity(x, x), 0),
    "pairwise_distance": (lambda x: numerics.pairwise_distance(x, x), 0),
    "cdist": (lambda x: numerics.cdist(x, x)[0], 0),
    "entropy_from_logits": (numerics.entropy_from_logits, 0),
    "kl_from_logits": (lambda x: numerics.kl_from_logits(x, x), 0),
    "js_divergence": (lambda x: numerics.js_divergence(x, x), 0),
}


@pytest.mark.parametrize("name", OF_NOTHING)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_rows_of_nothing(name, dtype):
    function, wanted = OF_NOTHING[name]
    x = NONE.to(dtype).requires_grad_()
    y = function(x)
    assert y.dtype == dtype
    assert y.tolist() == ([[]] * 3 if wanted is None else [wanted] * 3)
    assert torch.autograd.grad(y.sum(), x)[0].shape == (3, 0)


SCALAR = {
    "softmax": 1,
    "log_softmax": 0,
    "logsumexp": 3,
    "logmeanexp": 3,
    "logcumsumexp": 3,
    "gumbel_softmax": 1,
    "entropy_from_logits": 0,
    "safe_norm": 3,
    "standardize": 0,
    "safe_std": 0,
}


@pytest.mark.parametrize("name", SCALAR)
def test_scalars_are_rows_of_one(name):
    x = torch.tensor(3.0, requires_grad=True)
    y = getattr(numerics, name)(x)
    assert y.shape == ()
    assert y.item() == SCALAR[name]
    assert torch.autograd.grad(y, x)[0].isfinite()
    other = torch.tensor(2.0)
    for function in (numerics.kl_from_logits, numerics.js_divergence):
        assert function(x, other).item() == 0
    yes = torch.tensor(True)
    assert numerics.masked_mean(x, yes).item() == 3
    assert numerics.masked_std(x, yes).item() == numerics.masked_softmax(x, ~yes).item() == 0


def test_masked_reductions_over_several_dims():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 4, dtype=torch.float64, generator=generator)
    mask = torch.rand(2, 3, 4, generator=generator) > 0.4
    rows = [x[:, i][mask[:, i]] for i in range(3)]
    for function, reference in (
        (numerics.masked_mean, torch.mean),
        (numerics.masked_var, torch.var),
        (numerics.masked_std, torch.std),
        (numerics.masked_logsumexp, lambda row: row.logsumexp(0)),
    ):
        wanted = torch.stack([reference(row) for row in rows])
        torch.testing.assert_close(function(x, mask, (0, 2)), wanted)
        torch.testing.assert_close(function(x, mask, (-1, 0), keepdim=True), wanted[None, :, None])
    standard = numerics.masked_standardize(x, mask, (0, 2))
    torch.testing.assert_close(standard[:, 1][mask[:, 1]], (rows[1] - rows[1].mean()) / rows[1].std())
    unit = numerics.masked_normalize(x, mask, dim=(0, 2))
    torch.testing.assert_close(unit[:, 2][mask[:, 2]], rows[2] / rows[2].norm())
    narrow = numerics.masked_standardize(x[:1, :1], mask, (0, 2))  # the mask is the larger one
    assert narrow.shape == (2, 3, 4)
    leaf = x.clone().requires_grad_()
    assert torch.autograd.gradgradcheck(lambda v: numerics.masked_std(v, mask, (0, 2)), leaf)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 3.0])
def test_focal_loss_at_the_ends(dtype, gamma):
    top = torch.finfo(dtype).max
    for target, right in ((1.0, 1), (0.0, -1)):
        for size in (1e5, top, INF):
            x = torch.tensor([right * size, -right * size], dtype=dtype, requires_grad=True)
            loss = numerics.sigmoid_focal_loss(x, torch.full((2,), target, dtype=dtype), -1, gamma)
            (grad,) = torch.autograd.grad(loss.sum(), x)
            assert loss.tolist() == [0, abs(x[1].item())]
            assert grad.tolist() == [0, -right]


MATRIX = torch.tensor([[4.0, 1.0], [1.0, 3.0]])
OF_MATRICES = {
    "condition_number": numerics.condition_number,
    "estimate_condition": numerics.estimate_condition,
    "condition_lower_bound": numerics.condition_lower_bound,
    "qr": lambda a: numerics.qr(a).R,
    "least_squares": lambda a: numerics.least_squares(a, a[0]).solution,
    "det": numerics.det,
    "polar": lambda a: numerics.polar(a)[0],
    "safe_eigh": lambda a: numerics.safe_eigh(a).values,
    "safe_svd": lambda a: numerics.safe_svd(a).S,
    "sqrtm_psd": numerics.sqrtm_psd,
    "logm_psd": numerics.logm_psd,
    "quadratic_roots": lambda a: numerics.quadratic_roots(a, -5 * a, a)[0],
    "sum_compensated": numerics.sum_compensated,
    "sum_pairwise": numerics.sum_pairwise,
    "dot2": lambda a: numerics.dot2(a, a),
    "cumsum_compensated": numerics.cumsum_compensated,
    "cast_report": lambda a: numerics.cast_report(a, torch.float16),
}


@pytest.mark.parametrize("name", OF_MATRICES)
@pytest.mark.filterwarnings("ignore:Casting complex")
def test_complex_is_refused_and_integers_are_numbers(name):
    """A complex tensor whose imaginary part is dropped on the way, an integer root: silent nonsense."""
    function = OF_MATRICES[name]
    with pytest.raises(TypeError, match=r"expected a real tensor, got torch\.complex64"):
        function(MATRIX + 1j * MATRIX)
    got, wanted = function(MATRIX.long()), function(MATRIX)
    if name == "cast_report":
        assert got == wanted
    else:
        torch.testing.assert_close(torch.as_tensor(got).to(torch.as_tensor(wanted)), torch.as_tensor(wanted))


def test_quadratics_of_numbers():
    assert [root.item() for root in numerics.quadratic_roots(1, -3.0, 2)] == [1, 2]
    assert numerics.quadratic_roots(1.0, -1e8, 1.0)[0].item() == pytest.approx(1e-8, rel=1e-15)
    roots = numerics.quadratic_roots(torch.ones(2), -3, 2.0)
    assert roots[1].tolist() == [2, 2]
    assert roots[1].dtype == torch.float32
