"""What policies see of a model, and what they want done. Decisions are data; `act` carries them out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, Flag, auto
from typing import TypeAlias

import torch
from torch import Tensor

from trimtab.types.faults import Place


class Action(Enum):
    """What was done with a step."""

    APPLY = "apply"
    MEND = "mend"  # bad numbers were written over, then the step was applied
    SKIP = "skip"
    REWIND = "rewind"
    RETRY = "retry"  # never in an outcome: the step was run again, and then decided
    RAISE = "raise"


class Needs(Flag):
    """What a clip or a detector wants measured besides the loss and the global norm."""

    NOTHING = 0
    TENSORS = auto()  # the norm of each tensor, in the layout's order
    UNITS = auto()  # the norm of each unit of each gradient and of its parameter
    ELEMENTS = auto()  # nothing but the bound is needed; the elements beyond it are counted
    UNDERFLOW = auto()  # the share of gradient elements that are zero or subnormal


@dataclass(frozen=True, slots=True)
class Layout:
    """The parameters of one optimizer, as a policy may know them.

    Attributes:
        device: Where statistics live.
        names: Dotted name of each parameter, in the optimizer's order.
        shapes: Shape of each.
        unit_dims: Dimension along which each has one slice per unit (output row, channel, token), or
            None for a vector or a scalar, which is one unit.
        groups: Index of the optimizer's parameter group that each belongs to.
        norm_shape: Shape of the `grad_norm` that the policy will see: () for the whole, (n,) for n
            groups judged at once.
    """

    device: torch.device
    names: tuple[str, ...] = ()
    shapes: tuple[tuple[int, ...], ...] = ()
    unit_dims: tuple[int | None, ...] = ()
    groups: tuple[int, ...] = ()
    norm_shape: tuple[int, ...] = ()

    def part(self, indices: Sequence[int]) -> Layout:
        """The layout of some of the parameters.

        Example:
            >>> Layout(torch.device("cpu"), ("a", "b"), ((), ()), (None, None), (0, 1)).part([1]).names
            ('b',)
        """
        return Layout(
            self.device,
            names=tuple(self.names[i] for i in indices),
            shapes=tuple(self.shapes[i] for i in indices),
            unit_dims=tuple(self.unit_dims[i] for i in indices),
            groups=tuple(self.groups[i] for i in indices),
            norm_shape=self.norm_shape,
        )


@dataclass(frozen=True, slots=True)
class Scale:
    """Multiply gradients by a factor in [0, 1], on their device.

    Attributes:
        factor: 0-dim for one factor; within an `Each` it may be of any shape that broadcasts against
            the gradient, as one factor per unit. Of shape (n,) when n groups were judged at once.
    """

    factor: Tensor


@dataclass(frozen=True, slots=True)
class Clamp:
    """Limit every element to [low, high]: numbers, or 0-dim tensors on the gradients' device."""

    low: float | Tensor
    high: float | Tensor


@dataclass(frozen=True, slots=True)
class Each:
    """One decision for each gradient, in the layout's order; None leaves a gradient alone."""

    parts: tuple[Scale | Clamp | None, ...]


# What a clip decides; None leaves all gradients alone
Rescaling: TypeAlias = Scale | Clamp | Each | None


@dataclass(frozen=True, slots=True)
class Replace:
    """Write over bad elements, keeping their sign; None leaves that kind as it is."""

    nan: float | None = 0.0
    inf: float | None = 0.0
    overflow: float | None = None


@dataclass(frozen=True, slots=True)
class ZeroTensors:
    """Write zeros over every tensor that holds a bad element."""


@dataclass(frozen=True, slots=True)
class RescaleTensors:
    """Scale tensors with finite overflow into range; elements that are not finite become 0."""


Mend: TypeAlias = Replace | ZeroTensors | RescaleTensors


@dataclass(frozen=True, slots=True)
class Back:
    """How far to rewind.

    Attributes:
        snapshots: 1 for the newest snapshot, 2 for the one before it, and so on.
        skip_batches: 0 takes the data back as well, so that all of it is seen again; 1 goes on with
            the batch after the faulty one; n leaves out n - 1 more.
    """

    snapshots: int = 1
    skip_batches: int = 1


@dataclass(frozen=True, slots=True)
class Decision:
    """What a remedy wants done with a step, and why.

    Attributes:
        action: What to do.
        reason: Why, in words.
        mends: For `Action.MEND`: what to write over, by place.
        back: For `Action.REWIND`: how far.
        otherwise: For `Action.RETRY`: what to do if the step cannot be run again, or is bad again. For
            `Action.REWIND`: what to do if there is no snapshot; None raises.
    """

    action: Action
    reason: str = ""
    mends: tuple[tuple[Place, Mend], ...] = field(default=())
    back: Back | None = None
    otherwise: Decision | None = None
