from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
import torch

from trimtab.numerics import csr_tensor, poisson_matrix, size_bytes, time_layouts, to_coo, to_csr, to_scipy


def random_sparse(dtype=torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    dense = torch.randn(8, 6, dtype=dtype, generator=generator)
    return dense * (torch.rand(8, 6, generator=generator) < 0.3)


@pytest.mark.parametrize("layout", [torch.strided, torch.sparse_coo, torch.sparse_csr, torch.sparse_csc])
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support:UserWarning")
def test_every_format_becomes_the_same_matrix(layout):
    dense = random_sparse()
    matrix = dense if layout is torch.strided else dense.to_sparse(layout=layout)
    csr = to_csr(matrix)
    assert csr.layout is torch.sparse_csr
    assert csr.crow_indices().dtype is torch.int32
    assert torch.equal(csr.to_dense(), dense)
    assert torch.equal(to_coo(matrix).to_dense(), dense)
    assert to_coo(matrix).is_coalesced()
    np.testing.assert_array_equal(to_scipy(matrix).toarray(), dense.numpy())


def test_from_scipy_and_back():
    generator = np.random.default_rng(0)
    rows, columns = generator.integers(0, 5, 30), generator.integers(0, 7, 30)
    coo = scipy.sparse.coo_matrix(
        (generator.normal(size=30), (rows, columns)), shape=(5, 7)
    )  # with duplicates
    for matrix in (coo, coo.tocsr(), coo.tocsc(), scipy.sparse.csr_array(coo)):
        csr = to_csr(matrix)
        np.testing.assert_allclose(csr.to_dense().numpy(), coo.toarray())
        np.testing.assert_allclose(to_scipy(csr).toarray(), coo.toarray())
    assert to_csr(coo.astype("float32")).dtype is torch.float32


def test_gradients_pass_through_the_conversion():
    values = torch.tensor([1.0, 2.0], requires_grad=True)
    coo = torch.sparse_coo_tensor(torch.tensor([[0, 1], [1, 0]]), values, (2, 2), check_invariants=True)
    (to_csr(coo) @ torch.tensor([3.0, 5.0])).sum().backward()
    assert values.grad.tolist() == [5, 3]


@pytest.mark.parametrize("shape", [(5,), (3, 4), (2, 3, 4), (1, 1)])
def test_poisson_matrix_is_the_kronecker_sum(shape):
    wanted = scipy.sparse.csr_matrix((1, 1))
    total = int(np.prod(shape))
    wanted = np.zeros((total, total))
    for dim, size in enumerate(shape):
        line = 2 * np.eye(size) - np.eye(size, k=1) - np.eye(size, k=-1)
        before, after = np.eye(int(np.prod(shape[:dim]))), np.eye(int(np.prod(shape[dim + 1 :])))
        wanted += np.kron(np.kron(before, line), after)
    np.testing.assert_array_equal(poisson_matrix(shape).to_dense().numpy(), wanted)
    with pytest.raises(ValueError, match="all of them positive"):
        poisson_matrix((3, 0))


def test_timings_are_sorted_and_leave_out_what_is_too_large():
    matrix = poisson_matrix((30, 30), dtype=torch.float32)
    timings = time_layouts(matrix, rounds=3)
    assert {t.layout for t in timings} == {torch.strided, torch.sparse_coo, torch.sparse_csr}
    assert [t.seconds for t in timings] == sorted(t.seconds for t in timings)
    small = {t.layout for t in time_layouts(matrix.to_dense(), columns=4, max_dense_bytes=1000)}
    assert small == {torch.sparse_coo, torch.sparse_csr}
    sizes = {t.layout: t.size_bytes for t in timings}
    entries = 30 * 30 * 5 - 4 * 30
    assert sizes[torch.strided] == 900 * 900 * 4
    assert sizes[torch.sparse_csr] == entries * (4 + 4) + 901 * 4
    assert sizes[torch.sparse_coo] == entries * (4 + 2 * 8)
    assert size_bytes(matrix) == sizes[torch.sparse_csr]
    with pytest.raises(ValueError, match="positive numbers"):
        time_layouts(matrix, rounds=0)


def test_wrong_input():
    with pytest.raises(ValueError, match="expected a matrix"):
        to_csr(torch.ones(3))
    with pytest.raises(TypeError, match="sparse matrix of SciPy"):
        to_csr([[1.0]])
    with pytest.raises(RuntimeError, match="col_indices"):  # torch's own check is on
        csr_tensor(torch.tensor([0, 1]), torch.tensor([5]), torch.ones(1), (1, 2))
