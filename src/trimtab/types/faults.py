"""What can be wrong in a step: where, how, in which tensors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum


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
    UNDERFLOW = "underflow"
    CLIPPING = "clipping"


# Worth saying, but no reason to refuse a step: remedies are not asked about these
ADVISORY = frozenset({Kind.UNDERFLOW, Kind.CLIPPING})

# Matters of the whole step, which no single element makes
OF_THE_STEP = ADVISORY | {Kind.SPIKE}


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
        kind: NaN, Inf, overflow, spike; or underflow or steady clipping, which are advisory.
        place: Where it was found.
        culprits: The tensors concerned, in the model's order; empty until the exact census is taken,
            and for what is a matter of the whole step, as a spike.
        threshold: What was exceeded, except for NaN and Inf; else None.
    """

    kind: Kind
    place: Place
    culprits: tuple[Culprit, ...] = ()
    threshold: float | None = None

    @property
    def is_advisory(self) -> bool:
        """Whether it is worth saying but no reason to refuse a step."""
        return self.kind in ADVISORY

    @property
    def summary(self) -> str:
        """One plain sentence: how many tensors, which first, how bad."""
        if self.kind is Kind.CLIPPING:
            return f"steady clipping: at least {self.threshold:.0%} of the last steps were clipped hard"
        if self.kind is Kind.UNDERFLOW:
            return f"underflow: more than {self.threshold:.0%} of the gradient is zero or subnormal"
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


class Blame(Enum):
    """What made a step go wrong, as far as running it again can tell."""

    TRANSIENT = "transient"  # the same step came out well the second time
    DATA = "data"
    STATE = "state"
    DETERMINISTIC = "deterministic"  # the same again, and nothing to compare with


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a fault is blamed on.

    Attributes:
        blame: The verdict.
        evidence: One sentence for each experiment that was made.
    """

    blame: Blame
    evidence: tuple[str, ...]
