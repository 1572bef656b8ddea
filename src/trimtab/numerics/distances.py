"""Distances of all pairs, by differences: close points far from the origin keep theirs."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd import Function

from trimtab.numerics._exact import floating, loss_type, widened
from trimtab.numerics.norms import normalize

ComputeMode = Literal[
    "use_mm_for_euclid_dist_if_necessary", "use_mm_for_euclid_dist", "donot_use_mm_for_euclid_dist"
]
_BY_DIFFERENCES = "donot_use_mm_for_euclid_dist"


def cdist(
    x1: Tensor,
    x2: Tensor,
    p: float = 2.0,
    compute_mode: ComputeMode = "use_mm_for_euclid_dist_if_necessary",
) -> Tensor:
    """`torch.cdist` by differences always, so that close points far from the origin keep a distance.

    torch takes `|x|^2 + |y|^2 - 2 x.y` for more than 25 rows: at coordinates near 100 that is 60 times
    off in float32, and many distances are exactly 0. Where speed matters more and points share an offset,
    subtract their mean and use torch's.

    Args:
        x1: Points, shape (..., n, d).
        x2: Points, shape (..., m, d), leading dims broadcast.
        p: Order of the norm, >= 0.
        compute_mode: Of no effect: a matrix product is never used.

    Returns:
        Distances, shape (..., n, m); float32 for half precision under autocast, as torch's.

    Raises:
        ValueError: `p` is negative.

    Cost:
        n * m * d differences without a matrix product: slower than torch's for large d. Twice
        differentiable for p = 2, where torch is not; that holds the differences, n * m * d numbers. For
        other p a second derivative is torch's own error.

    Example:
        >>> x = torch.full((30, 2), 1e4); x[1] += 0.25
        >>> numerics.cdist(x, x)[0, 1]
        tensor(0.3536)
    """
    del compute_mode
    if not p >= 0:
        raise ValueError(f"cdist(p={p}): expected a number >= 0, or math.inf.")
    x1, x2 = floating(x1, "cdist"), floating(x2, "cdist")
    kind = loss_type(x1, x2)
    wide = torch.promote_types(widened(x1).dtype, widened(x2).dtype)
    x1, x2 = x1.to(wide), x2.to(wide)
    if p != 2 or torch.compiler.is_compiling():  # the compiler has no second derivatives
        return torch.cdist(x1, x2, p, compute_mode=_BY_DIFFERENCES).to(kind)
    result: Tensor = _Euclidean.apply(x1, x2)  # type: ignore[no-untyped-call]
    return result.to(kind)


class _Euclidean(Function):
    """torch's kernels, and the formula itself where the gradient is to be differentiated again."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x1: Tensor, x2: Tensor) -> Tensor:
        return torch.cdist(x1, x2, compute_mode=_BY_DIFFERENCES)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs, output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x1, x2, distance = ctx.saved_tensors
        if torch.is_grad_enabled():
            flow = grad.unsqueeze(-1) * normalize(x1.unsqueeze(-2) - x2.unsqueeze(-3), dim=-1)
            return flow.sum(-2).sum_to_size(x1.shape), -flow.sum(-3).sum_to_size(x2.shape)
        return _to_first(grad, x1, x2, distance), _to_first(grad.mT, x2, x1, distance.mT)


def _to_first(grad: Tensor, x1: Tensor, x2: Tensor, distance: Tensor) -> Tensor:
    batch = distance.shape[:-2]
    wide1, wide2 = (x.expand(*batch, *x.shape[-2:]).contiguous() for x in (x1, x2))
    parts = grad.contiguous(), wide1, wide2, 2.0, distance.contiguous()
    result: Tensor = torch.ops.aten._cdist_backward(*parts)
    return result.sum_to_size(x1.shape)
