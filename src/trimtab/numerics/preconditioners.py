"""Approximate inverses for conjugate gradients: Jacobi, incomplete Cholesky, algebraic multigrid.

Each is a function from residual to correction, symmetric positive definite where the matrix is, of
shape (n,) or (n, k). `as_scipy` makes one that `scipy.sparse.linalg.cg(M=...)` takes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from trimtab.errors import MissingDependencyError
from trimtab.numerics.operators import Operator
from trimtab.numerics.sparse import scipy_sparse, to_csr, to_scipy

if TYPE_CHECKING:
    import scipy.sparse.linalg

# Most sweeps, and the relative residual at which they end: a preconditioner gains nothing from more
_SWEEPS, _SWEPT = 100, 1e-6

# Shift of the diagonal, relative to it, tried after a factorization broke down (Manteuffel 1980)
_SHIFTS = (0.0, 1e-3, 1e-2, 1e-1, 1.0)


def jacobi(A: Tensor) -> Operator:
    """Division by the diagonal: undoes a bad scaling of the unknowns, and nothing else.

    Args:
        A: Dense or sparse matrix with a positive diagonal.

    Returns:
        A preconditioner.

    Raises:
        ValueError: The diagonal has an entry that is not positive.

    Cost:
        One pass over vectors; no help where the diagonal is constant, as in the Poisson problem.

    Example:
        >>> from trimtab.numerics import conjugate_gradient, jacobi
        >>> A = torch.diag(torch.logspace(0, 6, 50, dtype=torch.float64))
        >>> b = torch.ones(50, dtype=torch.float64)
        >>> conjugate_gradient(A, b, preconditioner=jacobi(A)).iterations
        1
    """
    diagonal = _diagonal(A)
    if not bool((diagonal > 0).all()):
        raise ValueError("jacobi(A): expected a positive diagonal, as a positive definite matrix has.")
    inverse = diagonal.reciprocal()
    return lambda r: (r * (inverse if r.dim() == 1 else inverse.unsqueeze(1))).to(r.dtype)


def incomplete_cholesky(A: Tensor | Any, *, fill: int = 0) -> Operator:
    """Cholesky factor on the pattern of the matrix, IC(0), or on that of a power of it.

    The factor is the fixed point of `(L L')_ij = A_ij` on the pattern, by sweeps over all entries at once
    instead of row by row; products and triangular solves are SciPy's. Where a pivot is not positive, as
    may happen for a matrix that is not diagonally dominant, the diagonal is raised until all are.

    Args:
        A: Sparse matrix, of torch or SciPy; symmetric positive definite.
        fill: 0 for the pattern of A, k for that of A^(k + 1).

    Returns:
        A preconditioner, on the CPU. Never take an incomplete LU in its place: that is not symmetric.

    Raises:
        MissingDependencyError: SciPy is not installed: extra `sparse`.
        ValueError: `fill` is negative, the diagonal is not positive, or the factorization breaks down even
            with twice the diagonal.

    Cost:
        Setup: 5 to 30 sparse products. Two triangular solves on one core for each application. On the
        Poisson problem about a third of the iterations; the count still grows with the square root of n,
        which that of multigrid does not; and the solves cost more than the iterations saved where a product
        with the matrix is as cheap as there.

    Example:
        >>> from trimtab.numerics import conjugate_gradient, incomplete_cholesky, poisson_matrix
        >>> A, b = poisson_matrix((40, 40)), torch.randn(1600, dtype=torch.float64)
        >>> plain = conjugate_gradient(A, b, tol=1e-8).iterations
        >>> conjugate_gradient(A, b, tol=1e-8, preconditioner=incomplete_cholesky(A)).iterations < plain / 2
        True

    References:
        Meijerink and van der Vorst, 1977; Manteuffel, "An incomplete factorization technique for positive
        definite linear systems", 1980; Chow and Patel, "Fine-grained parallel incomplete LU factorization",
        SIAM J. Sci. Comput. 37, 2015.
    """
    sparse = scipy_sparse("Incomplete Cholesky")
    from scipy.sparse.linalg import splu

    if fill < 0:
        raise ValueError(f"incomplete_cholesky(fill={fill}): expected a number >= 0.")
    matrix = sparse.csr_matrix(to_scipy(A) if isinstance(A, Tensor) else A, dtype="float64")
    diagonal = matrix.diagonal()
    if not (diagonal > 0).all():
        raise ValueError(
            "incomplete_cholesky(A): expected a positive diagonal, as a positive definite matrix has."
        )
    root = np.sqrt(diagonal)
    scaled = sparse.diags(1 / root) @ matrix @ sparse.diags(1 / root)
    pattern = abs(scaled)
    for _ in range(fill):
        pattern = pattern @ abs(scaled)
    factor = next(
        (f for f in (_fixed_point(scaled, pattern, s, sparse) for s in _SHIFTS) if f is not None), None
    )
    if factor is None:
        raise ValueError(
            "incomplete_cholesky(A): the factorization breaks down even with twice the diagonal. Is A"
            " symmetric positive definite?"
        )
    # no reordering and no pivoting: what SuperLU factorizes is triangular already, and stays as it is
    solver = splu(
        factor.tocsc(),
        permc_spec="NATURAL",
        diag_pivot_thresh=0.0,
        options={"SymmetricMode": True, "Equil": False},
    )
    return lambda r: _through_numpy(lambda v: solver.solve(solver.solve(v / root), trans="T") / root, r)


def _fixed_point(matrix: Any, pattern: Any, shift: float, sparse: Any) -> Any | None:
    """Incomplete Cholesky factor of a matrix with diagonal 1, raised by a shift; None if it breaks down."""
    lower = sparse.tril(pattern, format="csr")
    lower.sort_indices()
    rows = np.repeat(np.arange(lower.shape[0]), np.diff(lower.indptr))
    columns = lower.indices
    on_diagonal = rows == columns
    target = np.asarray(matrix[rows, columns]).ravel() + shift * on_diagonal
    entries = target.copy()
    for _ in range(_SWEEPS):
        lower.data = entries
        diagonal = entries[on_diagonal]
        product = np.asarray((lower @ lower.T).tocsr()[rows, columns]).ravel()
        if abs(product - target).max() <= _SWEPT:
            break
        pivot = diagonal[columns]
        # what is left of each entry once the other products are taken away
        rest = target - (product - entries * pivot)
        if not (rest[on_diagonal] > 0).all():
            return None
        entries = np.where(on_diagonal, np.sqrt(np.where(on_diagonal, rest, 1.0)), rest / pivot)
    return lower if np.isfinite(entries).all() else None


def algebraic_multigrid(
    A: Tensor | Any,
    *,
    method: Literal["ruge_stuben", "smoothed_aggregation"] = "ruge_stuben",
) -> Operator:
    """One V-cycle of algebraic multigrid: needs the matrix only, no grid.

    Args:
        A: Sparse matrix, of torch or SciPy; symmetric positive definite.
        method: "ruge_stuben" for diffusion on meshes, "smoothed_aggregation" also for elasticity.

    Returns:
        A preconditioner.

    Raises:
        MissingDependencyError: SciPy or pyamg is not installed: extra `sparse`.
        ValueError: `method` is neither of the two.

    Cost:
        The setup takes a few times as long as a solve. On the CPU.

    Example:
        >>> from trimtab.numerics import algebraic_multigrid, conjugate_gradient, poisson_matrix
        >>> A = poisson_matrix((31, 31))
        >>> b = torch.ones(961, dtype=torch.float64)
        >>> conjugate_gradient(A, b, preconditioner=algebraic_multigrid(A)).iterations < 10
        True

    References:
        Ruge and Stueben, 1987; Vanek, Mandel and Brezina, 1996; Bell, Olson and Schroder, "PyAMG", JOSS 7,
        2022 (the library that is called).
    """
    if method not in ("ruge_stuben", "smoothed_aggregation"):
        raise ValueError(
            f"algebraic_multigrid(method={method!r}): expected 'ruge_stuben' or 'smoothed_aggregation'."
        )
    sparse = scipy_sparse("Algebraic multigrid")
    try:
        import pyamg
    except ImportError as error:
        raise MissingDependencyError("pyamg", extra="sparse", purpose="Algebraic multigrid") from error
    matrix = to_scipy(A) if isinstance(A, Tensor) else A
    build = {
        "ruge_stuben": pyamg.ruge_stuben_solver,
        "smoothed_aggregation": pyamg.smoothed_aggregation_solver,
    }[method]
    cycle = build(sparse.csr_matrix(matrix, dtype="float64")).aspreconditioner(cycle="V")
    return lambda r: _through_numpy(cycle.dot, r)


def as_scipy(
    operator: Operator, size: int, *, dtype: torch.dtype = torch.float64
) -> scipy.sparse.linalg.LinearOperator:
    """A preconditioner or operator of this package for `scipy.sparse.linalg`.

    Args:
        operator: Takes and returns a tensor of shape (n,).
        size: n.
        dtype: Type that the tensors have.

    Returns:
        A SciPy linear operator that shares the memory of its vectors.

    Raises:
        MissingDependencyError: SciPy is not installed.

    Example:
        >>> import scipy.sparse.linalg
        >>> from trimtab.numerics import as_scipy, jacobi, poisson_matrix, to_scipy
        >>> A = poisson_matrix((10, 10))
        >>> M = as_scipy(jacobi(A), 100)
        >>> x, info = scipy.sparse.linalg.cg(to_scipy(A), torch.ones(100).numpy(), M=M)
        >>> info
        0
    """
    scipy_sparse("A linear operator of SciPy")
    import scipy.sparse.linalg

    def apply(v: Any) -> Any:
        return operator(torch.from_numpy(v.reshape(-1)).to(dtype)).detach().cpu().numpy()

    name = str(dtype).removeprefix("torch.")
    return scipy.sparse.linalg.LinearOperator((size, size), matvec=apply, rmatvec=apply, dtype=name)


def _diagonal(A: Tensor) -> Tensor:
    if A.layout is torch.strided:
        return A.diagonal().detach().clone()
    csr = to_csr(A.detach())
    rows = torch.repeat_interleave(
        torch.arange(csr.shape[0], device=csr.device), csr.crow_indices().diff(), output_size=csr._nnz()
    )
    on_it = rows == csr.col_indices()
    return csr.values().new_zeros(csr.shape[0]).index_add(0, rows[on_it], csr.values()[on_it])


def _through_numpy(apply: Any, r: Tensor) -> Tensor:
    """A function of one float64 NumPy vector, for a tensor of shape (n,) or (n, k)."""
    columns = r.detach().double().cpu().reshape(r.shape[0], -1).T.contiguous()
    results = [torch.from_numpy(apply(column.numpy())) for column in columns]
    return torch.stack(results, 1).reshape(r.shape).to(r)
