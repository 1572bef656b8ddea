from __future__ import annotations

import mpmath
import pytest
import torch
from numerics.matrices import symmetric, with_singular_values

from trimtab.numerics import det, polar, safe_eigh, safe_svd


def exact_cofactors(matrix: torch.Tensor) -> torch.Tensor:
    n = matrix.shape[0]
    cofactors = torch.zeros_like(matrix)
    rows = matrix.tolist()
    with mpmath.workdps(60):
        for i in range(n):
            for j in range(n):
                minor = [[v for c, v in enumerate(row) if c != j] for r, row in enumerate(rows) if r != i]
                cofactors[i, j] = float((-1) ** (i + j) * mpmath.det(mpmath.matrix(minor)))
    return cofactors


SINGULAR = {
    "2 x 2": [[1.0, 2.0], [2.0, 4.0]],
    "rank 2": [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]],
    "rank 1": [[1.0, 2.0, 3.0]] * 3,
    "zero": [[0.0] * 3] * 3,
    "regular": [[2.0, -1.0, 0.5], [0.1, 3.0, 1.0], [1.0, 1.0, -4.0]],
    "permutation": [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]],
}


@pytest.mark.parametrize("rows", SINGULAR.values(), ids=SINGULAR)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 2e-15), (torch.float32, 1e-6)])
def test_gradient_of_the_determinant_is_the_cofactors(rows, dtype, tolerance):
    matrix = torch.tensor(rows, dtype=dtype, requires_grad=True)
    det(matrix).backward()
    exact = exact_cofactors(matrix.detach().double())
    scale = max(matrix.detach().norm().item() ** (len(rows) - 1), 1e-300)
    assert (matrix.grad.double() - exact).abs().max() <= 4 * tolerance * max(scale, 1)


def test_second_derivative_of_the_determinant():
    regular = torch.randn(2, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(det, regular)
    assert torch.autograd.gradgradcheck(det, regular)
    singular = with_singular_values(torch.tensor([3.0, 1.0, 1.0, 0.0], dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(det, singular)
    assert torch.autograd.gradgradcheck(det, singular)


def test_determinant_values():
    matrix = torch.randn(5, 3, 3)
    assert torch.equal(det(matrix), torch.linalg.det(matrix))
    assert det(torch.eye(2, dtype=torch.bfloat16)).dtype is torch.bfloat16
    with pytest.raises(ValueError, match="n, n"):
        det(torch.ones(2, 3))


@pytest.mark.parametrize("shape", [(4, 4), (5, 3), (3, 5), (2, 4, 3)])
def test_svd_gradient_is_torch_s_where_that_exists(shape):
    matrix = torch.randn(
        shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True
    )

    def invariant(u, s, vh):  # does not depend on the signs of the vectors
        weights = torch.linspace(1, 2, s.shape[-1], dtype=s.dtype)
        return (u * weights.unsqueeze(-2)) @ vh + ((u * s.square().unsqueeze(-2)) @ vh).sin()

    ours = torch.autograd.grad(invariant(*safe_svd(matrix, broadening=1e-9)).pow(2).sum(), matrix)[0]
    theirs = torch.autograd.grad(
        invariant(*torch.linalg.svd(matrix, full_matrices=False)).pow(2).sum(), matrix
    )[0]
    torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-8)

    def function(m):
        return invariant(*safe_svd(m, broadening=1e-12))

    assert torch.autograd.gradcheck(function, matrix)
    assert torch.autograd.gradgradcheck(function, matrix, atol=1e-4)


def test_eigh_gradient_is_torch_s_where_that_exists():
    base = symmetric(torch.tensor([-1.0, 0.5, 2.0, 7.0], dtype=torch.float64)).requires_grad_()

    def function(m):
        values, vectors = safe_eigh(m, broadening=1e-12)
        return (vectors * values.sin()) @ vectors.mT, vectors.abs()

    assert torch.autograd.gradcheck(function, base)
    assert torch.autograd.gradgradcheck(function, base, atol=1e-4)


@pytest.mark.parametrize(
    "matrix", [torch.eye(3), torch.zeros(3, 3), torch.diag(torch.tensor([2.0, 2.0, 0.0]))]
)
def test_repeated_values_give_finite_gradients(matrix):
    for function in (
        lambda m: safe_eigh(m).vectors.abs().sum() + safe_eigh(m).values.sum(),
        lambda m: sum(part.abs().sum() for part in safe_svd(m)),
        lambda m: polar(m)[0].sum(),
    ):
        leaf = matrix.clone().requires_grad_()
        function(leaf).backward()
        assert leaf.grad.isfinite().all()


def test_broadening_must_be_positive():
    for function in (safe_eigh, safe_svd):
        with pytest.raises(ValueError, match="expected a number > 0"):
            function(torch.eye(2), broadening=0.0)


@pytest.mark.parametrize("shape", [(3, 3), (5, 3), (2, 4, 2)])
def test_polar_factor(shape):
    matrix = torch.randn(
        shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True
    )
    q, p = polar(matrix)
    identity = torch.eye(shape[-1], dtype=torch.float64).expand_as(p)
    torch.testing.assert_close(q.mT @ q, identity)
    torch.testing.assert_close(q @ p, matrix)
    assert torch.linalg.eigvalsh(p).min() > 0
    assert torch.autograd.gradcheck(polar, matrix)
    assert torch.autograd.gradgradcheck(polar, matrix, atol=1e-4)


@pytest.mark.parametrize("values", [[1.0, 1.0, 1.0], [2.0, 2.0, 5.0], [1.0, 1.0 + 1e-8, 3.0]])
def test_polar_gradient_at_repeated_singular_values(values):
    base = with_singular_values(torch.tensor(values, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda m: polar(m)[0], base)


def test_polar_refuses_wide_matrices():
    with pytest.raises(ValueError, match="at least as many rows"):
        polar(torch.ones(2, 3))


VMAPPED = {
    "det": det,
    "polar": lambda a: polar(a)[0],
    "safe_eigh": lambda a: safe_eigh(a + a.mT).values,
    "safe_svd": lambda a: safe_svd(a).S,
}


@pytest.mark.parametrize("name", VMAPPED)
def test_vmap_is_a_leading_dim(name):
    function = VMAPPED[name]
    batch = torch.randn(3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(torch.func.vmap(function)(batch), function(batch))
    each = torch.func.vmap(torch.func.grad(lambda a: function(a).sum()))(batch)
    leaf = batch.clone().requires_grad_()
    torch.testing.assert_close(each, torch.autograd.grad(function(leaf).sum(), leaf)[0])
