"""Clipping the gradient of each example by itself, before they are averaged."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from trimtab.types import wide_dtype

# The constant of torch.nn.utils.clip_grad_norm_
_EPS = 1e-6


class ExampleStats(NamedTuple):
    """What the examples of a batch came to, on the device of the parameters.

    Attributes:
        loss: Mean loss of those that count, 0-dim; nan if none does.
        norms: Norm of the gradient of each example before clipping, shape (num_examples,).
        num_clipped: How many were clipped, 0-dim.
        num_dropped: How many were left out because their loss or gradient is not finite, 0-dim.
    """

    loss: Tensor
    norms: Tensor
    num_clipped: Tensor
    num_dropped: Tensor


def clip_examples_(
    model: nn.Module,
    loss_fn: Callable[..., Tensor],
    batch: Sequence[Tensor],
    *,
    max_norm: float,
    chunk_size: int | None = None,
) -> ExampleStats:
    """Leave in `.grad` the mean of the gradients of all examples, each clipped to `max_norm` by itself.

    In place of `loss.backward()`: no example can pull the mean further than `max_norm / num_examples`,
    whatever is in it. One whose loss or gradient is not finite is left out, and the others are averaged; if
    all are, the gradients are NaN, and a guard decides. A `Guard.step(stats.loss)` may follow, with or
    without a clip on the mean.

    The gradients are those of the model in its mode of now, with other random numbers for each example.
    What `.grad` held before is dropped. Frozen parameters are left alone.

    Args:
        model: The model.
        loss_fn: From the model and a batch of one to its loss: `loss_fn(model, *batch)`.
        batch: Tensors whose first dimension is the example.
        max_norm: Largest 2-norm of the gradient of an example. Finite and > 0.
        chunk_size: How many examples are looked at together; None for all.

    Raises:
        ValueError: An argument is out of its range; or a batch normalization in training mode mixes the
            examples, so that none has a gradient of its own.

    Cost:
        Memory for `chunk_size` sets of gradients; the time of a batch of one, vectorized; no host read.
        Models that `torch.func.vmap` cannot run (such as `nn.LSTM`) cannot be used.

    Example:
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> batch = (torch.tensor([[0.5], [2.0], [float("nan")]]),)
        >>> stats = clip_examples_(model, lambda model, x: model(x).sum(), batch, max_norm=1.0)
        >>> stats.norms, stats.num_clipped, stats.num_dropped
        (tensor([0.5000, 2.0000,    nan], dtype=torch.float64), tensor(1), tensor(1))
        >>> model.weight.grad.round(decimals=4)
        tensor([[0.7500]])

    References:
        Abadi et al., "Deep Learning with Differential Privacy", 2016, arXiv:1607.00133: the clip. Without
        its noise nothing here is private.
    """
    _check(model, batch, max_norm, chunk_size)
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    whole = _Loss(model, loss_fn)

    def loss_of_one(own: dict[str, Tensor], *example: Tensor) -> Tensor:
        inputs = tuple(part.unsqueeze(0) for part in example)
        loss: Tensor = functional_call(whole, {f"model.{name}": p for name, p in own.items()}, inputs)
        return loss

    in_dims = (None, *[0] * len(batch))
    of_each = vmap(grad_and_value(loss_of_one), in_dims=in_dims, randomness="different")
    detached = {name: p.detach() for name, p in parameters.items()}
    chunks = zip(*(torch.split(part, chunk_size or len(part)) for part in batch), strict=True)
    sums: dict[str, Tensor] = {}
    norms, factors, losses = [], [], []
    for chunk in chunks:
        gradients, own_losses = of_each(detached, *chunk)
        own_norms = _norms(list(gradients.values()))
        is_good = own_norms.isfinite() & own_losses.isfinite()
        factor = torch.where(is_good, (max_norm / (own_norms + _EPS)).clamp(max=1.0), 0.0)
        for name, gradient in gradients.items():
            part = _weighted_sum(gradient, factor, is_good)
            sums[name] = sums[name] + part if name in sums else part
        norms.append(own_norms)
        factors.append(factor)
        losses.append(own_losses.detach().to(own_norms.dtype))
    return _concluded(parameters, sums, *map(torch.cat, (norms, factors, losses)))


@torch.no_grad()
def _concluded(
    parameters: dict[str, nn.Parameter],
    sums: dict[str, Tensor],
    norms: Tensor,
    factors: Tensor,
    losses: Tensor,
) -> ExampleStats:
    is_good = factors > 0
    num_good = is_good.sum()
    for name, parameter in parameters.items():
        parameter.grad = (sums[name] / num_good).to(parameter.dtype)
    return ExampleStats(
        loss=torch.where(is_good, losses, 0.0).sum() / num_good,
        norms=norms,
        num_clipped=(is_good & (factors < 1)).sum(),
        num_dropped=len(norms) - num_good,
    )


class _Loss(nn.Module):
    """Model and loss as one module, so that a loss may call the model as it likes."""

    def __init__(self, model: nn.Module, loss_fn: Callable[..., Tensor]) -> None:
        super().__init__()
        self.model = model
        self._loss_fn = loss_fn
        self.training = model.training

    def forward(self, *batch: Tensor) -> Tensor:
        """The loss of a batch."""
        return self._loss_fn(self.model, *batch)


def _norms(gradients: Sequence[Tensor]) -> Tensor:
    """The norm of each example's gradients together, in the widest type of the device."""
    wide = wide_dtype(gradients[0].device)
    each = [torch.linalg.vector_norm(g.flatten(1), dim=1, dtype=_of_kind(g, wide)) for g in gradients]
    norms: Tensor = torch.linalg.vector_norm(torch.stack(each), dim=0)
    return norms


def _of_kind(tensor: Tensor, wide: torch.dtype) -> torch.dtype:
    return wide.to_complex() if tensor.is_complex() else wide


def _weighted_sum(gradient: Tensor, factor: Tensor, is_good: Tensor) -> Tensor:
    """The sum over examples, halves in float32; what is bad is passed over and never multiplied."""
    shape = (-1, *[1] * (gradient.dim() - 1))
    kept = torch.where(
        is_good.view(shape), gradient, torch.zeros((), dtype=gradient.dtype, device=gradient.device)
    )
    kept = kept.float() if kept.dtype.itemsize < 4 else kept
    total: Tensor = torch.tensordot(factor.to(kept.dtype), kept, dims=1)
    return total


def _check(model: nn.Module, batch: object, max_norm: float, chunk_size: int | None) -> None:
    if isinstance(max_norm, bool) or not (math.isfinite(max_norm) and max_norm > 0):
        raise ValueError(f"clip_examples_(max_norm={max_norm}): expected a finite number > 0.")
    if chunk_size is not None and (not isinstance(chunk_size, int) or chunk_size < 1):
        raise ValueError(f"clip_examples_(chunk_size={chunk_size!r}): expected a whole number >= 1, or None.")
    _check_batch(batch)
    if not any(p.requires_grad for p in model.parameters()):
        raise ValueError(f"clip_examples_({type(model).__name__}): no parameter requires a gradient.")
    mixing = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training
    ]
    if mixing:
        raise ValueError(
            f"clip_examples_: {', '.join(mixing[:3])} normalizes over the batch, so that no example has a "
            "gradient of its own. Use GroupNorm or LayerNorm, or put that module in eval mode."
        )


def _check_batch(batch: object) -> None:
    hint = "a tensor: write (batch,)"
    if isinstance(batch, (tuple, list)):
        shapes = [tuple(part.shape) if isinstance(part, Tensor) else part for part in batch]
        sizes = {shape[0] if isinstance(shape, tuple) and shape else None for shape in shapes}
        if len(sizes) == 1 and not sizes & {0, None}:
            return
        hint = str(shapes)
    raise ValueError(
        "clip_examples_(batch): expected a tuple of tensors with the same number of examples first, got "
        f"{hint}."
    )
