"""Decompositions and the determinant with gradients that stay finite where torch's do not."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from trimtab.numerics._exact import floating
from trimtab.numerics.error_free import full_precision, wide


class Eigh(NamedTuple):
    """Eigenvalues in rising order, and eigenvectors in columns."""

    values: Tensor
    vectors: Tensor


class Svd(NamedTuple):
    """Thin singular value decomposition: `A = U diag(S) Vh`."""

    U: Tensor
    S: Tensor
    Vh: Tensor


def safe_eigh(A: Tensor, *, broadening: float | None = None) -> Eigh:
    """Eigenvalues and eigenvectors whose gradient is finite at repeated eigenvalues.

    The eigenvectors of a repeated eigenvalue have no derivative: any choice of 1 / (difference) is a
    convention. Here it is d / (d^2 + w^2), with w the broadening: 0 for equal eigenvalues, right for
    those much further apart than w. A function of the matrix needs no convention: see `sqrtm_psd`.

    Args:
        A: Symmetric, shape (..., n, n); the triangles are averaged.
        broadening: w in units of the largest eigenvalue; sqrt(eps) by default.

    Returns:
        Values (..., n) and vectors (..., n, n).

    Raises:
        ValueError: `broadening` is not positive.

    Cost:
        That of `torch.linalg.eigh`. Twice differentiable.

    Example:
        >>> from trimtab.numerics import safe_eigh
        >>> A = torch.eye(3, requires_grad=True)
        >>> safe_eigh(A).vectors[:, 0].abs().sum().backward()
        >>> A.grad.isfinite().all()
        tensor(True)

    References:
        Liao, Liu, Wang and Xiang, "Differentiable programming tensor networks", Phys. Rev. X 9, 2019.
    """
    A = floating(A, "safe_eigh")
    width = _broadening(A, broadening, "safe_eigh")
    values, vectors = _Eigh.apply(_symmetric(wide(A)), width)  # type: ignore[no-untyped-call]
    return Eigh(values, vectors)


def safe_svd(A: Tensor, *, broadening: float | None = None) -> Svd:
    """Thin singular value decomposition whose gradient is finite at repeated and at zero singular values.

    Args:
        A: Shape (..., m, n).
        broadening: As for `safe_eigh`, in units of the largest singular value.

    Returns:
        U (..., m, k), S (..., k) and Vh (..., k, n), with k the smaller of m and n.

    Raises:
        ValueError: `broadening` is not positive.

    Cost:
        That of `torch.linalg.svd`. Twice differentiable.

    Example:
        >>> from trimtab.numerics import safe_svd
        >>> A = torch.eye(2, requires_grad=True)
        >>> U, S, Vh = safe_svd(A)
        >>> (U @ Vh).sum().backward()
        >>> A.grad.isfinite().all()
        tensor(True)

    References:
        Liao et al., 2019; Wan and Zhang, "Automatic differentiation for complex valued SVD", 2019,
        arXiv:1909.02659.
    """
    A = floating(A, "safe_svd")
    width = _broadening(A, broadening, "safe_svd")
    u, s, vh = _Svd.apply(wide(A), width)  # type: ignore[no-untyped-call]
    return Svd(u, s, vh)


@full_precision
def polar(A: Tensor) -> tuple[Tensor, Tensor]:
    """Polar decomposition `A = Q P`: the nearest orthogonal matrix, and a positive semidefinite one.

    Its gradient divides by sums of singular values, where that of a product of singular vectors divides
    by their differences: it is finite at the identity, and at every nonsingular matrix. Between two
    singular values that are both 0 the factor has no derivative; it is taken as 0.

    `torch.polar` is something else: complex numbers from size and angle.

    Args:
        A: Shape (..., m, n), m >= n.

    Returns:
        Q of shape (..., m, n) with orthonormal columns, P of shape (..., n, n).

    Raises:
        ValueError: A has more columns than rows.

    Cost:
        One singular value decomposition. Twice differentiable.

    Example:
        >>> from trimtab.numerics import polar
        >>> A = torch.eye(2, requires_grad=True)
        >>> polar(A)[0][0, 1].backward()          # NaN through svd
        >>> A.grad
        tensor([[ 0.0000,  0.5000],
                [-0.5000,  0.0000]])

    References:
        Higham, "Functions of matrices", 2008, chapter 8.
    """
    A = floating(A, "polar")
    if A.dim() < 2 or A.shape[-2] < A.shape[-1]:
        raise ValueError(f"polar(A of shape {tuple(A.shape)}): expected at least as many rows as columns.")
    dtype = A.dtype
    A = wide(A)
    with torch.no_grad():
        u, s, vh = torch.linalg.svd(A, full_matrices=False)
    q: Tensor = _Polar.apply(A, u, s, vh)  # type: ignore[no-untyped-call]
    return q.to(dtype), _symmetric(q.mT @ A).to(dtype)


def det(A: Tensor) -> Tensor:
    """Determinant whose gradient is the matrix of cofactors, at singular matrices too.

    torch's gradient is all zeros for a singular matrix of rank n - 1. The value overflows and
    underflows as any determinant does: take `torch.linalg.slogdet` or `logdet_psd` for large matrices.

    Args:
        A: Shape (..., n, n). float16 and bfloat16 are computed in float32.

    Returns:
        Shape (...).

    Raises:
        ValueError: Not square.

    Cost:
        An LU factorization; a singular value decomposition in the backward pass. Twice differentiable,
        the second derivative in n^3 memory.

    Example:
        >>> from trimtab.numerics import det
        >>> A = torch.tensor([[1.0, 2.0], [2.0, 4.0]], requires_grad=True)
        >>> det(A).backward()
        >>> A.grad
        tensor([[ 4.0000, -2.0000],
                [-2.0000,  1.0000]])

    References:
        Stewart, "On the adjugate matrix", Linear Algebra Appl. 283, 1998.
    """
    A = floating(A, "det")
    if A.dim() < 2 or A.shape[-1] != A.shape[-2]:
        raise ValueError(f"det(A of shape {tuple(A.shape)}): expected (..., n, n).")
    result: Tensor = _Det.apply(wide(A))  # type: ignore[no-untyped-call]
    return result.to(A.dtype)


def _broadening(A: Tensor, broadening: float | None, name: str) -> float:
    if broadening is None:
        return float(torch.finfo(wide(A).dtype).eps ** 0.5)
    if not broadening > 0:
        raise ValueError(f"{name}(broadening={broadening}): expected a number > 0, relative.")
    return broadening


def _symmetric(x: Tensor) -> Tensor:
    return (x + x.mT) / 2


def _skew(x: Tensor) -> Tensor:
    return (x - x.mT) / 2


def _broadened(x: Tensor, width: Tensor) -> Tensor:
    """X / (x^2 + width^2), 0 where both are 0."""
    square = x * x + width * width
    return torch.where(square > 0, x / torch.where(square > 0, square, 1.0), torch.zeros_like(x))


def _differences(x: Tensor) -> Tensor:
    """x_j - x_i in row i and column j."""
    return x.unsqueeze(-2) - x.unsqueeze(-1)


class _Eigh(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(A: Tensor, broadening: float) -> tuple[Tensor, Tensor]:
        values, vectors = torch.linalg.eigh(A)
        return values, vectors

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(*output)
        ctx.broadening = inputs[1]

    @staticmethod
    @full_precision
    def backward(ctx: Any, g_values: Tensor, g_vectors: Tensor) -> tuple[Tensor, None]:
        values, vectors = ctx.saved_tensors
        width = ctx.broadening * values.detach().abs().amax(-1)[..., None, None]
        # the skew part alone, for what is left over is the arbitrary length of each vector
        inner = _broadened(_differences(values), width) * _skew(vectors.mT @ g_vectors)
        inner = inner + torch.diag_embed(g_values)
        return _symmetric(vectors @ inner @ vectors.mT), None


class _Svd(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(A: Tensor, broadening: float) -> tuple[Tensor, Tensor, Tensor]:
        u, s, vh = torch.linalg.svd(A, full_matrices=False)
        return u, s, vh

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: tuple[Tensor, ...]) -> None:
        ctx.save_for_backward(*output)
        ctx.broadening = inputs[1]

    @staticmethod
    @full_precision
    def backward(ctx: Any, g_u: Tensor, g_s: Tensor, g_vh: Tensor) -> tuple[Tensor, None]:
        u, s, vh = ctx.saved_tensors
        v, g_v = vh.mT, g_vh.mT
        width = ctx.broadening * s.detach().amax(-1)[..., None, None]
        # 1 / (s_j^2 - s_i^2) is half the sum and difference of these two
        minus = _broadened(_differences(s), width)
        plus = _broadened(s.unsqueeze(-2) + s.unsqueeze(-1), width)
        skew_u, skew_v = _skew(u.mT @ g_u), _skew(v.mT @ g_v)
        inner = (skew_u + skew_v) * minus + (skew_u - skew_v) * plus + torch.diag_embed(g_s)
        result = u @ inner @ vh
        # parts of the gradient outside of the thin factors
        inverse = _broadened(s, width.squeeze(-1)).unsqueeze(-2)
        result = result + ((g_u - u @ (u.mT @ g_u)) * inverse) @ vh
        return result + (u * inverse) @ (g_v - v @ (v.mT @ g_v)).mT, None


class _Polar(torch.autograd.Function):
    """Q = U Vh; its tangent is Q X with P X + X P the skew part of Q'dA, twice, and no P^-1 between."""

    generate_vmap_rule = True

    @staticmethod
    def forward(A: Tensor, u: Tensor, s: Tensor, vh: Tensor) -> Tensor:
        return u @ vh

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        A, _, s, vh = inputs
        ctx.save_for_backward(output, s, vh, A)

    @staticmethod
    @full_precision
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        q, s, vh, A = ctx.saved_tensors
        # with G = Q W + N, N orthogonal to Q: Q X (skew X with P X + X P = W - W') + N P^-1
        within = q.mT @ grad
        p = _symmetric(q.mT @ A)
        skew: Tensor = _Lyapunov.apply(p, within - within.mT, s, vh)  # type: ignore[no-untyped-call]
        result = q @ skew
        if A.shape[-2] > A.shape[-1]:
            outside = grad - q @ within
            half: Tensor = _Lyapunov.apply(p, _identity(p), s, vh)  # type: ignore[no-untyped-call]
            result = result + 2 * outside @ half
        return result, None, None, None


def _identity(like: Tensor) -> Tensor:
    return torch.eye(like.shape[-1], dtype=like.dtype, device=like.device).expand_as(like)


class _Lyapunov(torch.autograd.Function):
    """X with P X + X P = C, for P = V diag(s) Vh; its own derivative is of the same kind."""

    generate_vmap_rule = True

    @staticmethod
    @full_precision
    def forward(p: Tensor, c: Tensor, s: Tensor, vh: Tensor) -> Tensor:
        sums = s.unsqueeze(-2) + s.unsqueeze(-1)
        rounding = s.shape[-1] * torch.finfo(s.dtype).eps * s[..., :1, None]
        inverse = torch.where(sums > rounding, 1.0 / torch.where(sums > rounding, sums, 1.0), 0.0)
        return vh.mT @ (inverse * (vh @ c @ vh.mT)) @ vh

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        p, _, s, vh = inputs
        ctx.save_for_backward(p, output, s, vh)

    @staticmethod
    @full_precision
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        p, x, s, vh = ctx.saved_tensors
        by_c: Tensor = _Lyapunov.apply(p, grad, s, vh)  # type: ignore[no-untyped-call]
        return -_symmetric(by_c @ x.mT + x.mT @ by_c), by_c, None, None


class _Det(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(A: Tensor) -> Tensor:
        value: Tensor = torch.linalg.det(A)
        return value

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    @full_precision
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (A,) = ctx.saved_tensors
        cofactors: Tensor = _Cofactors.apply(A)[0]  # type: ignore[no-untyped-call]
        return grad[..., None, None] * cofactors


class _Cofactors(torch.autograd.Function):
    """det(U) det(V) U diag(product of the other singular values) Vh: no division."""

    generate_vmap_rule = True

    @staticmethod
    @full_precision
    def forward(A: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        u, s, vh = torch.linalg.svd(A)
        sign = (torch.linalg.det(u) * torch.linalg.det(vh))[..., None, None]
        before = torch.cumprod(torch.cat([torch.ones_like(s[..., :1]), s[..., :-1]], -1), -1)
        reverse = s.flip(-1)
        after = torch.cumprod(torch.cat([torch.ones_like(s[..., :1]), reverse[..., :-1]], -1), -1).flip(-1)
        cofactors: Tensor = sign * (u * (before * after).unsqueeze(-2)) @ vh
        return cofactors, u, s, vh, sign

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*output[1:])

    @staticmethod
    @torch.autograd.function.once_differentiable
    @full_precision
    def backward(ctx: Any, grad: Tensor, *_: Any) -> Tensor:
        u, s, vh, sign = ctx.saved_tensors
        inner = u.mT @ grad @ vh.mT
        size = s.shape[-1]
        # products of all singular values but two
        is_left_out = torch.eye(size, dtype=torch.bool, device=s.device)
        is_left_out = is_left_out.unsqueeze(0) | is_left_out.unsqueeze(1)
        others = torch.where(is_left_out, 1.0, s[..., None, None, :]).prod(-1)
        others = others * (1 - torch.eye(size, dtype=s.dtype, device=s.device))
        diagonal = (others @ inner.diagonal(dim1=-2, dim2=-1).unsqueeze(-1)).squeeze(-1)
        by_a: Tensor = sign * (u @ (torch.diag_embed(diagonal) - others * inner.mT) @ vh)
        return by_a
