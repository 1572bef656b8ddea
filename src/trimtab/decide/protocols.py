"""The three kinds of policy. A policy is a frozen value; what evolves is the state beside it.

The type says what a policy costs: a clip works on 0-dim tensors and never reads them; detectors and
remedies get floats and share the one read of the step.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import ClassVar, Protocol, TypeVar

from torch import Tensor

from trimtab.types import Decision, Fault, Layout, Needs, Rescaling, StepStats

S = TypeVar("S")


class Clip(Protocol[S]):
    """From the statistics of a step to what is done to its gradients."""

    @property
    def needs(self) -> Needs:
        """What it wants measured. A clip that needs nothing but the global norm can be used by group too."""
        ...

    @property
    def norm_type(self) -> float:
        """The p of the norm this clip wants measured."""
        ...

    def init(self, layout: Layout) -> S:
        """State before the first step: None, numbers, or a `NamedTuple` of tensors and states.

        Args:
            layout: The parameters; tensors of the state live on `layout.device`, and a state with one
                entry per judged norm has the shape `layout.norm_shape`.

        Raises:
            ValueError: The clip does not suit these parameters.
        """
        ...

    def rescale(self, stats: StepStats[Tensor], state: S) -> tuple[Rescaling, S]:
        """What to do to the gradients of this step, and the state after it.

        Args:
            stats: Statistics on the device. Must not be read.
            state: State after the previous applied step.
        """
        ...


class Detector(Protocol[S]):
    """From the statistics of a step to what is suspicious about it."""

    @property
    def needs(self) -> Needs:
        """What it wants measured."""
        ...

    def init(self) -> S:
        """State before the first step."""
        ...

    def detect(self, stats: StepStats[float], state: S) -> tuple[tuple[Fault, ...], S]:
        """Faults suspected in this step (culprits are found later), and the state after it.

        Args:
            stats: Statistics on the host.
            state: State after the previous step.
        """
        ...


class Refusal(Enum):
    """Which faulty steps a remedy refuses. A guard prepares for no more than it needs."""

    NEVER = "never"  # buffers need not be remembered
    SOMETIMES = "sometimes"
    ALWAYS = "always"  # a fused optimizer can be told on the device, before the host knows


class Remedy(Protocol[S]):
    """From the faults of a step to what is done about it."""

    refusal: ClassVar[Refusal]
    """Which faulty steps it refuses."""

    def init(self) -> S:
        """State before the first step."""
        ...

    def decide(self, faults: Sequence[Fault], stats: StepStats[float], state: S) -> tuple[Decision, S]:
        """What to do with this step, and the state after it. Called for healthy steps too.

        Args:
            faults: Exact faults of this step; empty when it is healthy.
            stats: Statistics on the host.
            state: State after the previous step.
        """
        ...
