"""A call that torch takes, ours takes too: the same names in the same order, and the same answer."""

from __future__ import annotations

import inspect
import math

import pytest
import torch
import torch.nn.functional as F

from trimtab import numerics


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


X, Y = draw(4, 5), draw(4, 5, seed=1)
CUBE = draw(4, 5, 3)
UNIT = torch.sigmoid(X)
INDEX = torch.tensor([0, 3, 4, 1])
WEIGHT = torch.linspace(0.5, 2, 5)
D = torch.float64

# Every argument that torch's function takes, in its order, each with a value that matters
CALLS = {
    "cross_entropy": (
        F.cross_entropy,
        {
            "input": X,
            "target": torch.tensor([0, 3, 2, 1]),
            "weight": WEIGHT,
            "size_average": None,
            "ignore_index": 2,
            "reduce": None,
            "reduction": "sum",
            "label_smoothing": 0.1,
        },
    ),
    "bce_with_logits": (
        F.binary_cross_entropy_with_logits,
        {
            "input": X,
            "target": UNIT,
            "weight": WEIGHT,
            "size_average": None,
            "reduce": None,
            "reduction": "sum",
            "pos_weight": WEIGHT.flip(0),
        },
    ),
    "softmax": (F.softmax, {"input": X, "dim": 0, "_stacklevel": 3, "dtype": D}),
    "log_softmax": (F.log_softmax, {"input": X, "dim": 0, "_stacklevel": 3, "dtype": D}),
    "logsumexp": (torch.logsumexp, {"input": X, "dim": (0, 1), "keepdim": True}),
    "logcumsumexp": (torch.logcumsumexp, {"input": X, "dim": 0}),
    "xlogy": (torch.xlogy, {"input": X, "other": UNIT}),
    "xlog1py": (torch.special.xlog1py, {"input": X, "other": UNIT}),
    "normalize": (F.normalize, {"input": X, "p": 3.0, "dim": 0, "eps": 2.0}),
    "cosine_similarity": (F.cosine_similarity, {"x1": X, "x2": Y, "dim": 0, "eps": 2.0}),
    "pairwise_distance": (
        F.pairwise_distance,
        {"x1": X, "x2": Y, "p": 3.0, "eps": 0.5, "keepdim": True},
    ),
    "cdist": (
        torch.cdist,
        {"x1": X, "x2": Y, "p": 3.0, "compute_mode": "use_mm_for_euclid_dist_if_necessary"},
    ),
    "sigmoid": (torch.sigmoid, {"input": X}),
    "tanh": (torch.tanh, {"input": X}),
    "expm1": (torch.expm1, {"input": X}),
    "softplus": (F.softplus, {"input": X, "beta": 2.0, "threshold": 20.0}),
    "gelu": (F.gelu, {"input": X}),
    "silu": (F.silu, {"input": X, "inplace": False}),
    "mish": (F.mish, {"input": X, "inplace": False}),
    "logaddexp": (torch.logaddexp, {"input": X, "other": Y}),
    "logit": (torch.logit, {"input": UNIT, "eps": 0.3}),
    "ndtr": (torch.special.ndtr, {"input": X}),
    "log_ndtr": (torch.special.log_ndtr, {"input": X}),
    "asin": (torch.asin, {"input": UNIT}),
    "acos": (torch.acos, {"input": UNIT}),
    "asinh": (torch.asinh, {"input": X}),
    "acosh": (torch.acosh, {"input": UNIT + 1}),
    "atanh": (torch.atanh, {"input": UNIT}),
    "atan2": (torch.atan2, {"input": X, "other": Y}),
    "hypot": (torch.hypot, {"input": X, "other": Y}),
    "digamma": (torch.digamma, {"input": UNIT}),
    "index_add": (torch.index_add, {"input": X, "dim": 0, "index": INDEX % 4, "source": Y}),
    "index_put": (
        torch.index_put,
        {"input": X, "indices": (INDEX % 4,), "values": Y, "accumulate": True},
    ),
    "embedding": (
        F.embedding,
        {
            "input": INDEX,
            "weight": draw(6, 2),
            "padding_idx": 1,
            "max_norm": None,
            "norm_type": 2.0,
            "scale_grad_by_freq": False,
            "sparse": False,
        },
    ),
    "batch_norm": (
        F.batch_norm,
        {
            "input": X,
            "running_mean": torch.zeros(5),
            "running_var": torch.ones(5),
            "weight": WEIGHT,
            "bias": WEIGHT,
            "training": False,
            "momentum": 0.1,
            "eps": 1e-3,
        },
    ),
    "qr": (torch.linalg.qr, {"A": X, "mode": "complete"}),
    "det": (torch.linalg.det, {"A": X[:, :4]}),
}
# Defaults that differ on purpose, and why: no eps is added anywhere; the last dim where torch asks for one
# or guesses. `out=` is left out everywhere, since torch takes it without gradients only
OTHER_DEFAULTS = {
    ("normalize", "eps"): 0.0,
    ("cosine_similarity", "eps"): 0.0,
    ("pairwise_distance", "eps"): 0.0,
    ("softmax", "dim"): -1,
    ("log_softmax", "dim"): -1,
}


def assert_same(ours, theirs):
    parts = zip(ours, theirs, strict=True) if isinstance(theirs, tuple) else [(ours, theirs)]
    for a, b in parts:
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        torch.testing.assert_close(a.abs(), b.abs(), rtol=2e-5, atol=1e-6)  # signs of QR are ours


@pytest.mark.parametrize("name", CALLS)
def test_every_split_of_positions_and_names(name):
    theirs, arguments = CALLS[name]
    names = list(arguments)
    for num in range(1, len(names) + 1):
        args = [arguments[n] for n in names[:num]]
        named = {n: arguments[n] for n in names[num:]}
        assert_same(getattr(numerics, name)(*args, **named), theirs(*args, **named))


@pytest.mark.parametrize("name", CALLS)
def test_names_order_and_defaults(name):
    theirs, arguments = CALLS[name]
    ours = inspect.signature(getattr(numerics, name)).parameters
    assert list(ours)[: len(arguments)] == list(arguments)
    assert all(p.kind is not p.KEYWORD_ONLY for p in list(ours.values())[: len(arguments)])
    try:
        wanted = inspect.signature(theirs).parameters
    except ValueError:
        return  # a builtin, whose signature is the table
    if not {"args", "kwargs"} & set(wanted):
        assert list(arguments) == [n for n in wanted if n != "out"]
        for n in arguments:
            assert ours[n].default == OTHER_DEFAULTS.get((name, n), wanted[n].default), n


def test_no_name_of_torch_is_forgotten():
    """Other names of torch that we have too: another meaning, said in the docstring."""
    others = {"polar"}
    modules = (F, torch, torch.special, torch.linalg)
    shared = {n for n in numerics.__all__ if any(hasattr(m, n) for m in modules)}
    assert shared - others <= set(CALLS) | {"gumbel_softmax"}


@pytest.mark.parametrize("name", ["cross_entropy", "bce_with_logits"])
@pytest.mark.filterwarnings("ignore:size_average and reduce")  # torch's own
@pytest.mark.parametrize("size_average", [None, True, False])
@pytest.mark.parametrize("reduce", [None, True, False])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_the_old_names_of_reduction(name, size_average, reduce, reduction):
    theirs, arguments = CALLS[name]
    arguments = {**arguments, "size_average": size_average, "reduce": reduce, "reduction": reduction}
    assert_same(getattr(numerics, name)(**arguments), theirs(**arguments))


def test_gumbel_softmax_takes_what_torch_takes():
    logits, tau = X[:2].clone().requires_grad_(), torch.tensor(0.5, requires_grad=True)
    sample = numerics.gumbel_softmax(logits, tau, False, 1e-10, 0)
    assert torch.allclose(sample.sum(0), torch.ones(5))
    ours, theirs = (inspect.signature(m.gumbel_softmax).parameters for m in (numerics, F))
    assert [(n, p.default) for n, p in theirs.items()] == [(n, ours[n].default) for n in list(ours)[:5]]
    grads = torch.autograd.grad((sample * Y[:2]).sum(), (logits, tau))
    assert all(g.isfinite().all() and g.abs().sum() > 0 for g in grads)
    one = torch.randn(4).requires_grad_()
    hard = numerics.gumbel_softmax(one, tau=torch.tensor(0.1), hard=True)
    assert sorted(hard.tolist()) == [0, 0, 0, 1]


def test_integer_targets_of_every_type():
    for dtype in (torch.uint8, torch.int8, torch.int32, torch.int64):
        for options in ({}, {"label_smoothing": 0.1}, {"weight": WEIGHT}):
            got = numerics.cross_entropy(X, INDEX.to(dtype), **options)
            assert_same(got, F.cross_entropy(X, INDEX, **options))
    wide = draw(1, 200)
    byte = torch.tensor([156], dtype=torch.uint8)  # -100 in eight bits, but not ignored
    assert_same(numerics.cross_entropy(wide, byte), F.cross_entropy(wide, byte))
    for dtype in (torch.bool, torch.uint8, torch.int64):
        target = (X > 0).to(dtype)
        for logits in (X, X.half()):
            got = numerics.bce_with_logits(logits, target)
            assert_same(got, F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype)))


def test_types_of_logits_and_targets_that_differ():
    for a, b in ((torch.float16, torch.float32), (torch.float32, torch.float16), (torch.float32, D)):
        got = numerics.cross_entropy(X.to(a), UNIT.to(b))
        assert got.dtype == F.cross_entropy(X.to(a), UNIT.to(b)).dtype
    with pytest.raises(ValueError, match="no index to ignore"):
        numerics.cross_entropy(X, UNIT, ignore_index=2)
    with pytest.raises(RuntimeError, match="ignore_index is not supported"):
        F.cross_entropy(X, UNIT, ignore_index=2)


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@pytest.mark.filterwarnings("ignore:Implicit dimension choice")  # torch's own
def test_scalars_and_the_implicit_dim(name):
    ours, theirs = getattr(numerics, name), getattr(F, name)
    scalar = torch.tensor(3.0)
    for x, dim in [(scalar, 0), (scalar, -1), *((v, None) for v in (scalar, X[0], X, CUBE, CUBE[None]))]:
        assert_same(ours(x, dim), theirs(x, dim))
        assert_same(ours(x, dim=dim, dtype=D), theirs(x, dim=dim, dtype=D))
    leaf = scalar.clone().requires_grad_()
    assert torch.autograd.grad(ours(leaf), leaf)[0] == 0
    with pytest.raises(IndexError, match="dim=1"):
        ours(scalar, 1)


def test_vectors_of_scalars_of_several_dims_and_of_any_order():
    scalar = torch.tensor(-3.0)
    assert_same(numerics.normalize(scalar, dim=0), F.normalize(scalar, dim=0))
    assert_same(numerics.cosine_similarity(scalar, scalar, dim=0), F.cosine_similarity(scalar, scalar, dim=0))
    for p in (0.0, 1.0, 2.0, math.inf):
        for dim in (0, (0, 1), (-1, 0)):
            for eps in (0.0, 3.0):
                assert_same(numerics.normalize(CUBE, p, dim, eps), F.normalize(CUBE, p, dim, eps))
        assert_same(numerics.safe_norm(X, p, 1), torch.linalg.vector_norm(X, p, 1))
    assert_same(numerics.pairwise_distance(X, Y, 0.0), F.pairwise_distance(X, Y, 0.0))


@pytest.mark.parametrize("eps", [1e-12, 1.5, 10.0])
def test_eps_of_directions_has_the_gradient_of_its_value(eps):
    x = X.double().requires_grad_()
    ours, theirs = (torch.autograd.grad((m.normalize(x, eps=eps) * Y).sum(), x)[0] for m in (numerics, F))
    assert torch.allclose(ours, theirs)
    assert torch.autograd.gradcheck(lambda v: numerics.cosine_similarity(v, Y.double(), eps=eps), x)
    assert torch.autograd.gradgradcheck(lambda v: numerics.normalize(v, eps=eps), x)
    zero = torch.zeros(1, 2, dtype=torch.float16, requires_grad=True)
    got = numerics.normalize(zero, eps=1e-12)  # in float16 that eps is 0, and torch's answer NaN
    assert got.tolist() == [[0, 0]]


@pytest.mark.parametrize("name", ["silu", "mish"])
def test_in_place(name):
    leaf = X.clone().requires_grad_()
    x = leaf * 1
    result = getattr(numerics, name)(x, inplace=True)
    assert result is x
    assert_same(result, getattr(F, name)(X))
    grads = [torch.autograd.grad(r.sum(), leaf)[0] for r in (result, getattr(F, name)(leaf))]
    assert torch.allclose(*grads, atol=1e-6)


def test_numbers_in_xlogy():
    for name, module in (("xlogy", torch), ("xlog1py", torch.special)):
        ours, theirs = getattr(numerics, name), getattr(module, name)
        assert_same(ours(2, UNIT), theirs(2, UNIT))
        assert_same(ours(X, 2.5), theirs(X, 2.5))
        with pytest.raises(TypeError, match="expected a tensor"):
            ours(1.0, 2.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_embedding_takes_what_torch_takes(dtype):
    index, flow = torch.tensor([[0, 1, 1], [3, 3, 3]]), draw(2, 3, 2).to(dtype)
    for options in (
        {"max_norm": 0.5, "norm_type": 1.0},
        {"scale_grad_by_freq": True},
        {"scale_grad_by_freq": True, "padding_idx": -1},
        {"padding_idx": 1, "sparse": True},
    ):
        found = []
        for function in (numerics.embedding, F.embedding):
            weight = draw(4, 2).to(dtype).requires_grad_()
            rows = function(index.int(), weight, **options)
            (grad,) = torch.autograd.grad((rows * flow).sum(), weight)
            found.append((rows, grad.to_dense(), weight.detach()))
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(a, b)
    with pytest.raises(IndexError):
        numerics.embedding(torch.tensor([-1]), draw(4, 2).to(dtype))


def test_index_put_replaces_unless_told_to_add():
    zeros, index = torch.zeros(3, dtype=torch.bfloat16), (torch.tensor([0, 2]),)
    ones = torch.ones(2, dtype=torch.bfloat16)
    assert numerics.index_put(zeros + 5, index, ones).tolist() == [1, 5, 1]
    assert numerics.index_put(zeros + 5, index, ones, True).tolist() == [6, 5, 6]


LOSSES = {
    "cross_entropy": lambda x: numerics.cross_entropy(x, x.new_zeros(len(x), dtype=torch.long)),
    "cross_entropy, probabilities": lambda x: numerics.cross_entropy(x, x.detach()),
    "bce_with_logits": lambda x: numerics.bce_with_logits(x, x.detach()),
    "sigmoid_focal_loss": lambda x: numerics.sigmoid_focal_loss(x, x.detach(), reduction="mean"),
    "kl_from_logits": lambda x: numerics.kl_from_logits(x, x.detach(), reduction="mean"),
    "kl_from_logits, batchmean": lambda x: numerics.kl_from_logits(x, x.detach(), reduction="batchmean"),
    "js_divergence": lambda x: numerics.js_divergence(x, x.detach(), reduction="mean"),
}


@pytest.mark.parametrize("name", LOSSES)
def test_the_mean_of_no_sample_is_0(name):
    x = torch.zeros(0, 3, requires_grad=True)
    loss = LOSSES[name](x)
    assert loss.tolist() == 0
    assert torch.autograd.grad(loss, x)[0].shape == (0, 3)
    assert F.cross_entropy(x, x.new_zeros(0, dtype=torch.long)).isnan()  # torch's convention
    assert F.binary_cross_entropy_with_logits(x, x).isnan()


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_a_temperature_that_is_learned(name):
    function = getattr(numerics, name)
    x, t = X.double(), torch.tensor(1.0, dtype=D, requires_grad=True)  # at 1 too
    assert torch.autograd.gradcheck(lambda x, t: function(x, temperature=t), (x.requires_grad_(), t))
    assert torch.autograd.gradgradcheck(lambda x, t: function(x, temperature=t), (x, t))
    each = torch.linspace(0.5, 2, 4)[:, None]
    assert_same(function(X, temperature=each), getattr(F, name)(X / each, 1))
    masked = torch.tensor([0.0, 1.0, -math.inf])
    (grad,) = torch.autograd.grad(function(masked, temperature=t)[0], t)
    assert grad.isfinite()
    assert getattr(F, name)(masked / t, 0)[0].requires_grad
    assert torch.autograd.grad(getattr(F, name)(masked / t, 0)[0], t)[0].isnan()
