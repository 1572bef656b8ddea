"""Clips that act some of the time: first, later, or under a condition."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar, final

import torch
from torch import Tensor

from trimtab.decide.checks import check_budget, check_number, check_positive, check_role
from trimtab.decide.grouping import A_CLIP, check_one_norm, needs_of
from trimtab.decide.protocols import Clip
from trimtab.types import Clamp, Each, Layout, Needs, Rescaling, Scale, StepStats, wide_dtype

S = TypeVar("S")


class TwoPhases(NamedTuple):
    """How many steps there have been, as long as that matters, and the state of either clip."""

    num_steps: int
    first: Any
    second: Any


@final
@dataclass(frozen=True, slots=True)
class AfterWarmup:
    """Let a clip learn from the first step on, and act only after `steps` steps.

    Steps that were skipped are not counted.

    Args:
        clip: The clip.
        steps: In how many steps it only learns.
        before: Clip that acts in these steps; None leaves their gradients alone.

    Raises:
        ValueError: `steps` is no whole number >= 1, or the clips want different norms.
        TypeError: One is no clip.

    Cost:
        That of both clips at first, then that of `clip`; no host read.

    Example:
        >>> clip = AfterWarmup(NormClip(1.0), steps=1)
        >>> state, stats = clip.init(Layout(torch.device("cpu"))), StepStats(None, torch.tensor(4.0))
        >>> for _ in range(2):
        ...     decision, state = clip.rescale(stats, state)
        ...     print(decision)
        None
        Scale(factor=tensor(0.2500))
    """

    clip: Clip[Any]
    steps: int
    before: Clip[Any] | None = None

    def __post_init__(self) -> None:
        _check_phases("AfterWarmup", self.steps, clip=self.clip, before=self.before)

    @property
    def needs(self) -> Needs:
        """What either clip needs."""
        return needs_of((self.clip, self.before))

    @property
    def norm_type(self) -> float:
        """The p of their norm."""
        return self.clip.norm_type

    def init(self, layout: Layout) -> TwoPhases:
        """No step yet."""
        return _begun(self.before, self.clip, layout)

    def rescale(self, stats: StepStats[Tensor], state: TwoPhases) -> tuple[Rescaling, TwoPhases]:
        """What the clip whose time it is decides."""
        return _phase(self.before, self.clip, self.steps, stats, state)


@final
@dataclass(frozen=True, slots=True)
class First:
    """Let a clip act in the first `steps` steps, and another one after them.

    The second one learns from the first step on. Steps that were skipped are not counted.

    Args:
        clip: Clip of the first steps.
        steps: How many these are.
        then: Clip of all others; None leaves their gradients alone.

    Raises:
        ValueError: `steps` is no whole number >= 1, or the clips want different norms.
        TypeError: One is no clip.

    Cost:
        That of both clips at first, then that of `then`; no host read.

    Example:
        >>> clip = First(NormClip(1.0), steps=1, then=NormClip(2.0))
        >>> state, stats = clip.init(Layout(torch.device("cpu"))), StepStats(None, torch.tensor(4.0))
        >>> for _ in range(2):
        ...     decision, state = clip.rescale(stats, state)
        ...     print(decision)
        Scale(factor=tensor(0.2500))
        Scale(factor=tensor(0.5000))
    """

    clip: Clip[Any]
    steps: int
    then: Clip[Any] | None = None

    def __post_init__(self) -> None:
        _check_phases("First", self.steps, clip=self.clip, then=self.then)

    @property
    def needs(self) -> Needs:
        """What either clip needs."""
        return needs_of((self.clip, self.then))

    @property
    def norm_type(self) -> float:
        """The p of their norm."""
        return self.clip.norm_type

    def init(self, layout: Layout) -> TwoPhases:
        """No step yet."""
        return _begun(self.clip, self.then, layout)

    def rescale(self, stats: StepStats[Tensor], state: TwoPhases) -> tuple[Rescaling, TwoPhases]:
        """What the clip whose time it is decides."""
        return _phase(self.clip, self.then, self.steps, stats, state)


class Condition(Protocol[S]):
    """When a clip acts. A frozen value, with what evolves in the state beside it."""

    def init(self) -> S:
        """State before the first step: None or a number."""
        ...

    def holds(self, stats: StepStats[Tensor], state: S) -> tuple[bool | Tensor, S]:
        """Whether the clip acts in this step, and the state after it.

        Args:
            stats: Statistics on the device. Must not be read: the answer stays there with them.
            state: State after the previous applied step.
        """
        ...


@final
@dataclass(frozen=True, slots=True)
class NormAbove:
    """The global norm, or within `Grouped` that of the group, is above a threshold.

    Args:
        threshold: In the gradient's own unit. Finite and > 0.

    Raises:
        ValueError: `threshold` is out of its range.

    Example:
        >>> NormAbove(3.0).holds(StepStats(None, torch.tensor(4.0)), None)
        (tensor(True), None)
    """

    threshold: float

    def __post_init__(self) -> None:
        check_positive("NormAbove", threshold=self.threshold)

    def init(self) -> None:
        """No state."""

    def holds(self, stats: StepStats[Tensor], state: None) -> tuple[Tensor, None]:
        """Whether it is, on the device."""
        return stats.grad_norm > self.threshold, state


@final
@dataclass(frozen=True, slots=True)
class LossAbove:
    """The loss is above a threshold.

    Args:
        threshold: In the loss's own unit. Finite.

    Raises:
        ValueError: `threshold` is not finite.

    Example:
        >>> LossAbove(3.0).holds(StepStats(torch.tensor(2.0), torch.tensor(4.0)), None)
        (tensor(False), None)
    """

    threshold: float

    def __post_init__(self) -> None:
        check_number("LossAbove", threshold=self.threshold)
        if not math.isfinite(self.threshold):
            raise ValueError(f"LossAbove(threshold={self.threshold}): expected a finite number.")

    def init(self) -> None:
        """No state."""

    def holds(self, stats: StepStats[Tensor], state: None) -> tuple[Tensor, None]:
        """Whether it is, on the device.

        Raises:
            ValueError: The guard was not given the loss.
        """
        if stats.loss is None:
            raise ValueError(
                f"{self!r} has no loss to look at: pass it as guard.step(loss), or step with a closure."
            )
        return stats.loss.to(stats.grad_norm.device) > self.threshold, state


@final
@dataclass(frozen=True, slots=True)
class EveryNth:
    """Every so many steps: of steps counted from 1, those that `steps` divides.

    Steps that were skipped are not counted.

    Args:
        steps: A whole number >= 1.

    Raises:
        ValueError: It is none.

    Example:
        >>> EveryNth(2).holds(StepStats(None, torch.tensor(4.0)), 1)
        (True, 0)
    """

    steps: int

    def __post_init__(self) -> None:
        check_budget("EveryNth", self.steps, name="steps", least=1)

    def init(self) -> int:
        """No step yet."""
        return 0

    def holds(self, stats: StepStats[Tensor], state: int) -> tuple[bool, int]:
        """Whether this is one of them, and the number of steps since the last."""
        del stats
        num = (state + 1) % self.steps
        return num == 0, num


class WhenState(NamedTuple):
    """The states of the clip and of the condition."""

    clip: Any
    condition: Any


@final
@dataclass(frozen=True, slots=True)
class When:
    """Let a clip learn from every step, and act where a condition holds.

    Args:
        clip: The clip.
        condition: `NormAbove`, `LossAbove`, `EveryNth`, or your own with the methods of `Condition`.

    Raises:
        TypeError: `clip` is no clip, or `condition` no condition.

    Cost:
        That of the clip; no host read. A condition that the device knows is selected by there, and the
        pass that scales is made in any case.

    Example:
        >>> clip = When(NormClip(1.0), NormAbove(5.0))
        >>> clip.rescale(StepStats(None, torch.tensor(4.0)), clip.init(Layout(torch.device("cpu"))))[0]
        Scale(factor=tensor(1.))
    """

    clip: Clip[Any]
    condition: Condition[Any]

    def __post_init__(self) -> None:
        check_role("When(clip", self.clip, "rescale", A_CLIP)
        check_role("When(condition", self.condition, "holds", "a condition such as NormAbove(10.0)")

    @property
    def needs(self) -> Needs:
        """What the clip needs."""
        return self.clip.needs

    @property
    def norm_type(self) -> float:
        """The p of the clip's norm."""
        return self.clip.norm_type

    def init(self, layout: Layout) -> WhenState:
        """The states of the clip and of the condition."""
        return WhenState(self.clip.init(layout), self.condition.init())

    def rescale(self, stats: StepStats[Tensor], state: WhenState) -> tuple[Rescaling, WhenState]:
        """What the clip decides, or nothing."""
        rescaling, clip_state = self.clip.rescale(stats, state.clip)
        holds, condition_state = self.condition.holds(stats, state.condition)
        new = WhenState(clip_state, condition_state)
        if isinstance(holds, Tensor):
            return _where(holds, rescaling), new
        return (rescaling if holds else None), new


def _where(holds: Tensor, rescaling: Rescaling) -> Rescaling:
    """A decision where a condition holds, and one that changes nothing where it does not."""
    if isinstance(rescaling, Each):
        return Each(tuple(_part_where(holds, part) for part in rescaling.parts))
    return _part_where(holds, rescaling)


def _part_where(holds: Tensor, part: Scale | Clamp | None) -> Scale | Clamp | None:
    match part:
        case Scale(factor=factor):
            # the parts of an `Each` may be on several devices
            return Scale(torch.where(holds.to(factor.device), factor, 1.0))
        case Clamp(low=low, high=high):
            zero = torch.zeros((), dtype=wide_dtype(holds.device), device=holds.device)
            return Clamp(torch.where(holds, zero + low, -math.inf), torch.where(holds, zero + high, math.inf))
    return None


def _check_phases(policy: str, steps: int, **clips: Clip[Any] | None) -> None:
    for name, clip in clips.items():
        if clip is not None or name == "clip":
            check_role(f"{policy}({name}", clip, "rescale", A_CLIP)
    check_budget(policy, steps, name="steps", least=1)
    check_one_norm(policy, tuple(clips.values()))


def _begun(first: Clip[Any] | None, second: Clip[Any] | None, layout: Layout) -> TwoPhases:
    states = [None if clip is None else clip.init(layout) for clip in (first, second)]
    return TwoPhases(0, *states)


def _phase(
    first: Clip[Any] | None,
    second: Clip[Any] | None,
    steps: int,
    stats: StepStats[Tensor],
    state: TwoPhases,
) -> tuple[Rescaling, TwoPhases]:
    """The first clip's decision in the first steps, then the second's, which learns from the start."""
    is_first = state.num_steps < steps
    rescaling: Rescaling = None
    first_state, second_state = state.first, state.second
    if second is not None:
        rescaling, second_state = second.rescale(stats, state.second)
    if is_first:
        rescaling = None
        if first is not None:
            rescaling, first_state = first.rescale(stats, state.first)
    return rescaling, TwoPhases(state.num_steps + is_first, first_state, second_state)
