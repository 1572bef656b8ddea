"""The clip that compares each unit's gradient with the unit's weight."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, final

import torch
from torch import Tensor

from trimtab.decide.checks import check_positive
from trimtab.decide.patterns import check_all_match, check_patterns, matches
from trimtab.types import Each, Layout, Needs, Scale, StepStats

# Under a gradient norm of this the published code does not divide
_SMALLEST_NORM = 1e-6

# Norm of a row as torch.nn.Linear and convolutions initialise it, whatever the number of inputs:
# n draws from the uniform distribution on +-1/sqrt(n)
_INITIAL_NORM = 1 / math.sqrt(3)


class UnitFloors(NamedTuple):
    """What each unit's weight norm counts as at least.

    Attributes:
        floors: For each parameter, in the shape of its unit norms.
        is_known: Whether that parameter has been seen with a gradient, and its floors are final.
        is_used: Whether that parameter is clipped at all.
    """

    floors: tuple[Tensor, ...]
    is_known: tuple[bool, ...]
    is_used: tuple[bool, ...]


@final
@dataclass(frozen=True, slots=True)
class UnitClip:
    """Scale the gradient of each unit to at most `max_ratio` times the norm of its weight (AGC).

    A unit is an output row of a linear layer, an output channel of a convolution, transposed or not, a
    token of an embedding, a row of packed attention or recurrent weights; a vector or a scalar is one
    unit. With weight norm w and gradient norm g, 2-norms both, a unit with `g > M` is multiplied by
    `M / max(g, 1e-6)`, where `M = max_ratio * max(w, eps)`.

    Units that begin at (nearly) zero, with w < `eps` when they first get a gradient, are where the
    published rule fails: `M` is 1e-5 with its defaults, grows only as the weight does, and a
    zero-initialised residual branch, gain or head hardly trains. Here such a unit counts as what it would
    have been, had it not been set to zero: `M = max_ratio * max(w, floor)` from then on, where the
    floor is the median norm of the units of the same tensor that did not begin at zero, or
    1/sqrt(3) if all did: the norm of a row as torch initialises it, whatever its size. All other units
    follow the published rule to the letter. A run resumed with the guard's state keeps the floors.

    The authors leave out the final classifier: `exclude=("head",)`. A ratio of 0.01 was found for
    convolutional networks with large batches, and is reported as far too tight for a transformer.

    Args:
        max_ratio: Largest norm of a unit's gradient over that of its weight.
        eps: What a weight norm counts as at least, and below which it counts as zero.
        exclude: Parameters that are left alone: exact names, prefixes that end at a dot, or globs.
        norm_type: p of the norm that is measured and recorded; the rule does not use it.

    Raises:
        ValueError: An argument is out of its range. When a guard is made: nothing matches a pattern
            of `exclude`; the message names close matches.

    Cost:
        One pass over gradients and parameters for the norms, one over the gradients to scale them; no
        host read. Memory for one number per unit, kept in the guard's state.

    Example:
        >>> w = torch.nn.Parameter(torch.tensor([[3.0, 4.0], [0.0, 1.0]]))
        >>> w.grad = torch.ones(2, 2)
        >>> layout = Layout(w.device, ("weight",), ((2, 2),), (0,), (0,))
        >>> stats = StepStats(None, torch.tensor(2.0), units=measure.units([w], [0]))
        >>> clip = UnitClip(max_ratio=0.1)
        >>> clip.rescale(stats, clip.init(layout))[0].parts[0].factor
        tensor([[0.3536],
                [0.0707]])

    References:
        Brock et al., "High-Performance Large-Scale Image Recognition Without Normalization", 2021,
        arXiv:2102.06171: the rule, and `max_ratio`, `eps` and 1e-6.
    """

    needs: ClassVar[Needs] = Needs.UNITS

    max_ratio: float = 0.01
    eps: float = 1e-3
    exclude: tuple[str, ...] = ()
    norm_type: float = 2.0

    def __post_init__(self) -> None:
        check_positive("UnitClip", max_ratio=self.max_ratio, eps=self.eps, norm_type=self.norm_type)
        object.__setattr__(self, "exclude", check_patterns("UnitClip(exclude", self.exclude))

    def init(self, layout: Layout) -> UnitFloors:
        """No parameter seen yet.

        Raises:
            ValueError: Nothing matches a pattern of `exclude`.
        """
        check_all_match("UnitClip(exclude)", self.exclude, layout.names)
        shapes = [
            tuple(size if d == dim else 1 for d, size in enumerate(shape))
            for shape, dim in zip(layout.shapes, layout.unit_dims, strict=True)
        ]
        return UnitFloors(
            floors=tuple(torch.full(shape, self.eps, device=layout.device) for shape in shapes),
            is_known=(False,) * len(shapes),
            is_used=tuple(not any(matches(p, name) for p in self.exclude) for name in layout.names),
        )

    def rescale(self, stats: StepStats[Tensor], state: UnitFloors) -> tuple[Each | Scale, UnitFloors]:
        """One factor for each unit; where each parameter is one, all factors in one tensor."""
        assert stats.units is not None  # `needs` asks for them
        gradients, weights = stats.units
        parts: list[Scale | None] = [None] * len(gradients)
        floors, known = list(state.floors), list(state.is_known)
        single: dict[torch.device, list[int]] = {}
        for index, (gradient, weight) in enumerate(zip(gradients, weights, strict=True)):
            if gradient is None or weight is None or not state.is_used[index]:
                continue
            if gradient.numel() == 1:
                single.setdefault(gradient.device, []).append(index)
                continue
            # a state that was loaded is all on one device
            floors[index] = floors[index].to(weight.device) if known[index] else self._floors(weight)
            parts[index], known[index] = Scale(self._factor(gradient, weight, floors[index])), True
        for indices in single.values():  # a thousand vectors are judged in one go
            new = [i for i in indices if not known[i]]
            if new:
                # no other unit in these tensors
                began = torch.where(_stacked(weights, new) < self.eps, _INITIAL_NORM, self.eps).unbind()
                for index, floor in zip(new, began, strict=True):
                    floors[index], known[index] = floor.expand(floors[index].shape), True
            g, w, f = (_stacked(each, indices) for each in (gradients, weights, floors))
            factors = self._factor(g, w, f)
            if len(indices) == len(gradients):
                return Scale(factors), UnitFloors(tuple(floors), tuple(known), state.is_used)
            for index, factor in zip(indices, factors.unbind(), strict=True):
                parts[index] = Scale(factor)
        return Each(tuple(parts)), UnitFloors(tuple(floors), tuple(known), state.is_used)

    def _factor(self, gradient: Tensor, weight: Tensor, floor: Tensor) -> Tensor:
        """Factors of units from the norms of their gradients and weights."""
        most = self.max_ratio * torch.maximum(weight, floor)
        # a norm of NaN is not larger: the gradient stays as it is, NaN
        return torch.where(gradient > most, most / gradient.clamp(min=_SMALLEST_NORM), 1.0)

    def _floors(self, weight: Tensor) -> Tensor:
        """What units of a parameter that is seen for the first time count as at least."""
        is_zero = weight < self.eps
        is_typical = weight.isfinite() & (weight >= self.eps)
        typical = torch.where(is_typical, weight, math.nan).nanmedian()
        typical = torch.where(typical.isnan(), _INITIAL_NORM, typical)
        return torch.where(is_zero, typical, self.eps)


def _stacked(norms: Sequence[Tensor | None], indices: Sequence[int]) -> Tensor:
    """Some norms of one unit each, shape (num_indices,), on the device of the first."""
    # each call on a tensor counts here: most of these have the shape (1,) already
    chosen = [norm if norm.dim() == 1 else norm.reshape(1) for i in indices if (norm := norms[i]) is not None]
    home = chosen[0].get_device()
    return torch.cat([n if n.get_device() == home else n.to(chosen[0].device) for n in chosen])
