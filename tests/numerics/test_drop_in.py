"""Where torch is right, ours is the same: signatures, shapes, reductions, types; and wrong arguments."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab import numerics

SHAPES = [(7,), (5, 7), (3, 7, 2), (2, 7, 3, 2)]


def logits_of(shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 2


def both(ours, theirs, x):
    """Results and gradients of both."""
    pairs = []
    for function in (ours, theirs):
        leaf = x.clone().requires_grad_()
        result = function(leaf)
        pairs.append((result, torch.autograd.grad(result.sum(), leaf)[0]))
    return pairs


def assert_same(ours, theirs, x, rtol=2e-5):
    (a, grad_a), (b, grad_b) = both(ours, theirs, x)
    assert a.shape == b.shape
    assert a.dtype == b.dtype
    assert torch.allclose(a, b, rtol=rtol, atol=1e-6)
    assert torch.allclose(grad_a, grad_b, rtol=rtol, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy_of_indices(shape, reduction, smoothing, weighted):
    x = logits_of(shape)
    dim = min(len(shape) - 1, 1)
    y = torch.randint(0, 7, shape[:dim] + shape[dim + 1 :], generator=torch.Generator().manual_seed(1))
    if y.dim():
        y.flatten()[0] = 3
        y.view(-1)[0] = -100
    options = {"reduction": reduction, "label_smoothing": smoothing}
    options["weight"] = torch.linspace(0.5, 2, 7) if weighted else None
    assert_same(
        lambda v: numerics.cross_entropy(v, y, **options), lambda v: F.cross_entropy(v, y, **options), x
    )


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_cross_entropy_of_probabilities(shape, reduction, smoothing):
    x = logits_of(shape)
    t = torch.softmax(logits_of(shape).flip(0), min(len(shape) - 1, 1)).requires_grad_()
    options = {"reduction": reduction, "label_smoothing": smoothing, "weight": torch.linspace(0.5, 2, 7)}
    for target in (t.detach(), t):
        assert_same(
            lambda v, target=target: numerics.cross_entropy(v, target, **options),
            lambda v, target=target: F.cross_entropy(v, target, **options),
            x,
        )
    ours, theirs = numerics.cross_entropy(x, t, **options), F.cross_entropy(x, t, **options)
    assert torch.allclose(
        torch.autograd.grad(ours.sum(), t)[0], torch.autograd.grad(theirs.sum(), t)[0], atol=1e-5
    )


def test_ignore_index_and_float64():
    x, y = logits_of((4, 7)).double(), torch.tensor([1, 2, 1, 0])
    assert_same(
        lambda v: numerics.cross_entropy(v, y, ignore_index=1),
        lambda v: F.cross_entropy(v, y, ignore_index=1),
        x,
    )


def test_masked_classes_are_as_if_left_out():
    x, y = logits_of((4, 7)), torch.tensor([0, 2, 4, 0])
    mask = torch.tensor([True, False, True, False, True, True, False])
    kept = torch.tensor([0, 1, 2, 0])
    for smoothing in (0.0, 0.2):
        ours = numerics.cross_entropy(x, y, mask=mask, label_smoothing=smoothing)
        wanted = F.cross_entropy(x[:, mask], kept, label_smoothing=smoothing)
        assert ours.item() == pytest.approx(wanted.item(), rel=1e-6)


def test_a_masked_target_costs_infinity_and_an_empty_row_has_no_gradient():
    x = torch.tensor([[0.0, -math.inf], [-math.inf, -math.inf]], requires_grad=True)
    loss = numerics.cross_entropy(x, torch.tensor([1, 0]), reduction="none")
    assert loss.tolist() == [math.inf, math.inf]
    (grad,) = torch.autograd.grad(loss.sum(), x)
    assert torch.equal(grad, torch.tensor([[1.0, -1.0], [0.0, 0.0]]))


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("pos_weight", [None, torch.tensor([0.5, 2.0, 3.0])])
@pytest.mark.parametrize("weight", [None, torch.tensor([1.0, 0.0, 2.0])])
def test_bce_with_logits(reduction, pos_weight, weight):
    t = torch.sigmoid(logits_of((4, 3)).flip(0))
    options = {"reduction": reduction, "pos_weight": pos_weight, "weight": weight}
    theirs = F.binary_cross_entropy_with_logits
    assert_same(
        lambda v: numerics.bce_with_logits(v, t, **options),
        lambda v: theirs(v, t, **options),
        logits_of((4, 3)),
    )


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_normalizers(dim):
    x = logits_of((4, 5))
    assert_same(lambda v: numerics.softmax(v, dim)[0], lambda v: F.softmax(v, dim)[0], x)
    assert_same(lambda v: numerics.log_softmax(v, dim)[0], lambda v: F.log_softmax(v, dim)[0], x)
    for keepdim in (False, True):
        assert_same(
            lambda v, keepdim=keepdim: numerics.logsumexp(v, dim, keepdim),
            lambda v, keepdim=keepdim: torch.logsumexp(v, dim, keepdim),
            x,
        )
    assert_same(lambda v: numerics.logsumexp(v, (0, 1)), lambda v: torch.logsumexp(v, (0, 1)), x)
    assert_same(lambda v: numerics.logcumsumexp(v, dim), lambda v: torch.logcumsumexp(v, dim), x)
    assert_same(lambda v: numerics.softmax(v, dim, temperature=3.0)[0], lambda v: F.softmax(v / 3, dim)[0], x)


def test_temperature_zero_is_the_limit():
    x = torch.tensor([1.0, 3.0, 3.0], requires_grad=True)
    y = numerics.softmax(x, temperature=0.0)
    assert y.tolist() == [0.0, 0.5, 0.5]
    assert torch.autograd.grad(y[1], x)[0].tolist() == [0.0, 0.0, 0.0]
    assert numerics.softmax(x, temperature=1e-38).tolist() == [0.0, 0.5, 0.5]


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 3.0, math.inf])
def test_vectors(p):
    x, other = logits_of((4, 5)), logits_of((4, 5)).flip(0)
    assert_same(lambda v: numerics.safe_norm(v, p, 1), lambda v: torch.linalg.vector_norm(v, p, 1), x)
    assert_same(lambda v: numerics.safe_norm(v, p), lambda v: torch.linalg.vector_norm(v, p), x)
    assert_same(lambda v: numerics.normalize(v, p)[0], lambda v: F.normalize(v, p)[0], x)
    assert_same(lambda v: numerics.cosine_similarity(v, other), lambda v: F.cosine_similarity(v, other), x)
    assert_same(
        lambda v: numerics.pairwise_distance(v, other, p),
        lambda v: torch.linalg.vector_norm(v - other, p, 1),
        x,
    )
    assert_same(lambda v: numerics.cdist(v, other, p), lambda v: torch.cdist(v, other, p), x)


def test_moments():
    x = logits_of((4, 5))
    assert_same(lambda v: numerics.safe_std(v), lambda v: v.std(-1), x)
    assert_same(
        lambda v: numerics.safe_std(v, (0, 1), correction=0), lambda v: v.std((0, 1), correction=0), x
    )

    def standardized(v):
        return (v - v.mean(0, keepdim=True)) / v.std(0, keepdim=True)

    assert_same(lambda v: numerics.standardize(v, 0)[0], lambda v: standardized(v)[0], x)
    assert_same(
        lambda v: numerics.standardize(v, eps=1e-5, correction=0)[0], lambda v: F.layer_norm(v, (5,))[0], x
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_constant_and_zero_rows_give_zero(dtype):
    for value in (0.1, 1e-4, 3e4):
        x = torch.full((2, 7), value, dtype=dtype, requires_grad=True)
        for function in (numerics.standardize, numerics.safe_std):
            y = function(x)
            assert torch.equal(y, torch.zeros_like(y))
            assert torch.equal(torch.autograd.grad(y.sum(), x)[0], torch.zeros_like(x))
    zero = torch.zeros(2, 3, dtype=dtype, requires_grad=True)
    for function in (numerics.normalize, lambda v: numerics.cosine_similarity(v, v), numerics.safe_norm):
        y = function(zero)
        assert torch.equal(y, torch.zeros_like(y))
        assert torch.equal(torch.autograd.grad(y.sum(), zero)[0], torch.zeros_like(zero))


def test_masked_reductions_ignore_what_is_masked():
    x = torch.tensor([[1.0, math.nan, 3.0, math.inf], [math.nan] * 4, [5.0, math.nan, math.nan, 2.0]])
    mask = torch.tensor([[True, False, True, False], [False] * 4, [True, False, False, False]])
    leaf = x.clone().requires_grad_()
    found = {
        "mean": (numerics.masked_mean(leaf, mask), [2.0, 0.0, 5.0]),
        "var": (numerics.masked_var(leaf, mask), [2.0, 0.0, 0.0]),
        "std": (numerics.masked_std(leaf, mask), [2**0.5, 0.0, 0.0]),
        "logsumexp": (numerics.masked_logsumexp(leaf, mask), [3 + math.log1p(math.exp(-2)), -math.inf, 5.0]),
    }
    for name, (got, wanted) in found.items():
        assert torch.allclose(got, torch.tensor(wanted)), name
        (grad,) = torch.autograd.grad(got[[0, 2]].sum(), leaf, retain_graph=True)
        assert grad.isfinite().all(), name
        assert grad[~mask].eq(0).all(), name
    soft = numerics.masked_softmax(leaf, mask)
    assert torch.allclose(soft[0, [0, 2]], torch.softmax(torch.tensor([1.0, 3.0]), 0))
    assert soft[~mask].eq(0).all()
    for function in (numerics.masked_normalize, numerics.masked_standardize):
        assert function(leaf, mask)[~mask].eq(0).all()
    assert numerics.masked_mean(leaf, mask, fill=math.nan)[1].isnan()
    assert numerics.masked_log_softmax(leaf, mask)[1].eq(-math.inf).all()


def test_gumbel_softmax():
    x = logits_of((4, 1000, 3))
    for dim in (0, 1, -1):
        soft = numerics.gumbel_softmax(x, dim=dim)
        assert torch.allclose(soft.sum(dim), torch.ones(()), atol=1e-5)
        hard = numerics.gumbel_softmax(x, 1e-3, True, dim=dim)
        assert torch.equal(hard.sum(dim), torch.ones_like(hard.sum(dim)))
        assert torch.equal(hard.unique(), torch.tensor([0.0, 1.0]))
    first, second = (numerics.gumbel_softmax(x, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)
    masked = torch.tensor([[0.0, -math.inf, 0.0], [-math.inf] * 3], requires_grad=True)
    sample = numerics.gumbel_softmax(masked, hard=True)
    assert sample[0, 1] == 0
    assert torch.equal(sample[1], torch.zeros(3))
    assert torch.autograd.grad((sample * torch.arange(3)).sum(), masked)[0].isfinite().all()


def test_gumbel_softmax_under_vmap_draws_anew_for_each_row():
    sample = torch.func.vmap(numerics.gumbel_softmax, randomness="different")(torch.zeros(2, 5))
    assert not torch.equal(sample[0], sample[1])
    assert torch.allclose(sample.sum(-1), torch.ones(2))


def test_gumbel_winners_follow_the_softmax():
    x = torch.tensor([2.0, 1.0, -1.0]).expand(200_000, 3)
    winners = numerics.gumbel_softmax(x, hard=True).mean(0)
    assert torch.allclose(winners, torch.softmax(x[0], 0), atol=5e-3)


def test_gumbel_noise_has_its_tails():
    noise = numerics.gumbel_noise((400_000,))
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.02)
    assert noise.var().item() == pytest.approx(math.pi**2 / 6, abs=0.05)
    for level in (3.0, 6.0, 9.0):
        wanted = -math.expm1(-math.exp(-level))
        assert (noise > level).double().mean().item() == pytest.approx(wanted, abs=4 * (wanted / 4e5) ** 0.5)


finite = st.floats(-(2.0**100), 2.0**100, width=32)


@settings(max_examples=60, deadline=None)
@given(st.lists(finite | st.just(-math.inf), min_size=1, max_size=6), st.integers(0, 5))
def test_properties_of_rows(row, target):
    x = torch.tensor(row, requires_grad=True)
    share, log = numerics.softmax(x), numerics.log_softmax(x)
    is_empty = all(v == -math.inf for v in row)
    assert share.sum().item() == pytest.approx(0.0 if is_empty else 1.0, rel=1e-6)
    assert (log <= 0).all()
    loss = numerics.cross_entropy(x, torch.tensor(target % len(row)))
    assert loss >= 0
    (grad,) = torch.autograd.grad(loss, x)
    assert grad.isfinite().all()
    assert abs(grad.sum().item()) <= 1e-6
    assert numerics.logsumexp(x) >= max(row)
    assert numerics.kl_from_logits(x, x.flip(0)) >= 0
    assert 0 <= numerics.js_divergence(x, x.flip(0)) <= math.log(2) * (1 + 1e-6)


@settings(max_examples=60, deadline=None)
@given(st.lists(finite, min_size=1, max_size=6), st.integers(-100, 100))
def test_norm_scales_by_powers_of_two(row, exponent):
    x = torch.tensor(row)
    scaled = x.double() * 2.0**exponent
    norm = numerics.safe_norm(scaled)
    assert norm.item() == pytest.approx(numerics.safe_norm(x.double()).item() * 2.0**exponent, rel=1e-14)
    length = torch.linalg.vector_norm(numerics.normalize(scaled, dim=0)).item()
    assert length == pytest.approx(1.0 if any(row) else 0.0, rel=1e-12)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: numerics.cross_entropy(x, torch.tensor([0])), ValueError, "need class indices of shape"),
        (lambda x: numerics.cross_entropy(x, x[0]), ValueError, "or probabilities of shape"),
        (lambda x: numerics.cross_entropy(x[0, 0], torch.tensor(0)), ValueError, "got a scalar"),
        (lambda x: numerics.cross_entropy(x, x, reduction="avg"), ValueError, "expected 'none', 'mean'"),
        (lambda x: numerics.cross_entropy(x, x, label_smoothing=1.5), ValueError, r"in \[0, 1\]"),
        (lambda x: numerics.bce_with_logits(x, x[0]), ValueError, "targets of the same shape"),
        (lambda x: numerics.bce_with_logits(x, x, reduction="avg"), ValueError, "expected 'none'"),
        (lambda x: numerics.sigmoid_focal_loss(x, x, gamma=-1.0), ValueError, "gamma >= 0"),
        (lambda x: numerics.kl_from_logits(x, x, reduction="avg"), ValueError, "'batchmean'"),
        (lambda x: numerics.softmax(x, temperature=-1.0), ValueError, "expected a number >= 0"),
        (lambda x: numerics.softmax(x, 5), IndexError, "expected a dim"),
        (lambda x: numerics.gumbel_softmax(x, tau=-1.0), ValueError, "expected a number >= 0"),
        (lambda x: numerics.safe_norm(x, -1.0), ValueError, "expected a number >= 0"),
        (lambda x: numerics.softplus(x, beta=0.0), ValueError, "expected a number > 0"),
        (lambda x: numerics.gelu(x, "erf"), ValueError, "expected 'none' or 'tanh'"),
        (lambda x: numerics.masked_mean(x, x), TypeError, "expected torch.bool"),
        (lambda x: numerics.sigmoid(x + 1j), TypeError, "expected a real tensor"),
        (lambda x: numerics.sigmoid(1.0), TypeError, "expected a tensor"),
    ],
)
def test_wrong_arguments_are_told_what_to_do(call, error, message):
    with pytest.raises(error, match=message):
        call(logits_of((3, 7)))


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda x, y: numerics.logsumexp(x, 7), IndexError, r"dim=7: expected a dim of .*\(2, 3\)"),
        (lambda x, y: numerics.logsumexp(x, (1, -1)), ValueError, "each dim .* once"),
        (lambda x, y: numerics.safe_norm(x, dim=4), IndexError, "dim=4"),
        (lambda x, y: numerics.standardize(x, 9), IndexError, "dim=9"),
        (lambda x, y: numerics.cross_entropy(x, y, weight=torch.ones(2)), ValueError, r"expected \(3,\)"),
        (lambda x, y: numerics.cross_entropy(x, y, mask=torch.ones(2, 3)), TypeError, "expected torch.bool"),
        (lambda x, y: numerics.cross_entropy(x, y > 0), TypeError, "got torch.bool"),
        (lambda x, y: numerics.cross_entropy(x[:, :0], y), ValueError, "at least one class"),
        (lambda x, y: numerics.softmax(x, temperature=math.nan), ValueError, "temperature=nan"),
    ],
)
def test_wrong_arguments_are_told(call, error, text):
    with pytest.raises(error, match=text):
        call(torch.zeros(2, 3), torch.tensor([0, 1]))


def test_no_class_and_no_row():
    none = torch.zeros(2, 0)
    assert numerics.softmax(none).shape == numerics.log_softmax(none).shape == (2, 0)
    assert numerics.logsumexp(none).tolist() == torch.logsumexp(none, -1).tolist() == [-math.inf] * 2
    assert numerics.logsumexp(none, keepdim=True).shape == (2, 1)
    for zero in (
        numerics.entropy_from_logits(none),
        numerics.kl_from_logits(none, none),
        numerics.js_divergence(none, none),
    ):
        assert zero.tolist() == [0, 0]
    assert numerics.kl_from_logits(none.T, none.T).shape == (0,)
    assert numerics.cross_entropy(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long)) == 0


@pytest.mark.parametrize("target", [0, 299, 137])
def test_the_place_of_the_maximum_in_a_long_row(target):
    """Rows from 256 on are searched in two levels, whose last part overlaps."""
    x = torch.full((3, 300), -5.0)
    x[:, target] = 20.0
    x[2, (target + 7) % 300] = math.nan
    x.requires_grad_()
    share = numerics.softmax(x)
    assert share[2].isnan().all()
    (grad,) = torch.autograd.grad(share[0, target], x)
    rest = 299 * math.exp(-25.0)
    assert grad[0, target].item() == pytest.approx(rest / (1 + rest) ** 2, rel=1e-5)
    assert numerics.log_softmax(x, -1)[1, target].item() == pytest.approx(-math.log1p(rest), rel=1e-5)
    assert torch.equal(numerics.softmax(x[:2].T, 0), share[:2].T)


def test_close_distributions_with_a_hole_in_common():
    """A class that neither has must not cost the digits of the others."""
    p = torch.tensor([0.0, 1.0, -math.inf])
    step = 2.0**-13
    q = p + torch.tensor([0.0, step, 0.0])
    whole = numerics.kl_from_logits(p[:2].double(), q[:2].double())
    assert numerics.kl_from_logits(p, q).item() == pytest.approx(whole.item(), rel=1e-6)
