from __future__ import annotations

import builtins

import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg
import torch
from numerics.matrices import spread, symmetric

from trimtab.errors import MissingDependencyError
from trimtab.numerics import (
    GeometricMultigrid,
    GridOperator,
    algebraic_multigrid,
    as_scipy,
    conjugate_gradient,
    incomplete_cholesky,
    jacobi,
    poisson_matrix,
    to_scipy,
)


def textbook_ic0(matrix: np.ndarray) -> np.ndarray:
    """Row by row, on the pattern of the matrix."""
    n = len(matrix)
    factor = np.zeros_like(matrix)
    for i in range(n):
        for j in range(i + 1):
            if matrix[i, j]:
                rest = matrix[i, j] - factor[i, :j] @ factor[j, :j]
                factor[i, j] = np.sqrt(rest) if i == j else rest / factor[j, j]
    return factor


def as_dense(operator, n: int) -> torch.Tensor:
    return operator(torch.eye(n, dtype=torch.float64))


@pytest.mark.parametrize("shape", [(6, 5), (3, 4, 3), (20,)])
def test_incomplete_cholesky_is_the_textbook_s(shape):
    matrix = poisson_matrix(shape)
    dense = matrix.to_dense().numpy() * np.linspace(1, 3, matrix.shape[0])[:, None] ** 0.5
    dense = dense * np.linspace(1, 3, matrix.shape[0]) ** 0.5  # a diagonal that is not constant
    factor = textbook_ic0(dense)
    wanted = np.linalg.inv(factor @ factor.T)
    ours = as_dense(incomplete_cholesky(scipy.sparse.csr_matrix(dense)), len(dense)).numpy()
    np.testing.assert_allclose(ours, wanted, atol=1e-5)
    if len(shape) == 1:  # no fill to drop: complete, and the solver needs one step
        np.testing.assert_allclose(ours, np.linalg.inv(dense), rtol=1e-4, atol=1e-5)


def test_iterations_on_the_poisson_problem_fall_as_theory_says():
    counts = {}
    for size in (32, 64):
        matrix = poisson_matrix((size, size))
        b = torch.randn(size * size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        grid = GridOperator((size, size))
        for name, preconditioner in {
            "none": None,
            "jacobi": jacobi(matrix),
            "ic": incomplete_cholesky(matrix),
            "ic1": incomplete_cholesky(matrix, fill=1),
            "amg": algebraic_multigrid(matrix),
            "sa": algebraic_multigrid(matrix, method="smoothed_aggregation"),
            "multigrid": GeometricMultigrid(grid),
        }.items():
            found = conjugate_gradient(matrix, b, tol=1e-8, preconditioner=preconditioner)
            assert found.converged, name
            counts[name, size] = found.iterations
    for size in (32, 64):
        assert counts["jacobi", size] == counts["none", size]  # a constant diagonal: no help
        assert counts["ic1", size] < counts["ic", size] < 0.45 * counts["none", size]
        assert counts["multigrid", size] <= 10
        assert counts["amg", size] <= 10
        assert counts["sa", size] <= 20
    for name in ("none", "ic"):  # like the square root of the condition number
        assert 1.6 < counts[name, 64] / counts[name, 32] < 2.4
    for name in ("amg", "multigrid"):  # not at all
        assert counts[name, 64] - counts[name, 32] <= 2


@pytest.mark.parametrize("make", [jacobi, incomplete_cholesky, algebraic_multigrid])
def test_symmetric_positive_definite_and_usable_by_scipy(make):
    matrix = poisson_matrix((9, 8))
    operator = make(matrix)
    dense = as_dense(operator, 72)
    torch.testing.assert_close(dense, dense.T)
    assert torch.linalg.eigvalsh(dense).min() > 0
    b = np.random.default_rng(0).normal(size=72)
    x, info = scipy.sparse.linalg.cg(to_scipy(matrix), b, rtol=1e-10, M=as_scipy(operator, 72))
    assert info == 0
    np.testing.assert_allclose(to_scipy(matrix) @ x, b, rtol=1e-7, atol=1e-8)
    assert operator(torch.ones(72)).dtype is torch.float32
    assert operator(torch.ones(72, 2)).shape == (72, 2)


def test_a_matrix_that_breaks_down_gets_a_shift():
    # positive definite, but without diagonal dominance: Kershaw's matrix, whose IC(0) meets a negative pivot
    matrix = torch.tensor(
        [[3.0, -2.0, 0.0, 2.0], [-2.0, 3.0, -2.0, 0.0], [0.0, -2.0, 3.0, -2.0], [2.0, 0.0, -2.0, 3.0]],
        dtype=torch.float64,
    )
    assert torch.linalg.eigvalsh(matrix).min() > 0
    with pytest.warns(RuntimeWarning, match="sqrt"):
        assert np.isnan(textbook_ic0(matrix.numpy())).any()
    operator = incomplete_cholesky(matrix)
    assert torch.linalg.eigvalsh(as_dense(operator, 4)).min() > 0
    assert conjugate_gradient(matrix, torch.ones(4, dtype=torch.float64), preconditioner=operator).converged


@pytest.mark.parametrize("make", [jacobi, incomplete_cholesky])
def test_a_diagonal_that_is_not_positive(make):
    with pytest.raises(ValueError, match="positive diagonal"):
        make(torch.diag(torch.tensor([1.0, -1.0])))


def test_wrong_arguments():
    with pytest.raises(ValueError, match="fill=-1"):
        incomplete_cholesky(torch.eye(2), fill=-1)
    with pytest.raises(ValueError, match="ruge_stuben"):
        algebraic_multigrid(torch.eye(2), method="geometric")


def test_jacobi_of_sparse_and_dense_is_the_same():
    matrix = symmetric(spread(10, 100.0))
    sparse = matrix.to_sparse()
    r = torch.randn(10, 2, dtype=torch.float64)
    torch.testing.assert_close(jacobi(matrix)(r), jacobi(sparse)(r))


@pytest.mark.parametrize(
    ("missing", "make"), [("scipy", incomplete_cholesky), ("pyamg", algebraic_multigrid)]
)
def test_missing_packages_are_named_with_their_extra(missing, make, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.split(".")[0] == missing:
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingDependencyError, match=r"trimtab\[sparse\]"):
        make(torch.eye(3))
