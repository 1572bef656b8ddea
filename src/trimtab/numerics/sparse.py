"""Sparse matrices: between torch and SciPy, between formats, and which format is fast."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor

from trimtab.errors import MissingDependencyError

if TYPE_CHECKING:
    import scipy.sparse

_INT32_MAX = (1 << 31) - 1
_LAYOUTS = (torch.strided, torch.sparse_coo, torch.sparse_csr)


def csr_tensor(crow_indices: Tensor, col_indices: Tensor, values: Tensor, size: tuple[int, int]) -> Tensor:
    """`torch.sparse_csr_tensor` without the notice that the format is in beta.

    Args:
        crow_indices: Where each row begins in `values`, shape (rows + 1,).
        col_indices: Column of each value.
        values: The values, row by row.
        size: Rows and columns.

    Returns:
        A CSR tensor that shares the memory of its parts.

    Example:
        >>> from trimtab.numerics import csr_tensor
        >>> rows, columns = torch.tensor([0, 1, 2]), torch.tensor([1, 0])
        >>> csr_tensor(rows, columns, torch.ones(2), (2, 2)).to_dense().tolist()
        [[0.0, 1.0], [1.0, 0.0]]
    """
    with _quiet():
        return torch.sparse_csr_tensor(crow_indices, col_indices, values, size, check_invariants=True)


def to_csr(matrix: Tensor | scipy.sparse.spmatrix | scipy.sparse.sparray) -> Tensor:
    """A matrix in compressed-row format with the smallest index type: the format to multiply with.

    A product with COO takes about 20 times as long on the CPU (n = 10^6, 5 entries per row).

    Args:
        matrix: A dense, COO, CSR, CSC or BSR tensor, or a sparse matrix of SciPy.

    Returns:
        A CSR tensor; int32 indices where they suffice, which saves a quarter of the memory traffic.

    Raises:
        ValueError: Not a matrix.

    Cost:
        One copy, or none for CSR with int32 indices.

    Example:
        >>> from trimtab.numerics import to_csr
        >>> to_csr(torch.eye(3).to_sparse()).crow_indices().tolist()
        [0, 1, 2, 3]
    """
    if not isinstance(matrix, Tensor):
        return _from_scipy(matrix)
    if matrix.dim() != 2:
        raise ValueError(f"to_csr(tensor of shape {tuple(matrix.shape)}): expected a matrix.")
    with _quiet():
        csr = matrix if matrix.layout is torch.sparse_csr else matrix.to_sparse_csr()
    size = (csr.shape[0], csr.shape[1])
    if csr.crow_indices().dtype is torch.int32 or csr.requires_grad or max(*size, csr._nnz()) > _INT32_MAX:
        return csr
    return csr_tensor(csr.crow_indices().int(), csr.col_indices().int(), csr.values(), size)


def to_coo(matrix: Tensor) -> Tensor:
    """A matrix in coordinate format, without duplicates: the format to build, slice and transpose.

    Args:
        matrix: Dense or sparse tensor.

    Returns:
        A coalesced COO tensor.

    Example:
        >>> from trimtab.numerics import to_coo
        >>> to_coo(torch.eye(2)).indices().tolist()
        [[0, 1], [0, 1]]
    """
    if matrix.layout is torch.sparse_coo:
        return matrix.coalesce()
    with _quiet():
        coo: Tensor = matrix.to_sparse_coo()  # type: ignore[no-untyped-call]
        return coo.coalesce()


def to_scipy(matrix: Tensor) -> scipy.sparse.csr_array:
    """A matrix for SciPy, in its CSR format, sharing the values where it can.

    Args:
        matrix: Dense or sparse tensor; moved to the CPU.

    Returns:
        A `scipy.sparse.csr_array`.

    Raises:
        MissingDependencyError: SciPy is not installed.

    Example:
        >>> from trimtab.numerics import to_scipy
        >>> to_scipy(torch.eye(3)).nnz
        3
    """
    sparse = scipy_sparse("Conversion of a sparse matrix")
    csr = to_csr(matrix.detach()).cpu()
    parts = (csr.values().numpy(), csr.col_indices().numpy(), csr.crow_indices().numpy())
    return sparse.csr_array(parts, shape=tuple(csr.shape))


def poisson_matrix(shape: tuple[int, ...], *, dtype: torch.dtype = torch.float64) -> Tensor:
    """The second-difference matrix of a grid with zero boundary: the model problem of sparse solvers.

    Args:
        shape: Inner points along each dimension; rows count the last dimension fastest.
        dtype: Type of the values.

    Returns:
        CSR, positive definite: 2 len(shape) on the diagonal, -1 for each neighbor.

    Raises:
        ValueError: A size is not positive.

    Example:
        >>> from trimtab.numerics import poisson_matrix
        >>> poisson_matrix((3,)).to_dense().tolist()
        [[2.0, -1.0, 0.0], [-1.0, 2.0, -1.0], [0.0, -1.0, 2.0]]
    """
    if not shape or min(shape) < 1:
        raise ValueError(f"poisson_matrix({shape}): expected at least one size, all of them positive.")
    point = torch.arange(torch.Size(shape).numel()).reshape(shape)
    rows, columns, values = (
        [point.flatten()],
        [point.flatten()],
        [torch.full((point.numel(),), 2.0 * len(shape))],
    )
    for dim, size in enumerate(shape):
        low, high = point.narrow(dim, 0, size - 1).flatten(), point.narrow(dim, 1, size - 1).flatten()
        rows, columns = [*rows, low, high], [*columns, high, low]
        values.append(-torch.ones(2 * low.numel()))
    indices = torch.stack([torch.cat(rows), torch.cat(columns)])
    n = point.numel()
    return to_csr(
        torch.sparse_coo_tensor(indices, torch.cat(values).to(dtype), (n, n), check_invariants=True)
    )


@final
@dataclass(frozen=True, slots=True)
class LayoutTiming:
    """What one format costs for a matrix, measured.

    Attributes:
        layout: `torch.strided`, `torch.sparse_coo` or `torch.sparse_csr`.
        seconds: Median time of one product.
        size_bytes: Memory of the matrix in this format.
    """

    layout: torch.layout
    seconds: float
    size_bytes: int


def time_layouts(
    matrix: Tensor, *, columns: int = 1, rounds: int = 5, max_dense_bytes: int = 1 << 28
) -> tuple[LayoutTiming, ...]:
    """Measure the product with a dense block in each format, here, on this matrix: fastest first.

    As a rule: CSR for products, COO to build and to index, dense from a density of 10 to
    20 % on. COO is 10 to 60 times slower for a vector. This function says it for the machine at hand.

    Args:
        matrix: Dense or sparse tensor of any of the formats.
        columns: Columns of the dense block, 1 for a vector.
        rounds: Products to time, after one that is not timed.
        max_dense_bytes: The dense format is left out above this size.

    Returns:
        One entry per format, in the order of time.

    Raises:
        ValueError: `columns` or `rounds` is not positive.

    Cost:
        `rounds` products in each format, and a copy of the matrix in each.

    Example:
        >>> from trimtab.numerics import poisson_matrix, time_layouts
        >>> timings = time_layouts(poisson_matrix((50, 50)))
        >>> timings[0].seconds <= timings[-1].seconds
        True
    """
    if columns < 1 or rounds < 1:
        raise ValueError(f"time_layouts(columns={columns}, rounds={rounds}): expected positive numbers.")
    matrix = matrix.detach()
    block = torch.randn(matrix.shape[1], columns, dtype=matrix.dtype, device=matrix.device)
    timings = []
    for layout in _LAYOUTS:
        if layout is torch.strided and matrix.numel() * matrix.element_size() > max_dense_bytes:
            continue
        converted = _as_layout(matrix, layout)
        timings.append(LayoutTiming(layout, _median_seconds(converted, block, rounds), size_bytes(converted)))
    return tuple(sorted(timings, key=lambda t: t.seconds))


def size_bytes(matrix: Tensor) -> int:
    """Memory that a dense, COO or CSR tensor takes, indices included.

    Example:
        >>> from trimtab.numerics import size_bytes
        >>> size_bytes(torch.eye(100)), size_bytes(torch.eye(100).to_sparse())
        (40000, 2000)
    """
    if matrix.layout is torch.strided:
        parts: tuple[Tensor, ...] = (matrix,)
    elif matrix.layout is torch.sparse_coo:
        parts = (matrix._indices(), matrix._values())
    else:
        parts = (matrix.crow_indices(), matrix.col_indices(), matrix.values())
    return sum(part.numel() * part.element_size() for part in parts)


def scipy_sparse(purpose: str) -> Any:
    """`scipy.sparse`, or an error that says how to get it."""
    try:
        import scipy.sparse
    except ImportError as error:
        raise MissingDependencyError("scipy", extra="sparse", purpose=purpose) from error
    return scipy.sparse


def _from_scipy(matrix: Any) -> Tensor:
    if not hasattr(matrix, "tocsr"):
        raise TypeError(f"to_csr({type(matrix).__name__}): expected a tensor or a sparse matrix of SciPy.")
    csr = matrix.tocsr(copy=True)
    csr.sum_duplicates()
    parts = (torch.from_numpy(part) for part in (csr.indptr, csr.indices, csr.data))
    indptr, indices, data = parts
    return csr_tensor(indptr, indices, data, csr.shape)


def _as_layout(matrix: Tensor, layout: torch.layout) -> Tensor:
    if layout is torch.sparse_csr:
        return to_csr(matrix)
    return to_coo(matrix) if layout is torch.sparse_coo else matrix.to_dense()


def _median_seconds(matrix: Tensor, block: Tensor, rounds: int) -> float:
    seconds = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        product = matrix @ block
        if product.is_cuda:
            torch.cuda.synchronize(product.device)
        seconds.append(time.perf_counter() - start)
    return sorted(seconds[1:])[rounds // 2]


class _quiet(warnings.catch_warnings):  # noqa: N801 - used as a function
    """Without torch's notice, once per process, that sparse compressed formats are in beta."""

    def __enter__(self) -> None:
        super().__enter__()
        warnings.filterwarnings("ignore", message="Sparse (CSR|CSC|BSR|BSC) tensor support is in beta")
