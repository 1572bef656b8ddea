"""Nothing here is computed in half precision because the caller trains in it."""

from __future__ import annotations

import pytest
import torch
from numerics.matrices import spread, symmetric, with_singular_values
from torch import nn

from trimtab import numerics

MATRIX = symmetric(spread(40, 100.0)).float()
VECTOR = torch.linspace(-1, 1, 40)
GRID = numerics.GridOperator((40, 40))
LAYER = nn.Linear(30, 30)

FUNCTIONS = {
    "cg": lambda a: numerics.conjugate_gradient(a, VECTOR, tol=1e-5).solution,
    "multigrid": lambda a: numerics.GeometricMultigrid(GRID)(a.reshape(-1)),
    "sqrtm": numerics.sqrtm_psd,
    "logm": numerics.logm_psd,
    "polar": lambda a: numerics.polar(a)[0],
    "det": lambda a: numerics.det(a / 30),
    "eigh": lambda a: numerics.safe_eigh(a).vectors.abs(),
    "svd": lambda a: numerics.safe_svd(a).U.abs(),
    "solve": lambda a: numerics.solve_psd(a, VECTOR),
    "logdet": numerics.logdet_psd,
    "sample": lambda a: numerics.cholesky_psd(a).sample(2, generator=torch.Generator().manual_seed(0)),
    "least squares": lambda a: numerics.least_squares(a, VECTOR).solution,
    "condition": numerics.condition_number,
    "spectral": lambda a: sum(numerics.SpectralPenalty(LAYER).norms().values()) * a.sum(),
    "index_add": lambda a: numerics.index_add(a, 0, torch.zeros(40, dtype=torch.long), a),
    "batch_norm": lambda a: numerics.batch_norm(a, None, None, training=True),
    "sum": lambda a: numerics.sum_compensated(a, 0),
    "dot": lambda a: numerics.dot2(a, a),
}


def value_and_gradient(function, *, inside: bool) -> tuple[torch.Tensor, torch.Tensor]:
    leaf = MATRIX.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=inside):
        result = function(leaf)
    # outside, as torch asks for: its own backward formulas multiply matrices too
    (gradient,) = torch.autograd.grad((result * torch.arange(result.numel()).view_as(result)).sum(), leaf)
    return result, gradient


@pytest.mark.parametrize("name", FUNCTIONS)
def test_autocast_changes_nothing(name):
    plain, inside = (value_and_gradient(FUNCTIONS[name], inside=on) for on in (False, True))
    for a, b in zip(plain, inside, strict=True):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * a.abs().max().item())


def test_estimates_under_autocast():
    matrix = with_singular_values(spread(50, 1e3))
    with torch.autocast("cpu", torch.bfloat16):
        inside = numerics.estimate_condition(matrix), numerics.condition_lower_bound(matrix)
    assert inside == (numerics.estimate_condition(matrix), numerics.condition_lower_bound(matrix))
