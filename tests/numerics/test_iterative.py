from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numerics.matrices import orthogonal, spread, symmetric

from trimtab.errors import NumericalWarning
from trimtab.numerics import CgStatus, conjugate_gradient, jacobi, poisson_matrix, to_csr, to_scipy


def scipy_iterations(matrix, b, tol):
    count = [0]

    def one_more(_):
        count[0] += 1

    scipy.sparse.linalg.cg(matrix, b, rtol=tol, maxiter=100_000, callback=one_more)
    return count[0]


def true_residual(matrix, x, b):
    matrix, x, b = matrix.double(), x.double(), b.double()
    return ((matrix @ x - b).norm(dim=0) / b.norm(dim=0)).max().item()


@pytest.mark.parametrize("condition", [1e2, 1e4])
@pytest.mark.parametrize("tol", [1e-5, 1e-8])
def test_as_many_iterations_as_scipy_and_the_true_residual(condition, tol):
    matrix = symmetric(spread(300, condition))
    b = torch.randn(300, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = conjugate_gradient(matrix, b, tol=tol)
    assert found.status is CgStatus.CONVERGED
    assert found.converged
    assert abs(found.iterations - scipy_iterations(matrix.numpy(), b.numpy(), tol)) <= max(
        1, 0.02 * found.iterations
    )
    assert found.residual == pytest.approx(true_residual(matrix, found.solution, b), rel=1e-3)
    assert found.residual <= tol


@pytest.mark.parametrize("scale", [1e-30, 1e-11, 1e-3, 1.0, 1e6, 1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_scale_of_the_right_hand_side_does_not_matter(scale, dtype):
    matrix = symmetric(spread(60, 1e3)).to(dtype)
    b = torch.randn(60, dtype=dtype, generator=torch.Generator().manual_seed(0))
    plain, scaled = (conjugate_gradient(matrix, b * s, tol=1e-4) for s in (1.0, scale))
    assert scaled.status is CgStatus.CONVERGED
    assert abs(scaled.iterations - plain.iterations) <= (1 if dtype is torch.float64 else 15)
    torch.testing.assert_close(scaled.solution / scale, plain.solution, rtol=1e-3, atol=1e-4)


def test_float32_does_not_claim_more_than_it_has():
    matrix = symmetric(spread(100, 1e3)).float()
    b = torch.randn(100, generator=torch.Generator().manual_seed(0))
    found = conjugate_gradient(matrix, b, tol=1e-9)
    # the recurrence alone would say 9e-8 and go on to 0
    assert found.status is CgStatus.STAGNATION
    assert not found.converged
    assert found.residual == pytest.approx(true_residual(matrix, found.solution, b), rel=0.5)
    assert 1e-8 < found.residual < 1e-3
    assert found.iterations < 1000
    reached = conjugate_gradient(matrix, b, tol=1e-4)
    assert reached.converged
    assert true_residual(matrix, reached.solution, b) <= 1.01e-4


def test_every_status():
    identity = torch.eye(3, dtype=torch.float64)
    b = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    zero = conjugate_gradient(identity, torch.zeros(3, dtype=torch.float64), x0=b)
    assert zero.status is CgStatus.ZERO_RHS
    assert zero.solution.tolist() == [0, 0, 0]
    assert zero.iterations == 0
    assert zero.converged
    assert zero.residual == 0
    indefinite = conjugate_gradient(torch.diag(torch.tensor([1.0, -1.0])), torch.ones(2))
    assert indefinite.status is CgStatus.INDEFINITE
    assert indefinite.solution.isfinite().all()
    assert conjugate_gradient(-identity, b).status is CgStatus.INDEFINITE
    assert conjugate_gradient(torch.zeros(3, 3), torch.ones(3)).status is CgStatus.INDEFINITE
    assert conjugate_gradient(identity, b, preconditioner=lambda r: -r).status is CgStatus.INDEFINITE
    stopped = conjugate_gradient(symmetric(spread(50, 1e6)), torch.ones(50, dtype=torch.float64), max_iter=5)
    assert stopped.status is CgStatus.MAX_ITER
    assert stopped.iterations == 5
    assert not stopped.converged
    assert conjugate_gradient(identity, b, max_iter=0).status is CgStatus.MAX_ITER
    nan = torch.full((3, 3), math.nan, dtype=torch.float64)
    assert conjugate_gradient(nan, b).status is CgStatus.NON_FINITE
    assert conjugate_gradient(identity, b * math.inf).status is CgStatus.NON_FINITE
    for status in CgStatus:
        assert len(status.message) > 20
    assert conjugate_gradient(identity, b).iterations == 1
    assert conjugate_gradient(identity, b, x0=b).iterations == 0  # already there
    assert conjugate_gradient(identity, b, x0=b).status is CgStatus.CONVERGED


def test_semidefinite_but_consistent():
    matrix = torch.diag(torch.tensor([2.0, 1.0, 0.0], dtype=torch.float64))
    found = conjugate_gradient(matrix, torch.tensor([2.0, 1.0, 0.0], dtype=torch.float64))
    assert found.converged
    assert found.solution.tolist() == pytest.approx([1, 1, 0])
    inconsistent = conjugate_gradient(matrix, torch.ones(3, dtype=torch.float64))
    assert not inconsistent.converged


def test_many_right_hand_sides_each_on_its_own():
    matrix = symmetric(spread(40, 1e4))
    b = torch.randn(40, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    b[:, 1] = 0
    b[:, 2] *= 1e-12
    found = conjugate_gradient(matrix, b, tol=1e-10)
    assert found.statuses == (CgStatus.CONVERGED, CgStatus.ZERO_RHS, CgStatus.CONVERGED, CgStatus.CONVERGED)
    assert found.converged
    assert found.status is CgStatus.CONVERGED
    assert max(found.residuals) == found.residual <= 1e-10
    torch.testing.assert_close(
        found.solution / (b.norm(dim=0) + 1e-300),
        torch.linalg.solve(matrix, b) / (b.norm(dim=0) + 1e-300),
        rtol=1e-6,
        atol=1e-8,
    )
    broken = torch.cat([b, torch.full((40, 1), math.nan, dtype=torch.float64)], 1)
    mixed = conjugate_gradient(matrix, broken, tol=1e-10)
    assert mixed.status is CgStatus.NON_FINITE
    assert not mixed.converged
    torch.testing.assert_close(mixed.solution[:, :4], found.solution, rtol=1e-6, atol=1e-12)


def test_every_kind_of_operator_gives_the_same():
    matrix = poisson_matrix((12, 9))
    b = torch.randn(108, dtype=torch.float64)
    sparse = to_scipy(matrix)
    solutions = [
        conjugate_gradient(operator, b, tol=1e-10).solution
        for operator in (
            matrix,
            matrix.to_dense(),
            matrix.to_sparse_coo(),
            sparse,
            scipy.sparse.coo_matrix(sparse),
            scipy.sparse.linalg.aslinearoperator(sparse),
            lambda v: matrix @ v,
        )
    ]
    for solution in solutions:
        torch.testing.assert_close(
            solution, torch.from_numpy(scipy.sparse.linalg.spsolve(sparse.tocsc(), b.numpy()))
        )
    blocks = b.reshape(-1, 1).expand(-1, 3).contiguous()
    for operator in (matrix, sparse, scipy.sparse.linalg.aslinearoperator(sparse)):
        assert conjugate_gradient(operator, blocks, tol=1e-10).solution.shape == (108, 3)


def test_preconditioner_and_start_are_used():
    matrix = torch.diag(spread(80, 1e6))
    b = torch.ones(80, dtype=torch.float64)
    plain = conjugate_gradient(matrix, b, tol=1e-8)
    better = conjugate_gradient(matrix, b, tol=1e-8, preconditioner=jacobi(matrix))
    assert better.iterations == 1 < plain.iterations
    near = plain.solution * (1 + 1e-7)
    assert conjugate_gradient(matrix, b, near, tol=1e-6).iterations == 0


@given(st.integers(1, 30), st.floats(0, 5), st.integers(0, 10_000))
@settings(max_examples=50, deadline=None)
def test_whatever_it_says_is_true(n, digits, seed):
    matrix = symmetric(spread(n, 10**digits), seed)
    b = torch.randn(n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    found = conjugate_gradient(matrix, b, tol=1e-9)
    residual = (matrix @ found.solution - b).norm(dim=0) / b.norm(dim=0)
    for status, said, is_ in zip(found.statuses, found.residuals, residual.tolist(), strict=True):
        assert said == pytest.approx(is_, rel=1e-2, abs=1e-12)
        assert (status is CgStatus.CONVERGED) == (said <= 1e-9)
    assert found.converged


def test_gradients_by_the_implicit_function_theorem():
    basis = orthogonal(6)
    values = torch.tensor([1.0, 2.0, 2.0, 3.0, 5.0, 8.0], dtype=torch.float64, requires_grad=True)
    b = torch.randn(6, 2, dtype=torch.float64, requires_grad=True)

    def solve(values, b):
        return conjugate_gradient((basis * values) @ basis.T, b, tol=1e-14).solution

    def solve_by_function(values, b):
        return conjugate_gradient(lambda v: basis @ (values[:, None] * (basis.T @ v)), b, tol=1e-14).solution

    assert torch.autograd.gradcheck(solve, (values, b))
    assert torch.autograd.gradcheck(solve_by_function, (values, b))
    (first,) = torch.autograd.grad(solve_by_function(values, b).pow(2).sum(), values, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()
    assert not conjugate_gradient(torch.eye(2), torch.ones(2)).solution.requires_grad


@pytest.mark.parametrize("shape", [(5,), (5, 2)])
def test_second_derivatives(shape):
    generator = torch.Generator().manual_seed(3)
    root = torch.randn(5, 5, dtype=torch.float64, generator=generator)
    b = torch.randn(shape, dtype=torch.float64, generator=generator)

    def solve(root, b):
        matrix = root @ root.T + 3 * torch.eye(5, dtype=torch.float64)
        return conjugate_gradient(matrix, b, tol=1e-14).solution

    leaves = root.requires_grad_(), b.requires_grad_()
    assert torch.autograd.gradcheck(solve, leaves)
    assert torch.autograd.gradgradcheck(solve, leaves)


def test_second_derivatives_of_an_operator_by_the_right_hand_side_alone():
    matrix = torch.tensor([[4.0, 1.0], [1.0, 3.0]], dtype=torch.float64)
    b = torch.ones(2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(
        lambda b: conjugate_gradient(lambda v: matrix @ v, b, tol=1e-14).solution ** 2, (b,)
    )
    weight = matrix.clone().requires_grad_()
    solution = conjugate_gradient(lambda v: weight @ v, b, tol=1e-14).solution
    (grad,) = torch.autograd.grad(solution.square().sum(), weight, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_a_backward_solve_that_fails_is_told():
    matrix = symmetric(spread(50, 1e6))
    b = torch.ones(50, dtype=torch.float64, requires_grad=True)
    found = conjugate_gradient(matrix, b, max_iter=3)
    with pytest.warns(NumericalWarning, match="max_iter"):
        found.solution.sum().backward()


def test_half_precision_is_solved_in_float32():
    matrix, b = torch.eye(3, dtype=torch.bfloat16) * 2, torch.ones(3, dtype=torch.bfloat16)
    found = conjugate_gradient(matrix, b)
    assert found.solution.dtype is torch.bfloat16
    assert found.solution.tolist() == [0.5] * 3


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"A": torch.eye(3), "b": torch.ones(2)}, "square matrix with 2 rows"),
        ({"A": torch.eye(2), "b": torch.ones(2, 2, 2)}, r"expected \(n,\) or \(n, k\)"),
        ({"A": torch.eye(2), "b": torch.ones(2), "tol": 0.0}, "tol=0.0"),
        ({"A": torch.eye(2), "b": torch.ones(2), "tol": math.nan}, "tol=nan"),
        ({"A": torch.eye(2), "b": torch.ones(2), "max_iter": -1}, "max_iter=-1"),
        ({"A": torch.eye(2), "b": torch.ones(2), "x0": torch.ones(3)}, "x0 of shape"),
    ],
)
def test_wrong_arguments(arguments, text):
    with pytest.raises(ValueError, match=text):
        conjugate_gradient(**arguments)
    with pytest.raises(TypeError, match="linear operator or a function"):
        conjugate_gradient(3, torch.ones(2))


def test_inputs_are_left_alone():
    matrix, b, x0 = torch.eye(3), torch.tensor([1.0, 2.0, 3.0]), torch.zeros(3)
    conjugate_gradient(matrix, b, x0)
    assert b.tolist() == [1, 2, 3]
    assert x0.tolist() == [0, 0, 0]
    assert torch.equal(matrix, torch.eye(3))
    assert np.allclose(to_csr(matrix).to_dense(), matrix)
