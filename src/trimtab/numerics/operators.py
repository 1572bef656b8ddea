"""Linear maps and columns: what an iterative solver works with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from trimtab.numerics.error_free import wide
from trimtab.numerics.sparse import to_csr

Operator: TypeAlias = Callable[[Tensor], Tensor]
"""A linear map: takes a tensor of the shape of the right-hand side, returns one."""


def as_operator(A: Any) -> Operator:
    """A function for anything that can be multiplied with a tensor; see `conjugate_gradient`."""
    if isinstance(A, Tensor):
        matrix = A if A.layout in (torch.strided, torch.sparse_csr) else to_csr(A)
        matrix = wide(matrix)
        return lambda v: matrix @ v
    if hasattr(A, "tocsr"):
        return as_operator(to_csr(A))
    if hasattr(A, "matvec"):  # a linear operator of SciPy, which is callable too
        return lambda v: torch.from_numpy(A.dot(v.detach().cpu().numpy())).to(v)
    if callable(A):
        function: Operator = A
        return function
    if hasattr(A, "__matmul__"):
        return lambda v: A @ v
    raise TypeError(
        f"conjugate_gradient(A of type {type(A).__name__}): expected a matrix, a linear operator or a"
        " function."
    )


def column_norms(x: Tensor) -> Tensor:
    """Norm of each column, in range for any scale: a square of 1e-30 is 0 in float32."""
    largest = x.abs().amax(0)
    usable = (largest > 0) & largest.isfinite()
    largest = torch.where(usable, largest, torch.ones_like(largest))
    norms: Tensor = torch.linalg.vector_norm(x / largest, dim=0) * largest
    return norms


def column_dots(x: Tensor, y: Tensor) -> Tensor:
    """Dot product of each pair of columns."""
    return torch.dot(x, y) if x.dim() == 1 else (x * y).sum(0)
