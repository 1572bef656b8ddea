"""Choosing between numbers without a mask.

On a CPU a comparison, `masked_fill` and `torch.where` by an irregular mask together take ten times as long as
a product. Two kernels that torch made for gradients of activations choose in one vectorized pass.
"""

from __future__ import annotations

import torch
from torch import Tensor


def zero_at_zero(value: Tensor, of: Tensor) -> Tensor:
    """`value`, but 0 where `of` is 0: whatever `value` is there, infinite and NaN too.

    Args:
        value: What is kept elsewhere.
        of: Shape and type of `value`. NaN keeps the value.

    Returns:
        A fresh tensor, differentiable by `value`.

    Cost:
        One pass.
    """
    result: Tensor = torch.ops.aten.hardshrink_backward(value, of, 0.0)
    return result


def zero_up_to(bound: float, value: Tensor, of: Tensor) -> Tensor:
    """`value`, but 0 where `of <= bound`; otherwise as `zero_at_zero`."""
    result: Tensor = torch.ops.aten.threshold_backward(value, of, bound)
    return result


def zero_up_to_(bound: float, value: Tensor, of: Tensor) -> Tensor:
    """`zero_up_to` in the memory of `value`; not differentiable."""
    torch.ops.aten.threshold_backward.grad_input(value, of, bound, grad_input=value)
    return value


def zero_at_zero_(value: Tensor, of: Tensor, out: Tensor | None = None) -> Tensor:
    """`zero_at_zero` in the memory of `value` unless another is given; not differentiable."""
    return zero_within_(0.0, value, of, out)


def zero_within_(bound: float, value: Tensor, of: Tensor, out: Tensor | None = None) -> Tensor:
    """The same, but 0 where `abs(of) <= bound`."""
    out = value if out is None else out
    torch.ops.aten.hardshrink_backward.grad_input(value, of, bound, grad_input=out)
    return out
