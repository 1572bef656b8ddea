"""The frozen values that cross from one stage to the next. They hold facts; they do nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

T = TypeVar("T", Tensor, float)


def wide_dtype(device: torch.device) -> torch.dtype:
    """The widest floating type of a device: float64, which keeps a norm beyond float32; MPS has none."""
    return torch.float32 if device.type == "mps" else torch.float64


class Place(Enum):
    """Where in a training step a bad number was found."""

    LOSS = "loss"
    GRADIENT = "gradient"
    PARAMETER = "parameter"
    BUFFER = "buffer"
    OPTIMIZER_STATE = "optimizer state"


class Kind(Enum):
    """What is wrong with a number."""

    NAN = "NaN"
    INF = "Inf"
    OVERFLOW = "overflow"
    SPIKE = "spike"


# What each kind of fault, and clipping all of a gradient away, takes from the stability score of a step
STABILITY_WEIGHTS = {Kind.NAN: 0.3, Kind.INF: 0.2, Kind.OVERFLOW: 0.1}
CLIPPING_WEIGHT = 0.1


class Action(Enum):
    """What was done with a step."""

    APPLY = "apply"
    SKIP = "skip"
    RAISE = "raise"


@dataclass(frozen=True, slots=True)
class StepStats(Generic[T]):
    """What was measured in one step: 0-dim tensors on the device, or floats once read.

    Attributes:
        loss: The loss, or None when the guard was not given one.
        grad_norm: Global norm of all gradients, before clipping.
        clip_factor: What the clip multiplies all gradients by, or None without a clip.
        tensor_norms: Norm of each gradient, shape (num_gradients,), in the order of the gradients:
            a tensor on the device, an array once read, None when nobody asked for it.

    Example:
        >>> stats = StepStats(loss=torch.tensor(2.0), grad_norm=torch.tensor(4.0))
        >>> stats.read()
        StepStats(loss=2.0, grad_norm=4.0, clip_factor=None, tensor_norms=None)
    """

    loss: T | None
    grad_norm: T
    clip_factor: T | None = None
    tensor_norms: Tensor | NDArray[np.float64] | None = None

    def read(self) -> StepStats[float]:
        """Bring all that is measured to the host in one copy.

        Cost:
            One device-to-host copy of (3 + num_gradients) numbers at most; none if already read.
        """
        if not isinstance(self.grad_norm, Tensor):
            return self  # T is float here
        device = self.grad_norm.device
        dtype = wide_dtype(device)
        scalars = [x for x in (self.loss, self.grad_norm, self.clip_factor) if isinstance(x, Tensor)]
        parts = [torch.stack([x.to(device, dtype) for x in scalars])]
        if isinstance(self.tensor_norms, Tensor):
            parts.append(self.tensor_norms.to(dtype))
        values = np.array((torch.cat(parts) if len(parts) > 1 else parts[0]).tolist())
        numbers = iter(values[: len(scalars)].tolist())
        return StepStats(
            loss=None if self.loss is None else next(numbers),
            grad_norm=next(numbers),
            clip_factor=None if self.clip_factor is None else next(numbers),
            tensor_norms=values[len(scalars) :] if len(parts) > 1 else None,
        )


@dataclass(frozen=True, slots=True)
class Culprit:
    """One tensor that holds bad numbers, counted exactly.

    Attributes:
        name: Dotted name, as in `model.named_parameters()`; "loss" for the loss.
        place: Whether it is a gradient, a parameter, ...
        shape: Shape of the tensor.
        num_nan: Elements that are NaN. A complex element is NaN if either part is.
        num_inf: Elements that are infinite.
        num_overflow: Finite elements whose magnitude is above the detector's threshold.
        first_bad_index: Index of the first bad element in row-major order, of the first of the
            fault's own kind within a `Fault`; () for a 0-dim tensor.
        largest: Largest finite magnitude, nan when no element is finite.
    """

    name: str
    place: Place
    shape: tuple[int, ...]
    num_nan: int
    num_inf: int
    num_overflow: int
    first_bad_index: tuple[int, ...]
    largest: float

    @property
    def num_elements(self) -> int:
        """Number of elements of the tensor."""
        return math.prod(self.shape)

    def count(self, kind: Kind) -> int:
        """Number of elements that are bad in the way `kind` says."""
        counts = {Kind.NAN: self.num_nan, Kind.INF: self.num_inf, Kind.OVERFLOW: self.num_overflow}
        return counts.get(kind, 0)


@dataclass(frozen=True, slots=True)
class Fault:
    """Something is wrong in this step.

    Attributes:
        kind: NaN, Inf, overflow or spike.
        place: Where it was found.
        culprits: The tensors concerned, in the model's order; empty until the exact census is taken,
            and for a spike, which is a matter of the whole step.
        threshold: What was exceeded, for overflow and spike; else None.
    """

    kind: Kind
    place: Place
    culprits: tuple[Culprit, ...] = ()
    threshold: float | None = None

    @property
    def summary(self) -> str:
        """One plain sentence: how many tensors, which first, how bad."""
        what = f"{self.kind.value} in the {self.place.value}"
        if self.threshold is not None:
            what += f" (above {self.threshold:g})"
        if not self.culprits or self.place is Place.LOSS:
            return what
        first = self.culprits[0]
        more = f" and {len(self.culprits) - 1} more" if len(self.culprits) > 1 else ""
        return (
            f"{what} of {first.name}{more}: {first.count(self.kind)} of {first.num_elements} "
            f"elements, first bad index {first.first_bad_index}"
        )


@dataclass(frozen=True, slots=True)
class Decision:
    """What a remedy wants done with a step, and why."""

    action: Action
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Scale:
    """Multiply every gradient by one factor: a 0-dim tensor in [0, 1] on the gradients' device."""

    factor: Tensor


# No slots: `cached_property` keeps the one read in the instance's dict.
@dataclass(frozen=True)
class StepOutcome:
    """What happened to one step.

    With a remedy or a record the numbers were read when the step was decided, and cost nothing now.
    With neither, nothing was read: the first of `loss`, `grad_norm`, `clip_factor` and
    `stability_score` to be asked for brings them to the host in one copy.

    Attributes:
        step: Number of the step, counted from 0.
        stats: What was measured.
        applied: Whether the optimizer updated the parameters.
        action: What was done.
        faults: What was wrong; empty for a healthy step.
        reason: Why the remedy chose this action, in words; empty for a healthy step.
        origin: Where the first bad value was born. None until a tracer fills it in.

    Example:
        >>> stats = StepStats(loss=torch.tensor(2.0), grad_norm=torch.tensor(4.0),
        ...                   clip_factor=torch.tensor(0.25))
        >>> outcome = StepOutcome(step=7, stats=stats, applied=True, action=Action.APPLY)
        >>> outcome.loss, outcome.grad_norm, outcome.clip_factor, outcome.stability_score
        (2.0, 4.0, 0.25, 0.925)
    """

    step: int
    stats: StepStats[Tensor] | StepStats[float]
    applied: bool
    action: Action
    faults: tuple[Fault, ...] = ()
    reason: str = ""
    origin: None = None

    @cached_property
    def _numbers(self) -> StepStats[float]:
        return self.stats.read()

    @property
    def loss(self) -> float:
        """The loss; nan as well when the guard was not given one (see `stats.loss`)."""
        return math.nan if self._numbers.loss is None else self._numbers.loss

    @property
    def grad_norm(self) -> float:
        """Global norm of the gradients before clipping."""
        return self._numbers.grad_norm

    @property
    def clip_factor(self) -> float:
        """What the gradients were multiplied by: 1.0 when they were left alone."""
        factor = self._numbers.clip_factor
        return factor if factor is not None and factor > 0 else 1.0  # NaN and 0 come from a bad norm

    @property
    def culprits(self) -> tuple[Culprit, ...]:
        """The parameters whose gradients are bad, each once: those with NaN first, in the model's order."""
        found: dict[str, Culprit] = {}
        for culprit in (c for f in self.faults if f.place is Place.GRADIENT for c in f.culprits):
            known = found.setdefault(culprit.name, culprit)
            if culprit.first_bad_index < known.first_bad_index:
                found[culprit.name] = culprit
        return tuple(found.values())

    @property
    def stability_score(self) -> float:
        """Health of the step in [0, 1].

        1.0, minus 0.3 for any NaN, 0.2 for any Inf, 0.1 for any overflow and 0.1 times the share
        of the gradient that clipping took away (1 - clip_factor), and never below 0.
        """
        kinds = {fault.kind for fault in self.faults}
        score = 1.0 - CLIPPING_WEIGHT * (1.0 - self.clip_factor)
        score -= sum(weight * (kind in kinds) for kind, weight in STABILITY_WEIGHTS.items())
        return max(0.0, score)

    def describe(self) -> str:
        """The step in words: what was done, what was wrong in which tensors, and why it was done."""
        if not self.faults:
            return f"step {self.step}: {self.action.value}"
        done = {Action.APPLY: "applied all the same", Action.SKIP: "skipped", Action.RAISE: "refused"}
        lines = [f"step {self.step} {done[self.action]}" + (f" ({self.reason})" if self.reason else "")]
        lines += [f"  {fault.summary}" for fault in self.faults]
        return "\n".join(lines)
