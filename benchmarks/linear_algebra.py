"""Accumulation and linear algebra, against torch and SciPy on the same input in the same run.

Budgets: 10^6 unknowns of a Poisson problem in at most 10 iterations and 1 s; the condition of a
4096 x 4096 matrix in at most 3 s, within a factor 3. Rows that give digits which the peer does not
have may cost more than the peer: the ratio says how much.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import scipy.sparse.linalg
import torch
import torch.nn.functional as F
from _compare import header, line, ratio
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from trimtab import numerics


def once(work: Callable[[], object]) -> float:
    """CPU seconds of a second run: others on the machine do not count, and the first run fills caches."""
    work()
    start = time.process_time()
    work()
    return time.process_time() - start


def row(what: str, ours: Callable[[], object], peer: Callable[[], object], budget: str = "") -> None:
    """Time both in turn, print a line."""
    print(line(what, *ratio(ours, peer, rounds=3), budget), flush=True)


def backward(function: Callable[[Tensor], Tensor], leaf: Tensor) -> Callable[[], object]:
    """Forward and backward pass."""
    return lambda: torch.autograd.grad(function(leaf).sum(), leaf)


def accumulation() -> None:
    """Sums and half precision."""
    x = torch.randn(10_000_000)
    row("sum of 10^7 float32", lambda: numerics.sum_compensated(x), x.sum)
    wide = x[:1_000_000].double()
    terms = wide.tolist()
    row(
        "sum of 10^6 float64, against math.fsum",
        lambda: numerics.sum_compensated(wide),
        lambda: math.fsum(terms),
    )
    row(
        "stochastic rounding to bfloat16, against a cast",
        lambda: numerics.stochastic_round(x, torch.bfloat16),
        lambda: x.to(torch.bfloat16),
    )
    table = torch.zeros(10_000, 64, dtype=torch.bfloat16, requires_grad=True)
    index = torch.randint(0, 10_000, (20_000,))
    row(
        "embedding in bfloat16, forward and backward",
        backward(lambda w: numerics.embedding(index, w), table),
        backward(lambda w: F.embedding(index, w), table),
    )
    source = torch.randn(20_000, 64).to(torch.bfloat16)
    zeros = torch.zeros(10_000, 64, dtype=torch.bfloat16)
    row(
        "index_add in bfloat16",
        lambda: numerics.index_add(zeros, 0, index, source),
        lambda: torch.index_add(zeros, 0, index, source),
    )
    batch = (torch.randn(16_384, 64) + 100).requires_grad_()
    row(
        "batch_norm of (16384, 64), forward and backward",
        backward(lambda v: numerics.batch_norm(v, None, None, training=True), batch),
        backward(lambda v: F.batch_norm(v, None, None, training=True), batch),
    )


def dense() -> None:
    """Decompositions of dense matrices."""
    n = 1000
    grid = torch.linspace(0, 1, n)
    kernel = torch.exp(-50 * (grid[:, None] - grid) ** 2)
    jitter = numerics.cholesky_psd(kernel).jitter * torch.eye(n)
    row(
        "Cholesky of a semidefinite kernel, n = 1000, against one with the right jitter",
        lambda: numerics.cholesky_psd(kernel),
        lambda: torch.linalg.cholesky(kernel + jitter),
    )
    root = torch.randn(200, 200, dtype=torch.float64)
    matrix = (root @ root.T + torch.eye(200)).requires_grad_()
    row(
        "square root, n = 200, forward and backward, against eigh",
        backward(numerics.sqrtm_psd, matrix),
        backward(lambda a: (lambda w, v: (v * w.sqrt()) @ v.mT)(*torch.linalg.eigh(a)), matrix),
    )
    row(
        "det, n = 200, forward and backward",
        backward(numerics.det, matrix),
        backward(torch.linalg.det, matrix),
    )
    layer = nn.Linear(1024, 1024)
    penalty = numerics.SpectralPenalty(layer, weight=1.0)
    row(
        "spectral penalty of a 1024 x 1024 layer, against all singular values",
        penalty,
        lambda: torch.linalg.matrix_norm(layer.weight, 2).square(),
    )
    a, b, c = torch.randn(3, 1_000_000, dtype=torch.float64)
    row(
        "10^6 quadratics, against the school formula",
        lambda: numerics.quadratic_roots(a, b, c),
        lambda: ((-b - (b * b - 4 * a * c).sqrt()) / (2 * a), (-b + (b * b - 4 * a * c).sqrt()) / (2 * a)),
    )


def condition() -> None:
    """Condition numbers."""
    matrix = torch.randn(1024, 1024)
    row(
        "estimated condition, n = 1024, p = 2, against all singular values",
        lambda: numerics.estimate_condition(matrix, 2),
        lambda: torch.linalg.cond(matrix),
    )
    large = torch.randn(4096, 4096)
    seconds, exact_seconds = (
        once(lambda: numerics.estimate_condition(large)),
        once(lambda: torch.linalg.cond(large, 1)),
    )
    quality = numerics.estimate_condition(large) / torch.linalg.cond(large, 1).item()
    what = f"estimated condition, n = 4096, p = 1 ({quality:.2f} of the exact one), against an inverse"
    print(line(what, seconds, exact_seconds, seconds / exact_seconds, "<= 3000 ms"), flush=True)


def solvers() -> None:
    """Conjugate gradients and preconditioners on the Poisson problem, to 1e-8."""
    side = 255
    matrix = numerics.poisson_matrix((side, side))
    sparse, grid = numerics.to_scipy(matrix), numerics.GridOperator((side, side))
    b = torch.randn(side * side, dtype=torch.float64)
    iterations = [0]

    def count(_: object) -> None:
        iterations[0] += 1

    def scipy_cg() -> None:
        iterations[0] = 0
        scipy.sparse.linalg.cg(sparse, b.numpy(), rtol=1e-8, maxiter=5000, callback=count)

    peer = once(scipy_cg)
    print(f"\nPoisson, {side * side} unknowns; SciPy's cg: {iterations[0]} iterations, {peer * 1e3:.0f} ms")
    for name, operator, build in (
        ("no preconditioner, CSR", matrix, lambda: None),
        ("no preconditioner, grid operator", grid, lambda: None),
        ("incomplete Cholesky", matrix, lambda: numerics.incomplete_cholesky(matrix)),
        ("algebraic multigrid (pyamg)", matrix, lambda: numerics.algebraic_multigrid(matrix)),
        ("geometric multigrid", grid, lambda: numerics.GeometricMultigrid(grid)),
    ):
        start = time.process_time()
        preconditioner = build()
        setup = time.process_time() - start
        found = numerics.conjugate_gradient(operator, b, tol=1e-8, preconditioner=preconditioner)
        seconds = once(
            lambda o=operator, p=preconditioner: numerics.conjugate_gradient(o, b, tol=1e-8, preconditioner=p)
        )
        label = f"{name}: {found.iterations} iterations, setup {setup * 1e3:.0f} ms"
        print(line(label, seconds, peer, seconds / peer, ""), flush=True)
    for side in (1000, 1023):
        grid = numerics.GridOperator((side, side))
        b, cycle = torch.randn(side * side, dtype=torch.float64), numerics.GeometricMultigrid(grid)
        found = numerics.conjugate_gradient(grid, b, tol=1e-8, preconditioner=cycle)
        seconds = once(
            lambda g=grid, v=b, c=cycle: numerics.conjugate_gradient(g, v, tol=1e-8, preconditioner=c)
        )
        print(
            f"geometric multigrid, {side * side} unknowns: {found.iterations} iterations (budget 10),"
            f" {seconds * 1e3:.0f} ms (budget 1000 ms), true residual {found.residual:.1e}",
            flush=True,
        )


def layouts() -> None:
    """What a product costs in each format."""
    matrix = numerics.poisson_matrix((300, 300))
    print("\nproduct of a 90000 x 90000 matrix with 5 entries per row and a vector")
    for timing in numerics.time_layouts(matrix):
        print(
            f"{timing.layout!s:<58} {timing.seconds * 1e3:>10.3f} ms {timing.size_bytes / 2**20:>10.1f} MiB"
        )


def main() -> None:
    """Print the table."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    print(header("Accumulation and linear algebra"))
    with threadpool_limits(1):  # SciPy's libraries like torch
        accumulation()
        dense()
        condition()
        solvers()
        layouts()


if __name__ == "__main__":
    main()
