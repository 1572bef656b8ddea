"""Condition numbers: exact, estimated or bounded, and what they cost a model's layers in digits."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from trimtab.numerics._exact import floating
from trimtab.numerics.error_free import HALF, full_precision, widest
from trimtab.numerics.floating import machine_epsilon
from trimtab.numerics.sparse import to_coo, to_csr

Norm: TypeAlias = Literal[1, 2, "fro"] | float
"""1, 2, inf (`float("inf")`) or "fro"."""

# Hager's iteration hardly ever takes more than 4 steps (Higham 1988)
_HAGER_STEPS = 5


@full_precision
def condition_number(A: Tensor, p: Norm = 2) -> Tensor:
    """Condition number in a norm; infinite for a singular matrix.

    10^k means that a solution has k digits fewer than the data. float32 and narrower are computed in
    float64, so that values up to 1e15 are right; beyond 1/eps of float64 a finite value says no more
    than that the matrix cannot be told from a singular one.

    Args:
        A: Shape (..., m, n); square unless p is 2.
        p: 1, 2, `float("inf")` or "fro".

    Returns:
        Shape (...), float64. NaN where the matrix has NaN or Inf.

    Raises:
        ValueError: `p` is another norm, or the matrix is not square and p is not 2.

    Cost:
        All singular values for p = 2 (70 s for 4096 x 4096 on one core), an inverse otherwise. See
        `estimate_condition` for large ones. Differentiable where it is finite.

    Example:
        >>> from trimtab.numerics import condition_number
        >>> A = torch.tensor([[1.0, 2.0], [2.0, 4.0]])
        >>> condition_number(A).item(), condition_number(torch.diag(torch.tensor([1.0, 1e-8])), 1).item()
        (inf, 100000000...)

    References:
        Higham, "Accuracy and stability of numerical algorithms", 2nd ed., 2002, chapter 7.
    """
    A = floating(A, "condition_number")
    if p not in (1, 2, math.inf, "fro"):
        raise ValueError(f"condition_number(p={p!r}): expected 1, 2, float('inf') or 'fro'.")
    if A.dim() < 2 or (p != 2 and A.shape[-1] != A.shape[-2]):
        raise ValueError(
            f"condition_number(A of shape {tuple(A.shape)}, p={p}): expected a square matrix, or any matrix"
            " with p=2."
        )
    A = widest(A)
    is_finite = A.isfinite().flatten(-2).all(-1)
    safe = torch.where(is_finite[..., None, None], A, torch.zeros_like(A))
    if not A.shape[-1] or not A.shape[-2]:
        return A.new_zeros(A.shape[:-2])
    is_singular = is_singular_matrix(safe)
    # a singular matrix is kept away from the inverse and from 1/0, and from their gradients
    identity = torch.eye(A.shape[-2], A.shape[-1], dtype=A.dtype, device=A.device)
    safe = torch.where(is_singular[..., None, None], identity, safe)
    if p == 2:
        values = torch.linalg.svdvals(safe)
        condition = values[..., 0] / values[..., -1]
    else:
        inverse = torch.linalg.inv(safe)
        condition = torch.linalg.matrix_norm(safe, p) * torch.linalg.matrix_norm(inverse, p)
    condition = torch.where(is_singular, torch.full_like(condition, math.inf), condition)
    return torch.where(is_finite, condition, torch.full_like(condition, math.nan))


@torch.no_grad()
@full_precision
def estimate_condition(A: Tensor, p: Norm = 1) -> float:
    """Condition number of a large matrix from one factorization: a lower bound, rarely by more than 3.

    For p = 1 and inf the method of LAPACK's `gecon`: one LU factorization and a few solves instead of an
    inverse. For p = 2 power iteration with the matrix and with its inverse; a matrix that is not square
    is reduced to its triangular factor first.

    Args:
        A: Shape (m, n); square unless p is 2.
        p: 1, 2 or `float("inf")`.

    Returns:
        At most the true value, up to rounding; between a third of it and all of it in all but contrived
        cases. inf for a matrix that is singular to the last bit, NaN for one with NaN or Inf.

    Raises:
        ValueError: `p` is another norm, or the shape does not fit.

    Cost:
        An LU factorization in the matrix's own type (float32 for narrower ones): 1 to 2 s for 4096 x 4096
        on one core, where all singular values take 70 to 110 s. A few host reads.

    Example:
        >>> from trimtab.numerics import condition_number, estimate_condition
        >>> A = torch.randn(300, 300, dtype=torch.float64)
        >>> bool(0.3 <= estimate_condition(A) / condition_number(A, 1) <= 1.001)
        True

    References:
        Hager, "Condition estimates", SIAM J. Sci. Stat. Comput. 5, 1984; Higham, "FORTRAN codes for
        estimating the one-norm", ACM TOMS 14, 1988.
    """
    A = floating(A, "estimate_condition")
    _check_estimate(A, p)
    A = A.detach().float() if A.dtype in HALF else A.detach()
    # brings every norm into range; the condition does not change
    largest = A.abs().max()
    if not bool(largest.isfinite()):
        return math.nan
    if largest == 0:
        return math.inf
    A = A / largest
    if A.shape[0] != A.shape[1]:
        A = torch.linalg.qr(A if A.shape[0] > A.shape[1] else A.mT, mode="r").R
    if p == math.inf:
        A = A.mT
    factors, pivots, info = torch.linalg.lu_factor_ex(A)
    if info.item():
        return math.inf

    def solve(v: Tensor) -> Tensor:
        solution: Tensor = torch.linalg.lu_solve(factors, pivots, v)
        return solution

    def solve_transposed(v: Tensor) -> Tensor:
        solution: Tensor = torch.linalg.lu_solve(factors, pivots, v, adjoint=True)
        return solution

    if p == 2:
        largest_value = _power_norm(lambda v: A @ v, lambda v: A.mT @ v, A)
        return (largest_value * _power_norm(solve, solve_transposed, A)).item()
    condition: float = (_one_norm(solve, solve_transposed, A) * torch.linalg.matrix_norm(A, 1)).item()
    return condition


@torch.no_grad()
@full_precision
def condition_lower_bound(A: Tensor, *, steps: int = 30) -> float:
    """A lower bound of the 2-norm condition number from products with the matrix alone.

    Nothing is factorized, so it also serves for sparse matrices. It is a bound and not an estimate: the
    largest singular value is found to 4 digits in 30 steps, the smallest one may be missed by a factor
    of hundreds (137 for a condition number of 1.7e4).

    Args:
        A: Matrix, dense or sparse.
        steps: Steps of bidiagonalization, >= 1.

    Returns:
        A number that the condition number is at least equal to, up to rounding.

    Raises:
        ValueError: Not a matrix, or no steps.

    Cost:
        `steps` products with the matrix and its transpose, and as many vectors of either length.

    Example:
        >>> from trimtab.numerics import condition_lower_bound
        >>> round(condition_lower_bound(torch.diag(torch.tensor([1.0, 2.0, 8.0]))), 3)
        8.0

    References:
        Golub and Kahan, "Calculating the singular values and pseudo-inverse of a matrix", 1965.
    """
    A = floating(A, "condition_lower_bound")
    if A.dim() != 2 or not A.shape[0] or not A.shape[1] or steps < 1:
        raise ValueError(
            f"condition_lower_bound(A of shape {tuple(A.shape)}, steps={steps}): expected a matrix and"
            " steps >= 1."
        )
    dtype = torch.float64 if A.dtype is torch.float64 else torch.float32
    A = A.detach().to(dtype)
    transposed = A.mT if A.layout is torch.strided else to_csr(to_coo(A).mT)
    generator = torch.Generator(device=A.device).manual_seed(0)
    v = torch.randn(A.shape[1], dtype=dtype, device=A.device, generator=generator)
    rights, lefts = [v / v.norm()], list[Tensor]()
    diagonal, above = list[Tensor](), list[Tensor]()
    for _ in range(min(steps, *A.shape)):
        u = _orthogonal(A @ rights[-1], lefts)
        length = u.norm()
        diagonal.append(length)
        if not bool(length > machine_epsilon(dtype) * diagonal[0]):
            break  # the image of these vectors has a dimension less than they
        lefts.append(u / length)
        v = _orthogonal(transposed @ lefts[-1], rights)
        length = v.norm()
        above.append(length)
        if not bool(length > machine_epsilon(dtype) * diagonal[0]):
            break  # an invariant subspace: all that this start can see
        rights.append(v / length)
    # rows of the projection: every one of its singular values lies between those of the matrix
    band = torch.diag(torch.stack(diagonal))
    if len(diagonal) > 1:
        band = band + torch.diag(torch.stack(above[: len(diagonal) - 1]), 1)
    values = torch.linalg.svdvals(band)
    bound: float = (values[0] / values[-1]).item()
    return math.inf if values[-1] == 0 else bound


def _check_estimate(A: Tensor, p: Norm) -> None:
    if p not in (1, 2, math.inf):
        raise ValueError(f"estimate_condition(p={p!r}): expected 1, 2 or float('inf').")
    if A.dim() != 2 or not A.numel() or (p != 2 and A.shape[0] != A.shape[1]):
        raise ValueError(
            f"estimate_condition(A of shape {tuple(A.shape)}, p={p}): expected a square matrix, or any"
            " matrix with p=2."
        )


def is_singular_matrix(A: Tensor) -> Tensor:
    """Whether elimination meets a pivot that is exactly 0, which rounding seldom makes."""
    tall = A.detach() if A.shape[-2] >= A.shape[-1] else A.detach().mT
    is_singular: Tensor = torch.linalg.lu_factor_ex(tall).info != 0
    return is_singular


def _one_norm(
    solve: Callable[[Tensor], Tensor], solve_transposed: Callable[[Tensor], Tensor], like: Tensor
) -> Tensor:
    """Lower bound of the 1-norm of the inverse: Higham's algorithm of 1988."""
    n = like.shape[0]
    image = solve(like.new_full((n, 1), 1 / n))
    best = image.abs().sum()
    if n == 1:
        return best
    signs, last = _signs(image), -1
    for _ in range(_HAGER_STEPS):
        slope = solve_transposed(signs)
        column = int(slope.abs().argmax().item())
        if column == last:
            break
        last = column
        unit = like.new_zeros(n, 1)
        unit[column] = 1
        image = solve(unit)
        norm, new_signs = image.abs().sum(), _signs(image)
        if not bool(norm > best) or torch.equal(new_signs, signs):
            best = torch.maximum(best, norm)
            break
        best, signs = norm, new_signs
    # a vector that finds what cancellation in the steps above may hide
    ramp = 1 + torch.arange(n, dtype=like.dtype, device=like.device) / (n - 1)
    ramp[1::2] *= -1
    return torch.maximum(best, 2 * solve(ramp.unsqueeze(1)).abs().sum() / (3 * n))


def _signs(x: Tensor) -> Tensor:
    return torch.where(x < 0, -torch.ones_like(x), torch.ones_like(x))


def _power_norm(
    apply: Callable[[Tensor], Tensor], apply_transposed: Callable[[Tensor], Tensor], like: Tensor
) -> Tensor:
    """Lower bound of a 2-norm by power iteration on a block of 4 vectors, until it stands still."""
    generator = torch.Generator(device=like.device).manual_seed(0)
    columns = min(4, like.shape[0])
    v = torch.randn(like.shape[0], columns, dtype=like.dtype, device=like.device, generator=generator)
    norm = like.new_zeros(())
    for _ in range(30):
        v = torch.linalg.qr(v).Q
        image = apply(v)
        new = torch.linalg.matrix_norm(image, 2)
        if not bool(new > 1.005 * norm):
            return torch.maximum(new, norm)
        norm = new
        v = apply_transposed(image / torch.where(new.isfinite(), new, torch.ones_like(new)))
    return norm


def _orthogonal(x: Tensor, basis: list[Tensor]) -> Tensor:
    """X without its parts along a basis; twice is enough (Kahan and Parlett)."""
    if not basis:
        return x
    stacked = torch.stack(basis)
    for _ in range(2):
        x = x - stacked.T @ (stacked @ x)
    return x
