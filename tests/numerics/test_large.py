"""The sizes that the goals are set for."""

from __future__ import annotations

import pytest
import scipy.sparse.linalg
import torch
from numerics.matrices import rbf, spread, symmetric

from trimtab.numerics import (
    CgStatus,
    GeometricMultigrid,
    GridOperator,
    cholesky_psd,
    conjugate_gradient,
    estimate_condition,
)

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("side", [1000, 1023, 1100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_million_unknowns_in_ten_iterations(side, dtype):
    operator = GridOperator((side, side))
    b = torch.randn(side * side, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    cycle = GeometricMultigrid(operator, dtype=dtype)
    found = conjugate_gradient(operator, b, tol=1e-8, preconditioner=cycle)
    assert found.converged
    assert found.iterations <= 10
    assert (operator(found.solution) - b).norm() <= 1e-8 * b.norm()


def test_condition_of_a_large_matrix_within_a_factor_3():
    matrix = torch.randn(4096, 4096, generator=torch.Generator().manual_seed(0))
    exact = (torch.linalg.inv(matrix).abs().sum(0).max() * matrix.abs().sum(0).max()).item()
    assert exact / 3 <= estimate_condition(matrix) <= 1.01 * exact


@pytest.mark.parametrize("condition", [1e2, 1e6])
def test_iterations_within_two_percent_of_scipy(condition):
    matrix = symmetric(spread(500, condition))
    b = torch.randn(500, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = conjugate_gradient(matrix, b, tol=1e-8, max_iter=20_000)
    count = [0]

    def one_more(_):
        count[0] += 1

    scipy.sparse.linalg.cg(matrix.numpy(), b.numpy(), rtol=1e-8, maxiter=20_000, callback=one_more)
    assert found.status is CgStatus.CONVERGED
    assert abs(found.iterations - count[0]) <= 0.02 * count[0] + 1
    assert (matrix @ found.solution - b).norm() <= 1e-8 * b.norm()


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-6), (torch.float64, 1e-13)])
@pytest.mark.parametrize("scale", [1e-10, 1.0, 1e10])
def test_cholesky_of_a_large_kernel(dtype, bound, scale):
    kernel = rbf(2000, scale, dtype)
    factor = cholesky_psd(kernel).factor.double()
    assert (factor @ factor.T - kernel.double()).norm() <= bound * kernel.double().norm()
