"""Conjugate gradients that stop when the answer is right, and say why when it is not."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeAlias, final

import torch
from torch import Tensor

from trimtab.errors import NumericalWarning
from trimtab.numerics.error_free import full_precision, wide
from trimtab.numerics.operators import Operator, as_operator, column_dots, column_norms


@final
class CgStatus(Enum):
    """How a run of conjugate gradients ended; `message` says what it means and what to try."""

    CONVERGED = "converged"
    ZERO_RHS = "zero right-hand side"
    INDEFINITE = "indefinite"
    STAGNATION = "stagnation"
    MAX_ITER = "max_iter"
    NON_FINITE = "non-finite"

    @property
    def message(self) -> str:
        """What happened and what to try."""
        return _MESSAGES[self]


_MESSAGES = {
    CgStatus.CONVERGED: "The true residual is within the tolerance.",
    CgStatus.ZERO_RHS: "The right-hand side is zero, and so is the solution.",
    CgStatus.INDEFINITE: (
        "A direction with p'Ap <= 0, or r'Mr <= 0: the matrix or the preconditioner is not symmetric positive"
        " definite. Try least_squares, or a direct solver."
    ),
    CgStatus.STAGNATION: (
        "The true residual no longer falls: this is what the precision allows at this condition number. Try"
        " float64, a preconditioner, or a larger tol."
    ),
    CgStatus.MAX_ITER: "max_iter iterations were not enough. Try a preconditioner, or more of them.",
    CgStatus.NON_FINITE: (
        "A NaN or Inf in the matrix, the right-hand side, the preconditioner or a product; or the matrix is"
        " singular, and the right-hand side no image of it, so that iterates grow without end."
    ),
}


@final
@dataclass(frozen=True, slots=True, eq=False)
class CgResult:
    """What conjugate gradients found.

    Attributes:
        solution: In the shape of the right-hand side.
        iterations: Iterations taken, of the slowest right-hand side.
        residual: norm(b - A x) / norm(b), computed from the solution; float for one right-hand side, the
            largest for several.
        status: How it ended; for several right-hand sides the worst one.
        residuals: The same for each right-hand side, shape (k,), float64.
        statuses: The same for each right-hand side.
    """

    solution: Tensor
    iterations: int
    residual: float
    status: CgStatus
    residuals: tuple[float, ...]
    statuses: tuple[CgStatus, ...]

    @property
    def converged(self) -> bool:
        """Whether every right-hand side was solved to the tolerance."""
        return all(s in (CgStatus.CONVERGED, CgStatus.ZERO_RHS) for s in self.statuses)


@full_precision
def conjugate_gradient(
    A: Any,
    b: Tensor,
    x0: Tensor | None = None,
    *,
    max_iter: int | None = None,
    tol: float = 1e-5,
    preconditioner: Operator | None = None,
) -> CgResult:
    """Solve `A x = b` for a symmetric positive definite `A`.

    The tolerance is relative to norm(b) and holds for the residual of the solution that is returned, not
    only for the one that the recurrence carries along: where the two drift apart, the iteration starts
    again from the true one, until that stops helping.

    Gradients flow through the solution to `b` and to whatever `A` is computed from, by the implicit
    function theorem: one further solve in the backward pass, no stored iterations. Second derivatives work
    for a dense matrix, and by `b`; by what a function or a sparse matrix is made of they raise.

    Args:
        A: A matrix, dense or sparse; a sparse matrix or linear operator of SciPy; or a function that takes
            and returns a tensor of the shape of `b`.
        b: Right-hand side of shape (n,), or several of shape (n, k).
        x0: Where to start; zeros by default.
        max_iter: Most iterations; 10 n by default.
        tol: Largest relative residual wanted, > 0.
        preconditioner: Symmetric positive definite approximation of the inverse of `A`, as a function. See
            `jacobi`, `incomplete_cholesky`, `algebraic_multigrid`, `GeometricMultigrid`.

    Returns:
        Solution, iterations, true residual and status.

    Raises:
        ValueError: Shapes do not match, `tol` is not positive, `max_iter` is negative.
        TypeError: `b` is not real and floating, or `A` is nothing that can be multiplied.

    Shape:
        `solution` has the shape of `b`.

    Cost:
        Each iteration: one product with `A`, one with the preconditioner, 6 passes over vectors and
        three host reads. A product more at the start (with `x0`) and for each check of the true residual.
        float16 and bfloat16 are solved in float32.

    Example:
        >>> from trimtab.numerics import conjugate_gradient
        >>> result = conjugate_gradient(torch.tensor([[4.0, 1.0], [1.0, 3.0]]), torch.tensor([1.0, 2.0]))
        >>> result.solution, result.iterations, result.converged
        (tensor([0.0909, 0.6364]), 2, True)
        >>> conjugate_gradient(torch.diag(torch.tensor([1.0, -1.0])), torch.ones(2)).status
        <CgStatus.INDEFINITE: 'indefinite'>

    References:
        Hestenes and Stiefel, 1952; Greenbaum, "Estimating the attainable accuracy of recursively computed
        residual methods", SIAM J. Matrix Anal. Appl. 18, 1997.
    """
    operator = _checked(A, b, x0, max_iter, tol)
    dtype = b.dtype
    b = wide(b)
    x0 = torch.zeros_like(b) if x0 is None else x0.to(b)
    limit = 10 * b.shape[0] if max_iter is None else max_iter
    with torch.no_grad():
        run = _Run(operator, b.detach(), x0.detach(), tol, preconditioner)
        run.iterate(limit)
        result = run.result()
    solution = result.solution
    if torch.is_grad_enabled():
        solution = _attached(A, operator, b, solution, (tol, limit, preconditioner))
    statuses, residuals = result.statuses, result.residuals
    return CgResult(
        solution.to(dtype),
        result.iterations,
        max(residuals),
        max(statuses, key=_SEVERITY.index),
        residuals,
        statuses,
    )


_SEVERITY = [
    CgStatus.ZERO_RHS,
    CgStatus.CONVERGED,
    CgStatus.MAX_ITER,
    CgStatus.STAGNATION,
    CgStatus.INDEFINITE,
    CgStatus.NON_FINITE,
]


# Tolerance, most iterations and preconditioner
_Settings: TypeAlias = tuple[float, int, Operator | None]


def _attached(A: Any, operator: Operator, b: Tensor, solution: Tensor, settings: _Settings) -> Tensor:
    """The solution with its gradients."""
    if isinstance(A, Tensor) and A.layout is torch.strided:
        if A.requires_grad or b.requires_grad:
            solution = _Solve.apply(b, wide(A), operator, solution, settings)  # type: ignore[no-untyped-call]
        return solution
    image = operator(solution)
    if image.requires_grad:
        solution = solution + _ImplicitSolve.apply(b - image, operator, settings)  # type: ignore[no-untyped-call]
    elif b.requires_grad:
        solution = _Solve.apply(b, None, operator, solution, settings)  # type: ignore[no-untyped-call]
    return solution


class _Solve(torch.autograd.Function):
    """The solution for a matrix, or for an operator without parameters (`A` is None)."""

    @staticmethod
    def forward(
        ctx: Any, b: Tensor, A: Tensor | None, operator: Operator, solution: Tensor, settings: _Settings
    ) -> Tensor:
        x = solution.clone()
        ctx.operator, ctx.settings = operator, settings
        ctx.save_for_backward(A, x)  # an output: its own gradient makes the second derivative
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        A, x = ctx.saved_tensors
        to_b = _solved_back(ctx.operator if A is None else A, grad, ctx.settings)
        to_A = None
        if ctx.needs_input_grad[1]:
            to_A = -(to_b.outer(x) if x.dim() == 1 else to_b @ x.mT)
        return to_b, to_A, None, None, None


class _ImplicitSolve(torch.autograd.Function):
    """Zero, whose gradient with respect to the residual b - A x is that of x: A^-1 g."""

    @staticmethod
    def forward(ctx: Any, residual: Tensor, operator: Operator, settings: _Settings) -> Tensor:
        ctx.operator, ctx.settings = operator, settings
        return torch.zeros_like(residual)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _solved_back(ctx.operator, grad, ctx.settings), None, None


def _solved_back(A: Any, grad: Tensor, settings: _Settings) -> Tensor:
    """A^-1 g, differentiable in turn; a symmetric matrix is its own transpose."""
    tol, limit, preconditioner = settings
    result = conjugate_gradient(A, grad, max_iter=limit, tol=tol, preconditioner=preconditioner)
    if not result.converged:
        warnings.warn(
            f"The backward solve of conjugate_gradient ended with relative residual "
            f"{result.residual:.1e}: {result.status.message}",
            NumericalWarning,
            stacklevel=2,
        )
    return result.solution


class _Run:
    """One run: every right-hand side scaled to a norm between 1 and 2.

    Tiny ones neither vanish nor stop early. The scale is a power of two: the solution has the
    residual that was measured, to the last bit.

    Columns are iterated together; one that has ended keeps its solution and gets steps of length 0.
    """

    def __init__(
        self, operator: Operator, b: Tensor, x0: Tensor, tol: float, preconditioner: Operator | None
    ) -> None:
        self.operator, self.tol = operator, tol
        self.precondition = preconditioner
        norm = column_norms(b)
        exponent = torch.where(norm.isfinite() & (norm > 0), torch.frexp(norm).exponent - 1, 0)
        self.scale = torch.pow(2.0, exponent.to(b.dtype))
        is_zero = norm == 0
        self.size = torch.where(is_zero, torch.ones_like(norm), norm / self.scale)
        self.b = b / self.scale
        self.x = torch.where(is_zero, torch.zeros_like(b), x0 / self.scale)
        self.r = self.b - operator(self.x) if bool(self.x.any()) else self.b.clone()
        self.iterations = 0
        self.statuses: list[CgStatus | None] = [
            CgStatus.ZERO_RHS if zero else None for zero in is_zero.reshape(-1).tolist()
        ]
        # the best residual so far of each column, and when; the true residual at its last check
        self.best = [float("inf")] * len(self.statuses)
        self.best_at = [0] * len(self.statuses)
        self.checked = [float("inf")] * len(self.statuses)

    def iterate(self, limit: int) -> None:
        for column, norm in enumerate(self._relative(self.r)):
            if self.statuses[column] is None and norm <= self.tol:
                self.statuses[column] = CgStatus.CONVERGED  # x0 will do
        if not all(self.statuses):
            self._start()
        while not all(self.statuses):
            if self.iterations >= limit:
                for column in self._open():
                    self.statuses[column] = CgStatus.MAX_ITER
                break
            self._step()

    def _start(self) -> None:
        """Begin, or begin again, along the preconditioned residual."""
        z = self.r if self.precondition is None else self.precondition(self.r)
        self.p, self.rz = z.clone(), column_dots(self.r, z)
        self._judge(self.rz, self.rz)

    def _step(self) -> None:
        product = self.operator(self.p)
        curvature = column_dots(self.p, product)
        if not self._judge(curvature, self.rz):
            return
        self._advance(product, self.rz / curvature)
        self.iterations += 1
        rr = column_dots(self.r, self.r)
        if self._converged_or_stuck(rr):
            return
        z = self.r if self.precondition is None else self.precondition(self.r)
        rz = rr if self.precondition is None else column_dots(self.r, z)
        share = rz / self.rz
        if self.p.dim() == 2:
            share = torch.where(self._is_open(), share, torch.zeros_like(share))
        self.p.mul_(share).add_(z)
        self.rz = rz

    def _advance(self, product: Tensor, length: Tensor) -> None:
        if self.p.dim() == 1:
            step = length.item()
            self.x.add_(self.p, alpha=step)
            self.r.sub_(product, alpha=step)
        else:
            length = torch.where(self._is_open(), length, torch.zeros_like(length))
            self.x += length * self.p
            self.r -= length * product

    def _judge(self, curvature: Tensor, rz: Tensor) -> bool:
        """End the columns whose curvature or preconditioned residual is not positive; whether any goes on."""
        values = torch.stack([curvature.reshape(-1), rz.reshape(-1)]).tolist()
        for column in self._open():
            pair = (values[0][column], values[1][column])
            if not all(math.isfinite(v) for v in pair):
                self.statuses[column] = CgStatus.NON_FINITE
                if self.p.dim() == 2:
                    self.p[:, column] = 0  # 0 times NaN would reach the solution
            elif min(pair) <= 0:
                self.statuses[column] = CgStatus.INDEFINITE
        return bool(self._open())

    def _converged_or_stuck(self, rr: Tensor) -> bool:
        """Look at the residuals; True if all has ended or begun again from the true ones."""
        norms = (rr.sqrt() / self.size).reshape(-1).tolist()
        window = max(2 * self.b.shape[0], 100)
        doubtful = []
        for column in self._open():
            if norms[column] < self.best[column]:
                self.best[column], self.best_at[column] = norms[column], self.iterations
            if norms[column] <= self.tol or self.iterations - self.best_at[column] > window:
                doubtful.append(column)
        if not doubtful:
            return False
        true = self.b - self.operator(self.x)
        true_norms = self._relative(true)
        for column in doubtful:
            if true_norms[column] <= self.tol:
                self.statuses[column] = CgStatus.CONVERGED
            elif not true_norms[column] < 0.5 * self.checked[column]:
                self.statuses[column] = CgStatus.STAGNATION
            self.checked[column] = true_norms[column]
            self.best[column], self.best_at[column] = true_norms[column], self.iterations
        if set(doubtful) & set(self._open()):
            self.r = true
            self._start()
            return True
        return not self._open()

    def _open(self) -> list[int]:
        return [column for column, status in enumerate(self.statuses) if status is None]

    def _is_open(self) -> Tensor:
        return torch.tensor([status is None for status in self.statuses], device=self.x.device)

    def result(self) -> CgResult:
        residuals = tuple(self._relative(self.b - self.operator(self.x)))
        statuses = tuple(status for status in self.statuses if status is not None)
        return CgResult(
            self.x * self.scale, self.iterations, max(residuals), statuses[0], residuals, statuses
        )

    def _relative(self, residual: Tensor) -> list[float]:
        norms: list[float] = (column_norms(residual) / self.size).reshape(-1).tolist()
        return norms


def _checked(A: Any, b: Tensor, x0: Tensor | None, max_iter: int | None, tol: float) -> Operator:
    if not b.is_floating_point():
        raise TypeError(
            f"conjugate_gradient(b of {b.dtype}): expected a real floating type. Pass b.double()."
        )
    if b.dim() not in (1, 2) or not b.numel():
        raise ValueError(
            f"conjugate_gradient(b of shape {tuple(b.shape)}): expected (n,) or (n, k), not empty."
        )
    size = getattr(A, "shape", None)
    if size is not None and tuple(size) != (b.shape[0], b.shape[0]):
        raise ValueError(
            f"conjugate_gradient(A of shape {tuple(size)}, b of shape {tuple(b.shape)}): expected a square"
            f" matrix with {b.shape[0]} rows."
        )
    if x0 is not None and x0.shape != b.shape:
        raise ValueError(f"conjugate_gradient(x0 of shape {tuple(x0.shape)}): expected {tuple(b.shape)}.")
    if not tol > 0:
        raise ValueError(f"conjugate_gradient(tol={tol}): expected a number > 0, relative to norm(b).")
    if max_iter is not None and max_iter < 0:
        raise ValueError(f"conjugate_gradient(max_iter={max_iter}): expected a number >= 0.")
    return as_operator(A)
