"""What the graph behind a loss tells, before `backward()` uses it up: which losses, of what, and chance."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from trimtab.measure.graph import activation_of, behind, name_of, signed, source_of
from trimtab.measure.loss_graph import SUM


class LossKind(str, Enum):
    """Which loss a node computes."""

    CROSS_ENTROPY = "cross-entropy"
    LOG_SOFTMAX = "a sum over log-softmax"
    BINARY_WITH_LOGITS = "binary cross-entropy with logits"
    BINARY = "binary cross-entropy"
    SQUARED = "squared error"
    ROBUST = "Huber loss"
    DIVERGENCE = "KL divergence"


_KINDS = {
    "NllLoss": LossKind.CROSS_ENTROPY,
    "NllLoss2D": LossKind.CROSS_ENTROPY,
    "LogSoftmax": LossKind.LOG_SOFTMAX,
    "BinaryCrossEntropyWithLogits": LossKind.BINARY_WITH_LOGITS,
    "BinaryCrossEntropy": LossKind.BINARY,
    "MseLoss": LossKind.SQUARED,
    "HuberLoss": LossKind.ROBUST,
    "SmoothL1Loss": LossKind.ROBUST,
    "KlDiv": LossKind.DIVERGENCE,
}


@dataclass(frozen=True, slots=True, eq=False)
class LossTerm:
    """One loss found in the graph.

    Attributes:
        kind: Which one.
        prediction: What it was given: log-probabilities, logits, probabilities or values.
        target: What it was compared with; None if the graph does not hold it.
        is_sum: Whether it is summed over the batch.
        has_log_softmax: Of a cross-entropy: whether a log-softmax stands before it.
        activation: Node that the prediction (the logits) came out of, such as `Softmax`; empty if none of
            interest could be found.
        activation_dim: The dimension of that softmax.
        value: The loss of this term alone, averaged.
        neutral: What a prediction that prefers nothing would cost: ln K, or ln 2.
        baseline: What the best constant prediction would cost on this batch: H(y), Var(y).
    """

    kind: LossKind
    prediction: Tensor
    target: Tensor | None = None
    is_sum: bool = False
    has_log_softmax: bool = False
    activation: str = ""
    activation_dim: int | None = None
    value: float = math.nan
    neutral: float = math.nan
    baseline: float = math.nan


def loss_terms(loss: Tensor, output: Tensor | None, candidates: Sequence[Tensor]) -> tuple[LossTerm, ...]:
    """The losses that a loss is made of. To be called before `backward()`.

    Args:
        loss: The loss with its graph.
        output: What the model returned: a squared error written by hand is recognized by it.
        candidates: Tensors of the batch, one of which may be its target.

    Cost:
        At most 400 nodes; some host reads for each loss that is found.

    Example:
        >>> z = torch.zeros(4, 3, requires_grad=True)
        >>> loss = torch.nn.functional.cross_entropy(z.softmax(1), torch.tensor([0, 1, 2, 0]))
        >>> [term] = loss_terms(loss, None, [])
        >>> term.kind.value, term.activation, round(term.neutral, 3)
        ('cross-entropy', 'Softmax', 1.099)
    """
    terms = []
    for node in behind(loss.grad_fn):
        kind = _KINDS.get(name_of(node))
        if kind is not None:
            terms.append(_READERS[kind](node))
        elif name_of(node) in ("Pow", "Abs") and output is not None:
            found = _by_hand(node, output, candidates)
            terms += [] if found is None else [found]
    return tuple(terms)


def _read_cross_entropy(node: Any) -> LossTerm:
    log_probabilities, target = node._saved_self.detach(), node._saved_target
    weight, ignored = node._saved_weight, signed(node._saved_ignore_index)
    before = source_of(node)
    has_log_softmax = before is not None and name_of(before) == "LogSoftmax"
    activation, dim = activation_of(before.next_functions[0][0] if has_log_softmax else before)
    classes = 1 if log_probabilities.dim() > 1 else 0
    num_classes = log_probabilities.shape[classes]
    labels = target[target != ignored].flatten()
    value = F.nll_loss(log_probabilities, target, weight, ignore_index=ignored)
    shares = torch.bincount(labels, minlength=num_classes).double()
    shares = shares if weight is None else shares * weight.double()
    shares = shares / shares.sum()
    return LossTerm(
        LossKind.CROSS_ENTROPY,
        log_probabilities,
        target,
        node._saved_reduction == SUM,
        has_log_softmax,
        activation,
        dim,
        value=float(value),
        neutral=math.log(num_classes),
        baseline=float(torch.special.entr(shares).sum()) if len(labels) else math.nan,
    )


def _read_log_softmax(node: Any) -> LossTerm:
    activation, dim = activation_of(node.next_functions[0][0])
    result = node._saved_result.detach()
    return LossTerm(
        LossKind.LOG_SOFTMAX, result, has_log_softmax=True, activation=activation, activation_dim=dim
    )


def _read_binary_with_logits(node: Any) -> LossTerm:
    logits, target = node._saved_self.detach(), node._saved_target
    weight, positive = node._saved_weight, node._saved_pos_weight
    activation, dim = activation_of(node.next_functions[0][0])

    def loss(x: Tensor) -> float:
        return float(F.binary_cross_entropy_with_logits(x, target, weight, pos_weight=positive))

    is_plain = weight is None and positive is None and len(target) > 1
    return LossTerm(
        LossKind.BINARY_WITH_LOGITS,
        logits,
        target,
        node._saved_reduction == SUM,
        activation=activation,
        activation_dim=dim,
        value=loss(logits),
        neutral=loss(torch.zeros_like(logits)),
        baseline=_binary_entropy(target) if is_plain else math.nan,
    )


def _read_binary(node: Any) -> LossTerm:
    probabilities, target, weight = node._saved_self.detach(), node._saved_target, node._saved_weight
    activation, dim = activation_of(node.next_functions[0][0])
    return LossTerm(
        LossKind.BINARY,
        probabilities,
        target,
        node._saved_reduction == SUM,
        activation=activation,
        activation_dim=dim,
        value=float(F.binary_cross_entropy(probabilities, target, weight)),
        neutral=float(F.binary_cross_entropy(torch.full_like(probabilities, 0.5), target, weight)),
        baseline=_binary_entropy(target) if weight is None and len(target) > 1 else math.nan,
    )


def _read_squared(node: Any) -> LossTerm:
    return _errors(node, LossKind.SQUARED, lambda x, y: (x - y).square())


def _read_robust(node: Any) -> LossTerm:
    delta, beta = getattr(node, "_saved_delta", None), getattr(node, "_saved_beta", 1.0)
    if delta is not None:
        return _errors(node, LossKind.ROBUST, lambda x, y: F.huber_loss(x, y, reduction="none", delta=delta))
    return _errors(node, LossKind.ROBUST, lambda x, y: F.smooth_l1_loss(x, y, reduction="none", beta=beta))


def _read_divergence(node: Any) -> LossTerm:
    before = source_of(node)
    has_log_softmax = before is not None and name_of(before) == "LogSoftmax"
    activation, dim = activation_of(before.next_functions[0][0] if has_log_softmax else before)
    return LossTerm(
        LossKind.DIVERGENCE,
        node._saved_self.detach(),
        has_log_softmax=has_log_softmax,
        activation=activation,
        activation_dim=dim,
    )


_READERS: dict[LossKind, Callable[[Any], LossTerm]] = {
    LossKind.CROSS_ENTROPY: _read_cross_entropy,
    LossKind.LOG_SOFTMAX: _read_log_softmax,
    LossKind.BINARY_WITH_LOGITS: _read_binary_with_logits,
    LossKind.BINARY: _read_binary,
    LossKind.SQUARED: _read_squared,
    LossKind.ROBUST: _read_robust,
    LossKind.DIVERGENCE: _read_divergence,
}


def _errors(node: Any, kind: LossKind, loss: Callable[[Tensor, Tensor], Tensor]) -> LossTerm:
    prediction, target = node._saved_self.detach(), node._saved_target.detach()
    activation, dim = activation_of(node.next_functions[0][0])
    center = target.float().mean(0, keepdim=True)  # for the squared error the best constant
    wide = target.float()
    return LossTerm(
        kind,
        prediction,
        target,
        node._saved_reduction == SUM,
        activation=activation,
        activation_dim=dim,
        value=float(loss(prediction.float(), wide).mean()),
        baseline=float(loss(center.expand_as(wide), wide).mean()) if _has_rows(target) else math.nan,
    )


def _by_hand(node: Any, output: Tensor, candidates: Sequence[Tensor]) -> LossTerm | None:
    """An error written as `(output - target) ** 2` or its `abs()`, if the numbers say that it is one.

    The absolute error of torch itself leaves the same graph.
    """
    is_square = name_of(node) == "Pow"
    if is_square and float(node._saved_exponent) != 2.0:
        return None
    kind = LossKind.SQUARED if is_square else LossKind.ROBUST
    difference, flat = node._saved_self.detach(), output.detach().flatten().float()
    for target in candidates:
        if _is_of_all_pairs(difference, flat, target):
            return LossTerm(kind, difference, target)
        if target.numel() != flat.numel() or difference.numel() != flat.numel():
            continue
        wide, errors = target.float(), difference.flatten().float().abs()
        if torch.allclose((flat - wide.flatten()).abs(), errors):
            rest = wide - (wide.mean(0) if is_square else wide.quantile(0.5, 0))
            rest = rest.square() if is_square else rest.abs()
            source = source_of(node)
            activation, dim = activation_of(source.next_functions[0][0] if source is not None else None)
            return LossTerm(
                kind,
                output.detach(),
                target,
                activation=activation,
                activation_dim=dim,
                value=float((errors.square() if is_square else errors).mean()),
                baseline=float(rest.mean()) if _has_rows(target) else math.nan,
            )
    return None


def _is_of_all_pairs(difference: Tensor, flat: Tensor, target: Tensor) -> bool:
    """Whether n predictions were broadcast against n targets."""
    num = flat.numel()
    if (
        num < 2
        or target.numel() != num
        or difference.shape[-2:] != (num, num)
        or difference.numel() != num**2
    ):
        return False
    pairs = (flat[:, None] - target.flatten().float()[None, :]).abs()
    seen = difference.reshape(num, num).float().abs()
    return torch.allclose(pairs, seen) or torch.allclose(pairs.T, seen)


def _has_rows(target: Tensor) -> bool:
    return target.dim() > 0 and len(target) > 1


def _binary_entropy(target: Tensor) -> float:
    share = target.double().mean(0)
    return float((torch.special.entr(share) + torch.special.entr(1 - share)).mean())
