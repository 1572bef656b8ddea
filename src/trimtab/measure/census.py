"""The exact count of bad numbers, taken only once a step is known to be bad."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from trimtab.measure.norms import tensor_norms
from trimtab.types import OF_THE_STEP, Culprit, Fault, Kind, Place

Named = Sequence[tuple[str, Tensor]]


@dataclass(frozen=True, slots=True)
class Suspects:
    """Everything in which a bad number may sit, by name.

    Attributes:
        gradients: Gradients of this step.
        parameters: Parameters, as they are before the step.
        buffers: Floating-point buffers.
        optimizer_state: Floating-point tensors of the optimizer's state.
    """

    gradients: Named
    parameters: Named = ()
    buffers: Named = ()
    optimizer_state: Named = ()

    def at(self, place: Place) -> Named:
        """The tensors of one place."""
        of = {
            Place.GRADIENT: self.gradients,
            Place.PARAMETER: self.parameters,
            Place.BUFFER: self.buffers,
            Place.OPTIMIZER_STATE: self.optimizer_state,
        }
        return of.get(place, ())


@torch.no_grad()
def census(
    tensors: Iterable[tuple[str, Tensor]], place: Place, *, threshold: float = math.inf
) -> tuple[Culprit, ...]:
    """Count NaN, Inf and too large elements of each tensor; healthy tensors are left out.

    Args:
        tensors: Name and tensor; types that cannot hold NaN or Inf are passed over.
        place: What these tensors are.
        threshold: Finite magnitudes above this count as overflow.

    Returns:
        One `Culprit` for each tensor that holds at least one bad element, in the order given.

    Cost:
        One pass for all, and about ten over each tensor that is bad; one host read for all and
        a few per bad tensor. Meant for faulty steps.

    Example:
        >>> w = torch.tensor([[1.0, float("inf")], [float("nan"), 2.0]])
        >>> (found,) = census([("w", w)], Place.PARAMETER)
        >>> found.num_nan, found.num_inf, found.first_bad_index, found.largest
        (1, 1, (0, 1), 2.0)
    """
    return tuple(counted.culprit for counted in _count_all(tensors, place, threshold))


class _Counted(NamedTuple):
    """A culprit, and where each kind of bad element is first."""

    culprit: Culprit
    first: dict[Kind, tuple[int, ...]]


def _count_all(tensors: Iterable[tuple[str, Tensor]], place: Place, threshold: float) -> list[_Counted]:
    """Every tensor that holds a bad element."""
    live = [(n, t) for n, t in tensors if (t.is_floating_point() or t.is_complex()) and t.numel()]
    if not live:
        return []
    # no element is larger than the norm: only norms above the threshold need a closer look
    norms = tensor_norms([t for _, t in live]).tolist()
    return [
        counted
        for (name, tensor), norm in zip(live, norms, strict=True)
        if not norm <= min(threshold, 1e300)
        for counted in [_count(name, tensor, place, threshold)]
        if counted.first
    ]


def examine(suspected: Sequence[Fault], suspects: Suspects, *, loss: float | None) -> tuple[Fault, ...]:
    """Turn the suspicion of the detectors into exact faults with culprits.

    A non-finite loss or gradient also calls for a look at parameters, buffers and optimizer state:
    bad numbers there are the cause, and skipping steps does not mend them.

    Args:
        suspected: What the detectors found in the step's statistics.
        suspects: The tensors to look at.
        loss: The loss of the step.

    Returns:
        Faults by place (causes first: parameter, buffer, optimizer state, loss, gradient) and kind,
        then spikes as they are: no single element makes one.
        A suspected overflow without one element above its threshold is dropped; a non-finite norm
        of finite elements (float64 beyond 1e154 on an accelerator) is an overflow without culprit.

    Cost:
        See `census`.
    """
    counted = [fault for fault in suspected if fault.kind not in OF_THE_STEP]
    places = {fault.place for fault in counted}
    kinds = {fault.kind for fault in counted}
    threshold = min((f.threshold for f in counted if f.threshold is not None), default=math.inf)
    faults: list[Fault] = []
    if kinds & {Kind.NAN, Kind.INF}:
        faults += _by_kind(suspects.parameters, Place.PARAMETER)
        faults += _by_kind(suspects.buffers, Place.BUFFER)
        faults += _by_kind(suspects.optimizer_state, Place.OPTIMIZER_STATE)
    if Place.LOSS in places and loss is not None:
        faults += _by_kind([("loss", torch.tensor(loss, dtype=torch.float64))], Place.LOSS, threshold)
    if Place.GRADIENT in places:
        found = _by_kind(suspects.gradients, Place.GRADIENT, threshold)
        is_nonfinite = any(f.place is Place.GRADIENT and f.kind is not Kind.OVERFLOW for f in counted)
        if not found and is_nonfinite:
            # every element is finite: the sum alone left the range of its type
            found = [Fault(Kind.OVERFLOW, Place.GRADIENT)]
        faults += found
    return (*faults, *(fault for fault in suspected if fault.kind in OF_THE_STEP))


def _by_kind(tensors: Iterable[tuple[str, Tensor]], place: Place, threshold: float = math.inf) -> list[Fault]:
    """One fault for each kind of bad number in these tensors, with the first index of that kind."""
    counted = _count_all(tensors, place, threshold)
    faults = []
    for kind in Kind:
        concerned = tuple(
            replace(culprit, first_bad_index=first[kind]) for culprit, first in counted if kind in first
        )
        if concerned:
            limit = threshold if kind is Kind.OVERFLOW else None
            faults.append(Fault(kind=kind, place=place, culprits=concerned, threshold=limit))
    return faults


def _count(name: str, tensor: Tensor, place: Place, threshold: float) -> _Counted:
    """Exact counts of one tensor."""
    indices = None
    values = tensor
    if tensor.layout is not torch.strided:
        values = tensor.coalesce()
        indices, values = values.indices(), values.values()
    if values.dtype.itemsize == 1:
        values = values.float()  # float8 has no arithmetic of its own
    magnitude = values.abs()
    is_nan = values.isnan()  # not of the magnitude: |nan + inf j| is Inf
    is_inf = magnitude.isinf() & ~is_nan
    is_overflow = (magnitude > threshold) & ~is_inf & ~is_nan
    bad = {Kind.NAN: is_nan, Kind.INF: is_inf, Kind.OVERFLOW: is_overflow}
    finite = magnitude[magnitude.isfinite()]
    largest = finite.max().item() if finite.numel() else math.nan
    flat = [mask.reshape(-1) for mask in bad.values()]
    nums: list[int] = torch.stack([mask.sum() for mask in flat]).tolist()
    firsts = torch.stack([mask.int().argmax() for mask in flat]).tolist()
    places = {
        kind: _where(index, values, indices)
        for kind, num, index in zip(bad, nums, firsts, strict=True)
        if num
    }
    earliest = min((i for num, i in zip(nums, firsts, strict=True) if num), default=0)
    num_nan, num_inf, num_overflow = nums
    first = _where(earliest, values, indices)
    shape = tuple(tensor.shape)
    culprit = Culprit(name, place, shape, num_nan, num_inf, num_overflow, first, float(largest))
    return _Counted(culprit, places)


def _where(flat: int, values: Tensor, indices: Tensor | None) -> tuple[int, ...]:
    """Index in the tensor of an element of its (for a sparse one, stored) values."""
    where = tuple(int(i) for i in np.unravel_index(flat, tuple(values.shape)))
    if indices is not None:
        where = (*indices[:, where[0]].tolist(), *where[1:])
    return where
