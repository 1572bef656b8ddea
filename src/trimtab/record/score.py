"""The stability score over a run: a mean over a sliding window, and what it is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trimtab.record.columns import FloatArray
from trimtab.types import CLIPPING_WEIGHT, STABILITY_WEIGHTS, Kind

if TYPE_CHECKING:
    from trimtab.record.log import FaultEvent, RunLog


# Windows of so many steps are spread out in memory at a time
_BLOCK = 1 << 14


@dataclass(frozen=True, eq=False)
class WindowedScore:
    """Means over the last `window` steps, one entry per step (fewer steps at the start of the run).

    Where all scores come from the stability formula,
    `score = 1 - 0.3 nan_share - 0.2 inf_share - 0.1 overflow_share - 0.1 clipped_share`.

    Attributes:
        step: Step numbers; each mean ends with this step.
        score: Mean stability score.
        nan_share: Share of the steps with a NaN fault.
        inf_share: Share of the steps with an Inf fault.
        overflow_share: Share of the steps with an overflow fault.
        clipped_share: Mean share of the gradient that clipping took away.
        window: Number of steps looked back on.
    """

    step: NDArray[np.int64]
    score: FloatArray
    nan_share: FloatArray
    inf_share: FloatArray
    overflow_share: FloatArray
    clipped_share: FloatArray
    window: int


def windowed_score(log: RunLog, window: int = 100) -> WindowedScore:
    """Mean stability score over a sliding window, with its parts.

    Args:
        log: The run.
        window: Number of steps that each mean looks back on, this one included.

    Raises:
        ValueError: `window` is not at least 1.

    Cost:
        O(num_steps), whatever the window.

    Example:
        >>> from trimtab.record import RunLog
        >>> log = RunLog.from_arrays(loss=[1.0, float("nan"), 1.0, 1.0])
        >>> parts = windowed_score(log, window=2)
        >>> parts.score
        array([1.  , 0.85, 0.85, 1.  ])
        >>> parts.nan_share
        array([0. , 0.5, 0.5, 0. ])
    """
    if window < 1:
        raise ValueError(f"windowed_score(window={window}): expected a whole number >= 1.")
    shares = {kind: _mean(_has_kind(log.step, log.faults, kind), window) for kind in Kind}
    return WindowedScore(
        step=log.step,
        score=_mean(log.stability_score, window),
        nan_share=shares[Kind.NAN],
        inf_share=shares[Kind.INF],
        overflow_share=shares[Kind.OVERFLOW],
        clipped_share=_mean(clipped_share(log.clip_factor), window),
        window=window,
    )


@dataclass(frozen=True, eq=False)
class SpikeScore:
    """Share of the steps that spiked.

    Attributes:
        is_spike: Whether each step did.
        total: Share of all steps.
        recent: Share of the last 10,000 steps.
    """

    is_spike: NDArray[np.bool_]
    total: float
    recent: float


def spike_score(log: RunLog, *, window: int = 128, z: float = 6.0) -> SpikeScore:
    """Share of the steps whose loss or gradient norm is far above the ones before: OLMo's SpikeScore.

    A value is a spike if it is above the mean of the `window` values before it by more than `z` of their
    standard deviations. Values that are not finite enter no window, and are counted as faults elsewhere;
    with fewer than `window` values before it a step is no spike.

    Args:
        log: The run.
        window: Number of values looked back on.
        z: Standard deviations above the mean.

    Raises:
        ValueError: `window` is less than 2, or `z` is not > 0.

    Cost:
        O(num_steps * window) additions, vectorized; memory for 16,384 windows.

    Example:
        >>> from trimtab.record import RunLog
        >>> log = RunLog.from_arrays(loss=[1.0, 1.1, 0.9, 1.0, 30.0, 1.0, 1.1, 1.0])
        >>> score = spike_score(log, window=4)
        >>> score.is_spike.nonzero()[0], score.total
        (array([4]), 0.125)

    References:
        The SpikeScore callback of OLMo-core: over 10,000 steps, and in total.
    """
    if isinstance(window, bool) or not isinstance(window, int) or window < 2:
        raise ValueError(f"spike_score(window={window}): expected a whole number >= 2.")
    if not z > 0:
        raise ValueError(f"spike_score(z={z}): expected a number > 0.")
    is_spike = _spikes(log.loss, window, z) | _spikes(log.grad_norm, window, z)
    return SpikeScore(
        is_spike,
        total=float(is_spike.mean()) if len(is_spike) else 0.0,
        recent=float(is_spike[-10_000:].mean()) if len(is_spike) else 0.0,
    )


def _spikes(values: FloatArray, window: int, z: float) -> NDArray[np.bool_]:
    found = np.zeros(len(values), dtype=bool)
    places = np.flatnonzero(np.isfinite(values))
    if len(places) <= window:
        return found
    finite = values[places]
    windows = np.lib.stride_tricks.sliding_window_view(finite, window)[:-1]
    for start in range(0, len(windows), _BLOCK):
        # a spread taken from running sums of squares would lose what a high level leaves of it
        before = windows[start : start + _BLOCK]
        judged = slice(start + window, start + window + len(before))
        bound = before.mean(axis=1) + z * before.std(axis=1, ddof=1)
        found[places[judged]] = finite[judged] > bound
    return found


def clipped_share(clip_factor: FloatArray) -> FloatArray:
    """Share of the gradient taken away: 1 - factor; 0 where a bad norm made the factor NaN or 0."""
    return np.where(clip_factor > 0, 1.0 - clip_factor, 0.0)


def step_scores(
    steps: NDArray[np.int64], faults: Sequence[FaultEvent], clip_factor: FloatArray
) -> FloatArray:
    """Stability score of each step, by the formula of `StepOutcome.stability_score`."""
    scores = 1.0 - CLIPPING_WEIGHT * clipped_share(clip_factor)
    for kind, weight in STABILITY_WEIGHTS.items():
        scores -= weight * _has_kind(steps, faults, kind)
    return np.maximum(scores, 0.0)


def _has_kind(steps: NDArray[np.int64], faults: Sequence[FaultEvent], kind: Kind) -> FloatArray:
    faulty = np.unique(np.array([fault.step for fault in faults if fault.kind is kind], dtype=np.int64))
    return np.isin(steps, faulty).astype(np.float64)


def _mean(values: FloatArray, window: int) -> FloatArray:
    # nothing here is NaN: scores and shares are finite by construction
    total = np.concatenate(([0.0], np.cumsum(values)))
    end = np.arange(1, len(values) + 1)
    start = np.maximum(end - window, 0)
    return np.clip((total[end] - total[start]) / (end - start), 0.0, 1.0)
