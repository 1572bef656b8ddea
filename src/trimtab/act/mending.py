"""Writing over bad numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from trimtab.act.gradients import coalesced_, real_memory
from trimtab.types import Mend, Replace, RescaleTensors, ZeroTensors


@torch.no_grad()
def mend_(tensors: Sequence[Tensor], mend: Mend, *, limit: float = math.inf) -> None:
    """Write over the bad numbers of tensors that hold some, in place.

    Args:
        tensors: Tensors known to be bad, of floating or complex types, dense or sparse. The two parts
            of a complex element are mended each for itself.
        mend: What to write.
        limit: Finite magnitudes above this are bad too.

    Cost:
        A few passes over these tensors, no host read.

    Example:
        >>> g = torch.tensor([1.0, float("-inf"), float("nan"), 50.0])
        >>> mend_([g], Replace(nan=0.0, inf=9.0, overflow=7.0), limit=10.0)
        >>> g
        tensor([ 1., -9.,  0.,  7.])
    """
    for tensor in tensors:
        if isinstance(mend, ZeroTensors):
            tensor.zero_()
            continue
        coalesced_(tensor)
        values = real_memory(tensor)
        if isinstance(mend, RescaleTensors):
            _rescale(values, limit)
        else:
            _replace(values, mend, limit)


def _replace(values: Tensor, mend: Replace, limit: float) -> None:
    largest = torch.finfo(values.dtype).max
    if mend.overflow is not None and limit < math.inf:
        is_beyond = (values.abs() > limit) & values.isfinite()
        within = torch.full_like(values, min(mend.overflow, largest)).copysign(values)
        values.copy_(torch.where(is_beyond, within, values))
    inf = math.inf if mend.inf is None else min(mend.inf, largest)
    nan = math.nan if mend.nan is None else max(-largest, min(mend.nan, largest))
    torch.nan_to_num_(values, nan=nan, posinf=inf, neginf=-inf)


def _rescale(values: Tensor, limit: float) -> None:
    torch.nan_to_num_(values, nan=0.0, posinf=0.0, neginf=0.0)
    if limit < math.inf:
        largest = values.abs().max()
        # in float32 at least: the quotient of two halves may underflow
        factor = limit / largest.to(torch.promote_types(values.dtype, torch.float32))
        values.mul_(factor.clamp(max=1.0).nan_to_num(nan=1.0))
