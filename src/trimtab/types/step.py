"""What is measured in a step, and what came of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trimtab.types.decisions import Action
from trimtab.types.faults import Culprit, Fault, Kind, Place, Verdict
from trimtab.types.origin import Origin

T = TypeVar("T", Tensor, float)


def wide_dtype(device: torch.device) -> torch.dtype:
    """The widest floating type of a device: float64, which keeps a norm beyond float32; MPS has none."""
    return torch.float32 if device.type == "mps" else torch.float64


# What each kind of fault, and clipping all of a gradient away, takes from the stability score of a step
STABILITY_WEIGHTS = {Kind.NAN: 0.3, Kind.INF: 0.2, Kind.OVERFLOW: 0.1}
CLIPPING_WEIGHT = 0.1


class Units(NamedTuple):
    """Norms of the units of each gradient and its parameter, shaped to broadcast against it.

    None stands for a parameter without a gradient.
    """

    gradients: tuple[Tensor | None, ...]
    parameters: tuple[Tensor | None, ...]


@dataclass(frozen=True, slots=True)
class StepStats(Generic[T]):
    """What was measured in one step: 0-dim tensors on the device, or floats once read.

    Attributes:
        loss: The loss, or None when the guard was not given one.
        grad_norm: Global norm of all gradients, before clipping.
        clip_factor: What clipping leaves of the norm: the one factor of all gradients, else the norm
            after over the norm before. None without a clip.
        tensor_norms: Norm of each gradient, shape (num_gradients,), in the order of the gradients:
            a tensor on the device, an array once read, None when nobody asked for it. For a clip that
            needs them, in the layout's order with 0 for a parameter without a gradient.
        clip_share: Share of the tensors, units or elements that were clipped. None for a clip with
            one factor for all.
        underflow: Share of gradient elements that are zero or subnormal, None when not looked at.
        num_dropped: Micro-batches left out of the gradients, None without gradient accumulation.
        num_overflowed: Those of them whose loss was finite.
        units: Norms of units, for a clip that needs them; never read.

    Example:
        >>> stats = StepStats(loss=torch.tensor(2.0), grad_norm=torch.tensor(4.0))
        >>> stats.read().grad_norm
        4.0
    """

    loss: T | None
    grad_norm: T
    clip_factor: T | None = None
    tensor_norms: Tensor | NDArray[np.float64] | None = None
    clip_share: T | None = None
    underflow: T | None = None
    num_dropped: T | None = None
    num_overflowed: T | None = None
    units: Units | None = None

    def read(self) -> StepStats[float]:
        """Bring all that is measured to the host in one copy.

        Cost:
            One device-to-host copy of (7 + num_gradients) numbers at most; none if already read.
        """
        if not isinstance(self.grad_norm, Tensor):
            return self  # T is float here
        device = self.grad_norm.device
        dtype = wide_dtype(device)
        scalars = {name: x for name in _SCALARS if isinstance(x := getattr(self, name), Tensor)}
        parts = [torch.stack([x.to(device, dtype) for x in scalars.values()])]
        if isinstance(self.tensor_norms, Tensor):
            parts.append(self.tensor_norms.to(dtype))
        values = np.array((torch.cat(parts) if len(parts) > 1 else parts[0]).tolist())
        numbers = dict(zip(scalars, values[: len(scalars)].tolist(), strict=True))
        return StepStats(
            **{name: numbers.get(name) for name in _SCALARS},
            tensor_norms=values[len(scalars) :] if len(parts) > 1 else None,
        )


_DONE = {
    Action.APPLY: "applied all the same",
    Action.MEND: "mended and applied",
    Action.SKIP: "skipped",
    Action.REWIND: "skipped, and the run rewound",
    Action.RETRY: "run again",
    Action.RAISE: "refused",
}

_SCALARS = tuple(f.name for f in fields(StepStats) if f.name not in ("tensor_norms", "units"))


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
        reason: Why this was done, in words; empty for a healthy step.
        verdict: What the fault is blamed on, if the step was run again to find out.
        rewound_to: Step whose state was restored; None without a rewind.
        origin: Where the first bad value was born; None for a healthy step, and for one that was not traced
            or in which the tracer found nothing.
        evidence: Folder with what is needed to run the step again elsewhere, or None.

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
    verdict: Verdict | None = None
    rewound_to: int | None = None
    origin: Origin | None = None
    evidence: Path | None = None

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
        """What clipping left of the norm: 1.0 when the gradients were left alone."""
        factor = self._numbers.clip_factor
        return factor if factor is not None and factor > 0 else 1.0  # NaN and 0 come from a bad norm

    @property
    def clip_share(self) -> float:
        """Share of what was clipped: of all (0 or 1), of tensors, of units or of elements, by the clip."""
        share = self._numbers.clip_share
        return float(self.clip_factor < 1.0) if share is None else share

    @property
    def num_dropped(self) -> int:
        """Micro-batches that were left out because they were bad."""
        return int(self._numbers.num_dropped or 0)

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
        because = f" ({self.reason})" if self.reason else ""
        if not self.faults:
            return f"step {self.step}: {self.action.value}{because}"
        lines = [f"step {self.step} {_DONE[self.action]}{because}"]
        lines += [f"  {fault.summary}" for fault in self.faults]
        if self.origin is not None:
            lines += [f" {line}" for line in self.origin.describe().splitlines()]
        if self.evidence is not None:
            lines.append(f"  evidence  {self.evidence}")
        if self.verdict is not None:
            lines.append(f"  {self.verdict.blame.value}: {'; '.join(self.verdict.evidence)}")
        return "\n".join(lines)
