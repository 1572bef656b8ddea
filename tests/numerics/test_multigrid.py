from __future__ import annotations

import pytest
import torch

from trimtab.numerics import GeometricMultigrid, GridOperator, conjugate_gradient, multigrid, poisson_matrix


@pytest.mark.parametrize("grid", [(7,), (6, 5), (4, 3, 5), (1, 6), (1,)])
def test_operator_is_the_matrix(grid):
    matrix = poisson_matrix(grid)
    operator = GridOperator(grid)
    for shape in ((matrix.shape[0],), (matrix.shape[0], 3)):
        u = torch.randn(shape, dtype=torch.float64)
        torch.testing.assert_close(operator(u), matrix @ u)


def test_spacing_and_shift():
    operator = GridOperator((5, 4), (0.5, 2.0), shift=3.0)
    first, second = poisson_matrix((5,)).to_dense(), poisson_matrix((4,)).to_dense()
    eye = torch.eye(5, dtype=torch.float64), torch.eye(4, dtype=torch.float64)
    matrix = 4 * torch.kron(first, eye[1]) + 0.25 * torch.kron(eye[0], second) + 3 * torch.eye(20)
    torch.testing.assert_close(operator(torch.eye(20, dtype=torch.float64)), matrix)


GRIDS = [
    (63,),
    (64,),
    (63, 63),
    (64, 64),
    (100, 37),
    (5, 300),
    (15, 15, 15),
    (16, 16, 16),
    (20, 11, 7),
    (2, 500),
]


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_few_iterations_on_any_grid(grid, dtype):
    operator = GridOperator(grid)
    n = torch.Size(grid).numel()
    b = torch.randn(n, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = conjugate_gradient(
        operator, b, tol=1e-8, preconditioner=GeometricMultigrid(operator, dtype=dtype)
    )
    assert found.converged
    assert found.iterations <= 10
    if n <= 2000:
        exact = torch.linalg.solve(poisson_matrix(grid).to_dense(), b)
        assert (found.solution - exact).norm() / exact.norm() < 1e-5


@pytest.mark.parametrize("size", [255, 256, 300])
def test_iterations_do_not_grow_with_the_grid(size):
    counts = []
    for n in (size // 4, size):
        operator = GridOperator((n, n), spacing=1 / (n + 1))
        b = torch.ones(n * n, dtype=torch.float64)
        counts.append(
            conjugate_gradient(operator, b, tol=1e-8, preconditioner=GeometricMultigrid(operator)).iterations
        )
    assert max(counts) <= 10


@pytest.mark.parametrize("grid", [(20, 13), (9, 9), (8, 6, 5), (40,)])
@pytest.mark.parametrize("sweeps", [1, 2])
def test_cycle_is_symmetric_positive_definite(grid, sweeps, monkeypatch):
    monkeypatch.setattr(multigrid, "_COARSEST", 4)
    operator = GridOperator(grid, shift=0.1)
    cycle = GeometricMultigrid(operator, sweeps=sweeps, dtype=torch.float64)
    assert len(cycle.levels) > 1
    dense = cycle(torch.eye(torch.Size(grid).numel(), dtype=torch.float64))
    torch.testing.assert_close(dense, dense.T)
    assert torch.linalg.eigvalsh(dense).min() > 0


def test_two_grids_interpolate_linearly_to_an_uneven_boundary(monkeypatch):
    """A function that is linear up to the boundary is in the range of the coarse grid, for any size."""
    for size in range(5, 14):
        level = multigrid.Level((size,), (1.0,), (1.0,), 0.0)
        while level.grid[0] > 3:
            coarse = level.coarser()
            end = level.grid[0] + level.gaps[0]  # where the boundary is
            points = torch.arange(1, level.grid[0] + 1, dtype=torch.float64)
            last = 2 * coarse.grid[0]
            hat = torch.minimum(points / last, (end - points) / (end - last)).clamp(0, 1)
            values = hat[1::2][: coarse.grid[0]]
            stencil = torch.tensor([0.5, 1.0, 0.5], dtype=torch.float64)[None, None]
            fine = torch.nn.functional.conv_transpose1d(values[None, None], stencil, stride=2)
            torch.testing.assert_close(level.unfold(fine)[0, 0], hat)
            probe = torch.randn(1, 1, level.grid[0], dtype=torch.float64)
            folded = level.fold(probe)
            torch.testing.assert_close((folded * fine).sum(), (probe * level.unfold(fine)).sum())
            assert 1 <= coarse.gaps[0] <= 2
            level = coarse


def test_several_right_hand_sides_and_types():
    operator = GridOperator((33, 33))
    cycle = GeometricMultigrid(operator)
    b = torch.randn(33 * 33, 3)
    assert cycle(b).dtype is torch.float32
    assert cycle(b).shape == b.shape
    torch.testing.assert_close(cycle(b)[:, 1], cycle(b[:, 1]), rtol=1e-4, atol=1e-5)
    assert conjugate_gradient(operator, b, preconditioner=cycle).converged


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"grid": ()}, "1 to 3 positive sizes"),
        ({"grid": (2, 2, 2, 2)}, "1 to 3 positive sizes"),
        ({"grid": (0,)}, "1 to 3 positive sizes"),
        ({"grid": (3, 3), "spacing": (1.0,)}, "or 2 of them"),
        ({"grid": (3,), "spacing": -1.0}, "number > 0"),
        ({"grid": (3,), "shift": -1.0}, "shift=-1.0"),
    ],
)
def test_wrong_operators(arguments, text):
    with pytest.raises(ValueError, match=text):
        GridOperator(**arguments)


def test_wrong_sweeps():
    with pytest.raises(ValueError, match="sweeps=0"):
        GeometricMultigrid(GridOperator((9,)), sweeps=0)
