"""A monitor for loops without a guard: from the losses, whether training is stable and when to stop."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from enum import Enum
from typing import Any, final

import numpy as np
import torch
from torch import nn

from trimtab.diagnose.statistics import FloatArray, blocks, rank_test, spread, trend
from trimtab.measure import as_number

# Of the loss in log space: noise below 2 % says nothing about the next step, see diagnose/rules/loss_spike.py
_SIGMA_FLOOR, _SIGMAS, _RATIO = 0.02, 6.0, 2.0
_WINDOW, _MIN_HISTORY = 128, 16
_PERSISTENCE = 3  # one loss far above the others is an event, three in a row are an incident
_BLOCK, _DRIFT, _P_VALUE = 20, math.log(1.5), 1e-4
_BLOCK_SIGMAS, _KNOWN_BLOCKS = 6.0, 8  # of fewer blocks the noise is not known
_MIN_BLOCKS, _TREND_BLOCKS, _MAX_BLOCKS = 6, 12, 30


class StabilityStatus(str, Enum):
    """How a run is doing."""

    STABLE = "stable"
    WARNING = "warning"  # worth a look
    CRITICAL = "critical"  # it will not get better by itself

    def __str__(self) -> str:
        return self.value


class StabilityIssue(str, Enum):
    """What is the matter."""

    NAN_LOSS = "nan_loss"
    GRADIENT_EXPLOSION = "gradient_explosion"
    LOSS_SPIKE = "loss_spike"
    LOSS_EXPLOSION = "loss_explosion"
    DIVERGENCE = "divergence"

    def __str__(self) -> str:
        return self.value


class LossTrend(str, Enum):
    """Where the loss is going, as far as its noise lets one say."""

    FALLING = "falling"
    FLAT = "flat"
    RISING = "rising"
    UNKNOWN = "unknown"  # too few steps

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class StabilityUpdate:
    """What one update showed.

    Attributes:
        status: How the run is doing.
        reason: Why, in words; empty if it is stable.
        issue: What is the matter; None if it is stable.
    """

    status: StabilityStatus
    reason: str
    issue: StabilityIssue | None


@dataclass(frozen=True, slots=True)
class StabilitySummary:
    """The run so far.

    Attributes:
        total_steps: Updates.
        nan_count: Losses that were NaN or Inf.
        gradient_explosions: Updates whose gradients were not ok.
        loss_explosions: Losses far above what came before.
        should_stop: Whether `patience` bad updates in a row have come.
        loss_trend: Where the loss is going.
    """

    total_steps: int
    nan_count: int
    gradient_explosions: int
    loss_explosions: int
    should_stop: bool
    loss_trend: LossTrend


_STABLE = StabilityUpdate(StabilityStatus.STABLE, "", None)
_RECOVERY: dict[StabilityIssue, tuple[str, ...]] = {
    StabilityIssue.NAN_LOSS: (
        "Go back to the last checkpoint from before: parameters that are NaN do not heal.",
        "Find the operation: trimtab.trace(model, closure) names it.",
        "Skip such steps: trimtab.Guard does by default.",
    ),
    StabilityIssue.GRADIENT_EXPLOSION: (
        "Clip gradients: trimtab.NormClip(1.0), or trimtab.QuantileClip() which finds its threshold.",
        "Divide the learning rate by 3 to 10, or warm it up.",
    ),
    StabilityIssue.LOSS_SPIKE: ("Look at this batch. One spike that passes needs nothing else.",),
    StabilityIssue.LOSS_EXPLOSION: (
        "Go back to a checkpoint from before, and divide the learning rate by 3 to 10.",
        "Clip gradients: trimtab.NormClip(1.0).",
    ),
    StabilityIssue.DIVERGENCE: (
        "Divide the learning rate by 2 to 5 from the last good checkpoint on.",
        "See what trimtab.diagnose says of the run log.",
    ),
}


@final
class TrainingStabilityMonitor:
    """Says of each loss whether training is stable, from what came before it.

    A loss is a spike if, in log space, it exceeds the median of the losses before by 6 robust deviations and
    by a factor of 2; the third in a row is an explosion. Spikes enter no baseline, so that the second is seen
    as the first. Divergence is slower: the median of 20 losses above the best such median by half, twice, and
    by a rank test. Losses that are not all positive are judged on their own scale instead.

    Args:
        model: Its parameters are looked at when a loss is not finite; None if there is none.
        patience: Bad updates in a row after which to stop. Bad are NaN, bad gradients, spikes and explosions.

    Raises:
        ValueError: `patience` is not a whole number >= 1.
        TypeError: `model` is neither a module nor None.

    Cost:
        Reads the loss, and nothing else while it is finite. The last 600 losses are kept.

    Example:
        >>> monitor = TrainingStabilityMonitor(None, patience=2)
        >>> for step in range(40):
        ...     _ = monitor.update(2.0 + 0.1 * (step % 3))
        >>> monitor.update(500.0).reason
        'the loss 500 is 238 times the median of the 40 before'
        >>> monitor.update(float("nan")).issue.value, monitor.should_stop
        ('nan_loss', True)
    """

    def __init__(self, model: nn.Module | None, patience: int = 10) -> None:
        if not isinstance(patience, int) or patience < 1:
            raise ValueError(
                f"TrainingStabilityMonitor(patience={patience!r}): expected a whole number >= 1."
            )
        if not (model is None or isinstance(model, nn.Module)):
            raise TypeError(
                f"TrainingStabilityMonitor(model) got {type(model).__name__}: expected a torch.nn.Module "
                "or None."
            )
        self.patience = patience
        self._model = model
        self._losses: deque[float] = deque(maxlen=_BLOCK * _MAX_BLOCKS)
        self._outliers: list[float] = []
        self._best: FloatArray | None = None  # the block of the lowest median
        self._num_since_block = 0
        self._num_drifted = 0  # blocks in a row above the best
        self._num_bad = 0  # bad updates in a row
        self._total = self._num_nan = self._num_gradients = self._num_explosions = 0
        self._should_stop = False

    @property
    def should_stop(self) -> bool:
        """Whether `patience` bad updates in a row have come. Stays so."""
        return self._should_stop

    # the documented call passes it by position
    def update(self, loss: Any, gradients_ok: bool = True) -> StabilityUpdate:  # noqa: FBT001, FBT002
        """Take one step.

        Args:
            loss: The loss: a number, or a tensor of one element.
            gradients_ok: Whether the gradients of this step were fine.

        Raises:
            TypeError: The loss is no number.
            ValueError: It has several elements.
        """
        value = as_number("TrainingStabilityMonitor.update(loss)", loss)
        self._total += 1
        if not math.isfinite(value):
            self._num_nan += 1
            result = _critical(StabilityIssue.NAN_LOSS, f"the loss is {value}{self._where()}")
        elif not gradients_ok:
            self._num_gradients += 1
            result = _critical(StabilityIssue.GRADIENT_EXPLOSION, "the gradients are not ok")
        else:
            result = self._judged(value)
        is_bad = result.issue not in (None, StabilityIssue.DIVERGENCE)
        self._num_bad = self._num_bad + 1 if is_bad else 0
        self._should_stop = self._should_stop or self._num_bad >= self.patience
        return result

    def suggest_recovery(self, issue: StabilityIssue | str) -> tuple[str, ...]:
        """What to do about an issue, the first thing first.

        Args:
            issue: `update(...).issue`, or its name.

        Raises:
            ValueError: There is no such issue.
        """
        try:
            return _RECOVERY[StabilityIssue(issue)]
        except ValueError:
            names = ", ".join(repr(each.value) for each in StabilityIssue)
            raise ValueError(f"suggest_recovery({issue!r}): expected one of {names}.") from None

    def get_summary(self) -> StabilitySummary:
        """The run so far."""
        return StabilitySummary(
            total_steps=self._total,
            nan_count=self._num_nan,
            gradient_explosions=self._num_gradients,
            loss_explosions=self._num_explosions,
            should_stop=self._should_stop,
            loss_trend=self._trend(),
        )

    def _judged(self, value: float) -> StabilityUpdate:
        before = list(self._losses)[-_WINDOW:]
        bound = _bound(before)
        if value <= bound:
            self._outliers.clear()
            return self._accepted(value)
        self._outliers.append(value)
        self._num_explosions += 1
        middle = float(np.median(before))
        times = f"{value / middle:.3g} times" if middle > 0 else f"{value - middle:.3g} above"
        reason = f"the loss {value:.4g} is {times} the median of the {len(before)} before"
        if len(self._outliers) >= self.patience:  # it was said often enough: this is the level now
            self._losses.clear()
            self._losses.extend(self._outliers)
            self._outliers.clear()
            self._best, self._num_since_block, self._num_drifted = None, 0, 0
            return _critical(StabilityIssue.LOSS_EXPLOSION, reason)
        if len(self._outliers) >= _PERSISTENCE:
            return _critical(StabilityIssue.LOSS_EXPLOSION, reason)
        return StabilityUpdate(StabilityStatus.WARNING, reason, StabilityIssue.LOSS_SPIKE)

    def _accepted(self, value: float) -> StabilityUpdate:
        self._losses.append(value)
        self._num_since_block += 1
        if self._num_since_block == _BLOCK:
            self._num_since_block = 0
            self._compare(np.array(list(self._losses)[-_BLOCK:]))
        if self._num_drifted < 2 or self._best is None:
            return _STABLE
        now = float(np.median(list(self._losses)[-_BLOCK:]))
        reason = f"the loss has drifted from {float(np.median(self._best)):.4g} to {now:.4g}"
        return StabilityUpdate(StabilityStatus.WARNING, reason, StabilityIssue.DIVERGENCE)

    def _compare(self, block: FloatArray) -> None:
        """Whether this block is above the best one, which it becomes if it is lower."""
        if self._best is None or np.median(block) < np.median(self._best):
            self._best, self._num_drifted = block, 0
            return
        scaled = _scaled(np.concatenate([self._best, block]))
        best, now = scaled[: len(self._best)], scaled[len(self._best) :]
        rise = float(np.median(now) - np.median(best))
        limit = _DRIFT if (self._best > 0).all() and (block > 0).all() else _SIGMAS * spread(best)
        losses = np.array(self._losses)
        number = len(losses) // _BLOCK
        # the best of many blocks is low by chance too, the more so the longer the noise remembers
        limit = max(limit, _BLOCK_SIGMAS * blocks(_scaled(losses[-number * _BLOCK :]), number).noise)
        has_risen = number >= _KNOWN_BLOCKS and rise > limit and rank_test(best, now) < _P_VALUE
        self._num_drifted = self._num_drifted + 1 if has_risen else 0

    def _trend(self) -> LossTrend:
        losses = np.array(self._losses)
        number = min(len(losses) // _BLOCK, _TREND_BLOCKS)
        if number < _MIN_BLOCKS:
            return LossTrend.UNKNOWN
        line = trend(blocks(_scaled(losses[-number * _BLOCK :]), number).medians)
        if line.high < 0:
            return LossTrend.FALLING
        return LossTrend.RISING if line.low > 0 else LossTrend.FLAT

    def _where(self) -> str:
        """Which parameters hold NaN or Inf: asked only when the loss does."""
        named = [] if self._model is None else self._model.named_parameters()
        bad = [name for name, p in named if not torch.isfinite(p.detach()).all()]
        if not bad:
            return ""
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        return f", and so is {bad[0]}{more} of the model"


def _critical(issue: StabilityIssue, reason: str) -> StabilityUpdate:
    return StabilityUpdate(StabilityStatus.CRITICAL, reason, issue)


def _scaled(losses: FloatArray) -> FloatArray:
    """In log space if all are positive: the noise of a loss is a share of it."""
    return np.log(losses) if (losses > 0).all() else losses


def _bound(before: list[float]) -> float:
    """The largest loss that is no spike, from those before it alone."""
    if len(before) < _MIN_HISTORY:
        return math.inf
    losses = np.array(before)
    if (losses > 0).all():
        logs = np.log(losses)
        room = max(_SIGMAS * max(spread(logs), _SIGMA_FLOOR), math.log(_RATIO))
        return math.exp(min(float(np.median(logs)) + room, 700.0))
    middle = float(np.median(losses))
    # without a zero point there is no factor: the room is that of the typical size
    room = max(_SIGMAS * spread(losses), float(np.median(np.abs(losses))))
    return middle + room if room > 0 else math.inf
