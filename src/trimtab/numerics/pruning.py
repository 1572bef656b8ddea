"""Pruning by magnitude: exactly as many entries as asked for."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.utils import prune


def magnitude_mask(tensor: Tensor, sparsity: float) -> Tensor:
    """Mask that drops the smallest entries: exactly round(sparsity * n) of them.

    Ties go by index: of equal magnitudes the first ones are dropped. NaN counts as larger than anything,
    so that it is kept and seen.

    Args:
        tensor: Any shape.
        sparsity: Share of the entries to drop, from 0 to 1.

    Returns:
        bool, True where an entry stays, in the shape of `tensor`.

    Raises:
        ValueError: `sparsity` is outside of [0, 1].

    Cost:
        A selection, not a sort: a few passes. One host read.

    Example:
        >>> from trimtab.numerics import magnitude_mask
        >>> magnitude_mask(torch.tensor([1.0, -1.0, 1.0, 5.0]), 0.5).tolist()
        [False, False, True, True]
    """
    if not 0.0 <= sparsity <= 1.0:
        raise ValueError(f"magnitude_mask(sparsity={sparsity}): expected a share from 0 to 1.")
    return _keep_largest(tensor.detach().abs().flatten(), round(sparsity * tensor.numel())).view(tensor.shape)


def magnitude_pruning(tensor: Tensor, sparsity: float) -> Tensor:
    """A copy of a tensor with its smallest entries set to 0; see `magnitude_mask`.

    Example:
        >>> from trimtab.numerics import magnitude_pruning
        >>> magnitude_pruning(torch.tensor([3.0, -1.0, 2.0]), 1 / 3).tolist()
        [3.0, 0.0, 2.0]
    """
    return torch.where(magnitude_mask(tensor, sparsity), tensor, torch.zeros_like(tensor))


def prune_layers(
    model: nn.Module, sparsity: float, *, parameters: Iterable[tuple[nn.Module, str]] | None = None
) -> dict[str, int]:
    """Prune every weight to the same sparsity, with the masks of `torch.nn.utils.prune`.

    Args:
        model: A module.
        sparsity: Share of each weight that is 0 afterwards, from 0 to 1. What an earlier call dropped
            stays dropped and counts.
        parameters: Pairs of module and parameter name; by default every `weight` with two dimensions or
            more, of any module of the model.

    Returns:
        Number of dropped entries by name of the weight.

    Raises:
        ValueError: `sparsity` is outside of [0, 1], or there is nothing to prune; nothing was changed.

    Cost:
        A selection in each weight, one host read for each.

    Example:
        >>> from trimtab.numerics import prune_layers
        >>> model = torch.nn.Sequential(torch.nn.Linear(10, 10), torch.nn.Linear(10, 10))
        >>> prune_layers(model, 0.29)
        {'0.weight': 29, '1.weight': 29}

    References:
        Han, Pool, Tran and Dally, "Learning both weights and connections", 2015, arXiv:1506.02626.
    """
    chosen = _chosen(model, parameters, sparsity)
    masks = []
    for _, module, name in chosen:
        magnitude = _magnitude(module, name)
        masks.append(_keep_largest(magnitude, round(sparsity * magnitude.numel())))
    return _apply(chosen, masks)


def prune_globally(
    model: nn.Module, sparsity: float, *, parameters: Iterable[tuple[nn.Module, str]] | None = None
) -> dict[str, int]:
    """Prune the smallest entries of all weights together: one budget for the model.

    Args:
        model: A module.
        sparsity: Share of all entries that is 0 afterwards, from 0 to 1.
        parameters: As for `prune_layers`. Ties go by order in the model, then by index.

    Returns:
        Number of dropped entries by name of the weight.

    Raises:
        ValueError: As for `prune_layers`; nothing was changed.

    Cost:
        A copy of all magnitudes in float32, one selection.

    Example:
        >>> from trimtab.numerics import prune_globally
        >>> model = torch.nn.Sequential(torch.nn.Linear(10, 10), torch.nn.Linear(10, 10))
        >>> _ = model[0].weight.data.mul_(1e-3)
        >>> prune_globally(model, 0.5)
        {'0.weight': 100, '1.weight': 0}
    """
    chosen = _chosen(model, parameters, sparsity)
    magnitudes = [_magnitude(module, name) for _, module, name in chosen]
    home = magnitudes[0].device
    together = torch.cat([m.to(home) for m in magnitudes])
    keep = _keep_largest(together, round(sparsity * together.numel()))
    parts = torch.split(keep, [m.numel() for m in magnitudes])
    return _apply(chosen, [part.to(m.device) for part, m in zip(parts, magnitudes, strict=True)])


def _keep_largest(magnitude: Tensor, num_dropped: int) -> Tensor:
    """Mask without the `num_dropped` smallest; of equal ones the first go."""
    if not num_dropped:
        return torch.ones_like(magnitude, dtype=torch.bool)
    magnitude = torch.where(magnitude.isnan(), torch.inf, magnitude)
    threshold = magnitude.kthvalue(num_dropped).values
    keep = magnitude > threshold
    is_tied = magnitude == threshold
    num_smaller = magnitude.numel() - keep.sum() - is_tied.sum()
    # the first ties, as many as are still to go
    return keep | (is_tied & (is_tied.cumsum(0) > num_dropped - num_smaller))


def _chosen(
    model: nn.Module, parameters: Iterable[tuple[nn.Module, str]] | None, sparsity: float
) -> list[tuple[str, nn.Module, str]]:
    if not 0.0 <= sparsity <= 1.0:
        raise ValueError(f"pruning(sparsity={sparsity}): expected a share from 0 to 1.")
    names = {module: name for name, module in model.named_modules()}
    pairs = [(m, "weight") for m in names if _is_prunable(m)] if parameters is None else list(parameters)
    if not pairs:
        raise ValueError("pruning(model): expected a weight with two dimensions or more.")
    chosen = []
    for module, name in pairs:
        prefix = names.get(module)
        if prefix is None or not isinstance(getattr(module, name, None), Tensor):
            raise ValueError(
                f"pruning(parameters): {type(module).__name__} with '{name}' is not in the model."
            )
        chosen.append((f"{prefix}.{name}" if prefix else name, module, name))
    return chosen


def _is_prunable(module: nn.Module) -> bool:
    # by parameter, not by attribute: `weight` of a module that is pruned already is a product
    weight = module._parameters.get("weight_orig", module._parameters.get("weight"))
    return weight is not None and weight.dim() >= 2 and weight.is_floating_point()


def _magnitude(module: nn.Module, name: str) -> Tensor:
    """Magnitudes as one row; those of entries that are dropped already come first."""
    original = module._parameters.get(f"{name}_orig", None)
    weight = getattr(module, name) if original is None else original
    magnitude = weight.detach().abs().float().flatten()
    mask = module._buffers.get(f"{name}_mask", None)
    return magnitude if mask is None else torch.where(mask.flatten() != 0, magnitude, -1.0)


def _apply(chosen: list[tuple[str, nn.Module, str]], masks: list[Tensor]) -> dict[str, int]:
    dropped = {}
    for (full_name, module, name), mask in zip(chosen, masks, strict=True):
        shape = getattr(module, name).shape
        prune.custom_from_mask(module, name, mask.view(shape))  # type: ignore[no-untyped-call]
        # torch joins it with the masks of earlier calls
        dropped[full_name] = int((getattr(module, f"{name}_mask") == 0).sum().item())
    return dropped
