from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from numerics.matrices import spread, with_singular_values

from trimtab.numerics import least_squares, qr


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4), (2, 6, 2)])
@pytest.mark.parametrize("mode", ["reduced", "complete"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_qr(shape, mode, dtype):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    q, r = qr(matrix, mode)
    m, n = shape[-2:]
    k = m if mode == "complete" else min(m, n)
    assert q.shape[-2:] == (m, k)
    assert r.shape[-2:] == (k, n)
    assert q.dtype is dtype
    tolerance = 20 * torch.finfo(dtype).eps
    torch.testing.assert_close(q @ r, matrix, rtol=tolerance, atol=4 * tolerance)
    identity = torch.eye(k, dtype=dtype).expand(*shape[:-2], k, k)
    torch.testing.assert_close(q.mT @ q, identity, rtol=tolerance, atol=tolerance)
    assert (r.diagonal(dim1=-2, dim2=-1) >= 0).all()
    assert torch.equal(r, r.triu())


def test_qr_is_scipy_s_up_to_signs_and_unique():
    matrix = torch.randn(6, 4, dtype=torch.float64)
    q, r = scipy.linalg.qr(matrix.numpy(), mode="economic")
    signs = np.sign(np.diag(r))
    torch.testing.assert_close(qr(matrix).R, torch.from_numpy(signs[:, None] * r))
    torch.testing.assert_close(qr(matrix).Q, torch.from_numpy(q * signs))
    assert torch.autograd.gradcheck(qr, matrix.requires_grad_())
    with pytest.raises(ValueError, match="'reduced' or 'complete'"):
        qr(matrix, "r")


@pytest.mark.parametrize("shape", [(8, 3), (3, 8), (5, 5)])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_solution_rank_and_residual_are_scipy_s(shape, rank):
    generator = torch.Generator().manual_seed(rank)
    left, right = (torch.randn(n, rank, dtype=torch.float64, generator=generator) for n in shape)
    matrix, b = left @ right.T, torch.randn(shape[0], 2, dtype=torch.float64, generator=generator)
    found = least_squares(matrix, b)
    solution, _, wanted_rank, values = scipy.linalg.lstsq(matrix.numpy(), b.numpy(), cond=1e-12)
    assert found.rank.item() == wanted_rank == rank
    torch.testing.assert_close(found.solution, torch.from_numpy(solution))
    residual = (matrix @ torch.from_numpy(solution) - b).norm(dim=0) / b.norm(dim=0)
    torch.testing.assert_close(found.residual, residual, rtol=1e-6, atol=1e-12)
    assert found.condition.item() == pytest.approx(values[0] / values[rank - 1], rel=1e-6)


def test_batches_vectors_and_a_zero_right_hand_side():
    matrix, b = torch.randn(4, 6, 2), torch.randn(4, 6, 3)
    found = least_squares(matrix, b)
    assert found.solution.shape == (4, 2, 3)
    assert found.residual.shape == (4, 3)
    assert found.rank.shape == (4,)
    one = least_squares(matrix[0], b[0, :, 0])
    torch.testing.assert_close(one.solution, found.solution[0, :, 0])
    assert one.residual.dim() == 0
    zero = least_squares(matrix[0], torch.zeros(6))
    assert zero.residual.item() == 0
    assert zero.solution.tolist() == [0, 0]
    assert least_squares(torch.zeros(3, 2), torch.ones(3)).rank.item() == 0
    assert least_squares(matrix.to(torch.float16)[0], b.to(torch.float16)[0]).solution.dtype is torch.float16


def test_tolerance_decides_the_rank():
    matrix = with_singular_values(spread(4, 1e6).flip(0) / 1e6)
    assert least_squares(matrix, torch.ones(4, dtype=torch.float64)).rank.item() == 4
    assert least_squares(matrix, torch.ones(4, dtype=torch.float64), rtol=1e-3).rank.item() == 2
    with pytest.raises(ValueError, match=r"in \[0, 1\)"):
        least_squares(matrix, torch.ones(4), rtol=1.0)
    with pytest.raises(ValueError, match="expected"):
        least_squares(matrix, torch.ones(5))


def test_gradients_also_of_deficient_rank():
    matrix = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    b = torch.randn(5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda m, v: least_squares(m, v).solution, (matrix, b))
    assert torch.autograd.gradgradcheck(lambda m, v: least_squares(m, v).solution, (matrix, b))
    left = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)

    def deficient(factor):  # the rank stays 2 for any small change
        return least_squares(
            factor @ torch.ones(2, 3, dtype=torch.float64).triu(), b.detach(), rtol=1e-9
        ).solution

    assert torch.autograd.gradcheck(deficient, left)
