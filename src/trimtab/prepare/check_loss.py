"""Checks of the loss: its first value, and whether it fits what the model gives it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim import LBFGS, SGD, Optimizer

from trimtab.measure.graph import unstable_forms
from trimtab.prepare.checks import Check, Number, nothing, ok, problem, unsure
from trimtab.prepare.loss_terms import LossKind, LossTerm

# Logits of standard deviation s cost about s^2/2 above chance; He's initialization gives s = 1.4, that is 1
_MAX_EXCESS, _MAX_EXCESS_SHARE = 2.0, 0.5
_MAX_TIMES_VARIANCE = 50.0
_TOLERANCE = 1e-3
_RANGES = {"Relu": (0.0, math.inf), "Sigmoid": (0.0, 1.0), "Softmax": (0.0, 1.0), "Tanh": (-1.0, 1.0)}
_MIN_OUTSIDE = 0.02  # share of targets beyond an activation's range that makes it the wrong one
_BOUNDED = ("Relu", "Tanh", "Sigmoid")


def check_initial_loss(loss: float, terms: Sequence[LossTerm]) -> Check:
    """Whether the first loss is about that of a model that knows nothing yet."""
    name = "initial loss"
    if not math.isfinite(loss):
        text = f"the loss of the first batch is {loss}"
        return problem(name, text, advice="Run trimtab.trace on this batch: it names where this was born.")
    known = [t for t in terms if math.isfinite(t.value)]
    if not known:
        return unsure(name, f"{loss:.4g}; no loss with a known chance level was found", Number("loss", loss))
    lines = []
    for term in known:
        found = _beyond_chance(term)
        if found is not None:
            return found
        chance = term.neutral if math.isfinite(term.neutral) else term.baseline
        below = " (below: it has learned already)" if term.value < 0.7 * chance else ""
        lines.append(f"{term.value:.3g} against {chance:.3g} by chance{below}")
    return ok(name, "; ".join(lines), Number("loss", loss), *_levels(known[0]))


def _levels(term: LossTerm) -> tuple[Number, ...]:
    levels = (Number("without preference", term.neutral), Number("best constant", term.baseline))
    return (Number("this loss", term.value), *(n for n in levels if math.isfinite(n.value)))


def _beyond_chance(term: LossTerm) -> Check | None:
    name = "initial loss"
    if math.isfinite(term.neutral):
        excess = term.value - term.neutral
        if excess > max(_MAX_EXCESS, _MAX_EXCESS_SHARE * term.neutral):
            text = (
                f"{term.kind.value} begins at {term.value:.4g}; without preference it is {term.neutral:.3g}"
            )
            advice = "The logits are too large: initialize the last layer smaller, or normalize before it."
            return problem(name, text, *_levels(term), advice=advice)
    elif term.baseline > 0 and term.value > _MAX_TIMES_VARIANCE * term.baseline:
        text = f"{term.kind.value} begins at {term.value:.4g}; predicting the mean costs {term.baseline:.3g}"
        advice = (
            "Standardize the targets, or set the last bias to their mean; if the predictions are too large, "
            "initialize the last layer smaller."
        )
        return problem(name, text, *_levels(term), advice=advice)
    return None


def check_activation(loss: Tensor, terms: Sequence[LossTerm], output: Tensor | None) -> Check:
    """Whether each loss gets what it expects: logits, log-probabilities, probabilities or values."""
    name = "loss and activation"
    if not terms:
        return unsure(
            name, "no loss of torch was found in the graph: " + loss.grad_fn.name() if loss.grad_fn else ""
        )
    for term in terms:
        found = _mismatch(term, output)
        if found is not None:
            text, advice = found
            return problem(name, text, advice=advice)
    notes = [t for t in terms if t.kind is LossKind.BINARY and t.activation == "Sigmoid"]
    advice = "binary_cross_entropy_with_logits of the raw output is exact for large ones." if notes else ""
    return ok(name, ", ".join(dict.fromkeys(t.kind.value for t in terms)), advice=advice)


def _mismatch(term: LossTerm, output: Tensor | None) -> tuple[str, str] | None:
    if term.kind in (LossKind.CROSS_ENTROPY, LossKind.LOG_SOFTMAX, LossKind.DIVERGENCE):
        return _of_classes(term, output)
    if term.kind in (LossKind.BINARY_WITH_LOGITS, LossKind.BINARY):
        if term.activation in ("Sigmoid", "Softmax") and term.kind is LossKind.BINARY_WITH_LOGITS:
            text = f"binary_cross_entropy_with_logits gets the output of a {term.activation.lower()}"
            return text, "Give it the raw output of the last layer: it applies the sigmoid itself."
        if term.activation == "Relu":
            return "the logits of a binary cross-entropy have passed a ReLU", _NO_ACTIVATION
        return None
    return _of_values(term)


_NO_ACTIVATION = "Leave the last layer without an activation."
_RAW = "Give the raw output of the last layer to cross_entropy, which applies log_softmax itself."


def _of_classes(term: LossTerm, output: Tensor | None) -> tuple[str, str] | None:
    classes = 1 if term.kind is LossKind.CROSS_ENTROPY and term.prediction.dim() > 1 else -1
    if term.kind is LossKind.CROSS_ENTROPY and term.prediction.shape[classes] == 1:
        text = "the cross-entropy is over a single class, and always 0"
        return text, "For one logit and labels 0 and 1 use binary_cross_entropy_with_logits."
    if term.kind is not LossKind.LOG_SOFTMAX and not _is_normalized(term.prediction, classes):
        text = f"{term.kind.value} gets numbers that are no log-probabilities"
        return (
            text,
            "Use cross_entropy on raw logits, or log_softmax over the class dimension before nll_loss.",
        )
    if not term.has_log_softmax:
        return None
    if term.activation == "Softmax" or _are_probabilities(term, output):
        text = "the logits of the cross-entropy are probabilities already: a softmax is applied twice"
        return text, _RAW
    if term.activation == "LogSoftmax":
        text = "log_softmax is applied twice: harmless, but no use"
        return text, "Use nll_loss on log-probabilities, or cross_entropy on raw logits."
    if term.activation in _BOUNDED:
        return f"the logits of the cross-entropy have passed a {term.activation.lower()}", _NO_ACTIVATION
    return None


def _is_normalized(log_probabilities: Tensor, dim: int) -> bool:
    total = torch.logsumexp(log_probabilities.double(), dim)
    return bool((total.abs() < 0.05).all()) or not bool(total.isfinite().all())


def _are_probabilities(term: LossTerm, output: Tensor | None) -> bool:
    """Whether the model's output is a distribution, and what the cross-entropy was given, by the numbers."""
    if output is None or output.shape != term.prediction.shape or output.dim() < 2 or output.shape[1] < 2:
        return False
    values = output.detach().double()
    is_distribution = bool((values >= 0).all()) and bool(((values.sum(1) - 1).abs() < _TOLERANCE).all())
    given = torch.log_softmax(values, 1)
    return is_distribution and torch.allclose(given, term.prediction.double(), atol=_TOLERANCE)


def _of_values(term: LossTerm) -> tuple[str, str] | None:
    if term.activation not in _RANGES or term.target is None:
        return None
    low, high = _RANGES[term.activation]
    target = term.target.double()
    outside = float(((target < low - _TOLERANCE) | (target > high + _TOLERANCE)).double().mean())
    if outside <= _MIN_OUTSIDE:
        return None
    text = (
        f"{outside:.0%} of the targets cannot be reached: the output has passed a {term.activation.lower()}"
    )
    return text, _NO_ACTIVATION


def check_shapes(terms: Sequence[LossTerm], output: Tensor | None, num_rows: int) -> Check:
    """Whether prediction and target were compared one to one, and not broadcast against each other."""
    name = "shapes of the loss"
    values = [t for t in terms if t.kind in (LossKind.SQUARED, LossKind.ROBUST)]
    if not values or output is None:
        return nothing(name, "no loss that would broadcast its arguments")
    for term in values:
        if num_rows > 1 and term.prediction.numel() == output.numel() * num_rows:
            text = f"{output.numel()} predictions are compared in {term.prediction.numel()} pairs"
            advice = "Give both the same shape, as with output.squeeze(-1) or target.unsqueeze(-1)."
            return problem(name, text, advice=advice)
    return ok(name, "predictions and targets are compared one to one")


def check_stable_forms(loss: Tensor) -> Check:
    """Whether the graph holds formulas for which a stable function exists."""
    name = "stable forms"
    found = unstable_forms(loss)
    if not found:
        return ok(name, "no formula in the graph is known to overflow or lose its digits")
    instead = {
        "log(softmax(x))": "log_softmax",
        "log(sigmoid(x))": "logsigmoid, or binary_cross_entropy_with_logits",
        "log(sum(exp(x)))": "logsumexp",
        "log1p(exp(x))": "softplus",
        "exp(x) / sum(exp(x))": "softmax",
    }
    advice = "Use " + ", ".join(instead[form] for form in found) + "."
    return problem(name, f"computed as {', '.join(found)}: infinite or 0 for large x", advice=advice)


def _num_targets(term: LossTerm) -> int:
    return 0 if term.target is None else term.target.numel()


def check_reduction(loss: float, terms: Sequence[LossTerm], optimizer: Optimizer | None) -> Check:
    """Whether the loss is averaged, so that steps do not grow with the batch."""
    name = "reduction"
    if not terms:
        return unsure(name, "no loss of torch was found in the graph")
    sums = [t for t in terms if t.is_sum and t.target is not None]
    # summed by the loss and divided afterwards is an average, whatever it is divided by
    sums = [t for t in sums if loss > 0.5 * t.value * _num_targets(t) > 0 and _num_targets(t) > 1]
    if not sums:
        return ok(name, "averaged over the batch")
    text = "a loss is summed over the batch: gradients grow with its size"
    advice = 'Use reduction="mean", or choose the learning rate and a clip for this batch size.'
    if isinstance(optimizer, (SGD, LBFGS)):
        return problem(name, text, advice=advice)
    return ok(name, text + "; harmless for optimizers that normalize", advice=advice)
