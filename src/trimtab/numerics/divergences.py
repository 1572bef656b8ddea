"""Divergences and entropy of distributions given as logits, exact where the two are nearly the same."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from trimtab.numerics._blocks import by_rows
from trimtab.numerics._exact import Elementwise, broadcast, exact, floating, loss_type, rowwise, widened
from trimtab.numerics._select import zero_at_zero, zero_at_zero_, zero_within_
from trimtab.numerics.normalizers import (
    from_end,
    log_shares,
    shares_top_and_rest,
    softmax_gradient,
)

Reduction = Literal["none", "batchmean", "mean", "sum"]

# exp(d) - 1 - d by its series up to here: beyond, the difference loses at most 3 bits
_NEAR = 1.0
# (exp(d) - 1 - d) / d^2 on [-1, 1], highest power first: Taylor's series, and for float32 its Chebyshev
# interpolation of degree 6 (relative error 1e-7), which takes 6 passes less
_EXCESS = {
    torch.float32: (
        2.52884349e-05,
        0.000203290419,
        0.00138864477,
        0.00833088617,
        0.0416666972,
        0.166666973,
        0.5,
    ),
    torch.float64: tuple(1 / math.factorial(n) for n in range(19, 1, -1)),
}
# Log ratios up to here, relative to the favorite class, leave a sum of p * exp(ratio) accurate
_CLOSE = 20.0


def kl_from_logits(
    p_logits: Tensor, q_logits: Tensor, dim: int = -1, *, reduction: Reduction = "none"
) -> Tensor:
    """Kullback-Leibler divergence KL(softmax(p) || softmax(q)) >= 0.

    `F.kl_div` of two log-softmax subtracts nearly equal logs: for logits that differ by 1e-4 half of its
    float32 results are negative, and all are off by factors of 1e3. Here the sum runs over
    `p * (exp(d) - 1 - d)` with d = log(q / p) from the differences of the logits: every term is >= 0.

    Args:
        p_logits: Logits of p, -inf or up to half of the largest number of the type in size (+inf gives NaN);
            where p is 0 nothing but q's mass counts.
        q_logits: Logits of q; a q of 0 where p is not gives inf.
        dim: Dim of the classes.
        reduction: "none" (one value for each row), "mean" and "sum" over rows, or "batchmean": the sum
            over the size of the first dim.

    Returns:
        The divergence in nats; float32 for half precision under autocast.

    Raises:
        ValueError: Shapes do not broadcast or `reduction` is unknown.

    Cost:
        Forward and backward 3 times two `torch.log_softmax` and `F.kl_div` in eager code on a CPU;
        saves three tensors of the size of the logits; no host read.

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
        Forward and backward 1.5 times the usual formula (eager, CPU); saves two tensors of the size of
        the logits; no host read.

    Example:
        >>> numerics.entropy_from_logits(torch.tensor([[20.0, 0.0], [0.0, 0.0]]))
        tensor([4.3284e-08, 6.9315e-01])
    """
    x = floating(logits, "entropy_from_logits")
    x = x if x.dim() else x.reshape(1)
    end = from_end(x, dim)
    if x.dim() and not x.shape[end]:
        return x.sum(end).to(loss_type(x))  # of no class: 0
    result: Tensor = _entropy(widened(x), end)[0]
    return result.to(loss_type(x))


def _compared(function: Any, p: Tensor, q: Tensor, dim: int, reduction: str, name: str) -> Tensor:
    """The broadcast, the call and the reduction that the divergences share."""
    p, q = floating(p, name), floating(q, name)
    kind = loss_type(p, q)
    wide = torch.promote_types(widened(p).dtype, widened(q).dtype)
    p, q = broadcast(p.to(wide), q.to(wide))
    if not p.dim():
        p, q = p.reshape(1), q.reshape(1)
    end = from_end(p, dim)
    has_classes = not p.dim() or p.shape[end]
    rows: Tensor = function(p, q, end)[0] if has_classes else (p + q).sum(end)
    if reduction == "none":
        return rows.to(kind)
    if reduction == "batchmean":
        return (rows.sum() / max(rows.shape[0] if rows.dim() else 1, 1)).to(kind)
    if reduction not in ("mean", "sum"):
        raise ValueError(f"{name}(reduction={reduction!r}): expected 'none', 'batchmean', 'mean' or 'sum'.")
    is_mean = reduction == "mean" and rows.numel()  # the mean of nothing is 0
    return (rows.mean() if is_mean else rows.sum()).to(kind)


@by_rows
def _tilted_excess(share: Tensor, other: Tensor, ratio: Tensor, dim: int) -> Tensor:
    """Sum of share * (exp(ratio) - 1 - ratio) >= 0 for other = share * exp(ratio), without cancellation."""
    # Either part is 0 where the other one counts: choosing by a mask costs more
    small = torch.ops.aten.hardtanh_backward(ratio, ratio, -_NEAR, _NEAR)
    first, second, *rest = (small.new_full((), c) for c in _EXCESS[ratio.dtype])
    near = torch.addcmul(second, first, small)
    for coefficient in rest:  # Horner's rule
        torch.addcmul(coefficient, near, small, out=near)
    near.mul_(small.square_()).mul_(share)
    # 0 * inf is 0; what else is no number is told by `_refusal`
    far = (ratio * share).nan_to_num_(nan=0.0, posinf=math.inf, neginf=-math.inf).add_(share).sub_(other)
    zero_within_(_NEAR * (1 - torch.finfo(ratio.dtype).eps / 2), far, ratio)
    return near.sum(dim, keepdim=True) - far.sum(dim, keepdim=True)


class _Compared(NamedTuple):
    """Two softmaxes, the log of their ratio q / p (0 where both are 0), both maxima."""

    p: Tensor
    q: Tensor
    ratio: Tensor
    p_largest: Tensor
    q_largest: Tensor


def _compare(p: Tensor, q: Tensor, dim: int) -> _Compared:
    p_share, p_top, p_rest = shares_top_and_rest(p, dim)
    q_share, q_top, q_rest = shares_top_and_rest(q, dim)
    # Logits are seen from the class that p favors; where q excludes it, q's from its own favorite
    p_origin, q_origin, q_largest = p.gather(dim, p_top), q.gather(dim, p_top), q.gather(dim, q_top)
    is_excluded = q_origin == -torch.inf
    q_origin = _finite(torch.where(is_excluded, q_largest, q_origin))
    origin, origin_error = _difference(q_origin, _finite(p_origin))
    ratio, largest, excess = _unnormalized_ratio(p, q, p_share, q_share, origin, origin_error, dim)
    # The normalizers differ by log(sum(p * exp(ratio))): for close distributions a sum of small terms
    is_close = (largest < _CLOSE) & ~is_excluded
    apart = (_finite(q_largest) - q_origin) + q_rest.log1p_() - p_rest.log1p_()
    ratio.sub_(torch.where(is_close, excess.log1p(), apart))
    return _Compared(p_share, q_share, ratio, p_origin, q_largest)


@by_rows
def _unnormalized_ratio(
    p: Tensor, q: Tensor, p_share: Tensor, q_share: Tensor, origin: Tensor, origin_error: Tensor, dim: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Q - p - origin with all digits, its largest, and the sum of p_share * (exp(ratio) - 1)."""
    ratio, error = _difference(q, p)
    ratio.sub_(origin).add_(error.sub_(origin_error))
    zero_at_zero_(ratio, torch.add(p_share, q_share, out=error))  # what neither has is no difference
    excess = torch.expm1(ratio, out=error).mul_(p_share).sum(dim, keepdim=True)
    return ratio, ratio.amax(dim, keepdim=True), excess


def _difference(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """A - b and its rounding error, which is what counts when all differences are nearly the same.

    Knuth's two-sum ("The Art of Computer Programming" 2, 4.2.2, theorem B); 0 where infinite.
    """
    difference = a - b
    b_part = difference - a  # about -b
    error = (difference - b_part).sub_(a).add_(b_part.add_(b)).neg_()
    return difference, error.nan_to_num_(nan=0.0, posinf=math.inf, neginf=-math.inf)


def _finite(x: Tensor) -> Tensor:
    """0 for what an empty row has as its largest logit."""
    return x.masked_fill(x == -torch.inf, 0.0)


def _refusal(pair: _Compared) -> Tensor:
    """0 for each row, NaN for one with +inf in it: it has no divergence, and must not seem to have one."""
    largest = _finite(torch.maximum(pair.p_largest, pair.q_largest))
    return largest - largest


def _second(ctx: Any, grads: tuple[Tensor | None, ...]) -> tuple[Tensor | None, Tensor | None]:
    """What flows to p and q through their shares and the log ratio, in a double backward."""
    if torch.compiler.is_compiling():  # it has no double backward, and brings zeros
        return None, None
    p, q = ctx.saved_tensors[:2]
    to_p = None if grads[0] is None else softmax_gradient(p, grads[0], ctx.dim)
    to_q = None if grads[1] is None else softmax_gradient(q, grads[1], ctx.dim)
    if grads[2] is not None:
        total = grads[2].sum(ctx.dim, keepdim=True)
        to_p, to_q = _sum(to_p, p * total - grads[2]), _sum(to_q, grads[2] - q * total)
    return to_p, to_q


def _sum(a: Tensor | None, b: Tensor) -> Tensor:
    return b if a is None else a + b


def _tilt_value(p: Tensor, q: Tensor, ratio: Tensor) -> Tensor:
    """Q - p = p * expm1(ratio), by the larger of the two."""
    return ratio.abs().neg_().expm1_().mul_(torch.maximum(p, q)).abs_().copysign_(ratio)


_tilt: Elementwise = exact(
    _tilt_value,
    lambda p, q, ratio: torch.expm1(ratio.clamp_max(_CLOSE)),
    lambda p, q, ratio: torch.zeros_like(q),
    lambda p, q, ratio: q,
)


class _Entropy(Function):
    """The entropy, the softmax and its log: outputs, so that these can be differentiated."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
        share, top, rest = shares_top_and_rest(x, dim)
        log = log_shares(x, top, rest, dim)
        return 0.0 - zero_at_zero(share * log, share).sum(dim), share, log

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.dim = inputs[1]
        ctx.save_for_backward(*output[1:])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, to_share: Tensor | None, to_log: Tensor | None) -> Any:
        share, log = ctx.saved_tensors
        result = None
        if to_share is not None and not torch.compiler.is_compiling():
            result = softmax_gradient(share, to_share, ctx.dim)
        if to_log is not None and not torch.compiler.is_compiling():
            result = _sum(result, to_log - share * to_log.sum(ctx.dim, keepdim=True))
        if grad is not None:
            flow = softmax_gradient(share, zero_at_zero(log, share), ctx.dim)
            result = _sum(result, -grad.unsqueeze(ctx.dim) * flow)
        return result, None


class _Kl(Function):
    """Divergence, and what its gradients are made of: outputs, so that these can be differentiated."""

    generate_vmap_rule = True

    @staticmethod
    def forward(p: Tensor, q: Tensor, dim: int) -> tuple[Tensor, ...]:
        pair = _compare(p, q, dim)
        excess = _tilted_excess(pair.p, pair.q, pair.ratio, dim) + _refusal(pair)
        is_empty = pair.p_largest == -torch.inf
        return excess.masked_fill(is_empty, 0.0).squeeze(dim), pair.p, pair.q, pair.ratio

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.dim = inputs[2]
        ctx.save_for_backward(*output[1:], output[0])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *others: Tensor | None) -> Any:
        p, q, ratio, divergence = ctx.saved_tensors
        to_p, to_q = _second(ctx, others)
        if grad is None:
            return to_p, to_q, None
        grad = grad.unsqueeze(ctx.dim)
        if ctx.needs_input_grad[1]:
            to_q = _sum(to_q, grad * _tilt(p, q, ratio))
        if ctx.needs_input_grad[0]:
            # An infinite row has no gradient; that must not reach it when nothing flows back
            is_dropped = (grad == 0) & divergence.unsqueeze(ctx.dim).isinf()
            log = zero_at_zero(ratio, p * (~is_dropped).to(p.dtype))
            to_p = _sum(to_p, -grad * softmax_gradient(p, log, ctx.dim))
        return to_p, to_q, None


class _Js(Function):
    """As `_Kl`, for the two divergences from the mixture."""

    generate_vmap_rule = True

    @staticmethod
    def forward(p: Tensor, q: Tensor, dim: int) -> tuple[Tensor, ...]:
        pair = _compare(p, q, dim)
        middle = (pair.p + pair.q).mul_(0.5)
        shared = _log_mixture_excess(pair.ratio)
        excess = _tilted_excess(pair.p, middle, pair.ratio.clamp_min(0).add_(shared), dim)
        excess += _tilted_excess(pair.q, middle, shared.sub_(pair.ratio.clamp_max(0)), dim)
        excess += _refusal(pair)
        return excess.mul_(0.5).squeeze(dim), pair.p, pair.q, pair.ratio

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.dim = inputs[2]
        ctx.save_for_backward(*output[1:])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *others: Tensor | None) -> Any:
        p, q, ratio = ctx.saved_tensors
        to_p, to_q = _second(ctx, others)
        if grad is None:
            return to_p, to_q, None
        half = -0.5 * grad.unsqueeze(ctx.dim)
        if ctx.needs_input_grad[0]:
            log = zero_at_zero(_log_mixture(ratio), p)
            to_p = _sum(to_p, half * softmax_gradient(p, log, ctx.dim))
        if ctx.needs_input_grad[1]:
            log = zero_at_zero(_log_mixture(-ratio), q)
            to_q = _sum(to_q, half * softmax_gradient(q, log, ctx.dim))
        return to_p, to_q, None


def _log_mixture_excess(ratio: Tensor) -> Tensor:
    """log1p(expm1(-|ratio|) / 2): the log of the mixture over the larger of the two."""
    return ratio.abs().neg_().expm1_().mul_(0.5).log1p_()


def _log_mixture_value(ratio: Tensor) -> Tensor:
    """log((1 + exp(ratio)) / 2)."""
    return _log_mixture_excess(ratio).add_(ratio.clamp_min(0))


_log_mixture: Elementwise = exact(_log_mixture_value, torch.sigmoid)

_entropy = rowwise(_Entropy)
_kl = rowwise(_Kl)
_js = rowwise(_Js)
