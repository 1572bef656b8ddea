"""Finds short stretches in which the learning rate was far above what it was before and after."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trimtab.record.columns import FloatArray
from trimtab.record.log import RunLog

_MAX_ROWS, _RATIO = 50, 3.0
# The lower rate must have lasted: as long as the stretch, and these many rows, on both sides. Its
# median over this window is near the rate next to the stretch; in a warm restart it is not.
_MIN_AROUND_ROWS, _WINDOW_ROWS = 3, 20
# The loss is looked at so many rows before and after.
_LOSS_ROWS = 20
# What jumps more often than this is a schedule, and no accident.
_MAX_STRETCHES, _MAX_JUMPS = 5, 1000


@dataclass(frozen=True, slots=True)
class LearningRateEpisode:
    """A short stretch with a learning rate far above the one before and the one after.

    Attributes:
        first: First step of the stretch.
        last: Last step of the stretch.
        lr: Largest learning rate in the stretch.
        lr_before: Learning rate just before.
        lr_after: Learning rate just after.
        loss_before: Median of the finite losses of the 20 rows before, or None.
        worst_loss: Largest finite loss in the stretch and the 20 rows after, or None.
    """

    first: int
    last: int
    lr: float
    lr_before: float
    lr_after: float
    loss_before: float | None
    worst_loss: float | None

    @property
    def sentence(self) -> str:
        """The stretch in plain words."""
        when = f"Step {self.first}" if self.first == self.last else f"Steps {self.first}-{self.last}"
        text = f"{when}: the learning rate was {self.lr:.3g}, against {self.lr_before:.3g} before"
        if f"{self.lr_after:.3g}" == f"{self.lr_before:.3g}":
            text += " and after"
        else:
            text += f" and {self.lr_after:.3g} after"
        if self.loss_before is None or self.worst_loss is None:
            return text + "."
        if self.worst_loss <= self.loss_before:
            return text + f"; the loss did not rise (before: {self.loss_before:.3g})."
        return text + f"; the loss went from {self.loss_before:.3g} to {self.worst_loss:.3g} at worst."


def learning_rate_episodes(log: RunLog) -> list[LearningRateEpisode]:
    """The short stretches of a run with a learning rate that sticks out.

    At most 50 rows in a row, each with more than 3 times the rate of the row before the stretch and
    of the row after it, and the lower rate lasted on both sides. Warm-up, step decay, one-cycle and
    warm restarts have no such stretch; more than 5 of them are taken for a schedule.

    Args:
        log: The run.

    Cost:
        O(num_steps), vectorized.
    """
    rows = np.flatnonzero(np.isfinite(log.lr) & (log.lr > 0))
    rates = log.lr[rows]
    found = list(_stretches(rates))
    if len(found) > _MAX_STRETCHES:
        return []
    return [_describe(log, rows, rates, first, last) for first, last in found]


def _stretches(rates: FloatArray) -> Iterator[tuple[int, int]]:
    """First and last index of each stretch."""
    with np.errstate(over="ignore"):
        rises = np.flatnonzero(rates[1:] > _RATIO * rates[:-1]) + 1
        falls = np.flatnonzero(rates[:-1] > _RATIO * rates[1:])
    if len(rises) > _MAX_JUMPS:
        return
    end = -1
    for first in rises.tolist():
        if first <= end:
            continue
        near = falls[np.searchsorted(falls, first) : np.searchsorted(falls, first + _MAX_ROWS)]
        last = next((last for last in near.tolist() if _sticks_out(rates, first, last)), None)
        if last is not None:
            end = last
            yield first, last


def _sticks_out(rates: FloatArray, first: int, last: int) -> bool:
    before, after = float(rates[first - 1]), float(rates[last + 1])
    if float(rates[first : last + 1].min()) / _RATIO <= max(before, after):
        return False
    num_rows = last + 1 - first
    window = max(_WINDOW_ROWS, num_rows)
    sides = (rates[max(first - window, 0) : first], before), (rates[last + 1 : last + 1 + window], after)
    return all(
        len(side) >= max(_MIN_AROUND_ROWS, num_rows)
        and level / _RATIO <= float(np.median(side)) <= level * _RATIO
        for side, level in sides
    )


def _describe(
    log: RunLog, rows: NDArray[np.int64], rates: FloatArray, first: int, last: int
) -> LearningRateEpisode:
    start, end = int(rows[first]), int(rows[last])
    before = log.loss[max(start - _LOSS_ROWS, 0) : start]
    inside = log.loss[start : end + 1 + _LOSS_ROWS]
    before, inside = before[np.isfinite(before)], inside[np.isfinite(inside)]
    with np.errstate(over="ignore"):
        usual = float(np.median(before)) if len(before) else None
    return LearningRateEpisode(
        first=int(log.step[start]),
        last=int(log.step[end]),
        lr=float(rates[first : last + 1].max()),
        lr_before=float(rates[first - 1]),
        lr_after=float(rates[last + 1]),
        loss_before=usual,
        worst_loss=float(inside.max()) if len(inside) else None,
    )
