"""Detectors of spikes: a finite loss or norm far above what came before. Spikes do not hide each other."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median
from typing import ClassVar, NamedTuple, final

from trimtab.decide.checks import check_budget, check_number
from trimtab.types import Fault, Kind, Needs, Place, StepStats

# Makes the median absolute deviation of a normal distribution its standard deviation
_MAD_TO_SIGMA = 1.4826
# Noise of a loss is multiplicative, and never below 2 %: a quieter past says nothing about the next step
_SIGMA_FLOOR = 0.02


class Past(NamedTuple):
    """What a spike detector remembers, as logarithms.

    Attributes:
        usual: The window that new values are judged by, oldest first.
        waiting: Accepted values that enter the window later, so that a slow burst does not hide itself.
        outliers: Values above the bound in a row just now; they enter nothing.
    """

    usual: tuple[float, ...] = ()
    waiting: tuple[float, ...] = ()
    outliers: tuple[float, ...] = ()


@final
@dataclass(frozen=True, slots=True)
class SpikeRule:
    """When a positive number counts as a spike, whatever it measures.

    In log space a value is above the bound if it exceeds the median of the window by more than `z`
    robust deviations (1.4826 times the median absolute deviation, at least 0.02) and by more than
    `ratio`. The `persistence`-th such value in a row is a spike, and so is each one after it. Values
    above the bound and values that are not finite stay out of the window, so the k-th of equal spikes
    scores as the first, and one NaN changes nothing. After `rebaseline_steps` values above the bound
    in a row the window starts again from them: that is a new level, not a spike.

    Args:
        z: Robust deviations above the median.
        ratio: Least ratio to the median, more than 1.
        window: Number of past values that are usual.
        min_history: Nothing is judged before so many are known.
        delay: So many of the newest accepted values wait before they count as usual.
        persistence: Number of values above the bound in a row that make a spike.
        rebaseline_steps: Number of them that make a new level.

    Raises:
        ValueError: An argument is out of its range.
    """

    z: float = 6.0
    ratio: float = 2.0
    window: int = 128
    min_history: int = 32
    delay: int = 8
    persistence: int = 1
    # below the budget of Skip: a new level is learned before that is spent
    rebaseline_steps: int = 8

    def __post_init__(self) -> None:
        check_number("SpikeRule", z=self.z, ratio=self.ratio)
        for name in ("window", "min_history", "delay", "persistence", "rebaseline_steps"):
            check_budget("SpikeRule", getattr(self, name), name=name)
        if not (math.isfinite(self.z) and self.z > 0):
            raise ValueError(f"SpikeRule(z={self.z}): expected a finite number > 0.")
        if not (math.isfinite(self.ratio) and self.ratio > 1):
            raise ValueError(f"SpikeRule(ratio={self.ratio}): expected a finite number > 1.")
        if not 2 <= self.min_history <= self.window:
            raise ValueError(
                f"SpikeRule(min_history={self.min_history}, window={self.window}): expected "
                "2 <= min_history <= window."
            )
        if not 1 <= self.persistence < self.rebaseline_steps:
            raise ValueError(
                f"SpikeRule(persistence={self.persistence}, rebaseline_steps={self.rebaseline_steps}): "
                "expected 1 <= persistence < rebaseline_steps."
            )

    def bound(self, past: Past) -> float:
        """The largest value that is no outlier; inf while too little is known.

        Example:
            >>> round(SpikeRule().bound(Past(usual=(0.0,) * 40)), 4)
            2.0
        """
        if len(past.usual) < self.min_history:
            return math.inf
        center = median(past.usual)
        sigma = max(_MAD_TO_SIGMA * median(abs(x - center) for x in past.usual), _SIGMA_FLOOR)
        return math.exp(min(center + max(self.z * sigma, math.log(self.ratio)), 700.0))

    def judge(self, value: float | None, past: Past) -> tuple[float | None, Past]:
        """The bound that this value breaks as a spike, or None, and the past with it in.

        Args:
            value: What was measured. None, non-finite and non-positive values change nothing.
            past: What came before.
        """
        if value is None or not 0.0 < value < math.inf:
            return None, past
        bound = self.bound(past)
        if value <= bound:
            waiting = (*past.waiting, math.log(value))
            ready = len(waiting) - self.delay
            entering = waiting[: max(ready, 0)]
            usual = (*past.usual, *entering)[-self.window :]
            return None, Past(usual, waiting[len(entering) :], ())
        outliers = (*past.outliers, math.log(value))
        if len(outliers) >= self.rebaseline_steps:
            return None, Past(outliers[-self.window :], (), ())
        is_spike = len(outliers) >= self.persistence
        return (bound if is_spike else None), Past(past.usual, past.waiting, outliers)


@final
@dataclass(frozen=True, slots=True)
class LossSpike:
    """A positive loss far above the losses before it. See `SpikeRule` for when.

    A loss of zero or below is never a spike: its logarithm says nothing.

    Args:
        rule: What counts as a spike.

    Raises:
        TypeError: `rule` is no `SpikeRule`.

    Cost:
        Two medians of `rule.window` numbers on the host, some 20 us.

    Example:
        >>> detector, state = LossSpike(), LossSpike().init()
        >>> for loss in [2.0, 2.1] * 30 + [50.0]:
        ...     faults, state = detector.detect(StepStats(loss=loss, grad_norm=1.0), state)
        >>> [(fault.kind.value, fault.place.value) for fault in faults]
        [('spike', 'loss')]
    """

    needs: ClassVar[Needs] = Needs.NOTHING

    rule: SpikeRule = SpikeRule()

    def __post_init__(self) -> None:
        _check_rule("LossSpike", self.rule)

    def init(self) -> Past:
        """Nothing known yet."""
        return Past()

    def detect(self, stats: StepStats[float], state: Past) -> tuple[tuple[Fault, ...], Past]:
        """Faults of this step."""
        bound, past = self.rule.judge(stats.loss, state)
        return _faults(Place.LOSS, bound), past


@final
@dataclass(frozen=True, slots=True)
class NormSpike:
    """A gradient norm far above the norms before it. See `SpikeRule` for when.

    Args:
        rule: What counts as a spike.

    Raises:
        TypeError: `rule` is no `SpikeRule`.

    Cost:
        Two medians of `rule.window` numbers on the host, some 20 us.

    Example:
        >>> detector, state = NormSpike(), NormSpike().init()
        >>> for norm in [1.0, 1.2] * 30 + [40.0]:
        ...     faults, state = detector.detect(StepStats(loss=None, grad_norm=norm), state)
        >>> [(fault.kind.value, fault.place.value) for fault in faults]
        [('spike', 'gradient')]
    """

    needs: ClassVar[Needs] = Needs.NOTHING

    # a healthy norm is noisier than a loss: three times the usual one is nothing rare
    rule: SpikeRule = SpikeRule(ratio=4.0)

    def __post_init__(self) -> None:
        _check_rule("NormSpike", self.rule)

    def init(self) -> Past:
        """Nothing known yet."""
        return Past()

    def detect(self, stats: StepStats[float], state: Past) -> tuple[tuple[Fault, ...], Past]:
        """Faults of this step."""
        bound, past = self.rule.judge(stats.grad_norm, state)
        return _faults(Place.GRADIENT, bound), past


def _faults(place: Place, bound: float | None) -> tuple[Fault, ...]:
    return () if bound is None else (Fault(Kind.SPIKE, place, threshold=bound),)


def _check_rule(detector: str, rule: object) -> None:
    if not isinstance(rule, SpikeRule):
        raise TypeError(f"{detector}(rule={rule!r}): expected a rule such as SpikeRule(ratio=3.0).")
