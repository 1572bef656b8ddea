"""Finds the steps that were clipped far more strongly than the steps before them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trimtab.record.columns import BoolArray, FloatArray
from trimtab.record.log import RunLog

# What is usual is the median of up to 8 blocks of 25 rows just before: long enough to be steady,
# short enough to follow a norm that drifts. With less than one block nothing is known to be usual,
# so the clipping at the start of a training, which is ordinary, never counts.
_BLOCK_ROWS, _NUM_BLOCKS = 25, 8
# A step counts when its norm is 2.5 times the usual one and 4 robust deviations above it, and clipping
# takes at least 30 % more away than usual.
_MIN_RATIO, _MIN_DEVIATIONS, _MIN_DROP = 2.5, 4.0, 1 / 0.7
# Healthy heavy-tailed norms give a lone strong step now and then: one alone must be 20 times and 6
# robust deviations off.
_MIN_STEPS, _LONE_RATIO, _LONE_DEVIATIONS = 3, 20.0, 6.0
# Strong steps this close together are one burst.
_MAX_GAP_ROWS = 2
# Makes the median absolute deviation of a normal distribution its standard deviation.
_MAD_TO_SIGMA = 1.4826
_AROUND_ROWS = 200
# A learning rate within this ratio of the usual one is not worth a word.
_LR_RATIO = 1.5


@dataclass(frozen=True, slots=True)
class ClippingEpisode:
    """A stretch of steps that were clipped far more strongly than those before.

    Attributes:
        first: First step of the stretch.
        last: Last step of the stretch.
        num_steps: Number of strongly clipped steps in it.
        smallest_factor: Smallest clip factor.
        usual_factor: Median clip factor before.
        largest_norm: Largest finite gradient norm, or None if norms were not recorded.
        usual_norm: Median gradient norm before, or None.
        layer: Layer with the largest norm in the stretch, or None if none was recorded there.
        layer_norm: That norm.
        lr: Largest learning rate in the stretch, or None.
        usual_lr: Median learning rate around the stretch, or None.
    """

    first: int
    last: int
    num_steps: int
    smallest_factor: float
    usual_factor: float
    largest_norm: float | None
    usual_norm: float | None
    layer: str | None
    layer_norm: float | None
    lr: float | None
    usual_lr: float | None

    @property
    def names_lr(self) -> bool:
        """Whether the learning rate was so different that the sentence tells it."""
        if self.lr is None or not self.usual_lr:
            return False
        return not 1 / _LR_RATIO <= self.lr / self.usual_lr <= _LR_RATIO

    @property
    def sentence(self) -> str:
        """The stretch in plain words."""
        when = f"Step {self.first}" if self.first == self.last else f"Steps {self.first}-{self.last}"
        text = (
            f"{when}: gradients were clipped far more strongly than before, down to "
            f"{self.smallest_factor:.2g} of their length (before: {self.usual_factor:.2g})"
        )
        if self.largest_norm is not None:
            text += f"; the largest norm was {self.largest_norm:.3g}"
            text += "" if self.usual_norm is None else f" (before: {self.usual_norm:.3g})"
        if self.layer is not None:
            text += f", the largest layer {self.layer} ({self.layer_norm:.3g})"
        if self.names_lr:
            text += f"; the learning rate was {self.lr:.3g}, against {self.usual_lr:.3g} around"
        return text + "."


def clipping_episodes(log: RunLog) -> list[ClippingEpisode]:
    """The bursts of clipping of a run.

    A step counts when its norm is 2.5 times the usual one and 4 robust deviations above it in log
    space, where usual means the median of the up to 200 steps before, and its clip factor is below
    0.7 of the usual one. Three such steps close together make a burst, or one alone that is 20 times
    off. Without norms the factor stands for them.

    Args:
        log: The run.

    Cost:
        O(num_steps), vectorized: no median per step, but one per 25 steps.
    """
    usable = np.isfinite(log.clip_factor) & (log.clip_factor > 0)
    if log.num_steps <= _BLOCK_ROWS or not usable.any():
        return []
    factor = _log_where(log.clip_factor, usable)
    norm = _log_where(log.grad_norm, np.isfinite(log.grad_norm) & (log.grad_norm > 0))
    usual, spread = _usual_before(factor)
    usual_norm, norm_spread = _usual_before(norm)
    drop = usual - factor
    is_known = ~np.isnan(norm - usual_norm)
    excess = np.where(is_known, norm - usual_norm, drop)
    sigma = np.where(is_known, norm_spread, spread)
    # comparisons with nan are false: no history, no verdict
    is_lone = excess > np.fmax(np.log(_LONE_RATIO), _LONE_DEVIATIONS * sigma)
    strong = (excess > np.fmax(np.log(_MIN_RATIO), _MIN_DEVIATIONS * sigma)) & (drop > np.log(_MIN_DROP))
    return [
        _describe(log, rows, usual, usual_norm)
        for rows in _groups(strong)
        if len(rows) >= _MIN_STEPS or is_lone[rows].any()
    ]


def _log_where(values: FloatArray, usable: BoolArray) -> FloatArray:
    return np.log(np.where(usable, values, 1.0)) + np.where(usable, 0.0, np.nan)


def _usual_before(values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """For each row the median and the robust deviation of the blocks before; nan where unknown."""
    num_blocks = -(-len(values) // _BLOCK_ROWS)
    padded = np.full((num_blocks + _NUM_BLOCKS) * _BLOCK_ROWS, np.nan)
    start = _NUM_BLOCKS * _BLOCK_ROWS
    padded[start : start + len(values)] = values
    blocks = padded.reshape(-1, _BLOCK_ROWS)
    history = np.lib.stride_tricks.sliding_window_view(blocks, _NUM_BLOCKS, axis=0)[:num_blocks]
    table = history.reshape(num_blocks, -1)
    center = _median(table)
    deviation = _MAD_TO_SIGMA * _median(np.abs(table - center[:, None]))
    rows = np.arange(len(values)) // _BLOCK_ROWS
    return center[rows], deviation[rows]


def _median(table: FloatArray) -> FloatArray:
    """Median of each row over what is not nan; nan when fewer than 20 numbers are left."""
    ordered = np.sort(table, axis=1)  # nan goes last
    num = np.sum(~np.isnan(table), axis=1)
    rows = np.arange(len(table))
    low = ordered[rows, np.maximum(num - 1, 0) // 2]
    high = ordered[rows, np.minimum(num // 2, table.shape[1] - 1)]
    return np.where(num >= 20, (low + high) / 2, np.nan)


def _groups(marked: BoolArray) -> list[NDArray[np.int64]]:
    rows = np.flatnonzero(marked)
    if len(rows) == 0:
        return []
    return np.split(rows, np.flatnonzero(np.diff(rows) > _MAX_GAP_ROWS + 1) + 1)


def _describe(
    log: RunLog, rows: NDArray[np.int64], usual: FloatArray, usual_norm: FloatArray
) -> ClippingEpisode:
    first, last = int(rows[0]), int(rows[-1])
    norms = log.grad_norm[first : last + 1]
    norms = norms[np.isfinite(norms)]
    layer, layer_norm = _largest_layer(log, int(log.step[first]), int(log.step[last]))
    around = np.concatenate(
        (log.lr[max(first - _AROUND_ROWS, 0) : first], log.lr[last + 1 : last + 1 + _AROUND_ROWS])
    )
    around, inside = around[np.isfinite(around)], log.lr[first : last + 1]
    inside = inside[np.isfinite(inside)]
    return ClippingEpisode(
        first=int(log.step[first]),
        last=int(log.step[last]),
        num_steps=len(rows),
        smallest_factor=float(log.clip_factor[rows].min()),
        usual_factor=float(np.exp(usual[first])),
        largest_norm=float(norms.max()) if len(norms) else None,
        usual_norm=float(np.exp(usual_norm[first])) if np.isfinite(usual_norm[first]) else None,
        layer=layer,
        layer_norm=layer_norm,
        lr=float(inside.max()) if len(inside) else None,
        usual_lr=float(np.median(around)) if len(around) else None,
    )


def _largest_layer(log: RunLog, first: int, last: int) -> tuple[str | None, float | None]:
    inside = (log.layer_steps >= first) & (log.layer_steps <= last)
    norms = log.layer_norms[inside]
    values = np.where(np.isfinite(norms.data) & ~np.ma.getmaskarray(norms), norms.data, -1.0)
    if values.size == 0 or values.max() < 0:
        return None, None
    layer = int(np.argmax(values.max(axis=0)))
    return log.layer_names[layer], float(values[:, layer].max())
