"""Cross entropy whose loss and gradient do not vanish when the network is confident."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from trimtab.numerics._blocks import by_rows
from trimtab.numerics._exact import floating, loss_type, rowwise, widened
from trimtab.numerics._reduction import Reduction, chosen_reduction
from trimtab.numerics._rows import argmax, or_one, row_shift, shifted_exp
from trimtab.numerics._select import zero_at_zero_
from trimtab.numerics.normalizers import log_softmax, softmax_gradient, terms_top_and_rest, times_log


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,  # noqa: FBT001 - the signature is torch's
    ignore_index: int = -100,
    reduce: bool | None = None,  # noqa: FBT001
    reduction: Reduction = "mean",
    label_smoothing: float = 0.0,
    *,
    mask: Tensor | None = None,
) -> Tensor:
    """`F.cross_entropy`, without the loss and the gradient that are exactly 0 for a confident row.

    With bfloat16 logits that happens from a gap of 5.6 between the two largest logits, in float32 from
    16.7. Here the probability q of all other classes is summed by itself: the loss is `log1p(q / p)` and
    its gradient at the target -q. Besides: targets of probability 0 on a -inf logit count nothing, and
    the mean over no sample is 0 (torch: NaN in both cases).

    Args:
        input: Logits of shape (C,), (N, C) or (N, C, d1, ...). -inf masks a class.
        target: Class indices of shape (), (N,) or (N, d1, ...) and any integer type, or probabilities of the
            shape of `input`.
        weight: Weight of each class, shape (C,).
        size_average: torch's old name for `reduction`, and so is `reduce`: False is "sum".
        ignore_index: Samples with this index count nothing, whatever their logits.
        reduce: False is "none".
        reduction: "none", "sum", or "mean", which is weighted as in torch.
        label_smoothing: Share of the target spread evenly over all classes, in [0, 1].
        mask: True for classes that exist, broadcast against `input`. Others count as -inf, and labels
            are smoothed over those that exist only.

    Returns:
        The loss; float32 for half precision under autocast, as torch's.

    Raises:
        ValueError: Shapes do not fit, or an argument is out of range.
        TypeError: The target is neither indices nor probabilities, or the mask not boolean.

    Cost:
        Forward and backward about 1.5 times `F.cross_entropy` in float32, 2 to 3 times in bfloat16 (eager,
        CPU); one tensor of the size of the logits saved, in
        float32 at least; no host read, so an index out of range is torch's own error.

    Example:
        >>> logits = torch.tensor([[20.0, 0.0]], requires_grad=True)
        >>> loss = numerics.cross_entropy(logits, torch.tensor([0]))
        >>> loss.backward(); loss.item(), logits.grad
        (2.06...e-09, tensor([[-2.0612e-09,  2.0612e-09]]))

    References:
        Prieto et al., "Grokking at the edge of numerical stability", ICLR 2025, arXiv:2501.04697:
        what a loss of exactly 0 does to training.
        Szegedy et al., "Rethinking the Inception architecture", 2016, arXiv:1512.00567: label smoothing.
    """
    reduction = chosen_reduction(reduction, "cross_entropy", size_average=size_average, reduce=reduce)
    logits = floating(input, "cross_entropy")
    dim = _class_dim(logits, target)
    _check(label_smoothing, ignore_index, target)
    _check_classes(logits.shape[dim], weight, mask)
    kind = loss_type(logits, target) if target.is_floating_point() else loss_type(logits)
    if mask is not None:
        logits = logits.masked_fill(~mask, -math.inf)
    if target.is_floating_point():
        shares = _smoothed(target, label_smoothing, mask, dim)
        rows = _dense(logits, shares, weight, dim)
        total: Tensor | int = max(rows.numel(), 1)
    else:
        is_ignored = target.long() == ignore_index  # in uint8 -100 would be 156
        target = target.long().masked_fill(is_ignored, 0)
        if label_smoothing and mask is None and weight is None:
            counted = (~is_ignored).to(widened(logits).dtype)
            spread, peak = counted * (label_smoothing / logits.shape[dim]), counted * (1 - label_smoothing)
            rows = _smoothed_cross_entropy(widened(logits), target, spread, peak, dim)[0]
        elif label_smoothing:
            shares = _smoothed_indices(logits, target, is_ignored, label_smoothing, mask, dim)
            logits = logits.masked_fill(is_ignored.unsqueeze(dim), 0.0)  # it may be NaN
            rows = _dense(logits, shares, weight, dim)
        else:
            rows = _index_cross_entropy(widened(logits), target, is_ignored, dim)[0]
            rows = rows if weight is None else rows * widened(weight)[target]
        counts = torch.ones_like(rows) if weight is None else widened(weight)[target]
        total = or_one(counts.masked_fill(is_ignored, 0.0).sum()) if reduction == "mean" else 1
    if reduction == "none":
        return rows.to(kind)
    return ((rows.sum() / total) if reduction == "mean" else rows.sum()).to(kind)


def _check(label_smoothing: float, ignore_index: int, target: Tensor) -> None:
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"cross_entropy(label_smoothing={label_smoothing}): expected a number in [0, 1].")
    if ignore_index >= 0 and target.is_floating_point():
        raise ValueError(
            f"cross_entropy(ignore_index={ignore_index}): probabilities have no index to ignore. Give a "
            "sample that is to count nothing probabilities of 0."
        )


def _class_dim(logits: Tensor, target: Tensor) -> int:
    """The class dim, counted from the end."""
    dim = min(logits.dim() - 1, 1)
    shape = list(logits.shape)
    if not logits.dim():
        raise ValueError(
            "cross_entropy: expected logits of shape (C,), (N, C) or (N, C, d1, ...), got a scalar."
        )
    if target.is_complex() or target.dtype == torch.bool:
        raise TypeError(
            f"cross_entropy: expected class indices or probabilities as the target, got {target.dtype}."
        )
    wanted = shape if target.is_floating_point() else shape[:dim] + shape[dim + 1 :]
    if list(target.shape) != wanted:
        raise ValueError(
            f"cross_entropy: logits of shape {tuple(shape)} need class indices of shape "
            f"{tuple(shape[:dim] + shape[dim + 1 :])} or probabilities of shape {tuple(shape)}, "
            f"got a {target.dtype} target of shape {tuple(target.shape)}."
        )
    return dim - logits.dim()


def _check_classes(num_classes: int, weight: Tensor | None, mask: Tensor | None) -> None:
    if not num_classes:
        raise ValueError("cross_entropy: expected logits of at least one class.")
    if weight is not None and tuple(weight.shape) != (num_classes,):
        raise ValueError(
            f"cross_entropy(weight of shape {tuple(weight.shape)}): expected ({num_classes},), one for each "
            "class."
        )
    if mask is not None and mask.dtype != torch.bool:
        raise TypeError(
            f"cross_entropy(mask of {mask.dtype}): expected torch.bool, True for classes that exist. Convert "
            "with mask != 0."
        )


def _smoothed(shares: Tensor, smoothing: float, mask: Tensor | None, dim: int) -> Tensor:
    """Target probabilities mixed with equal shares of the classes that exist."""
    if not smoothing:
        return shares
    exists = torch.ones_like(shares) if mask is None else mask.to(shares.dtype).expand_as(shares)
    return (1 - smoothing) * shares + smoothing * exists / or_one(exists.sum(dim, keepdim=True))


def _smoothed_indices(
    logits: Tensor, target: Tensor, is_ignored: Tensor, smoothing: float, mask: Tensor | None, dim: int
) -> Tensor:
    """Target probabilities from class indices; 0 for all classes of an ignored sample."""
    counted = (~is_ignored).to(widened(logits).dtype).unsqueeze(dim)
    if mask is None:
        share = smoothing / logits.shape[dim] * counted
        spread = share.expand_as(logits)
    else:
        exists = mask.to(counted.dtype).expand_as(logits)
        spread = smoothing * counted / or_one(exists.sum(dim, keepdim=True)) * exists
        share = spread.gather(dim, target.unsqueeze(dim))
    return spread.scatter(dim, target.unsqueeze(dim), (1 - smoothing) * counted + share)


def _dense(logits: Tensor, shares: Tensor, weight: Tensor | None, dim: int) -> Tensor:
    """Loss of each row for target probabilities."""
    if weight is not None:
        shares = shares * weight.reshape([-1] + [1] * (-1 - dim))
    wide = torch.promote_types(widened(logits).dtype, widened(shares).dtype)
    logits, shares = logits.to(wide), shares.to(wide)
    if shares.requires_grad:  # distillation into the teacher, rare: its gradient needs the logs themselves
        rows: Tensor = -times_log(shares, log_softmax(logits, dim)).sum(dim)
        return rows
    rows = _dense_cross_entropy(logits, shares, dim)[0]
    return rows


class _IndexCrossEntropy(Function):
    """Losses and their gradient; the latter is an output so that it can be differentiated again."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, target: Tensor, is_ignored: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        index = target.unsqueeze(dim)
        largest = x.amax(dim, keepdim=True)
        terms = shifted_exp(x, largest)
        own = terms.gather(dim, index)
        others = terms.scatter_(dim, index, 0.0).sum(dim, keepdim=True)
        total = others + own
        gap = row_shift(largest) - x.gather(dim, index)
        # Below the shift the own term may underflow, and nothing cancels
        far = torch.where(total == 0, math.inf, total.log() + gap)
        loss = torch.where(gap <= 0, torch.log1p(others / or_one(own)), far)
        grad = terms.scatter_(dim, index, -others).div_(or_one(total))
        return _finished(
            loss, grad, torch.zeros_like(total, dtype=torch.bool), is_ignored.unsqueeze(dim), dim
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        _, target, is_ignored, ctx.dim = inputs
        ctx.save_for_backward(target, is_ignored, output[1])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor | None, grad_grad: Tensor | None) -> Any:
        target, is_ignored, grad = ctx.saved_tensors
        dim = ctx.dim
        result = None
        if grad_loss is not None:
            result = grad_loss.unsqueeze(dim) * grad
        # Only a double backward brings the second, and the compiler, which has none, brings zeros
        if grad_grad is not None and not torch.compiler.is_compiling():
            one = (~is_ignored).to(grad.dtype).unsqueeze(dim)
            share = grad.scatter_add(dim, target.unsqueeze(dim), one)
            second = softmax_gradient(share, grad_grad, dim)
            result = second if result is None else result + second
        return result, None, None, None


class _DenseCrossEntropy(Function):
    """The same for target probabilities, whose gradient is taken elsewhere."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, target: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        top = argmax(x, dim)
        largest, top_target = x.gather(dim, top), target.gather(dim, top)
        total = target.sum(dim, keepdim=True)
        # sum(t * (max - x)) + log1p(rest) * sum(t): nothing cancels, a target of 0 counts nothing
        below_sum = _gaps(x, largest, target, dim)
        terms, top_term, rest = terms_top_and_rest(x, top, dim)
        loss = below_sum + total * (rest / or_one(top_term)).log1p()
        scale = total / or_one(rest + top_term)
        is_empty = largest == -math.inf
        # An empty row has no gradient; a row without targets has scale 0
        grad = terms.mul_(scale).addcmul_(target, (~is_empty).to(x.dtype), value=-1)
        top_grad = (top_term * scale - top_target).masked_fill(is_empty, 0.0)
        grad = _with_top(grad, top, top_grad, rest < top_term, dim)
        return loss.masked_fill(is_empty, math.inf).masked_fill(total == 0, 0.0).squeeze(dim), grad

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        _, target, ctx.dim = inputs
        ctx.save_for_backward(target, output[1])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor | None, grad_grad: Tensor | None) -> Any:
        target, grad = ctx.saved_tensors
        dim = ctx.dim
        result = None if grad_loss is None else grad_loss.unsqueeze(dim) * grad
        if grad_grad is not None and not torch.compiler.is_compiling():
            total = target.sum(dim, keepdim=True)
            share = (grad + target) / or_one(total)
            second = total * softmax_gradient(share, grad_grad, dim)
            result = second if result is None else result + second
        return result, None, None


class _SmoothedCrossEntropy(Function):
    """The same for a target of `spread` everywhere and `peak` more at one index, which is never laid out."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, target: Tensor, spread: Tensor, peak: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        top, index = argmax(x, dim), target.unsqueeze(dim)
        spread, peak = spread.unsqueeze(dim), peak.unsqueeze(dim)
        largest = x.gather(dim, top)
        below_sum = _gaps(x, largest, dim) * spread + (largest - x.gather(dim, index)) * peak
        total = spread * x.shape[dim] + peak
        terms, top_term, rest = terms_top_and_rest(x, top, dim)
        loss = below_sum + total * (rest / or_one(top_term)).log1p()
        scale = total / or_one(rest + top_term)
        grad = terms.mul_(scale).sub_(spread).scatter_add_(dim, index, -peak)
        top_grad = top_term * scale - spread - peak * (index == top)
        grad = _with_top(grad, top, top_grad, rest < top_term, dim)
        return _finished(loss, grad, largest == -math.inf, total == 0, dim)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        *rows, ctx.dim = inputs[1:]
        ctx.save_for_backward(*rows, output[1])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor | None, grad_grad: Tensor | None) -> Any:
        target, spread, peak, grad = ctx.saved_tensors
        dim = ctx.dim
        result = None if grad_loss is None else grad_loss.unsqueeze(dim) * grad
        if grad_grad is not None and not torch.compiler.is_compiling():
            total = (spread * grad.shape[dim] + peak).unsqueeze(dim)
            share = grad + spread.unsqueeze(dim)
            share = share.scatter_add(dim, target.unsqueeze(dim), peak.unsqueeze(dim)) / or_one(total)
            second = total * softmax_gradient(share, grad_grad, dim)
            result = second if result is None else result + second
        return result, None, None, None, None


@by_rows
def _gaps(x: Tensor, largest: Tensor, *target_and_dim: Any) -> Tensor:
    """Sum of the differences from the largest logit, weighted by target probabilities if there are any."""
    *target, dim = target_and_dim
    below = largest - x
    for weight in target:
        # 0 * inf is 0, and a NaN that was given is in other sums too
        below.mul_(weight).nan_to_num_(nan=0.0, posinf=math.inf, neginf=-math.inf)
    return below.sum(dim, keepdim=True)


def _with_top(grad: Tensor, top: Tensor, value: Tensor, is_dominant: Tensor, dim: int) -> Tensor:
    """Gradients with that of the favorite class: minus the sum of the others where it has most of the mass.

    There p * sum(t) - t cancels, and the gradients of a row add up to 0.
    """
    others = grad.scatter_(dim, top, 0.0).sum(dim, keepdim=True)
    return grad.scatter_(dim, top, torch.where(is_dominant, -others, value))


def _finished(
    loss: Tensor, grad: Tensor, is_empty: Tensor, is_ignored: Tensor, dim: int
) -> tuple[Tensor, Tensor]:
    """No gradient where a row is empty or counts nothing, whatever is in it."""
    loss = loss.masked_fill(is_empty, math.inf).masked_fill(is_ignored, 0.0)
    counts = (~(is_empty | is_ignored)).to(grad.dtype)
    return loss.squeeze(dim), zero_at_zero_(grad, counts.expand_as(grad))


_index_cross_entropy = rowwise(_IndexCrossEntropy)
_smoothed_cross_entropy = rowwise(_SmoothedCrossEntropy)
_dense_cross_entropy = rowwise(_DenseCrossEntropy)
