"""Sums of exponentials in logs: means, sums with signs, running sums."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from trimtab.numerics._exact import broadcast, floating, loss_type, rowwise, widened
from trimtab.numerics.normalizers import dims_of, from_end, logsumexp, prepared


def logmeanexp(x: Tensor, dim: int | Sequence[int] = -1, keepdim: bool = False) -> Tensor:  # noqa: FBT001, FBT002
    """`log(mean(exp(x)))`: `logsumexp` minus the log of the count.

    Args:
        x: Logs to average.
        dim: One dim or several.
        keepdim: Keep reduced dims with size 1.

    Returns:
        Type of `x`, or float32 for half precision under autocast.

    Example:
        >>> numerics.logmeanexp(torch.tensor([1000.0, 1000.0]))
        tensor(1000.)
    """
    x = floating(x, "logmeanexp")
    count = math.prod([x.shape[d] for d in dims_of(x, dim)]) if x.dim() else 1
    # The mean of nothing is -inf, as the sum
    return (logsumexp(widened(x), dim, keepdim) - math.log(max(count, 1))).to(loss_type(x))


class SignedLog(NamedTuple):
    """A number as the log of its size and its sign (-1, 0 or 1)."""

    log: Tensor
    sign: Tensor


def signed_logsumexp(x: Tensor, weights: Tensor, dim: int = -1, keepdim: bool = False) -> SignedLog:  # noqa: FBT001, FBT002
    """Log and sign of `sum(weights * exp(x))`, for weights of either sign.

    Args:
        x: Logs.
        weights: Factors, broadcast against `x`.
        dim: Dim to sum over.
        keepdim: Keep it with size 1.

    Returns:
        `log` and `sign`; a sum of exactly 0 gives -inf with gradient 0, and sign 0. Terms that cancel
        lose digits, as in any sum.

    Example:
        >>> numerics.signed_logsumexp(torch.tensor([1000.0, 999.0]), torch.tensor([1.0, -1.0]))
        SignedLog(log=tensor(999.5413), sign=tensor(1.))
    """
    x, weights = broadcast(floating(x, "signed_logsumexp"), weights)
    kind = loss_type(x, weights)
    x, weights = widened(x), widened(weights)
    if x.dim() and not x.shape[dim]:  # nothing is a term of weight 0
        absent = x.sum(dim, keepdim=True)
        x, weights = absent, absent
    is_absent = weights == 0
    largest = x.detach().masked_fill(is_absent, -torch.inf).amax(dim, keepdim=True)
    largest = largest.masked_fill(largest.isinf(), 0.0)
    terms = weights * (x - largest).masked_fill(is_absent, 0.0).exp()
    total = terms.sum(dim, keepdim=True)
    is_zero = total == 0
    log = largest + total.abs().masked_fill(is_zero, 1.0).log()
    log = log.masked_fill(is_zero, -torch.inf)
    sign = total.detach().sign()
    if not keepdim:
        log, sign = log.squeeze(dim), sign.squeeze(dim)
    return SignedLog(log.to(kind), sign.to(kind))


def logcumsumexp(input: Tensor, dim: int = -1) -> Tensor:
    """`torch.logcumsumexp` with finite gradients where the row begins with -inf.

    Args:
        input: Logs to add up.
        dim: Dim to add along.

    Returns:
        Shape of `input`; its type, or float32 for half precision under autocast.

    Example:
        >>> x = torch.tensor([float("-inf"), 0.0], requires_grad=True)
        >>> numerics.logcumsumexp(x)[1].backward(); x.grad
        tensor([0., 1.])
    """
    x = prepared(input, "logcumsumexp")
    result: Tensor = _logcumsumexp(widened(x), from_end(x, dim))
    return result.to(loss_type(x))


class _LogCumSumExp(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, dim: int) -> Tensor:
        return torch.logcumsumexp(x, dim)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int], output: Tensor) -> None:
        ctx.dim = inputs[1]
        ctx.save_for_backward(inputs[0], output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, sums = ctx.saved_tensors
        dim = ctx.dim

        def from_right(part: Tensor) -> Tensor:
            """exp(x) * sum over later entries of part * exp(-sums), in logs."""
            is_absent = (part == 0) | (sums == -torch.inf)
            logs = part.masked_fill(is_absent, 1.0).log() - sums.masked_fill(is_absent, 0.0)
            logs = logs.masked_fill(is_absent, -torch.inf)
            later = _logcumsumexp(logs.flip(dim), dim).flip(dim)
            is_nothing = (x == -torch.inf) | (later == -torch.inf)
            return torch.exp((x + later).masked_fill(is_nothing, -torch.inf))

        return from_right(grad.clamp_min(0)) - from_right((-grad).clamp_min(0)), None


_logcumsumexp = rowwise(_LogCumSumExp)
