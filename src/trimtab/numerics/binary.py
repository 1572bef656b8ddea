"""Losses of yes-or-no outputs given as logits."""

from __future__ import annotations

import torch
from torch import Tensor

from trimtab.numerics._exact import Elementwise, exact, floating, loss_type, widened
from trimtab.numerics._reduction import Reduction, chosen_reduction, reduced
from trimtab.numerics._select import zero_at_zero
from trimtab.numerics.elementary import _sigmoid, _slope, _tanh, _times_sigmoid, _times_sigmoid_
from trimtab.numerics.safe import safe_pow


def bce_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,  # noqa: FBT001 - the signature is torch's
    reduce: bool | None = None,  # noqa: FBT001
    reduction: Reduction = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """`F.binary_cross_entropy_with_logits` that is right on both sides.

    torch loses the loss of a target 0 at x = -20 (float32: exactly 0) and the gradient of a target 1 at
    x = 20. Here the loss is `softplus(-|x|) + x * ((x >= 0) - target)`, two terms that do not cancel,
    and the gradient `(1 - target) * sigmoid(x) - target * sigmoid(-x)`. A term of weight 0 counts
    nothing, so that infinite logits on the right side cost 0 (torch: NaN).

    Args:
        input: Logits.
        target: Probabilities in [0, 1], shape of `input`; integers and booleans are taken too.
        weight: Weight of each element, broadcast.
        size_average: torch's old name for `reduction`, and so is `reduce`: False is "sum".
        reduce: False is "none".
        reduction: "none", "sum", or "mean", which is 0 for no element (torch: NaN).
        pos_weight: Weight of the positive outcome, broadcast, as in torch.

    Returns:
        The loss; float32 for half precision under autocast, as torch's.

    Raises:
        ValueError: Shapes differ or `reduction` is unknown.

    Cost:
        Forward and backward 2 times the fused kernel; no host read.

    Example:
        >>> x = torch.tensor([-20.0, 20.0], requires_grad=True)
        >>> numerics.bce_with_logits(x, torch.tensor([0.0, 1.0]), reduction="none")
        tensor([2.0612e-09, 2.0612e-09], grad_fn=<ExactForwardBackward>)
    """
    reduction = chosen_reduction(reduction, "bce_with_logits", size_average=size_average, reduce=reduce)
    x = floating(input, "bce_with_logits")
    if x.shape != target.shape:
        raise ValueError(
            f"bce_with_logits: logits of shape {tuple(x.shape)} need targets of the same shape, "
            f"got {tuple(target.shape)}."
        )
    # Integers have no type of their own to give
    kind = loss_type(x, target) if target.is_floating_point() else loss_type(x)
    target = floating(target, "bce_with_logits").to(kind)
    if kind is torch.float32:
        x = widened(x)
    loss = _bce(x, target) if pos_weight is None else _weighted_bce(x, target, pos_weight.to(x.dtype))
    if weight is not None:
        loss = loss * weight
    return reduced(loss, reduction, "bce_with_logits").to(kind)


def _softplus_of_minus_size(x: Tensor) -> Tensor:
    """log(1 + exp(-|x|))."""
    return x.abs().neg_().exp_().log1p_()


def _bce_value(x: Tensor, target: Tensor) -> Tensor:
    distance = x.clone().ge_(0).sub_(target)
    # 0 * inf is 0: an infinite logit on the right side
    linear = zero_at_zero(x * distance, distance)
    return linear.add_(_softplus_of_minus_size(x))


def _residual_value(x: Tensor, target: Tensor) -> Tensor:
    """(1 - t) * sigmoid(x) - t * sigmoid(-x): both tails underflow gradually."""
    return _times_sigmoid_(1 - target, x).sub_(_times_sigmoid(target, x, -1))


_residual: Elementwise = exact(_residual_value, lambda x, _: _slope(x), lambda x, _: -torch.ones_like(x))
_bce: Elementwise = exact(_bce_value, lambda x, target: _residual(x, target), lambda x, _: -x)


def _weighted_bce_value(x: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    positive, negative = weight * target, 1 - target
    # 0 * inf is 0: an infinite logit on the right side
    linear = zero_at_zero(x.clamp_min(0).mul_(negative), negative)
    linear.sub_(zero_at_zero(x.clamp_max(0).mul_(positive), positive))
    return linear.addcmul_(_softplus_of_minus_size(x), positive.add_(negative))


def _weighted_residual_value(x: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """(1 - t) * sigmoid(x) - w * t * sigmoid(-x)."""
    return _times_sigmoid_(1 - target, x).sub_(_times_sigmoid_(weight * target, x, -1))


def _softplus_both(x: Tensor) -> Tensor:
    return x.clamp_min(0) + torch.log1p(torch.exp(-x.abs()))


_weighted_residual: Elementwise = exact(
    _weighted_residual_value,
    lambda x, target, weight: _slope(x) * (1 - target + weight * target),
    lambda x, _, weight: -_sigmoid(x) - weight * _sigmoid(-x),
    lambda x, target, _: -target * _sigmoid(-x),
)
_weighted_bce: Elementwise = exact(
    _weighted_bce_value,
    lambda x, target, weight: _weighted_residual(x, target, weight),
    lambda x, _, weight: weight * _softplus_both(-x) - _softplus_both(x),
    lambda x, target, _: target * _softplus_both(-x),
)


def sigmoid_focal_loss(
    inputs: Tensor,
    targets: Tensor,
    alpha: float = 0.25,
    gamma: float = 2.0,
    reduction: Reduction = "none",
) -> Tensor:
    """Focal loss, with the signature of torchvision's, and no `1 - p` anywhere.

    `(1 - p_t)^gamma` is computed from `1 - p_t = (1 - t) * sigmoid(x) + t * sigmoid(-x)`, so that easy
    examples keep a loss and a gradient.

    Args:
        inputs: Logits.
        targets: 0 or 1 (or between), shape of `inputs`.
        alpha: Weight of the positive class, in [0, 1]; negative: no weights.
        gamma: Focusing exponent, >= 0.
        reduction: "none", "mean" or "sum".

    Returns:
        The loss; float32 for half precision under autocast.

    Raises:
        ValueError: `gamma` or `alpha` is out of range, shapes differ or `reduction` is unknown.

    Example:
        >>> numerics.sigmoid_focal_loss(torch.tensor([20.0]), torch.tensor([1.0]))
        tensor([2.1891e-27])

    References:
        Lin et al., "Focal loss for dense object detection", 2017, arXiv:1708.02002, equation 5.
    """
    if not gamma >= 0 or alpha > 1:
        raise ValueError(
            f"sigmoid_focal_loss(alpha={alpha}, gamma={gamma}): expected alpha <= 1 (negative: no class "
            "weights) and gamma >= 0."
        )
    x = floating(inputs, "sigmoid_focal_loss")
    kind = loss_type(x, targets) if targets.is_floating_point() else loss_type(x)
    x, targets = widened(x), widened(floating(targets, "sigmoid_focal_loss").to(kind))
    loss = bce_with_logits(x, targets, reduction="none")
    bounded = x.clamp(-1e4, 1e4)  # beyond, the slope is 0, and 0 times an infinite loss is no number
    miss = (1 - targets) * _sigmoid(bounded) + targets * _sigmoid(-bounded)
    if gamma == 2:  # the usual one, without the price of a power
        loss = loss * miss.square()
    elif gamma:
        # At a miss of exactly 0 the loss is 0 too
        loss = loss * safe_pow(miss, gamma)
    if alpha >= 0:
        loss = loss * (alpha * targets + (1 - alpha) * (1 - targets))
    return reduced(loss, reduction, "sigmoid_focal_loss").to(kind)


def bernoulli_entropy(logits: Tensor) -> Tensor:
    """Entropy in nats of a coin with these log-odds; `Bernoulli(logits).entropy()` loses it from 20 on.

    Args:
        logits: Log-odds.

    Returns:
        Shape of `logits`; its type, or float32 for half precision under autocast. 0 at infinities.

    Example:
        >>> numerics.bernoulli_entropy(torch.tensor([0.0, 20.0]))
        tensor([6.9315e-01, 4.3284e-08])
    """
    x = floating(logits, "bernoulli_entropy")
    return _bernoulli_entropy(x.to(loss_type(x)))


def _bernoulli_entropy_value(x: Tensor) -> Tensor:
    # H = |x| * e / (1 + e) + log1p(e) with e = exp(-|x|), of which |x| takes one root before it is subnormal
    size = x.abs().clamp_max_(1e4)
    root = (size * -0.5).exp_()
    small = root.square()
    return size.mul_(root).mul_(root).div_(1 + small).add_(small.log1p_())


def _bernoulli_entropy_slope_value(x: Tensor) -> Tensor:
    """-x * sigmoid(x) * sigmoid(-x)."""
    bounded = x.clamp(-1e4, 1e4)  # beyond, 0
    root = (bounded.abs() * -0.5).exp_()
    return bounded.neg_().mul_(root).mul_(root).div_((1 + root.square()).square_())


def _bernoulli_entropy_curvature(x: Tensor) -> Tensor:
    bounded = x.clamp(-1e4, 1e4)
    return _slope(bounded) * (bounded * _tanh(bounded / 2) - 1)


_bernoulli_entropy_slope: Elementwise = exact(_bernoulli_entropy_slope_value, _bernoulli_entropy_curvature)
_bernoulli_entropy: Elementwise = exact(_bernoulli_entropy_value, lambda x: _bernoulli_entropy_slope(x))
