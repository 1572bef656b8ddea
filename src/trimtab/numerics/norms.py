"""Norms, directions and distances that neither overflow nor divide by an eps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from trimtab.numerics._exact import broadcast, floating, loss_type, rowwise, widened
from trimtab.numerics.normalizers import from_end, one_dim, restored


def safe_norm(
    x: Tensor,
    p: float = 2.0,
    dim: int | Sequence[int] | None = None,
    keepdim: bool = False,  # noqa: FBT001, FBT002 - as torch.linalg.vector_norm
    *,
    min_norm: float = 0.0,
) -> Tensor:
    """p-norm scaled by a power of two, so that 1e30 and 1e-30 are as good as 1; gradient 0 at 0.

    Args:
        x: Any real tensor.
        p: Order, >= 0; 0 counts what is not 0.
        dim: One dim, several, or None for all.
        keepdim: Keep reduced dims with size 1.
        min_norm: Smallest value returned; below it the gradient is 0.

    Returns:
        Type of `x`, or float32 for half precision under autocast.

    Raises:
        ValueError: `p` is negative.

    Cost:
        Forward and backward 2 times `torch.linalg.vector_norm`, 3 to 5 in half precision (eager, CPU); no
        host read.

    Example:
        >>> x = torch.tensor([[3e30, 4e30], [0.0, 0.0]], requires_grad=True)
        >>> norm = numerics.safe_norm(x, dim=-1); norm.sum().backward(); norm, x.grad
        (tensor([5.0000e+30, 0.0000e+00], grad_fn=<...>), tensor([[0.6000, 0.8000],
                [0.0000, 0.0000]]))

    References:
        Anderson, "Algorithm 978: safe scaling in the level 1 BLAS", ACM TOMS 44, 2017.
    """
    if not p >= 0:
        raise ValueError(f"safe_norm(p={p}): expected a number >= 0, or math.inf.")
    x = floating(x, "safe_norm")
    flat, kept = one_dim(x, tuple(range(x.dim())) if dim is None else dim)
    wide = widened(flat)
    norm = _norm(wide, -1) if p == 2 else _general_norm(wide, p)
    if min_norm > 0:
        norm = norm.masked_fill(norm < min_norm, min_norm)
    norm = norm.to(loss_type(x))
    return norm.reshape(kept) if keepdim else norm


def normalize(input: Tensor, p: float = 2.0, dim: int | Sequence[int] = 1, eps: float = 0.0) -> Tensor:
    """`x / norm(x)`, the zero vector staying zero with gradient 0; there is no eps unless one is given.

    `F.normalize` divides by `max(norm, 1e-12)`: 0 / 0 in float16, a gradient of 1e12 at 0, and a wrong
    length below 1e-12.

    Args:
        input: Vectors along `dim`.
        p: Order of the norm, >= 0.
        dim: Dim of the vectors, or several; 1 by default, as in torch.
        eps: Vectors shorter than this are divided by it, as in torch, where it is 1e-12 by default. It is
            taken in float32 for half precision.

    Returns:
        Shape and type of `input`.

    Raises:
        ValueError: `p` is negative.

    Cost:
        Forward and backward 1 to 2 times `F.normalize`; no host read.

    Example:
        >>> numerics.normalize(torch.tensor([[3e-30, 4e-30], [0.0, 0.0]]))
        tensor([[0.6000, 0.8000],
                [0.0000, 0.0000]])
    """
    x = floating(input, "normalize")
    if not x.dim() or not isinstance(dim, int):
        flat, _ = one_dim(x, dim)
        return restored(_directions(widened(flat), p, -1, eps), x, dim).to(x.dtype)
    return _directions(widened(x), p, from_end(x, dim), eps).to(x.dtype)


def _directions(x: Tensor, p: float, dim: int, eps: float) -> Tensor:
    """`normalize` along one dim, counted from the end."""
    if eps > 0:
        is_short = safe_norm(x.detach(), p, dim, keepdim=True) < eps
        long = _directions(x.masked_fill(is_short, 0.0), p, dim, 0.0)
        return torch.where(is_short, x / eps, long)
    if p == 2:
        result: Tensor = _normalize(x, dim)
        return result
    if p:
        x = x / _power_of_two(x.detach(), dim)  # the scale drops out, with its gradient
    norm = safe_norm(x, p, dim, keepdim=True)
    return x / norm.masked_fill(norm == 0, 1.0)


def cosine_similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 0.0) -> Tensor:
    """Cosine of the angle between vectors of any length; 0 with gradient 0 if one of them is zero.

    Args:
        x1: Vectors along `dim`.
        x2: Others, broadcast.
        dim: Dim of the vectors in the broadcast shape; 1 by default, as in torch.
        eps: Smallest length to divide by, as in torch, where it is 1e-8 by default.

    Returns:
        Broadcast shape without `dim`, common type; float32 for half precision under autocast.

    Cost:
        Two `normalize`, one product; no host read.

    Example:
        >>> numerics.cosine_similarity(torch.tensor([1e-30, 0.0]), torch.tensor([1e30, 1e30]), dim=0)
        tensor(0.7071)
    """
    x1, x2 = floating(x1, "cosine_similarity"), floating(x2, "cosine_similarity")
    kind = loss_type(x1, x2)
    x1, x2 = broadcast(x1, x2)
    product = normalize(widened(x1), dim=dim, eps=eps) * normalize(widened(x2), dim=dim, eps=eps)
    return product.sum(dim).to(kind)


def pairwise_distance(
    x1: Tensor,
    x2: Tensor,
    p: float = 2.0,
    eps: float = 0.0,
    keepdim: bool = False,  # noqa: FBT001, FBT002 - the signature is torch's
) -> Tensor:
    """Distance of vectors along the last dim: exactly 0 with gradient 0 for equal ones.

    `F.pairwise_distance` adds 1e-6 to every coordinate first.

    Args:
        x1: Vectors.
        x2: Others, broadcast.
        p: Order of the norm, >= 0.
        eps: Added to every difference, as in torch, where it is 1e-6 by default.
        keepdim: Keep the last dim with size 1.

    Returns:
        Broadcast shape without the last dim; float32 for half precision under autocast.

    Example:
        >>> numerics.pairwise_distance(torch.ones(3), torch.ones(3))
        tensor(0.)
    """
    difference = floating(x1, "pairwise_distance") - floating(x2, "pairwise_distance")
    return safe_norm(difference + eps if eps else difference, p, -1, keepdim)


def _power_of_two(x: Tensor, dim: int) -> Tensor:
    """A power of two near the largest size of each vector, 1 for zero and non-finite ones."""
    if not x.shape[dim]:
        return torch.ones_like(x.sum(dim, keepdim=True))
    largest = torch.maximum(x.amax(dim, keepdim=True), -x.amin(dim, keepdim=True))
    mantissa, _ = torch.frexp(largest)
    is_usable = (mantissa != 0) & largest.isfinite()
    bound = 2.0 ** (127 if x.dtype == torch.float32 else 1023)
    scale = (largest / mantissa.masked_fill(~is_usable, 1.0)).clamp_max(bound)
    return scale.masked_fill(~is_usable, 1.0)


def _general_norm(x: Tensor, p: float) -> Tensor:
    """Torch's norm of scaled vectors; its gradient at 0 is 0 for every p."""
    if not x.shape[-1]:  # torch has no largest size of nothing
        return x.sum(-1)
    if not p:
        count: Tensor = torch.linalg.vector_norm(x, 0, -1)
        return count
    scale = _power_of_two(x.detach(), -1)
    norm: Tensor = torch.linalg.vector_norm(x / scale, p, -1) * scale.squeeze(-1)
    return norm


class _Norm(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, dim: int) -> Tensor:
        scale = _power_of_two(x, dim)
        norm: Tensor = torch.linalg.vector_norm(x / scale, 2, dim, keepdim=True)
        return (norm * scale).squeeze(dim)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int], output: Tensor) -> None:
        ctx.dim = inputs[1]
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return grad.unsqueeze(ctx.dim) * _normalize(ctx.saved_tensors[0], ctx.dim), None


class _Normalize(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, dim: int) -> Tensor:
        direction = x / _power_of_two(x, dim)
        norm: Tensor = torch.linalg.vector_norm(direction, 2, dim, keepdim=True)
        return direction.div_(norm.masked_fill(norm == 0, 1.0))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int], output: Tensor) -> None:
        ctx.dim = inputs[1]
        ctx.save_for_backward(inputs[0], output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, direction = ctx.saved_tensors
        norm = _norm(x, ctx.dim).unsqueeze(ctx.dim)
        is_zero = norm == 0
        along = (direction * grad).sum(ctx.dim, keepdim=True)
        result = (grad - direction * along) / norm.masked_fill(is_zero, 1.0)
        return result.masked_fill(is_zero, 0.0), None


_norm = rowwise(_Norm)
_normalize = rowwise(_Normalize)
