"""Divergences and entropy of distributions given as logits, exact where the two are nearly the same."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd import Function

from trimtab.numerics._exact import broadcast, floating, loss_type, rowwise, widened
from trimtab.numerics.normalizers import (
    _from_end,
    _log_softmax,
    _softmax,
    softmax_gradient,
    times_log,
    top_and_rest,
)

Reduction = Literal["none", "batchmean", "mean", "sum"]

# exp(d) - 1 - d by its series below this: with 11 terms (float32) or 16 (float64) exact to rounding
_NEAR = 0.5
_TERMS = {torch.float32: 11, torch.float64: 16}


def kl_from_logits(
    p_logits: Tensor, q_logits: Tensor, dim: int = -1, *, reduction: Reduction = "none"
) -> Tensor:
    """Kullback-Leibler divergence KL(softmax(p) || softmax(q)) >= 0.

    `F.kl_div` of two log-softmax subtracts nearly equal logs: for logits that differ by 1e-4 half of its
    float32 results are negative, and all are off by factors of 1e3. Here the sum runs over
    `p * (exp(d) - 1 - d)` with d = log(q / p) from the differences of the logits: every term is >= 0.

    Args:
        p_logits: Logits of p; where p is 0 nothing but q's mass counts.
        q_logits: Logits of q; a q of 0 where p is not gives inf.
        dim: Dim of the classes.
        reduction: "none" (one value for each row), "mean" and "sum" over rows, or "batchmean": the sum
            over the size of the first dim.

    Returns:
        The divergence in nats; float32 for half precision under autocast.

    Raises:
        ValueError: Shapes do not broadcast or `reduction` is unknown.

    Cost:
        Forward and backward up to 3 times two `torch.log_softmax` and `F.kl_div`; saves three tensors of
        the size of the logits; no host read.

    Example:
        >>> p = torch.tensor([0.0, 1.0, 2.0])
        >>> numerics.kl_from_logits(p, p + torch.tensor([0.0, 1e-4, 0.0]))
        tensor(9.2450e-10)
    """
    return _compared(_kl, p_logits, q_logits, dim, reduction, "kl_from_logits")


def js_divergence(
    p_logits: Tensor, q_logits: Tensor, dim: int = -1, *, reduction: Reduction = "none"
) -> Tensor:
    """Jensen-Shannon divergence of softmax(p) and softmax(q), in [0, ln 2].

    The mean of the divergences of p and q from their mixture, each a sum of terms >= 0.

    Args:
        p_logits: Logits of one distribution.
        q_logits: Logits of the other.
        dim: Dim of the classes.
        reduction: As in `kl_from_logits`.

    Returns:
        The divergence in nats; float32 for half precision under autocast.

    Raises:
        ValueError: Shapes do not broadcast or `reduction` is unknown.

    Cost:
        As `kl_from_logits`.

    Example:
        >>> inf = float("inf")
        >>> numerics.js_divergence(torch.tensor([0.0, -inf]), torch.tensor([-inf, 0.0]))
        tensor(0.6931)

    References:
        Lin, "Divergence measures based on the Shannon entropy", 1991, section IV.
    """
    return _compared(_js, p_logits, q_logits, dim, reduction, "js_divergence")


def entropy_from_logits(logits: Tensor, dim: int = -1) -> Tensor:
    """Entropy in nats of softmax(logits): `-sum(p * log(p))`, all terms >= 0.

    Args:
        logits: Logits; -inf masks a class. A row of -inf has entropy 0 and gradient 0.
        dim: Dim of the classes.

    Returns:
        One value for each row; float32 for half precision under autocast.

    Cost:
        One softmax and one log_softmax of this package; no host read.

    Example:
        >>> numerics.entropy_from_logits(torch.tensor([[20.0, 0.0], [0.0, 0.0]]))
        tensor([4.3284e-08, 6.9315e-01])
    """
    x = floating(logits, "entropy_from_logits")
    end = _from_end(x, dim)
    wide = widened(x)
    result: Tensor = -times_log(_softmax(wide, end), _log_softmax(wide, end)[0]).sum(end)
    return result.to(loss_type(x))


def _compared(function: Any, p: Tensor, q: Tensor, dim: int, reduction: str, name: str) -> Tensor:
    """The broadcast, the call and the reduction that the divergences share."""
    p, q = floating(p, name), floating(q, name)
    kind = loss_type(p, q)
    wide = torch.promote_types(widened(p).dtype, widened(q).dtype)
    p, q = broadcast(p.to(wide), q.to(wide))
    rows: Tensor = function(p, q, _from_end(p, dim))[0]
    if reduction == "none":
        return rows.to(kind)
    if reduction == "batchmean":
        return (rows.sum() / max(rows.shape[0] if rows.dim() else 1, 1)).to(kind)
    if reduction not in ("mean", "sum"):
        raise ValueError(f"{name}(reduction={reduction!r}): expected 'none', 'batchmean', 'mean' or 'sum'.")
    return (rows.mean() if reduction == "mean" else rows.sum()).to(kind)


def expm1_minus(d: Tensor) -> Tensor:
    """`exp(d) - 1 - d` >= 0 without cancellation."""
    small = d.clamp(-_NEAR, _NEAR)
    terms = _TERMS[d.dtype]
    # Horner from the last term: d^2 * (1/2! + d/3! + ...)
    series = torch.full_like(d, 1.0)
    for n in range(terms + 1, 2, -1):
        series.mul_(small).div_(n).add_(1.0)
    near = series.mul_(small).mul_(small).mul_(0.5)
    return torch.where(d.abs() < _NEAR, near, torch.expm1(d) - d)


def _shares_and_log_ratio(p: Tensor, q: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """softmax(p), softmax(q) and log(softmax(q) / softmax(p)), which is 0 where both are 0."""
    p_share, q_share = _softmax(p, dim), _softmax(q, dim)
    p_top, p_rest = top_and_rest(p, dim)
    q_top, q_rest = top_and_rest(q, dim)
    # Logits are seen from the class that p favors; where q excludes it, q's from its own favorite
    p_origin, q_origin, q_largest = p.gather(dim, p_top), q.gather(dim, p_top), q.gather(dim, q_top)
    is_excluded = q_origin == -torch.inf
    q_origin = _finite(torch.where(is_excluded, q_largest, q_origin))
    ratio, error = _difference(q, p)
    origin, origin_error = _difference(q_origin, _finite(p_origin))
    ratio.sub_(origin).add_(error.sub_(origin_error))
    # The normalizers differ by log(sum(p * exp(ratio))): for close distributions a sum of small terms
    p_log, q_log = p_rest.log1p_(), (_finite(q_largest) - q_origin) + q_rest.log1p_()
    near = p_share * torch.expm1(ratio)
    far = torch.exp((q - q_origin) - p_log) - p_share
    excess = torch.where(ratio.abs() < 1, near, far).sum(dim, keepdim=True)
    is_close = (excess < 1) & ~is_excluded
    ratio.sub_(torch.where(is_close, excess.log1p(), q_log - p_log))
    ratio.masked_fill_((p == -torch.inf) & (q == -torch.inf), 0.0)
    return p_share, q_share, ratio


def _difference(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """A - b and its rounding error, which is what counts when all differences are nearly the same.

    Knuth's two-sum ("The Art of Computer Programming" 2, 4.2.2, theorem B); 0 where infinite.
    """
    difference = a - b
    b_part = difference - a  # about -b
    error = (a - (difference - b_part)).sub_(b_part.add_(b))
    return difference, error.masked_fill_(error.isnan(), 0.0)


def _finite(x: Tensor) -> Tensor:
    """0 for what an empty row has as its largest logit."""
    return x.masked_fill(x == -torch.inf, 0.0)


def _share_gradients(ctx: Any, grads: tuple[Tensor | None, ...]) -> list[Tensor]:
    """What flows to p and q through their shares and the log ratio, in a double backward."""
    p_share, q_share, _ = ctx.saved_tensors[:3]
    dim = ctx.dim
    p_share_grad, q_share_grad, ratio_grad = grads
    to_p, to_q = torch.zeros_like(p_share), torch.zeros_like(q_share)
    if torch.compiler.is_compiling():  # the compiler has no double backward and brings zeros
        return [to_p, to_q]
    if p_share_grad is not None:
        to_p = to_p + softmax_gradient(p_share, p_share_grad, dim)
    if q_share_grad is not None:
        to_q = to_q + softmax_gradient(q_share, q_share_grad, dim)
    if ratio_grad is not None:
        total = ratio_grad.sum(dim, keepdim=True)
        to_p = to_p - (ratio_grad - p_share * total)
        to_q = to_q + (ratio_grad - q_share * total)
    return [to_p, to_q]


def _kl_term(share: Tensor, other: Tensor, ratio: Tensor) -> Tensor:
    """Share * (exp(ratio) - 1 - ratio), by way of other = share * exp(ratio) where the ratio is large."""
    near = share * expm1_minus(ratio.clamp(max=1.0))
    far = other - share - (share * ratio).masked_fill_(share == 0, 0.0)
    return torch.where((ratio > 1) | (share == 0), far, near)


class _Kl(Function):
    """Divergence, and what its gradients are made of: outputs, so that these can be differentiated."""

    generate_vmap_rule = True

    @staticmethod
    def forward(p: Tensor, q: Tensor, dim: int) -> tuple[Tensor, ...]:
        p_share, q_share, ratio = _shares_and_log_ratio(p, q, dim)
        return _kl_term(p_share, q_share, ratio).sum(dim), p_share, q_share, ratio

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.dim = inputs[2]
        ctx.save_for_backward(*output[1:], output[0])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *others: Tensor | None) -> Any:
        p_share, q_share, ratio, divergence = ctx.saved_tensors
        to_p, to_q = _share_gradients(ctx, others)
        if grad is not None:
            grad = grad.unsqueeze(ctx.dim)
            near = p_share * torch.expm1(ratio.clamp(-1, 1))
            to_q = to_q + grad * torch.where(ratio.abs() < 1, near, q_share - p_share)
            # An infinite row has no gradient; that must not reach it when nothing flows back
            is_dropped = (grad == 0) & divergence.unsqueeze(ctx.dim).isinf()
            log = ratio.masked_fill(is_dropped, 0.0)
            to_p = to_p - grad * _share_gradient(p_share, log, ctx.dim)
        return to_p, to_q, None


class _Js(Function):
    """As `_Kl`, for the two divergences from the mixture."""

    generate_vmap_rule = True

    @staticmethod
    def forward(p: Tensor, q: Tensor, dim: int) -> tuple[Tensor, ...]:
        p_share, q_share, ratio = _shares_and_log_ratio(p, q, dim)
        middle = (p_share + q_share).mul_(0.5)
        from_p = _kl_term(p_share, middle, _log_mixture(ratio)).sum(dim)
        from_q = _kl_term(q_share, middle, _log_mixture(-ratio)).sum(dim)
        return 0.5 * (from_p + from_q), from_p, from_q, p_share, q_share, ratio

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.dim = inputs[2]
        ctx.mark_non_differentiable(output[1], output[2])
        ctx.save_for_backward(*output[3:])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *others: Tensor | None) -> Any:
        p_share, q_share, ratio = ctx.saved_tensors
        to_p, to_q = _share_gradients(ctx, others[2:])
        if grad is not None:
            half = 0.5 * grad.unsqueeze(ctx.dim)
            to_p = to_p - half * _share_gradient(p_share, _log_mixture(ratio), ctx.dim)
            to_q = to_q - half * _share_gradient(q_share, _log_mixture(-ratio), ctx.dim)
        return to_p, to_q, None


def _share_gradient(share: Tensor, log: Tensor, dim: int) -> Tensor:
    """Share * (log - mean of log), whose logs are infinite where nothing has a share."""
    return softmax_gradient(share, log.masked_fill(share == 0, 0.0), dim)


def _log_mixture(ratio: Tensor) -> Tensor:
    """log((1 + exp(ratio)) / 2), accurate around 0."""
    near = torch.log1p(torch.expm1(ratio.clamp(max=1.0)) / 2)
    far = ratio + torch.log1p(torch.exp(-ratio.clamp(min=1.0))) - torch.log(torch.full_like(ratio, 2.0))
    return torch.where(ratio < 1, near, far)


_kl = rowwise(_Kl)
_js = rowwise(_Js)
