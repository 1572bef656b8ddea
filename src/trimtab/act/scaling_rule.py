"""When a loss scale grows, shrinks or stays: a rule over plain numbers, and the state that it evolves."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, final

import numpy as np

# Between these the scale and its inverse are both normal float32 numbers. A scale below 2^-127 has an
# inverse of Inf, which makes Inf and NaN of the finite gradients that were just found good.
SMALLEST_SCALE = 2.0**-126
LARGEST_SCALE = 2.0**126

# A growth has helped if it saved a twentieth of what was lost, or added one to what was left: our own choice,
# above what one batch differs from the next by in a gradient of many thousand elements
_HELPS = 0.05

# Growth against underflow may come after an eighth of the interval: our own choice
_EARLY = 8

# So many faulty steps in a row, and the last good one says nothing about the gradients of today
_RECESS = 32


class Gradients(Enum):
    """What came of the gradients of one step, as far as the loss scale is concerned."""

    FINITE = "finite"
    OVERFLOWED = "overflowed"  # the scale was too large for them
    BAD = "bad"  # not finite, and the scale is not to blame


class Growth(NamedTuple):
    """The scale, and what decides about its next growth.

    Attributes:
        scale: The scale, a float32 number as in torch.
        num_finite: Steps with finite gradients since the scale grew or overflowed.
        num_spare: Overflows that are left until the scale is cut, the cutting one included.
        overflow_scale: Smallest scale that overflowed and was not survived since; None if none.
        wait: How many growth intervals pass before the next growth to `overflow_scale` or beyond.
        is_retry: Whether the scale has grown to `overflow_scale` or beyond and is on probation.
        underflow: Share of underflow last seen at this scale.
        underflow_before: Share of underflow before the last growth, until it was compared.
        growth_helps: Whether the share was lower after a growth, or none was compared yet.
    """

    scale: float
    num_finite: int = 0
    num_spare: int = 1
    overflow_scale: float | None = None
    wait: int = 1
    is_retry: bool = False
    underflow: float | None = None
    underflow_before: float | None = None
    growth_helps: bool = True


class ScaleState(NamedTuple):
    """All that later decisions about the scale depend on.

    Attributes:
        now: The scale and its growth.
        good: The same, as it was in the last step with finite gradients; None before the first.
        num_faults: Bad steps in a row for which the scale was found not to blame.
    """

    now: Growth
    good: Growth | None = None
    num_faults: int = 0


@final
@dataclass(frozen=True, slots=True)
class ScaleRule:
    """How a loss scale follows the gradients. The fields are those of `LossScaler`.

    Raises:
        ValueError: A field is out of its range.
        TypeError: A field is no number.

    Example:
        >>> from trimtab.act.scaling_rule import Gradients, ScaleRule
        >>> rule = ScaleRule(growth_interval=2)
        >>> state = rule.init(8.0)
        >>> for gradients in (Gradients.OVERFLOWED, Gradients.FINITE, Gradients.FINITE):
        ...     state = rule.after(gradients, state)
        ...     print(state.now.scale)
        4.0
        4.0
        8.0
    """

    growth_factor: float = 2.0
    backoff_factor: float = 0.5
    growth_interval: int = 2000
    floor: float = 1.0
    ceiling: float = 2.0**24
    hysteresis: int = 1
    max_wait: int = 16
    max_jump: float = 32.0
    max_underflow: float | None = 0.05

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if not _is_number(value) and (name != "max_underflow" or value is not None):
                raise TypeError(f"LossScaler({name}={value!r}): expected a number.")
        is_range = SMALLEST_SCALE <= self.floor <= self.ceiling <= LARGEST_SCALE
        is_share = self.max_underflow is None or 0 <= self.max_underflow <= 1
        for name, is_right, expected in (
            ("growth_factor", 1 < self.growth_factor < math.inf, "a finite number > 1"),
            ("backoff_factor", 0 < self.backoff_factor < 1, "a number in (0, 1)"),
            ("growth_interval", _is_count(self.growth_interval), "a whole number >= 1"),
            ("floor", is_range, f"2^-126 <= floor <= ceiling={self.ceiling:g} <= 2^126"),
            ("hysteresis", _is_count(self.hysteresis), "a whole number >= 1"),
            ("max_wait", _is_count(self.max_wait), "a whole number >= 1"),
            ("max_jump", self.max_jump > 1, "a number > 1. To blame the scale down to its floor, pass inf"),
            ("max_underflow", is_share, "a share in [0, 1], or None to pay no heed to underflow"),
        ):
            if not is_right:
                raise ValueError(f"LossScaler({name}={getattr(self, name)!r}): expected {expected}.")

    def init(self, scale: float) -> ScaleState:
        """State before the first step.

        Raises:
            ValueError: The scale is not between floor and ceiling.
            TypeError: It is no number.
        """
        if not _is_number(scale):
            raise TypeError(f"LossScaler(init_scale={scale!r}): expected a number.")
        if not self.floor <= scale <= self.ceiling:
            raise ValueError(
                f"LossScaler(init_scale={scale!r}): expected floor={self.floor:g} <= init_scale <= "
                f"ceiling={self.ceiling:g}."
            )
        return ScaleState(Growth(_float32(scale), num_spare=self.hysteresis))

    def is_to_blame(self, state: ScaleState, *, loss: float | None) -> bool:
        """Whether gradients that are not finite may be so because of the scale.

        Args:
            state: State before the step is concluded.
            loss: The loss before scaling, None if unknown. The forward pass does not see the scale.
        """
        return (loss is None or math.isfinite(loss)) and not self._acquits(state)

    def after(self, gradients: Gradients, state: ScaleState, *, underflow: float | None = None) -> ScaleState:
        """State after a step.

        Args:
            gradients: What came of them.
            state: State before.
            underflow: Share of their elements lost to underflow, if it was measured in this step.
        """
        match gradients:
            case Gradients.FINITE:
                return ScaleState(self._counted(state.now, underflow), good=state.now)
            case Gradients.OVERFLOWED:
                return state._replace(now=self._cut(state.now))
            case Gradients.BAD:
                return self._put_back(state)

    def _acquits(self, state: ScaleState) -> bool:
        """Whether the scale is beyond suspicion, whatever the loss says."""
        scale, good = state.now.scale, state.good
        is_far_below = good is not None and scale * self.max_jump <= good.scale
        return state.num_faults > 0 or scale <= self.floor or is_far_below

    def _counted(self, now: Growth, underflow: float | None) -> Growth:
        """After one more step with finite gradients; grown if it is time."""
        now = now._replace(num_finite=now.num_finite + 1)
        if underflow is not None:
            before = now.underflow_before
            helps = now.growth_helps if before is None else _has_helped(before, underflow)
            now = now._replace(underflow=underflow, underflow_before=None, growth_helps=helps)
        scale = min(_float32(min(now.scale * self.growth_factor, LARGEST_SCALE)), self.ceiling)
        if now.num_finite < self._interval(now, scale):
            return now
        known = None if now.is_retry else now.overflow_scale  # survived: it overflows there no more
        return Growth(
            scale,
            num_spare=self.hysteresis,
            overflow_scale=known,
            wait=max(1, now.wait // 2) if now.is_retry else now.wait,
            is_retry=known is not None and scale >= known,
            underflow=now.underflow if scale == now.scale else None,
            underflow_before=None if scale == now.scale else now.underflow,
            growth_helps=now.growth_helps,
        )

    def _interval(self, now: Growth, scale: float) -> int:
        """How many finite steps there must be before the scale grows to this."""
        if now.overflow_scale is not None and scale >= now.overflow_scale:
            return self.growth_interval * now.wait
        if self.max_underflow is None or now.underflow is None or not now.growth_helps:
            return self.growth_interval
        is_early = now.underflow > self.max_underflow and scale > now.scale
        return max(1, self.growth_interval // _EARLY) if is_early else self.growth_interval

    def _cut(self, now: Growth) -> Growth:
        """After an overflow."""
        num_spare = max(now.num_spare - 1, 0)
        cut = max(_float32(now.scale * self.backoff_factor), self.floor)
        return now._replace(
            scale=now.scale if num_spare > 0 else cut,
            num_finite=0,
            num_spare=num_spare,
            overflow_scale=min(now.scale, now.overflow_scale or math.inf),
            wait=min(2 * now.wait, self.max_wait) if now.is_retry else now.wait,
            is_retry=False,
            underflow=None,
            underflow_before=None,
        )

    def _put_back(self, state: ScaleState) -> ScaleState:
        """After a fault: as in the last good step, if the scale was under suspicion until now."""
        if not self._acquits(state):
            return state  # the loss was bad, and says nothing about the scale
        num_faults = state.num_faults + 1
        if state.good is None:
            return state._replace(num_faults=num_faults)  # searched down to the floor
        now = state.good
        if num_faults > _RECESS:
            # gradients that really grew, and stayed large, must not be refused for ever: once, while
            # every step counts as faulty all the same, the search goes on where it was stopped
            lower = _float32(now.scale / self.max_jump * self.backoff_factor ** (num_faults - _RECESS))
            now = now._replace(scale=lower, num_finite=0) if lower >= self.floor else now
        return state._replace(now=now, num_faults=num_faults)


def _float32(number: float) -> float:
    """The nearest float32, in which torch keeps its scale."""
    return float(np.float32(number))


def _has_helped(before: float, after: float) -> bool:
    """Whether less is lost than before: meant zeros stay, and so does a gradient that is all zero."""
    return after < before * (1 - _HELPS) or 1 - after > (1 - before) * (1 + _HELPS)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float))


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
