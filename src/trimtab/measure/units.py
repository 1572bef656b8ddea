"""Norms of units: the rows, channels or tokens of a weight, each on its own."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from trimtab.measure.norms import tensor_norms
from trimtab.types import Units, wide_dtype

# Of longer units one float32 sum is not as good as what `tensor_norms` gives
_LONGEST = 1 << 15


def unit_dims(model: nn.Module) -> dict[Tensor, int]:
    """The dimension with one slice per unit, of each parameter for which it is not the first.

    Output rows of linear and convolution weights, tokens of embeddings and the rows of packed attention
    and recurrent weights lie along the first dimension. Transposed convolutions, and the linear layers
    that the GPT-2 code calls `Conv1D`, keep theirs along the second; in a transposed convolution with
    groups it holds one channel of every group. A depthwise one has its channels along the first.

    Example:
        >>> upsample = torch.nn.ConvTranspose2d(3, 8, 2)
        >>> list(unit_dims(upsample).values())
        [1]
    """
    found: dict[Tensor, int] = {}
    for module in model.modules():
        weight = module._parameters.get("weight")  # not the attribute: a parametrization computes that
        if weight is not None and weight.dim() >= 2 and _is_transposed(module):
            found[weight] = 1
    return found


def _is_transposed(module: nn.Module) -> bool:
    if isinstance(module, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
        return module.groups == 1 or module.groups < module.in_channels
    return type(module).__name__ == "Conv1D"


@torch.no_grad()
def units(parameters: Sequence[Tensor], dims: Sequence[int | None]) -> Units:
    """Norms of the units of every gradient and every parameter.

    Args:
        parameters: Parameters, with or without a gradient.
        dims: For each the dimension with one slice per unit, None for a whole that is one unit.

    Returns:
        Two norms per parameter, float32 or wider, of its rank, with size 1 in all dimensions but one.
        Finite elements of up to 32 bits never give an infinite norm.

    Cost:
        One pass over gradients and parameters, a kernel for each with several units and a foreach kernel for
        all others; no host read of device memory. On the CPU, a tensor with a unit whose sum leaves the range
        is read again.

    Example:
        >>> w = torch.nn.Parameter(torch.tensor([[3.0, 4.0], [0.0, 1.0]]))
        >>> w.grad = torch.ones(2, 2)
        >>> units([w], [0]).parameters[0].flatten().tolist()
        [5.0, 1.0]
    """
    return units_and_norms(parameters, dims)[0]


@torch.no_grad()
def units_and_norms(parameters: Sequence[Tensor], dims: Sequence[int | None]) -> tuple[Units, Tensor]:
    """Norms of units as `units` gives them, and the 2-norm of each gradient, for which nothing is read again.

    Args:
        parameters: Parameters, with or without a gradient; at least one has one.
        dims: As in `units`.

    Returns:
        The norms of units; and what `tensor_norms` gives for the gradients that there are, in their order.

    Cost:
        That of `units`; gradients with units of more than 32768 elements are read twice.

    Example:
        >>> w = torch.nn.Parameter(torch.ones(2, 2))
        >>> w.grad = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
        >>> units_and_norms([w], [0])[1].tolist()
        [5.0]
    """
    with_gradient = [None if p.grad is None else p for p in parameters]
    gradients = [None if p is None else p.grad for p in with_gradient]
    own, whole = _all_norms(gradients, dims)
    return Units(own, _all_norms(with_gradient, dims)[0]), _of_tensors(gradients, own, whole)


def _of_tensors(
    tensors: Sequence[Tensor | None], own: Sequence[Tensor | None], whole: dict[int, Tensor] | Tensor
) -> Tensor:
    """Norm of each tensor from those of its units."""
    if isinstance(whole, Tensor):
        return whole
    found = []
    for index, (tensor, norms) in enumerate(zip(tensors, own, strict=True)):
        if tensor is None or norms is None:
            continue
        norm = whole.get(index)
        if norm is None and tensor.numel() <= _LONGEST * norms.numel():
            norm = torch.linalg.vector_norm(norms, dtype=wide_dtype(norms.device))
        found.append(tensor_norms([tensor])[0] if norm is None else norm)
    home = found[0].device
    return torch.stack([norm.to(home, wide_dtype(home), non_blocking=True) for norm in found])


def _all_norms(
    tensors: Sequence[Tensor | None], dims: Sequence[int | None]
) -> tuple[tuple[Tensor | None, ...], dict[int, Tensor] | Tensor]:
    """Norms of the units of each; and of whole tensors by index or, if there are no others, all."""
    found: list[Tensor | None] = [None] * len(tensors)
    groups: dict[torch.device, list[tuple[int, Tensor]]] = {}
    whole: dict[int, Tensor] = {}
    for index, (tensor, dim) in enumerate(zip(tensors, dims, strict=True)):
        if tensor is None:
            continue
        if dim is None:
            groups.setdefault(tensor.device, []).append((index, tensor))
        else:
            found[index] = _norms(tensor, dim)
    for own in groups.values():
        norms = tensor_norms([tensor for _, tensor in own])
        for (index, tensor), norm in zip(own, norms.unsqueeze(1).unbind(), strict=True):
            found[index] = norm if tensor.dim() == 1 else norm.reshape((1,) * tensor.dim())
        if len(groups) == 1 and len(own) == sum(norm is not None for norm in found):
            return tuple(found), norms
        whole |= dict(zip([index for index, _ in own], norms.unbind(), strict=True))
    return tuple(found), whole


def _norms(tensor: Tensor, dim: int) -> Tensor:
    if tensor.layout is not torch.strided:
        tensor = tensor.to_dense()  # one norm per row all the same, and most rows are zero
    if tensor.is_complex():
        tensor = tensor.abs()
    dtype = torch.float64 if tensor.dtype is torch.float64 else torch.float32
    others = tuple(d for d in range(tensor.dim()) if d != dim)
    if not others:
        return tensor.abs().to(dtype)
    if tensor.device.type != "cpu":
        dtype = wide_dtype(tensor.device)  # float64 holds the square of any float32
    norms: Tensor = torch.linalg.vector_norm(tensor, 2, dim=others, keepdim=True, dtype=dtype)
    # host memory looked at from the host
    if tensor.device.type == "cpu" and not math.isfinite(norms.sum(dtype=torch.float64).numpy()):
        norms = torch.linalg.vector_norm(tensor, 2, dim=others, keepdim=True, dtype=torch.float64)
    return norms
