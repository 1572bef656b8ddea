"""Cholesky that does not give up, and what one wants it for: log-determinants, solves, samples."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from trimtab.numerics.error_free import full_precision, wide

# The first jitter, in units of eps times the mean of the diagonal, and the growth from one step to the next.
# Steps of 10, as GPyTorch takes them, overshoot: a backward error of 1.5e-6 in float32 where 4e-7 will do
_FIRST_JITTER, _GROWTH = 10.0, 2**0.5


@final
@dataclass(frozen=True, slots=True, eq=False)
class PsdFactor:
    """Cholesky factor of `A + jitter I`.

    Attributes:
        factor: Lower triangular, shape (..., n, n); float32 at least.
        jitter: What was added to the diagonal, shape (...); 0 where nothing was needed.
    """

    factor: Tensor
    jitter: Tensor

    def logdet(self) -> Tensor:
        """Logarithm of the determinant, shape (...)."""
        return 2 * self.factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    def solve(self, b: Tensor) -> Tensor:
        """Solution x of `A x = b`, for b of shape (n,) or (..., n, k)."""
        b = b.to(self.factor.dtype)
        if b.dim() == 1:
            return torch.cholesky_solve(b.unsqueeze(-1), self.factor).squeeze(-1)
        return torch.cholesky_solve(b, self.factor)

    @full_precision
    def inv_quad_logdet(self, b: Tensor) -> tuple[Tensor, Tensor]:
        """`b' A^-1 b`, summed over the columns of b, and the log-determinant: never negative, by a square."""
        b = b.to(self.factor.dtype)
        columns = b.unsqueeze(-1) if b.dim() == 1 else b
        half = torch.linalg.solve_triangular(self.factor, columns, upper=False)
        return half.square().sum((-2, -1)), self.logdet()

    def sample(
        self, num_samples: int, mean: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Gaussian samples of covariance A, shape (num_samples, ..., n), with gradient to A and mean."""
        if num_samples < 0:
            raise ValueError(f"sample(num_samples={num_samples}): expected a number >= 0.")
        shape = (num_samples, *self.factor.shape[:-1], 1)
        noise = torch.randn(shape, dtype=self.factor.dtype, device=self.factor.device, generator=generator)
        samples = _product(self.factor, noise).squeeze(-1)
        return samples if mean is None else samples + mean


@full_precision
def cholesky_psd(A: Tensor, *, max_jitter: float | None = None) -> PsdFactor:
    """Cholesky factorization of a positive semidefinite matrix that rounding made slightly indefinite.

    The diagonal is raised by the smallest jitter that will do, from 10 eps times its mean in steps of a
    factor 1.4, in each matrix of a batch on its own. The jitter is relative, so that a matrix times 1e-10 or
    1e10 gives the same factor times 1e-5 or 1e5; and it is reported. A matrix of zeros, which has no scale,
    is its own factor: samples are the mean, the log-determinant is -inf, and nothing can be solved.

    Args:
        A: Symmetric, shape (..., n, n). float16 and bfloat16 are factorized in float32.
        max_jitter: Largest jitter allowed, relative to the mean of the diagonal; 10 sqrt(eps) by default.

    Returns:
        Factor and jitter.

    Raises:
        ValueError: The matrix is not square, not symmetric, not finite, or too far from positive
            semidefinite for the jitter allowed.
        TypeError: The matrix is not of a real floating type.

    Cost:
        One factorization if the matrix is positive definite, 3 if it is refused or needs the first jitter
        only, otherwise 8 or 9: the steps are searched by bisection. A host read for each. Differentiable,
        also twice.

    Example:
        >>> from trimtab.numerics import cholesky_psd
        >>> x = torch.linspace(0, 1, 100)
        >>> K = torch.exp(-((x[:, None] - x) ** 2))       # numerically of rank 9
        >>> result = cholesky_psd(1e-10 * K)
        >>> bool(result.jitter <= 1e-4 * 1e-10), bool(result.jitter > 0)
        (True, True)

    References:
        Higham, "Accuracy and stability of numerical algorithms", 2nd ed., 2002, section 10.3; the loop is
        GPyTorch's `psd_safe_cholesky`, made relative.
    """
    _check_symmetric(A)
    A = wide(A)
    eps = torch.finfo(A.dtype).eps
    limit = 10 * eps**0.5 if max_jitter is None else max_jitter
    detached = A.detach()
    scale = detached.diagonal(dim1=-2, dim2=-1).mean(-1)
    # A matrix of zeros is its own factor: nothing is raised, and nothing flows back
    is_zero = (detached == 0).flatten(-2).all(-1)
    shift = is_zero.to(A.dtype)
    jitter = torch.zeros_like(scale)
    while True:
        factor, failed = _factorized(A, jitter + shift)
        if not bool(failed.any()):
            return PsdFactor(factor.masked_fill(is_zero[..., None, None], 0.0), jitter)
        jitter = jitter.masked_scatter(
            failed, _jitters(detached[failed], scale[failed], jitter[failed], limit)
        )


def _factorized(A: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """The factor of `A + shift I`, and where there is none."""
    shifted = A + torch.diag_embed(shift.unsqueeze(-1).expand(A.shape[:-1]))
    factor, info = torch.linalg.cholesky_ex(shifted)
    return factor, (info != 0) | ~factor.detach().diagonal(dim1=-2, dim2=-1).isfinite().all(-1)


def _jitters(A: Tensor, scale: Tensor, tried: Tensor, limit: float) -> Tensor:
    """The smallest jitter on a ladder that will do for each matrix of shape (k, n, n).

    The first step of the ladder is tried, then the last, then those between by bisection: what is far from
    positive semidefinite is refused at once, and no ladder is too long.
    """
    first = _FIRST_JITTER * torch.finfo(A.dtype).eps
    top = 1 + max(math.ceil(math.log(limit / first) / math.log(_GROWTH)), 0) if limit > 0 else 0

    def step(level: Tensor) -> Tensor:
        return scale * (first * _GROWTH ** (level.to(A.dtype) - 1)).clamp_max(limit)

    levels = torch.arange(top + 1, device=A.device)
    # The last that fails, and the first that works; top + 1 is none
    low = (step(levels[1:].unsqueeze(-1)) <= tried).sum(0)
    high = torch.full_like(low, top + 1)
    high = torch.where(scale > 0, high, low + 1)
    probe = low + 1
    while bool((is_open := high - low > 1).any()):
        shift = step(probe)[is_open]
        failed = torch.ones_like(is_open).masked_scatter(is_open, _factorized(A[is_open], shift)[1])
        low = torch.where(is_open & failed, probe, low)
        high = torch.where(is_open & ~failed, probe, high)
        probe = torch.where(high > top, top, (low + high) // 2)
    if bool((is_refused := (high > top) | ~(scale > 0)).any()):
        raise ValueError(
            f"cholesky_psd(A): {int(is_refused.sum())} matrices not positive semidefinite: a jitter"
            f" of {limit:.1e} times the mean of the diagonal is not enough. A larger max_jitter changes the"
            " problem; negative eigenvalues of this size are not rounding."
        )
    return step(high)


def logdet_psd(A: Tensor) -> Tensor:
    """Log-determinant of a positive semidefinite matrix; see `cholesky_psd`.

    Example:
        >>> from trimtab.numerics import logdet_psd
        >>> round(logdet_psd(1e-3 * torch.eye(200)).item(), 1)   # the determinant itself is 0 in float32
        -1381.6
    """
    return cholesky_psd(A).logdet()


@full_precision
def solve_psd(A: Tensor, b: Tensor) -> Tensor:
    """Solution x of `A x = b` for a positive semidefinite matrix; see `cholesky_psd`.

    Args:
        A: Shape (..., n, n).
        b: Shape (n,) or (..., n, k).

    Returns:
        In the shape of b.

    Example:
        >>> from trimtab.numerics import solve_psd
        >>> solve_psd(torch.tensor([[4.0, 1.0], [1.0, 3.0]]), torch.tensor([1.0, 2.0]))
        tensor([0.0909, 0.6364])
    """
    return cholesky_psd(A).solve(b)


def inv_quad_logdet(A: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """`b' A^-1 b` and the log-determinant from one factorization: a Gaussian's log-density needs both.

    Args:
        A: Shape (..., n, n), positive semidefinite.
        b: Shape (n,) or (..., n, k); the columns are summed over.

    Returns:
        Two tensors of shape (...).

    Example:
        >>> from trimtab.numerics import inv_quad_logdet
        >>> inv_quad_logdet(4 * torch.eye(2), torch.ones(2))
        (tensor(0.5000), tensor(2.7726))
    """
    return cholesky_psd(A).inv_quad_logdet(b)


@full_precision
def sample_gaussian(
    mean: Tensor, covariance: Tensor, num_samples: int = 1, *, generator: torch.Generator | None = None
) -> Tensor:
    """Samples of a multivariate normal distribution whose covariance may be singular.

    Args:
        mean: Shape (..., n).
        covariance: Shape (..., n, n), positive semidefinite.
        num_samples: How many.
        generator: Source of randomness.

    Returns:
        Shape (num_samples, ..., n), with gradients to mean and covariance.

    Raises:
        ValueError: See `cholesky_psd`.

    Example:
        >>> from trimtab.numerics import sample_gaussian
        >>> x = sample_gaussian(torch.zeros(2), torch.ones(2, 2), 1000)   # both coordinates are the same
        >>> bool((x[:, 0] - x[:, 1]).abs().max() < 0.01)
        True
    """
    return cholesky_psd(covariance).sample(num_samples, mean, generator=generator)


@full_precision
def _product(factor: Tensor, noise: Tensor) -> Tensor:
    return factor @ noise


def _check_symmetric(A: Tensor) -> None:
    if not A.is_floating_point():
        raise TypeError(f"cholesky_psd(A of {A.dtype}): expected a real floating type. Pass A.double().")
    if A.dim() < 2 or A.shape[-1] != A.shape[-2] or not A.shape[-1]:
        raise ValueError(f"cholesky_psd(A of shape {tuple(A.shape)}): expected (..., n, n), n >= 1.")
    A = A.detach()
    largest = A.abs().amax((-2, -1))
    if not bool(largest.isfinite().all()):
        raise ValueError("cholesky_psd(A): expected finite numbers, found NaN or Inf.")
    # rounding of a product such as X X^T leaves a few eps; more is a mistake of the caller's
    skew = (A - A.mT).abs().amax((-2, -1))
    if not bool((skew <= 1e3 * torch.finfo(A.dtype).eps * largest).all()):
        raise ValueError(
            f"cholesky_psd(A): expected a symmetric matrix, but A - A^T is as large as"
            f" {float(skew.max()):.1e}. To take the symmetric part, pass (A + A.mT) / 2."
        )
