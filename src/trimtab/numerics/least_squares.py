"""QR with a sign that is fixed, and least squares that report their rank and residual."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, final

import torch
from torch import Tensor

from trimtab.numerics._exact import floating
from trimtab.numerics.error_free import full_precision, wide


class Qr(NamedTuple):
    """`A = Q R` with orthonormal columns in Q, R upper triangular with a diagonal >= 0."""

    Q: Tensor
    R: Tensor


@final
@dataclass(frozen=True, slots=True, eq=False)
class LeastSquares:
    """A least-squares solution and what to think of it.

    Attributes:
        solution: The one of smallest norm, shape (n,) or (..., n, k).
        residual: norm(A x - b) / norm(b) for each column, from the solution itself; 0 for b = 0.
        rank: Number of singular values above the tolerance, shape (...).
        condition: Largest over smallest of the singular values that count, shape (...).
    """

    solution: Tensor
    residual: Tensor
    rank: Tensor
    condition: Tensor


@full_precision
def qr(A: Tensor, mode: Literal["reduced", "complete"] = "reduced") -> Qr:
    """QR factorization, unique for a matrix of full column rank: the diagonal of R is not negative.

    Householder's method, as in torch; the signs of LAPACK's differ from library to library. The gradient
    exists for full column rank only, as torch's: for least squares see `least_squares`.

    Args:
        A: Shape (..., m, n). float16 and bfloat16 are factorized in float32.
        mode: "reduced" for Q of shape (..., m, k) with k the smaller of m and n, "complete" for
            (..., m, m).

    Returns:
        Q and R, in the type of A.

    Raises:
        ValueError: `mode` is neither of the two, or A is not a matrix.

    Cost:
        One factorization and a scaling.

    Example:
        >>> from trimtab.numerics import qr
        >>> Q, R = qr(torch.tensor([[3.0, 1.0], [4.0, 2.0]]))
        >>> R
        tensor([[5.0000, 2.2000],
                [0.0000, 0.4000]])

    References:
        Golub and Van Loan, "Matrix computations", 4th ed., 2013, section 5.2.
    """
    A = floating(A, "qr")
    if mode not in ("reduced", "complete") or A.dim() < 2:
        raise ValueError(
            f"qr(A of shape {tuple(A.shape)}, mode={mode!r}): expected a matrix, and 'reduced' or 'complete'."
        )
    q, r = torch.linalg.qr(wide(A), mode=mode)
    diagonal = r.detach().diagonal(dim1=-2, dim2=-1)
    signs = torch.where(diagonal < 0, -torch.ones_like(diagonal), torch.ones_like(diagonal))
    k = signs.shape[-1]

    def flipped(x: Tensor, dim: int) -> Tensor:
        shape = x.shape[dim]
        rest = signs.new_ones((*signs.shape[:-1], shape - k))
        factors = torch.cat([signs, rest], -1)
        return x * (factors.unsqueeze(-2) if dim == -1 else factors.unsqueeze(-1))

    return Qr(flipped(q, -1).to(A.dtype), flipped(r, -2).to(A.dtype))


@full_precision
def least_squares(A: Tensor, b: Tensor, *, rtol: float | None = None) -> LeastSquares:
    """The x of smallest norm that minimizes norm(A x - b), with a report; any shape, any rank.

    Args:
        A: Shape (..., m, n).
        b: Shape (m,) or (..., m, k).
        rtol: Singular values up to rtol times the largest count as 0; eps max(m, n) by default.

    Returns:
        Solution, relative residual, rank and condition.

    Raises:
        ValueError: Shapes do not match, or `rtol` is outside of [0, 1).

    Cost:
        One singular value decomposition. Differentiable, also where the rank is deficient, as long as
        the rank does not change; also twice. float16 and bfloat16 are solved in float32.

    Example:
        >>> from trimtab.numerics import least_squares
        >>> A = torch.tensor([[1.0, 1.0], [1.0, 1.0], [1.0, 1.0]])
        >>> found = least_squares(A, torch.tensor([1.0, 2.0, 3.0]))
        >>> found.solution, found.rank.item()
        (tensor([1.0000, 1.0000]), 1)
        >>> round(found.residual.item(), 3)
        0.378

    References:
        Golub and Van Loan, 2013, section 5.5; Golub and Pereyra, "The differentiation of pseudo-inverses
        and nonlinear least squares problems whose variables separate", 1973.
    """
    A, b = floating(A, "least_squares"), floating(b, "least_squares")
    if (
        A.dim() < 2
        or not A.shape[-1]
        or not A.shape[-2]
        or b.shape[-1 if b.dim() == 1 else -2] != A.shape[-2]
    ):
        raise ValueError(
            f"least_squares(A of shape {tuple(A.shape)}, b of shape {tuple(b.shape)}): expected (..., m, n)"
            " and (m,) or (..., m, k)."
        )
    dtype = torch.promote_types(A.dtype, b.dtype)
    A, b = wide(A.to(dtype)), wide(b.to(dtype))
    rtol = torch.finfo(A.dtype).eps * max(A.shape[-2:]) if rtol is None else rtol
    if not 0 <= rtol < 1:
        raise ValueError(f"least_squares(rtol={rtol}): expected a number in [0, 1).")
    columns = b.unsqueeze(-1) if b.dim() == 1 else b
    values = torch.linalg.svdvals(A.detach())
    counts = values > rtol * values[..., :1]
    smallest = torch.where(counts, values, values[..., :1]).amin(-1)
    condition = torch.where(smallest > 0, values[..., 0] / smallest, torch.full_like(smallest, torch.inf))
    solution = torch.linalg.pinv(A, rtol=rtol) @ columns
    with torch.no_grad():
        norm = torch.linalg.vector_norm(columns, dim=-2)
        residual = torch.linalg.vector_norm(A @ solution - columns, dim=-2)
        residual = torch.where(norm > 0, residual / torch.where(norm > 0, norm, 1.0), 0.0)
    if b.dim() == 1:
        solution, residual = solution.squeeze(-1), residual.squeeze(-1)
    return LeastSquares(solution.to(dtype), residual, counts.sum(-1), condition)
