"""Reading a learning-rate range test: where the loss falls, where it becomes unstable, what to take."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FloatArray = NDArray[np.floating]

# A fall counts from so many standard errors of the smoothed curve. Simulated: of sweeps of 40 to 200 points
# of white noise, 1 to 5 of them, 1 % fall by 6 to 11 errors somewhere: the lowest point is looked for
_SIGMAS = 10.0
# Noise that remembers makes fewer independent tries: of as many sweeps, 1 % fall by 6 of its errors. Less
# memory than the least cannot be told from none
_FEWER_SIGMAS, _MIN_MEMORY, _MAX_MEMORY = 4.0, 0.3, 0.98
_QUANTILE, _QUANTILE_SIGMA = 0.35, 0.4538  # that quantile of the size of a standard normal number
_MIN_FALL = 5e-3  # of the size of the loss: less is no training, even if it is no chance
_ONSET = 0.1  # share of the fall from which the loss is falling, not wandering
_EDGE = 0.1  # share of the fall that is lost again at the edge of instability
_MAD_TO_SIGMA = 1.4826
_EDGE_FACTOR = 4.0  # times the best loss; the factor at which fastai stops
_SAFETY = 2.0  # the pick stays below the edge by this factor
_WINDOW_SHARE = 0.06  # of the points: a smoother that moves no minimum, unlike a trailing average
_MIN_POINTS = 8
_SLIDE_WINDOW, _SLIDE_SLOPE = 15, 0.005  # as published with the method


class Method(str, Enum):
    """How a learning rate is picked from the curve. A member equals its text."""

    @classmethod
    def _missing_(cls, value: object) -> Method:
        raise ValueError(f"method={value!r}: expected one of {', '.join(repr(each.value) for each in cls)}.")

    VALLEY = "valley"  # the middle of the fall
    STEEP = "steep"  # where the loss falls fastest
    MINIMUM = "minimum"  # a tenth of where it is lowest
    SLIDE = "slide"  # where, coming from the right, the fall levels out


class Suggestions(NamedTuple):
    """What each method says, before it is held within the interval; nan if it has no answer."""

    valley: float
    steep: float
    minimum: float
    slide: float


class Interval(NamedTuple):
    """Learning rates between which training works.

    Attributes:
        low: The lowest at which the loss fell significantly.
        high: The highest before it became unstable; the largest tried if it never did.
    """

    low: float
    high: float


@dataclass(frozen=True, slots=True, eq=False)
class RangeTest:
    """What a range test found.

    Attributes:
        suggested_lr: The learning rate to take; None if there is no honest answer: `why` says so.
        lrs: The learning rates tried, growing.
        losses: For each the median loss over the sweeps; nan where no sweep came.
        smoothed: The curve that was read, smoothed without lag.
        interval: Where training works; None without an answer.
        suggestions: What each method says.
        method: The one that was asked for.
        noise: Standard deviation of a single loss.
        sweeps: All losses, one row per sweep.
        why: In words: what the answer rests on, or why there is none.
    """

    suggested_lr: float | None
    lrs: FloatArray
    losses: FloatArray
    smoothed: FloatArray
    interval: Interval | None
    suggestions: Suggestions
    method: Method
    noise: float
    sweeps: FloatArray
    why: str

    def plot(self) -> Figure:
        """The curve, the interval and the pick as a matplotlib figure.

        Raises:
            MissingDependencyError: matplotlib is not installed.
        """
        from trimtab.prepare.figure import plot_range_test

        return plot_range_test(self)

    def describe(self) -> str:
        """The answer in one or two lines."""
        if self.suggested_lr is None or self.interval is None:
            return f"no learning rate can be suggested: {self.why}"
        low, high = self.interval
        pick = f"lr {self.suggested_lr:.2g} ({self.method.value})"
        return f"{pick}; works from {low:.2g} to {high:.2g}. {self.why}"


def read_sweeps(lrs: FloatArray, sweeps: FloatArray, method: Method = Method.VALLEY) -> RangeTest:
    """Read the losses of one or more sweeps over the same learning rates.

    Args:
        lrs: Learning rates, growing by a constant factor.
        sweeps: Losses, one row per sweep, nan after a sweep ended; they may be negative.
        method: Which suggestion to take.

    Shape:
        lrs: (N,), sweeps: (S, N) -> arrays of (N,).

    Example:
        >>> lrs = np.logspace(-6, 1, 100)
        >>> losses = 2.3 - 1.5 / (1 + 1e-2 / lrs) + (lrs / 2.0) ** 2
        >>> test = read_sweeps(lrs, losses[None])
        >>> 1e-3 < test.suggested_lr < 1e-1
        True

    References:
        L. N. Smith, "Cyclical learning rates for training neural networks", 2017, arXiv:1506.01186. The
        valley and slide methods: fastai, `fastai/callback/schedule.py`.
    """
    middle, length = _median_of_sweeps(sweeps)
    smooth = np.full(len(lrs), np.nan)
    if length < _MIN_POINTS:
        why = f"the loss was finite at {length} learning rates only: begin with a lower min_lr"
        if not length:
            why = (
                "the loss was not finite at the lowest learning rate: look for NaN in data, weights and "
                "loss, or begin with a lower min_lr"
            )
        return _none(lrs, middle, smooth, 0.0, sweeps, method, why)
    width = _width(len(lrs))
    curve = smooth[:length] = _smoothed(middle[:length], width)
    noise = _noise(sweeps, curve)
    wander = _wandering(sweeps[:, :length], width) / math.sqrt(len(sweeps))
    fall = _fall(curve, len(lrs), noise / math.sqrt(width * len(sweeps)), wander)
    if fall.size <= fall.by_chance:
        why = f"the loss falls by {max(fall.size, 0):.2g} at most, and by chance it may {fall.by_chance:.2g}"
        return _none(lrs, middle, smooth, noise, sweeps, method, why)
    interval = _interval(lrs, curve, fall)
    suggestions = _suggestions(lrs, curve, fall.lowest, interval)
    wish = getattr(suggestions, method.value)
    if not math.isfinite(wish):
        wish = math.sqrt(interval.low * interval.high)
    pick = float(min(max(wish, interval.low), max(interval.high / _SAFETY, interval.low)))
    why = f"The loss falls by {fall.size:.2g}; by chance it may {fall.by_chance:.2g}."
    return RangeTest(pick, lrs, middle, smooth, interval, suggestions, method, noise, sweeps, why)


class _Fall(NamedTuple):
    """How far a curve falls.

    Attributes:
        first: Where it begins.
        lowest: Index of its lowest point.
        size: From the first to the lowest.
        error: Standard error of one point of the curve.
        by_chance: What noise alone could do.
    """

    first: float
    lowest: int
    size: float
    error: float
    by_chance: float


def _fall(curve: FloatArray, num: int, error: float, wander: float) -> _Fall:
    lowest = int(np.argmin(curve))
    first = float(np.median(curve[: max(3, num // 10)]))
    by_chance = max(_SIGMAS * error, wander, _MIN_FALL * abs(first), 1e-12)
    return _Fall(first, lowest, first - float(curve[lowest]), error, by_chance)


def _median_of_sweeps(sweeps: FloatArray) -> tuple[FloatArray, int]:
    """The median loss as far as most sweeps came: where the others had left, it is not known but bad."""
    finite = np.isfinite(sweeps)
    is_known = np.append(finite.sum(0) * 2 > len(sweeps), [False])
    length = int(np.argmin(is_known))
    middle = np.full(sweeps.shape[1], np.nan)
    if length:
        middle[:length] = np.nanmedian(np.where(finite, sweeps, np.nan)[:, :length], axis=0)
    return middle, length


def _none(
    lrs: FloatArray,
    losses: FloatArray,
    smooth: FloatArray,
    noise: float,
    sweeps: FloatArray,
    method: Method,
    why: str,
) -> RangeTest:
    nothing = Suggestions(math.nan, math.nan, math.nan, math.nan)
    return RangeTest(None, lrs, losses, smooth, None, nothing, method, noise, sweeps, why)


def _width(num: int) -> int:
    """Points that are smoothed over: odd."""
    return max(3, int(_WINDOW_SHARE * num) // 2 * 2 + 1)


def _noise(sweeps: FloatArray, curve: FloatArray) -> float:
    """Standard deviation of one loss: the larger of that at the beginning and that before the lowest point.

    Taken from what is left once each sweep is smoothed by itself: a sweep is a path, not a cloud of points.
    """
    lowest = int(np.argmin(curve))
    width = max(_MIN_POINTS, len(curve) // 4)
    found = []
    for row in sweeps:
        values = row[: len(curve)]
        values = values[np.isfinite(values)]
        if len(values) < _MIN_POINTS:
            continue
        rest = np.abs(values - _smoothed(values, 5))
        end = min(lowest + 1, len(rest))
        parts = (rest[:width], rest[max(0, end - width) : end])
        # a running median and mean of 5 leave 0.71 of the deviation of white noise
        found.append(max(float(np.median(part)) for part in parts) * _MAD_TO_SIGMA / 0.71)
    return float(np.median(found)) if found else 0.0


def _wandering(sweeps: FloatArray, width: int) -> float:
    """How far the smoothed curve of one sweep may wander because its noise remembers; 0 if it does not.

    Losses of neighboring steps are alike: the batches come in an order, and the weights move little. The
    noise is taken for one that forgets at a constant rate, which the differences over one step and over
    many tell; what the sweeps have in common is no noise.
    """
    found = []
    together = np.nanmedian(sweeps, axis=0) if len(sweeps) > 1 else np.zeros(sweeps.shape[1])
    lag = max(4, sweeps.shape[1] // 8)
    for row in sweeps - together:
        values = row[np.isfinite(row)]
        if len(values) < 3 * lag:
            continue
        short, long = (_typical(values[step:] - values[:-step]) for step in (1, lag))
        if len(sweeps) == 1:  # nothing tells a long fall from noise but that it comes late
            half = values[: len(values) // 2 + lag // 2]
            long = min(long, _typical(half[lag:] - half[:-lag]))
        memory = min(1 - short / long, _MAX_MEMORY) if long > 0 else 0.0
        if memory < _MIN_MEMORY:
            found.append(0.0)
            continue
        variance = long / (1 - memory**lag)
        # of a mean over the window, as an autoregression of first order has it
        terms = sum((1 - j / width) * memory**j for j in range(1, width))
        error = math.sqrt(variance * (1 + 2 * terms) / width)
        found.append((_SIGMAS - _FEWER_SIGMAS * memory) * error)
    few = math.sqrt(len(sweeps) / (len(sweeps) - 1)) if len(sweeps) > 1 else 1.0
    return few * float(np.median(found)) if found else 0.0


def _typical(differences: FloatArray) -> float:
    """Half the mean square of most differences: a quantile leaves out those of a steep stretch."""
    return 0.5 * float(np.quantile(np.abs(differences), _QUANTILE) / _QUANTILE_SIGMA) ** 2


def _smoothed(values: FloatArray, width: int) -> FloatArray:
    """A running median, then a running mean, both centered; the ends use what there is."""
    for reduce in (np.median, np.mean):
        half = width // 2
        values = np.array(
            [
                reduce(values[max(0, i - r) : i + r + 1])
                for i in range(len(values))
                for r in [min(half, i, len(values) - 1 - i)]
            ]
        )
    return values


def _interval(lrs: FloatArray, curve: FloatArray, fall: _Fall) -> Interval:
    wander = min(3 * fall.error, 0.5 * fall.size)
    # onset: after the last point before the lowest at which the loss had hardly fallen
    above = np.flatnonzero(curve[: fall.lowest + 1] > fall.first - max(_ONSET * fall.size, wander))
    low = int(above[-1]) + 1 if len(above) else 0
    best = float(curve[fall.lowest])
    # near 0 a rise is told by its factor: a batch that is learned by heart hides how unstable a rate is
    rise = min(_EDGE * fall.size, (_EDGE_FACTOR - 1) * best) if best > 0 else _EDGE * fall.size
    after = np.flatnonzero(curve[fall.lowest :] > best + max(rise, wander))
    has_ended = len(curve) < len(lrs)
    high = fall.lowest + int(after[0]) - 1 if len(after) else len(curve) - 1 - has_ended
    return Interval(float(lrs[min(low, high)]), float(lrs[max(high, 0)]))


def _suggestions(lrs: FloatArray, curve: FloatArray, lowest: int, interval: Interval) -> Suggestions:
    slopes = np.gradient(curve, np.log(lrs[: len(curve)]))
    steep = int(np.argmin(slopes[: lowest + 1]))
    return Suggestions(
        # the middle of the fall; published as that of the longest run of falling losses, which on a smooth
        # curve begins at the first point and says nothing about where the fall is
        valley=math.sqrt(interval.low * max(float(lrs[lowest]), interval.low)),
        steep=float(lrs[steep]) if slopes[steep] < 0 else math.nan,
        minimum=float(lrs[lowest]) / 10,
        slide=_slide(lrs, curve),
    )


def _slide(lrs: FloatArray, curve: FloatArray) -> float:
    """From the right, the first window at whose ends the loss is falling alike."""
    slopes = np.gradient(curve)
    scale = float(np.ptp(curve)) or 1.0
    for right in range(len(curve) - 1, _SLIDE_WINDOW - 1, -1):
        left = right - _SLIDE_WINDOW
        if abs(slopes[right] - slopes[left]) <= _SLIDE_SLOPE * scale and slopes[left] < 0:
            return float(lrs[left])
    return math.nan
