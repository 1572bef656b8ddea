"""Checks of the flow through the layers: forward and backward gain over depth, and how layers begin."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from trimtab.prepare.calling import tensors_of
from trimtab.prepare.checks import Check, Number, nothing, ok, problem, unsure

# From one end of the network to the other. Ten plain ReLU layers as torch initializes them lose a factor of
# 6^(10/2) = 8,000 and train; residual and normalized networks stay within a factor of 100 at any depth.
_MAX_GAIN = 1e4
_MIN_LAYERS, _MIN_FIT = 3, 0.5
_MAX_TENSOR = 1 << 22  # elements looked at of an activation


class LayerFlow(NamedTuple):
    """What one layer passes on.

    Attributes:
        name: Dotted path of the module.
        spread: Standard deviation over the samples, root mean square over units.
        gradient: 2-norm of the gradient of the loss by its output; None if none came back.
    """

    name: str
    spread: float
    gradient: float | None


class _Seen:
    """Sums over the calls of one layer."""

    def __init__(self) -> None:
        self.variance = 0.0
        self.num_calls = 0
        self.squares: list[Tensor] = []


@contextmanager
def watching_layers(model: nn.Module) -> Iterator[Callable[[], tuple[LayerFlow, ...]]]:
    """Measure every layer with weights in the calls and backward passes of this context.

    Args:
        model: The model.

    Yields:
        A function that returns the layers in the order of their first call.

    Cost:
        A pass over each activation and each of their gradients; one host read for each layer.
    """
    seen: dict[str, _Seen] = {}

    def hook_of(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def look(module: nn.Module, args: Any, output: Any) -> None:
            del module, args
            values = next((t for t in tensors_of(output) if t.is_floating_point() and t.numel()), None)
            if values is None:
                return
            entry = seen.setdefault(name, _Seen())
            entry.num_calls += 1
            entry.variance += _variance(values.detach())
            if values.requires_grad:
                _note(values, entry.squares)

        return look

    handles = [
        module.register_forward_hook(hook_of(name))
        for name, module in model.named_modules()
        if any(p.dim() >= 2 for p in module.parameters(recurse=False))
    ]
    try:
        yield lambda: tuple(
            LayerFlow(
                name,
                math.sqrt(entry.variance / entry.num_calls),
                float(sum(entry.squares).sqrt()) if entry.squares else None,  # type: ignore[union-attr]
            )
            for name, entry in seen.items()
        )
    finally:
        for handle in handles:
            handle.remove()


def _note(values: Tensor, squares: list[Tensor]) -> None:
    """Have the squared norm of the gradient of these values noted, when it comes."""

    def on_gradient(gradient: Tensor) -> None:
        squares.append(gradient.double().square().sum())

    values.register_hook(on_gradient)  # type: ignore[no-untyped-call]


def _variance(values: Tensor) -> float:
    """Mean variance of the units over the samples."""
    if values.dim() < 2 or len(values) < 2:
        return float(values.double().var(unbiased=False)) if values.numel() > 1 else 0.0
    rows = values.reshape(len(values), -1)
    return float(rows[:, : max(1, _MAX_TENSOR // len(rows))].double().var(0, unbiased=False).mean())


class Gain(NamedTuple):
    """A straight line through the logarithms over depth.

    Attributes:
        total: Factor from the first layer to the last along the line.
        per_layer: Factor from one layer to the next.
        fit: R^2 of the line.
        num_layers: How many layers it goes through.
    """

    total: float
    per_layer: float
    fit: float
    num_layers: int


def gain_over_depth(values: Sequence[float]) -> Gain | None:
    """Fit a line to the logarithms of positive numbers; None with fewer than three of them.

    Args:
        values: One number per layer in the order of the forward pass; zeros and non-finite ones are left out.

    Example:
        >>> gain = gain_over_depth([1.0, 0.1, 0.01, 0.001])
        >>> round(gain.per_layer, 6), round(gain.total, 6), round(gain.fit, 6)
        (0.1, 0.001, 1.0)
    """
    points = [(i, math.log(v)) for i, v in enumerate(values) if math.isfinite(v) and v > 0]
    if len(points) < _MIN_LAYERS:
        return None
    x, y = np.array(points).T
    slope, start = np.polyfit(x, y, 1)
    residual, whole = float(((y - slope * x - start) ** 2).sum()), float(((y - y.mean()) ** 2).sum())
    fit = 1.0 - residual / whole if whole > 0 else 0.0
    total = float(np.exp(np.clip(slope * (x[-1] - x[0]), -700, 700)))
    return Gain(total, float(np.exp(slope)), fit, len(points))


def _steep(gain: Gain) -> bool:
    return gain.fit >= _MIN_FIT and max(gain.total, 1 / max(gain.total, 1e-300)) > _MAX_GAIN


_REMEDY = (
    "Initialize for the activation (He for ReLU, Glorot for tanh), use ReLU or GELU rather than sigmoid, and "
    "add normalization or residual connections."
)


def check_forward(layers: Sequence[LayerFlow]) -> Check:
    """Whether the differences between samples survive the way through the layers."""
    name = "forward gain"
    gain = gain_over_depth([layer.spread for layer in layers])
    if gain is None:
        return nothing(name, f"{len(layers)} layers with weights: too few for a trend")
    numbers = (
        Number("factor per layer", gain.per_layer),
        Number("over all layers", gain.total),
        Number("R^2", gain.fit),
    )
    if _steep(gain):
        verb = "shrinks" if gain.total < 1 else "grows"
        text = f"what tells samples apart {verb} by a factor of {_factor(gain)} over {gain.num_layers} layers"
        return problem(name, text, *numbers, advice=_REMEDY)
    return ok(name, f"factor {gain.per_layer:.2g} per layer over {gain.num_layers} layers", *numbers)


def check_backward(first: Sequence[LayerFlow], later: Sequence[LayerFlow]) -> Check:
    """Whether the gradient survives the way back.

    Layers whose gradient is exactly 0 are left out: the branches of a residual network that begin at zero. If
    too few remain, because the last layer itself begins at zero, the model after some steps is looked at.

    Args:
        first: The layers as the model was given.
        later: After some steps of training.
    """
    name = "backward gain"
    for layers, when in ((first, ""), (later, " after some steps")):
        gain = gain_over_depth([layer.gradient or 0.0 for layer in layers])
        if gain is None:
            continue
        back = 1 / gain.per_layer
        numbers = (
            Number("chi per layer", back**2),
            Number("over all layers", 1 / gain.total),
            Number("R^2", gain.fit),
        )
        if _steep(gain):
            verb = "shrinks" if gain.total > 1 else "grows"
            text = f"the gradient {verb} by a factor of {_factor(gain)} on its way back through "
            text += f"{gain.num_layers} layers{when}"
            return problem(name, text, *numbers, advice=_REMEDY)
        return ok(name, f"factor {back:.2g} per layer over {gain.num_layers} layers{when}", *numbers)
    if len(first) < _MIN_LAYERS:
        return nothing(name, f"{len(first)} layers with weights: too few for a trend")
    return unsure(name, "too few layers get a gradient that is not 0")


def _factor(gain: Gain) -> str:
    return f"{max(gain.total, 1 / max(gain.total, 1e-300)):.2g}"


def check_symmetry(model: nn.Module) -> Check:
    """Whether the units of each layer begin different from each other: equal ones stay equal for ever."""
    name = "symmetry"
    same = []
    for label, parameter in model.named_parameters():
        if (
            parameter.dim() < 2
            or len(parameter) < 2
            or parameter[0].numel() < 2
            or not parameter.requires_grad
        ):
            continue
        rows = parameter.detach().reshape(len(parameter), -1)
        # all zero is how residual branches and heads begin; all other units tell them apart
        if bool((rows == rows[:1]).all()) and bool((rows != 0).any()):
            same.append(label)
    if not same:
        return ok(name, "no layer begins with equal units")
    text = f"all units of {same[0]} begin equal" + (f", and {len(same) - 1} more" if len(same) > 1 else "")
    return problem(name, text, advice="Initialize with random numbers: equal units get equal gradients.")


def check_normalization(model: nn.Module, rows: dict[str, int]) -> Check:
    """Whether batch normalization sees enough values to take statistics of.

    Args:
        model: The model.
        rows: Values per channel, by name of each batch normalization that was called.
    """
    name = "normalization"
    if not rows:
        has = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())
        return nothing(
            name, "batch normalization is there, but not called" if has else "no batch normalization"
        )
    label, smallest = min(rows.items(), key=lambda item: item[1])
    if smallest < 4:
        text = f"{label} takes its statistics of {smallest} values per channel"
        advice = "Use a larger batch, or GroupNorm or LayerNorm, which do not depend on it."
        return problem(name, text, Number("values per channel", float(smallest)), advice=advice)
    return ok(name, f"at least {smallest} values per channel", Number("values per channel", float(smallest)))


@contextmanager
def watching_batchnorm(model: nn.Module) -> Iterator[dict[str, int]]:
    """Note the values per channel of each batch normalization called in this context.

    Args:
        model: The model.

    Yields:
        The numbers, by name.
    """
    rows: dict[str, int] = {}

    def hook_of(name: str) -> Callable[[nn.Module, Any], None]:
        def look(module: nn.Module, args: Any) -> None:
            x = args[0] if args else None
            if isinstance(x, Tensor) and module.training and x.dim() > 1:
                rows[name] = x.numel() // max(x.shape[1], 1)

        return look

    handles = [
        m.register_forward_pre_hook(hook_of(name))
        for name, m in model.named_modules()
        if isinstance(m, nn.modules.batchnorm._BatchNorm)
    ]
    try:
        yield rows
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def check_conditioning(model: nn.Module) -> Check:
    """Whether weight matrices, other than zero ones, leave digits to compute with."""
    name = "conditioning"
    worst, label, lost = 0.0, "", 0.0
    for each, parameter in model.named_parameters():
        if parameter.dim() < 2 or not parameter.is_floating_point() or not bool(parameter.any()):
            continue
        matrix = parameter.reshape(len(parameter), -1)
        if min(matrix.shape) < 2 or max(matrix.shape) > 2048 or not bool(matrix.isfinite().all()):
            continue
        values = torch.linalg.svdvals(matrix.double())
        number = float(values[0] / values[-1]) if values[-1] > 0 else math.inf
        share = number * torch.finfo(parameter.dtype).eps
        if number > worst:
            worst, label, lost = number, each, share
    if not label:
        return nothing(name, "no weight matrix of a size that is looked at")
    numbers = (Number("largest condition number", worst),)
    text = f"at most {worst:.2g}, of {label}"
    # not a fault: a layer may begin with equal or zero rows on purpose
    note = "It has as good as dependent rows; nothing to do if that is meant." if lost > 1 else ""
    return ok(name, text, *numbers, advice=note)
