"""Detectors of what is no fault of one step, but worth saying: steady clipping and underflow."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import ClassVar, NamedTuple, final

from trimtab.decide.checks import check_budget, check_number
from trimtab.types import Fault, Kind, Needs, Place, StepStats


class Clipped(NamedTuple):
    """Which of the last steps were clipped hard, newest last, and whether that has been said."""

    steps: tuple[int, ...] = ()
    is_said: int = 0


@final
@dataclass(frozen=True, slots=True)
class SteadyClipping:
    """Clipping that takes much of nearly every step: the bound, not the learning rate, sets the pace.

    Says so once when the share of hard-clipped steps reaches `share`, and again only after it has
    fallen to half of that. It is advisory: no step is refused. A guard with a `CoolDown` also lowers
    the learning rate, for a while.

    Args:
        share: Share of the last steps, in (0, 1].
        window: Number of steps looked at.
        factor: A step counts when clipping leaves less than this of its norm, in (0, 1].

    Raises:
        ValueError: An argument is out of its range.

    Cost:
        A tuple of `window` numbers on the host.

    Example:
        >>> detector = SteadyClipping(window=4)
        >>> state = detector.init()
        >>> for _ in range(6):
        ...     faults, state = detector.detect(StepStats(1.0, 50.0, clip_factor=0.02), state)
        ...     print(len(faults), end=" ")
        0 0 0 1 0 0
    """

    needs: ClassVar[Needs] = Needs.NOTHING

    share: float = 0.95
    window: int = 200
    # a run in which the gradient is halved at times is an ordinary one
    factor: float = 0.1

    def __post_init__(self) -> None:
        check_number("SteadyClipping", share=self.share, factor=self.factor)
        for name in ("share", "factor"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(
                    f"SteadyClipping({name}={getattr(self, name)}): expected a number in (0, 1]."
                )
        check_budget("SteadyClipping", self.window, name="window", least=1)

    def init(self) -> Clipped:
        """Nothing seen yet."""
        return Clipped()

    def detect(self, stats: StepStats[float], state: Clipped) -> tuple[tuple[Fault, ...], Clipped]:
        """Faults of this step."""
        factor = 1.0 if stats.clip_factor is None else stats.clip_factor
        if not factor > 0:
            return (), state  # a bad norm
        steps = (*state.steps, int(factor < self.factor))[-self.window :]
        now = sum(steps) / self.window
        if state.is_said:
            return (), Clipped(steps, int(now > self.share / 2))
        if now < self.share:
            return (), Clipped(steps)
        return (Fault(Kind.CLIPPING, Place.GRADIENT, threshold=self.share),), Clipped(steps, 1)


class Shares(NamedTuple):
    """The first shares of underflow that were measured, and whether a rise has been said."""

    first: tuple[float, ...] = ()
    is_said: int = 0


@final
@dataclass(frozen=True, slots=True)
class Underflow:
    """Gradient elements that vanish: the share that is zero or subnormal rises far above its start.

    Many zeros are healthy: a ReLU makes them, and an embedding has a gradient for the tokens of the
    batch alone. So the share is compared with the median of the first five looks, and it is a finding
    when `rise` of the elements that were above underflow then are not now. A run that starts within
    underflow is not seen. It is advisory: no step is refused.

    Args:
        rise: Share of the formerly sound elements, in (0, 1).

    Raises:
        ValueError: `rise` is not in (0, 1).

    Cost:
        Two passes over the gradients in one step of twenty; no host read of its own.

    Example:
        >>> detector = Underflow(rise=0.5)
        >>> state = detector.init()
        >>> for share in (0.2, 0.2, 0.2, 0.2, 0.2, 0.3, 0.7):
        ...     faults, state = detector.detect(StepStats(1.0, 1.0, underflow=share), state)
        >>> faults[0].kind
        <Kind.UNDERFLOW: 'underflow'>
    """

    needs: ClassVar[Needs] = Needs.UNDERFLOW

    rise: float = 0.5

    def __post_init__(self) -> None:
        check_number("Underflow", rise=self.rise)
        if not 0 < self.rise < 1:
            raise ValueError(f"Underflow(rise={self.rise}): expected a number in (0, 1).")

    def init(self) -> Shares:
        """Nothing seen yet."""
        return Shares()

    def detect(self, stats: StepStats[float], state: Shares) -> tuple[tuple[Fault, ...], Shares]:
        """Faults of this step."""
        if stats.underflow is None or not stats.grad_norm > 0:
            return (), state  # not looked at; or all is zero, which is another matter
        if len(state.first) < 5:
            return (), Shares((*state.first, stats.underflow))
        usual = median(state.first)
        bound = usual + self.rise * (1.0 - usual)
        is_above = stats.underflow > bound
        faults = (Fault(Kind.UNDERFLOW, Place.GRADIENT, threshold=bound),) if is_above else ()
        return (() if state.is_said else faults), Shares(state.first, int(is_above))
