"""How many digits does each layer of a model cost?"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils import parametrize

from trimtab.numerics.conditioning import estimate_condition, is_singular_matrix
from trimtab.numerics.error_free import full_precision, widest
from trimtab.numerics.floating import machine_epsilon

# A documented limit for float64; narrower types reach 1 / eps, the loss of every digit, before it
_ILL_CONDITIONED = 1e10


class Method(Enum):
    """How a condition number was found."""

    EXACT = "exact"
    ESTIMATE = "estimate"


@final
@dataclass(frozen=True, slots=True)
class LayerConditioning:
    """How well one weight is conditioned, seen from the digits of its own type.

    Attributes:
        name: Dotted name of the parameter.
        shape: Its shape.
        dtype: Its type.
        condition: 2-norm condition number of the weight as a matrix: outputs by inputs, each group of a
            convolution a block of its own.
        method: Exact, or an estimate from below within a factor 3.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    condition: float
    method: Method

    @property
    def digits_lost(self) -> float:
        """log10 of the condition number: digits that inverting the layer costs."""
        return math.log10(self.condition)

    @property
    def digits_left(self) -> float:
        """Digits of the type minus digits lost; none are left at 0 or below."""
        return -math.log10(machine_epsilon(self.dtype)) - self.digits_lost

    @property
    def is_ill_conditioned(self) -> bool:
        """Condition number above 1e10, or above 1/eps of the type where that comes first; or NaN."""
        return not self.condition <= min(_ILL_CONDITIONED, 1 / machine_epsilon(self.dtype))


def check_conditioning(model: nn.Module, *, exact_up_to: int = 1024) -> tuple[LayerConditioning, ...]:
    """Condition number of every weight of a model, the worst first.

    A large one means that the layer squeezes some directions to nothing: what is lost there no later
    layer brings back, and gradients through it differ in scale by as much.

    Args:
        model: Its floating-point parameters with two dimensions or more are looked at, a pruned or
            parametrized weight as it is multiplied by; embeddings are not, for their rows are looked up and
            never multiplied as a matrix.
        exact_up_to: Weights whose shorter side is longer than this are estimated.

    Returns:
        One entry per weight, in the order of falling condition number, NaN first.

    Raises:
        ValueError: A weight has no numbers yet.

    Cost:
        The singular values of every weight up to `exact_up_to`, a factorization of the others. Reads to
        the host: for use outside of the loop.

    Example:
        >>> from trimtab.numerics import check_conditioning
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
        >>> _ = model[1].weight.data.copy_(torch.tensor([[1.0, 2.0], [2.0, 4.0]]))
        >>> worst = check_conditioning(model)[0]
        >>> worst.name, worst.condition, worst.digits_left, worst.is_ill_conditioned
        ('1.weight', inf, -inf, True)
    """
    found = []
    for module_name, module in model.named_modules():
        groups = module.groups if isinstance(module, _ConvNd) else 1
        for name, weight in _weights(module):
            full_name = f"{module_name}.{name}" if module_name else name
            if weight.is_meta or isinstance(weight, UninitializedParameter):
                raise ValueError(
                    f"check_conditioning(model): {full_name} has no numbers yet (a lazy layer, or the meta"
                    " device). Run a batch, or load the weights, first."
                )
            if weight.dim() >= 2 and weight.is_floating_point() and weight.numel():
                found.append(_layer(full_name, weight, groups, exact_up_to))
    return tuple(sorted(found, key=lambda f: (not math.isnan(f.condition), -f.condition)))


def _weights(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The weights that a module multiplies by: not the parts that they are made of."""
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag, parametrize.ParametrizationList)):
        return
    for name, weight in module.named_parameters(recurse=False):
        made = name.removesuffix("_orig")
        is_pruned = made != name and hasattr(module, f"{made}_mask")
        yield (made, getattr(module, made) * getattr(module, f"{made}_mask")) if is_pruned else (name, weight)
    for made, module_of_parts in getattr(module, "parametrizations", nn.ModuleDict()).items():
        if isinstance(module_of_parts, parametrize.ParametrizationList):
            yield made, getattr(module, made)


@full_precision
def _layer(name: str, weight: Tensor, groups: int, exact_up_to: int) -> LayerConditioning:
    with torch.no_grad():
        blocks = weight.detach().reshape(groups, weight.shape[0] // groups, -1)
        is_exact = min(blocks.shape[1:]) <= exact_up_to
        if is_exact:
            # the matrix is block diagonal: its singular values are those of all blocks
            whole = widest(blocks)
            if not bool(whole.isfinite().all()):
                condition = math.nan
            elif bool(is_singular_matrix(whole).any()):
                condition = math.inf
            else:
                values = torch.linalg.svdvals(whole)
                condition = (values.max() / values.min()).item()
        else:
            condition = max(estimate_condition(block, 2) for block in blocks)
    method = Method.EXACT if is_exact else Method.ESTIMATE
    return LayerConditioning(name, tuple(weight.shape), weight.dtype, condition, method)
