"""Functions of symmetric matrices whose gradients are right at repeated eigenvalues too."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, final

import torch
from torch import Tensor

from trimtab.numerics._exact import floating
from trimtab.numerics.error_free import full_precision, wide

# Terms of the series for close eigenvalues: 0.3^24 is below the eps of float64
_TERMS = 24
_CLOSE = 0.3

# Columns of the second derivative that are held in memory at once
_CHUNK = 64


def sqrtm_psd(A: Tensor) -> Tensor:
    """Square root of a symmetric positive semidefinite matrix.

    The gradient is that of Daleckii and Krein with the divided differences in closed form: where `eigh`
    divides by the difference of two eigenvalues, this divides by the sum of their square roots. Between
    two eigenvalues that are both 0 the derivative is infinite; it is taken as 0.

    Args:
        A: Symmetric, shape (..., n, n); the lower and upper triangle are averaged.

    Returns:
        Symmetric, shape (..., n, n).

    Raises:
        ValueError: Not square, not finite, or with an eigenvalue that is negative beyond rounding.

    Cost:
        One `eigh`; 4 matrix products in the backward pass. float16 and bfloat16 are computed in float32.
        Twice differentiable; the second derivative takes n^3 operations for each, in n^2 memory.

    Example:
        >>> from trimtab.numerics import sqrtm_psd
        >>> A = torch.eye(2, requires_grad=True)
        >>> sqrtm_psd(A).trace().backward()      # NaN through eigh
        >>> A.grad
        tensor([[0.5000, 0.0000],
                [0.0000, 0.5000]])

    References:
        Higham, "Functions of matrices", 2008, theorem 3.11 (Daleckii and Krein).
    """
    return _apply(A, _Power(0.5), "sqrtm_psd")


def inv_sqrtm_psd(A: Tensor) -> Tensor:
    """Inverse square root of a symmetric positive definite matrix: whitening. See `sqrtm_psd`.

    Raises:
        ValueError: As `sqrtm_psd`; or singular to working precision.

    Example:
        >>> from trimtab.numerics import inv_sqrtm_psd
        >>> inv_sqrtm_psd(4 * torch.eye(2))
        tensor([[0.5000, 0.0000],
                [0.0000, 0.5000]])
    """
    return _apply(A, _Power(-0.5), "inv_sqrtm_psd")


def logm_psd(A: Tensor) -> Tensor:
    """Logarithm of a symmetric positive definite matrix. See `sqrtm_psd`.

    Raises:
        ValueError: As `sqrtm_psd`; or singular to working precision.

    Example:
        >>> from trimtab.numerics import logm_psd
        >>> logm_psd(math.e * torch.eye(2)).diagonal().allclose(torch.ones(2))
        True
    """
    return _apply(A, _Log(), "logm_psd")


def powm_psd(A: Tensor, p: float) -> Tensor:
    """Real power of a symmetric positive semidefinite matrix, definite for p < 0. See `sqrtm_psd`.

    Raises:
        ValueError: As `sqrtm_psd`; p is not finite; or p < 0 and singular to working precision.

    Example:
        >>> from trimtab.numerics import powm_psd
        >>> powm_psd(8 * torch.eye(1), 1 / 3).item()
        2.0
    """
    if not math.isfinite(p):
        raise ValueError(f"powm_psd(p={p}): expected a finite number.")
    return _apply(A, _Power(float(p)), "powm_psd")


class _Function(Protocol):
    """A function of eigenvalues with its first and second divided differences, free of cancellation."""

    @property
    def needs_definite(self) -> bool: ...

    def value(self, a: Tensor) -> Tensor: ...

    def first(self, a: Tensor, b: Tensor) -> Tensor: ...

    def coefficients(self, m: Tensor) -> list[Tensor]:
        """Taylor coefficients f^(k)(m) / k! times m^(k - 2), for k = 2, 3, ..."""
        ...


@final
@dataclass(frozen=True, slots=True)
class _Power:
    p: float

    @property
    def needs_definite(self) -> bool:
        return self.p < 0

    def value(self, a: Tensor) -> Tensor:
        return a.pow(self.p)

    def first(self, a: Tensor, b: Tensor) -> Tensor:
        """(b^p - a^p) / (b - a); 0 where both are 0, the convention for an infinite slope."""
        if abs(self.p) == 0.5:
            root_a, root_b = a.sqrt(), b.sqrt()
            divisor = root_a + root_b
            slope = torch.where(divisor > 0, divisor, 1.0).reciprocal()
            slope = torch.where(divisor > 0, slope, 0.0)
            return slope if self.p > 0 else -slope / (root_a * root_b)
        low, high = torch.minimum(a, b), torch.maximum(a, b)
        safe = torch.where(low > 0, low, torch.where(high > 0, high, 1.0))
        gap = torch.log1p((high - safe) / safe)
        # safe^(p-1) expm1(p gap) / expm1(gap), and its limit p safe^(p-1)
        ratio = torch.where(
            gap > 0, torch.expm1(self.p * gap) / torch.where(gap > 0, torch.expm1(gap), 1.0), self.p
        )
        both = safe.pow(self.p - 1) * ratio
        from_zero = high.where(high > 0, 1.0).pow(self.p - 1)
        if self.p == 0:
            return torch.zeros_like(both)
        # between 0 and 0 the slope at 0 itself, where there is one
        at_zero = 1.0 if self.p == 1 else 0.0
        return torch.where(low > 0, both, torch.where(high > 0, from_zero, at_zero))

    def coefficients(self, m: Tensor) -> list[Tensor]:
        scale, found = self.p * m.pow(self.p - 2), []
        for k in range(2, _TERMS + 2):
            scale = scale * (self.p - k + 1) / k
            found.append(scale)
        return found


@final
@dataclass(frozen=True, slots=True)
class _Log:
    needs_definite: ClassVar[bool] = True

    def value(self, a: Tensor) -> Tensor:
        return a.log()

    def first(self, a: Tensor, b: Tensor) -> Tensor:
        low, high = torch.minimum(a, b), torch.maximum(a, b)
        gap = (high - low) / low
        return torch.where(gap > 0, torch.log1p(gap) / torch.where(gap > 0, gap, 1.0), 1.0) / low

    def coefficients(self, m: Tensor) -> list[Tensor]:
        return [(-1.0) ** (k - 1) / k * m.pow(-2) for k in range(2, _TERMS + 2)]


def _second(f: _Function, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Second divided difference f[a, b, c], symmetric in its arguments.

    From first ones at the two outer points where those are apart, from a Taylor series about the mean
    where all three are close: neither cancels.
    """
    a, b, c = torch.broadcast_tensors(a, b, c)  # type: ignore[no-untyped-call]
    low, high = torch.minimum(torch.minimum(a, b), c), torch.maximum(torch.maximum(a, b), c)
    middle = torch.maximum(torch.minimum(a, b), torch.minimum(torch.maximum(a, b), c))
    mean = (low + middle + high) / 3
    safe_mean = torch.where(mean > 0, mean, 1.0)
    is_close = high - low <= _CLOSE * safe_mean
    width = torch.where(is_close, 1.0, high - low)
    apart = (f.first(middle, high) - f.first(low, middle)) / width
    u, v, w = ((x - mean) / safe_mean for x in (low, middle, high))
    # complete homogeneous polynomials of the three deviations, by their elementary ones (u + v + w = 0)
    pairs, product = u * v + u * w + v * w, u * v * w
    before, last, now = torch.zeros_like(u), torch.zeros_like(u), torch.ones_like(u)
    series = torch.zeros_like(u)
    for coefficient in f.coefficients(safe_mean):
        series = series + coefficient * now
        before, last, now = last, now, -pairs * last + product * before
    return torch.where(mean > 0, torch.where(is_close, series, apart), 0.0)


@full_precision
def _apply(A: Tensor, f: _Function, name: str) -> Tensor:
    A = floating(A, name)
    if A.dim() < 2 or A.shape[-1] != A.shape[-2]:
        raise ValueError(f"{name}(A of shape {tuple(A.shape)}): expected (..., n, n).")
    dtype = A.dtype
    A = wide(A)
    A = (A + A.mT) / 2
    detached = A.detach()
    if not bool(detached.isfinite().all()):
        raise ValueError(f"{name}(A): expected finite numbers, found NaN or Inf.")
    values, vectors = torch.linalg.eigh(detached)
    rounding = A.shape[-1] * torch.finfo(A.dtype).eps * values.abs().amax(-1, keepdim=True)
    if bool((values < -10 * rounding).any()):
        raise ValueError(
            f"{name}(A): expected a positive semidefinite matrix, found the eigenvalue"
            f" {float(values.min()):.2e}."
        )
    if f.needs_definite and bool((values <= rounding).any()):
        raise ValueError(
            f"{name}(A): expected a positive definite matrix, found the eigenvalue"
            f" {float(values.min()):.2e}, which is 0 to working precision. Add a"
            " multiple of the identity to A."
        )
    # an eigenvalue that is 0 but for rounding is 0: its slope would be noise
    values = torch.where(values <= rounding, 0.0, values)
    result: Tensor = _Symmetric.apply(A, values, vectors, f)  # type: ignore[no-untyped-call]
    return result.to(dtype)


class _Symmetric(torch.autograd.Function):
    """f(A) from the eigenvalues and eigenvectors of A, which are passed as constants."""

    @staticmethod
    def forward(ctx: Any, A: Tensor, values: Tensor, vectors: Tensor, f: _Function) -> Tensor:
        ctx.save_for_backward(A, values, vectors)
        ctx.f = f
        result = (vectors * f.value(values).unsqueeze(-2)) @ vectors.mT
        return (result + result.mT) / 2

    @staticmethod
    @full_precision
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        A, values, vectors = ctx.saved_tensors
        result: Tensor = _Derivative.apply(A, grad, values, vectors, ctx.f)  # type: ignore[no-untyped-call]
        return result, None, None, None


class _Derivative(torch.autograd.Function):
    """Df(A)[G]: first derivative of f at A in the direction of the symmetric part of G; self-adjoint in G."""

    @staticmethod
    def forward(
        ctx: Any,
        A: Tensor,
        grad: Tensor,
        values: Tensor,
        vectors: Tensor,
        f: _Function,
    ) -> Tensor:
        ctx.save_for_backward(grad, values, vectors)
        ctx.f = f
        return _derivative(grad, values, vectors, f)

    @staticmethod
    @torch.autograd.function.once_differentiable
    @full_precision
    def backward(ctx: Any, direction: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        grad, values, vectors = ctx.saved_tensors
        g, h = (_symmetric(vectors.mT @ x @ vectors) for x in (grad, direction))
        # D2f[G, H] in the eigenbasis: sum over k of f[i, k, j] (G_ik H_kj + H_ik G_kj)
        total = torch.zeros_like(g)
        for start in range(0, values.shape[-1], _CHUNK):
            part = slice(start, start + _CHUNK)
            second = _second(
                ctx.f, values[..., :, None, None], values[..., None, part, None], values[..., None, None, :]
            )
            for left, right in ((g, h), (h, g)):
                total += torch.einsum(
                    "...ik,...ikj,...kj->...ij", left[..., part], second, right[..., part, :]
                )
        by_a = vectors @ _symmetric(total) @ vectors.mT
        return by_a, _derivative(direction, values, vectors, ctx.f), None, None, None


@full_precision
def _derivative(grad: Tensor, values: Tensor, vectors: Tensor, f: _Function) -> Tensor:
    slopes = f.first(values.unsqueeze(-1), values.unsqueeze(-2))
    inner = slopes * _symmetric(vectors.mT @ grad @ vectors)
    return _symmetric(vectors @ inner @ vectors.mT)


def _symmetric(x: Tensor) -> Tensor:
    return (x + x.mT) / 2
