"""Geometric multigrid on regular grids, in plain torch: a solver whose cost is proportional to n."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from trimtab.numerics.error_free import full_precision

_CONV: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_CONV_TRANSPOSE: dict[int, Callable[..., Tensor]] = {
    1: F.conv_transpose1d,
    2: F.conv_transpose2d,
    3: F.conv_transpose3d,
}

# Damping of Jacobi that smooths best: 2/3, 4/5, 6/7 (Trottenberg, Oosterlee and Schueller 2001, section 2.1)
_DAMPING = {1: 2 / 3, 2: 4 / 5, 3: 6 / 7}

# At most so many points are solved directly, by a dense inverse
_COARSEST = 400


@final
@dataclass(frozen=True, slots=True)
class GridOperator:
    """`shift u - sum_d (second difference of u along d) / spacing_d^2` on a grid with zero boundary.

    The discrete Poisson problem, and with a shift an implicit step of diffusion or a screened one.
    Symmetric positive definite. Without a matrix: five times as fast as CSR in two dimensions.

    Args:
        grid: Inner points along each of 1 to 3 dimensions.
        spacing: Distance of neighbors, one for all or one per dimension, > 0.
        shift: Added to the diagonal, >= 0.

    Raises:
        ValueError: A value is out of range.

    Shape:
        Takes and returns (n,) or (n, k), n the number of points, the last dimension of the grid fastest.

    Example:
        >>> from trimtab.numerics import GridOperator, GeometricMultigrid, conjugate_gradient
        >>> A = GridOperator((127, 127))
        >>> b = torch.ones(127 * 127, dtype=torch.float64)
        >>> conjugate_gradient(A, b, tol=1e-8).iterations > 100
        True
        >>> conjugate_gradient(A, b, tol=1e-8, preconditioner=GeometricMultigrid(A)).iterations < 10
        True
    """

    grid: tuple[int, ...]
    spacing: float | tuple[float, ...] = 1.0
    shift: float = 0.0

    def __post_init__(self) -> None:
        if len(self.grid) not in _CONV or min(self.grid) < 1:
            raise ValueError(f"GridOperator(grid={self.grid}): expected 1 to 3 positive sizes.")
        spacings = self._spacings()
        if len(spacings) != len(self.grid) or not all(h > 0 for h in spacings):
            raise ValueError(
                f"GridOperator(spacing={self.spacing}): expected one number > 0, or {len(self.grid)} of them."
            )
        if not self.shift >= 0:
            raise ValueError(f"GridOperator(shift={self.shift}): expected a number >= 0.")

    def _spacings(self) -> tuple[float, ...]:
        return self.spacing if isinstance(self.spacing, tuple) else (self.spacing,) * len(self.grid)

    def level(self) -> Level:
        """The finest level of a multigrid hierarchy."""
        return Level(self.grid, self._spacings(), (1.0,) * len(self.grid), self.shift)

    def __call__(self, u: Tensor) -> Tensor:
        """Apply to points in a row: shape (n,) or (n, k)."""
        return from_grid(self.level().apply(to_grid(u, self.grid)), u)


@final
@dataclass(frozen=True, slots=True)
class Level:
    """One grid of the hierarchy.

    A coarse grid has every second point. Where that leaves the last point off the middle, its distance to
    the boundary is `gaps` spacings, from 1 to 2, and interpolation near the boundary is linear all the same.
    """

    grid: tuple[int, ...]
    spacings: tuple[float, ...]
    gaps: tuple[float, ...]
    shift: float

    @property
    def diagonal(self) -> float:
        """The diagonal of the operator, away from the boundary."""
        return self.shift + sum(2 / h**2 for h in self.spacings)

    @property
    def num_points(self) -> int:
        """Number of points of the grid."""
        return torch.Size(self.grid).numel()

    @property
    def strides(self) -> tuple[int, ...]:
        """2 for each dimension that gets coarser, 1 for those that are short already."""
        return tuple(2 if size > 3 else 1 for size in self.grid)

    def coarser(self) -> Level:
        """The grid of every second point."""
        grid, spacings, gaps = [], [], []
        for size, h, gap, stride in zip(self.grid, self.spacings, self.gaps, self.strides, strict=True):
            grid.append((size - 1) // 2 if stride == 2 else size)
            spacings.append(stride * h)
            wider = (1 + gap) / 2 if size % 2 else 1 + gap / 2
            gaps.append(wider if stride == 2 else gap)
        return Level(tuple(grid), tuple(spacings), tuple(gaps), self.shift)

    def apply(self, u: Tensor) -> Tensor:
        """The operator on a tensor whose last dimensions are the grid."""
        y = self.diagonal * u
        for dim, (size, h, gap) in enumerate(
            zip(self.grid, self.spacings, self.gaps, strict=True), start=-len(self.grid)
        ):
            if size > 1:
                low, high = u.narrow(dim, 0, size - 1), u.narrow(dim, 1, size - 1)
                y.narrow(dim, 1, size - 1).sub_(low, alpha=h**-2)
                y.narrow(dim, 0, size - 1).sub_(high, alpha=h**-2)
            if gap != 1:
                y.narrow(dim, size - 1, 1).add_(u.narrow(dim, size - 1, 1), alpha=(1 / gap - 1) * h**-2)
        return y

    def _ends(self) -> Iterator[tuple[int, int, float, float]]:
        """For each coarsened dimension with an uneven end: dimension, last coarse neighbor, two weights.

        The weights are those of linear interpolation at that point and at the one after, if there is one,
        in units of the 1/2 that the convolution gives.
        """
        for dim, (size, gap, stride) in enumerate(
            zip(self.grid, self.gaps, self.strides, strict=True), start=-len(self.grid)
        ):
            if stride == 2 and size % 2 == 0:
                yield dim, size - 2, 2 * (1 + gap) / (2 + gap), 2 * gap / (2 + gap)
            elif stride == 2 and gap != 1:
                yield dim, size - 1, 2 * gap / (1 + gap), 0.0

    def fold(self, r: Tensor) -> Tensor:
        """Before restriction: what lies beyond the last coarse point, weighed and put beside it."""
        for dim, last, weight, weight_after in self._ends():
            end = weight * r.narrow(dim, last, 1)
            if weight_after:
                end += weight_after * r.narrow(dim, last + 1, 1)
            r = torch.cat([r.narrow(dim, 0, last), end], dim)
        return r

    def unfold(self, u: Tensor) -> Tensor:
        """After interpolation: the transpose of `fold`."""
        for dim, last, weight, weight_after in self._ends():
            end = u.narrow(dim, last, 1)
            parts = [u.narrow(dim, 0, last), weight * end]
            u = torch.cat([*parts, weight_after * end] if weight_after else parts, dim)
        return u


def to_grid(u: Tensor, shape: Sequence[int]) -> Tensor:
    """Shape (n,) or (n, k) as (k, 1, *shape): a batch of one-channel images."""
    return (u if u.dim() == 1 else u.T).reshape(-1, 1, *shape)


def from_grid(grid: Tensor, like: Tensor) -> Tensor:
    """The inverse of `to_grid`."""
    return grid.reshape(like.shape) if like.dim() == 1 else grid.reshape(like.shape[1], -1).T.contiguous()


@final
class GeometricMultigrid:
    """One V-cycle for a `GridOperator`: a preconditioner with the same iterations on any grid size.

    Damped Jacobi before and after, transfers by convolution with the stencil of linear interpolation and
    its transpose, a dense inverse on the coarsest grid: symmetric, as conjugate gradients need it. Sizes
    2^k - 1 are the best, others take an iteration or two more. Spacings that differ strongly take many
    more: a point smoother does not see the weak direction.

    Args:
        operator: The operator to invert approximately.
        sweeps: Smoothing steps before and after the coarse correction, >= 1.
        dtype: Type to compute the cycle in; float32 halves the time and does not cost iterations.

    Raises:
        ValueError: `sweeps` is not positive.

    Shape:
        Takes and returns (n,) or (n, k) in the type of its argument.

    Cost:
        About 20 passes over a vector. 2-D Poisson with 10^6 points: 7 iterations to 1e-8.

    Example:
        >>> from trimtab.numerics import GeometricMultigrid, GridOperator, conjugate_gradient
        >>> grid = GridOperator((63, 63))
        >>> cycle = GeometricMultigrid(grid)
        >>> conjugate_gradient(grid, torch.ones(63 * 63), preconditioner=cycle).iterations < 10
        True

    References:
        Brandt, 1977; Briggs, Henson and McCormick, "A multigrid tutorial", 2000; Tatebe, "The multigrid
        preconditioned conjugate gradient method", 1993.
    """

    def __init__(
        self, operator: GridOperator, *, sweeps: int = 2, dtype: torch.dtype = torch.float32
    ) -> None:
        if sweeps < 1:
            raise ValueError(f"GeometricMultigrid(sweeps={sweeps}): expected a number >= 1.")
        self.grid, self.sweeps, self.dtype = operator.grid, sweeps, dtype
        self.levels = [operator.level()]
        while self.levels[-1].num_points > _COARSEST and max(self.levels[-1].strides) > 1:
            self.levels.append(self.levels[-1].coarser())
        self.coarsest = _dense_inverse(self.levels[-1]).to(dtype)

    @full_precision
    def __call__(self, residual: Tensor) -> Tensor:
        """The correction for a residual."""
        grid = to_grid(residual, self.grid).to(self.dtype)
        return from_grid(self._cycle(grid, 0).to(residual.dtype), residual)

    def _cycle(self, b: Tensor, index: int) -> Tensor:
        level = self.levels[index]
        if index + 1 == len(self.levels):
            inverse = self.coarsest.to(b.device)
            return (b.reshape(b.shape[0], -1) @ inverse).reshape(b.shape)
        dims = len(level.grid)
        step = _DAMPING[dims] / level.diagonal
        x = step * b  # the first sweep, from zero
        for _ in range(self.sweeps - 1):
            x.add_(level.apply(x).neg_().add_(b), alpha=step)
        residual = level.fold(level.apply(x).neg_().add_(b))
        stencil = _interpolation(level.strides, b)
        # full weighting is the transpose of interpolation, over 2 for each dimension
        coarse = _CONV[dims](residual, stencil, stride=level.strides).mul_(0.5 ** level.strides.count(2))
        correction = self._cycle(coarse, index + 1)
        x.add_(level.unfold(_CONV_TRANSPOSE[dims](correction, stencil, stride=level.strides)))
        for _ in range(self.sweeps):
            x.add_(level.apply(x).neg_().add_(b), alpha=step)
        return x


def _interpolation(strides: tuple[int, ...], like: Tensor) -> Tensor:
    """Stencil of linear interpolation, shape (1, 1, 3 or 1, ...)."""
    stencil = like.new_ones(1, 1)
    for stride in strides:
        line = like.new_tensor([0.5, 1.0, 0.5] if stride == 2 else [1.0])
        stencil = stencil.unsqueeze(-1) * line
    return stencil


def _dense_inverse(level: Level) -> Tensor:
    points = torch.eye(level.num_points, dtype=torch.float64).reshape(-1, 1, *level.grid)
    matrix = level.apply(points).reshape(level.num_points, -1)
    return torch.cholesky_inverse(torch.linalg.cholesky(matrix))
