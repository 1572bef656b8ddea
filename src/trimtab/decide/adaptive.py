"""Clips whose threshold is learned from past norms. One bad norm never changes what they do later.

All state lives on the device of the gradients and is updated by selection, never by a branch, so that
no step reads it. A norm that is not finite is left out of it, and so is one of 0. Every rule judges one
norm, or the norms of many groups at once (`layout.norm_shape`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, final, get_args

import torch
from torch import Tensor

from trimtab.decide.checks import (
    check_alpha,
    check_budget,
    check_factor,
    check_number,
    check_positive,
)
from trimtab.decide.clips import EPS
from trimtab.types import Layout, Needs, Scale, StepStats, wide_dtype

ZScoreMode = Literal["adaptive", "mean", "percentile"]


class History(NamedTuple):
    """The last norms.

    Attributes:
        norms: Shape (window, *norm_shape), a ring; nan where nothing has been yet.
        num: How many were ever pushed, integers of shape norm_shape.
    """

    norms: Tensor
    num: Tensor

    @classmethod
    def empty(cls, window: int, layout: Layout) -> History:
        """No norm yet."""
        shape = (window, *layout.norm_shape)
        return cls(
            torch.full(shape, math.nan, dtype=wide_dtype(layout.device), device=layout.device),
            torch.zeros(layout.norm_shape, dtype=torch.int64, device=layout.device),
        )

    def push(self, norm: Tensor, is_good: Tensor) -> History:
        """With this norm in place of the oldest, or as it is unless `is_good`."""
        window = len(self.norms)
        slots = torch.arange(window, device=self.norms.device).view(-1, *[1] * self.num.dim())
        here = (slots == self.num % window) & is_good
        return History(torch.where(here, norm.to(self.norms.dtype), self.norms), self.num + is_good)


@final
@dataclass(frozen=True, slots=True)
class QuantileClip:
    """Scale gradients to a percentile of the past global norms.

    AutoClip, with three hazards mended: the norm being judged is not part of its own threshold, a
    norm that is not finite does not enter the history, and the history is bounded.

    Args:
        percentile: Which percentile, in (0, 100]. 10 clips nine steps of ten, as AutoClip's authors use it.
        history: How many past norms are kept.
        min_history: Until so many are known, `initial` is the threshold.
        initial: Threshold of the first steps.
        norm_type: p of the p-norm, in (0, inf].

    Raises:
        ValueError: An argument is out of its range.

    Cost:
        A sort of `history` numbers on the device, no host read.

    Example:
        >>> clip = QuantileClip(percentile=50.0, min_history=3)
        >>> state = clip.init(Layout(torch.device("cpu")))
        >>> for norm in (1.0, 2.0, 3.0, float("nan"), 8.0):
        ...     scale, state = clip.rescale(StepStats(None, torch.tensor(norm)), state)
        >>> round(scale.factor.item(), 4)
        0.25

    References:
        Seetharaman et al., "AutoClip: Adaptive Gradient Clipping for Source Separation Networks",
        2020, arXiv:2007.14469.
    """

    needs: ClassVar[Needs] = Needs.NOTHING

    percentile: float = 95.0
    history: int = 100
    min_history: int = 10
    initial: float = 10.0
    norm_type: float = 2.0

    def __post_init__(self) -> None:
        check_number("QuantileClip", percentile=self.percentile)
        for name in ("history", "min_history"):
            check_budget("QuantileClip", getattr(self, name), name=name)
        if not 0 < self.percentile <= 100:
            raise ValueError(f"QuantileClip(percentile={self.percentile}): expected a number in (0, 100].")
        if not 1 <= self.min_history <= self.history:
            raise ValueError(
                f"QuantileClip(min_history={self.min_history}, history={self.history}): expected "
                "1 <= min_history <= history."
            )
        check_positive("QuantileClip", initial=self.initial, norm_type=self.norm_type)

    def init(self, layout: Layout) -> History:
        """No norm yet."""
        return History.empty(self.history, layout)

    def rescale(self, stats: StepStats[Tensor], state: History) -> tuple[Scale, History]:
        """Factor for this step."""
        learned = state.norms.nanquantile(self.percentile / 100, dim=0)
        threshold = torch.where(state.num >= self.min_history, learned, self.initial)
        return _scale_to(threshold, stats.grad_norm), state.push(
            stats.grad_norm, tells_something(stats.grad_norm)
        )


@final
@dataclass(frozen=True, slots=True)
class MeanClip:
    """Scale gradients to a multiple of the mean of the last accepted norms.

    Args:
        factor: Threshold over mean. More than 1.
        window: How many norms are averaged; until so many are known, `initial` is the threshold.
        initial: Threshold of the first steps.
        norm_type: p of the p-norm, in (0, inf].

    Raises:
        ValueError: An argument is out of its range.

    Cost:
        A mean of `window` numbers on the device, no host read.

    Example:
        >>> clip = MeanClip(factor=2.0, window=2, initial=5.0)
        >>> state = clip.init(Layout(torch.device("cpu")))
        >>> for norm in (1.0, 3.0, 8.0):
        ...     scale, state = clip.rescale(StepStats(None, torch.tensor(norm)), state)
        >>> round(scale.factor.item(), 4)
        0.5
    """

    needs: ClassVar[Needs] = Needs.NOTHING

    factor: float = 2.0
    window: int = 10
    initial: float = 0.1
    norm_type: float = 2.0

    def __post_init__(self) -> None:
        check_factor("MeanClip", self.factor)
        check_budget("MeanClip", self.window, name="window", least=1)
        check_positive("MeanClip", initial=self.initial, norm_type=self.norm_type)

    def init(self, layout: Layout) -> History:
        """No norm yet."""
        return History.empty(self.window, layout)

    def rescale(self, stats: StepStats[Tensor], state: History) -> tuple[Scale, History]:
        """Factor for this step."""
        is_known = state.num >= self.window
        learned = self.factor * state.norms.nanmean(dim=0)
        threshold = torch.where(is_known, learned, self.initial)
        # a spike counts as what was left of it; the first norms count in full, whatever `initial` is
        accepted = torch.where(is_known, stats.grad_norm.minimum(learned), stats.grad_norm)
        return _scale_to(threshold, stats.grad_norm), state.push(accepted, tells_something(stats.grad_norm))


class Average(NamedTuple):
    """A moving average and what its missing past weighs: `mean / (1 - weight)` is unbiased."""

    mean: Tensor
    weight: Tensor


@final
@dataclass(frozen=True, slots=True)
class EmaClip:
    """Scale gradients to a multiple of the exponential moving average of past norms.

    The average is bias-corrected, and a clipped norm enters it as what was left of it. The very first norm
    has nothing to be compared with: it is left alone, and is the first average.

    Args:
        alpha: Weight of the past, in (0, 1).
        factor: Threshold over average. More than 1, or the threshold could only fall.
        min_threshold: The threshold never falls below this.
        norm_type: p of the p-norm, in (0, inf].

    Raises:
        ValueError: An argument is out of its range.

    Cost:
        No host read, O(1).

    Example:
        >>> clip = EmaClip(factor=2.0)
        >>> state = clip.init(Layout(torch.device("cpu")))
        >>> for norm in (1.0, 1.0, 8.0):
        ...     scale, state = clip.rescale(StepStats(None, torch.tensor(norm)), state)
        >>> round(scale.factor.item(), 4)
        0.25
    """

    needs: ClassVar[Needs] = Needs.NOTHING

    alpha: float = 0.9
    factor: float = 2.0
    min_threshold: float = 0.1
    norm_type: float = 2.0

    def __post_init__(self) -> None:
        check_alpha("EmaClip", self.alpha)
        check_factor("EmaClip", self.factor)
        check_positive("EmaClip", min_threshold=self.min_threshold, norm_type=self.norm_type)

    def init(self, layout: Layout) -> Average:
        """Nothing averaged yet."""
        return Average(_filled(0.0, layout), _filled(1.0, layout))

    def rescale(self, stats: StepStats[Tensor], state: Average) -> tuple[Scale, Average]:
        """Factor for this step."""
        learned = self.factor * state.mean / (1.0 - state.weight)
        is_known = state.weight < 1.0
        threshold = torch.where(is_known, learned.clamp(min=self.min_threshold), math.inf)
        accepted = stats.grad_norm.minimum(threshold)
        is_good = tells_something(stats.grad_norm)
        mean = torch.where(is_good, self.alpha * state.mean + (1 - self.alpha) * accepted, state.mean)
        weight = torch.where(is_good, self.alpha * state.weight, state.weight)
        return _scale_to(threshold, stats.grad_norm), Average(mean, weight)


class Moments(NamedTuple):
    """Mean and variance of the norms, how many have entered, and the outliers in a row just now."""

    mean: Tensor
    variance: Tensor
    num: Tensor
    num_outliers: Tensor


@final
@dataclass(frozen=True, slots=True)
class ZScoreClip:
    """Scale gradients whose norm is an outlier by its z-score (ZClip), below a fixed cap.

    With z = (norm - mean) / (std + 1e-6), a norm is an outlier if z > `z`. The threshold is then, by
    `mode`: "adaptive" `clip_factor * (mean + z^2 / z_norm * std)`, the published default, which is
    lower the larger the spike; "mean" the mean; "percentile" `mean + z * std`, the same for every
    spike. Mean and variance are those of the first `warmup` norms, then moving averages, which a
    clipped norm enters as its threshold. Unlike the published code, a norm that is not finite enters
    nothing, and so many outliers in a row are taken for a new level, which is learned afresh: the
    published "adaptive" and "mean" clip a lasting rise of the norm for ever. And what is no outlier is left
    alone to the bit, where the published code multiplies by norm / (norm + 1e-6).

    Args:
        z: Largest z-score that is not an outlier.
        alpha: Weight of the past, in (0, 1).
        warmup: Number of norms that make the first mean and variance; only the cap clips them.
        mode: "adaptive", "mean" or "percentile".
        clip_factor: Factor of the adaptive threshold.
        max_norm: Cap on the norm whatever was learned, or None.
        rebaseline_steps: Outliers in a row that make a new level.
        norm_type: p of the p-norm, in (0, inf].

    Raises:
        ValueError: An argument is out of its range.

    Cost:
        No host read, O(1).

    Example:
        >>> clip = ZScoreClip(warmup=4, mode="mean", max_norm=None)
        >>> state = clip.init(Layout(torch.device("cpu")))
        >>> for norm in (1.0, 3.0, 1.0, 3.0, 20.0):
        ...     scale, state = clip.rescale(StepStats(None, torch.tensor(norm)), state)
        >>> round(scale.factor.item(), 4)
        0.1

    References:
        Kumar et al., "ZClip: Adaptive Spike Mitigation for LLM Pre-Training", 2025, arXiv:2504.02507.
    """

    needs: ClassVar[Needs] = Needs.NOTHING

    z: float = 2.5
    alpha: float = 0.97
    warmup: int = 25
    mode: ZScoreMode = "adaptive"
    clip_factor: float = 1.0
    max_norm: float | None = 1.0
    rebaseline_steps: int = 50
    norm_type: float = 2.0

    def __post_init__(self) -> None:
        check_alpha("ZScoreClip", self.alpha)
        for name in ("warmup", "rebaseline_steps"):
            check_budget("ZScoreClip", getattr(self, name), name=name, least=1)
        if self.mode not in get_args(ZScoreMode):
            modes = ", ".join(map(repr, get_args(ZScoreMode)))
            raise ValueError(f"ZScoreClip(mode={self.mode!r}): expected one of {modes}.")
        check_positive("ZScoreClip", z=self.z, clip_factor=self.clip_factor, norm_type=self.norm_type)
        if self.max_norm is not None:
            check_positive("ZScoreClip", max_norm=self.max_norm)

    def init(self, layout: Layout) -> Moments:
        """No norm yet."""
        none = torch.zeros(layout.norm_shape, dtype=torch.int64, device=layout.device)
        return Moments(_filled(0.0, layout), _filled(0.0, layout), none, none)

    def rescale(self, stats: StepStats[Tensor], state: Moments) -> tuple[Scale, Moments]:
        """Factor for this step."""
        norm = stats.grad_norm
        std = state.variance.sqrt()
        z = (norm - state.mean) / (std + EPS)
        is_learned = state.num >= self.warmup
        is_outlier = is_learned & (z > self.z)
        learned = self._threshold(state.mean, std, z)
        new = self._entered(state, norm, torch.where(is_outlier, learned, norm), is_outlier)
        cap = math.inf if self.max_norm is None else self.max_norm
        # the published code scales every step by norm / (norm + 1e-6), by half where the norm is 1e-6
        return _scale_to(torch.where(is_outlier, learned, math.inf).clamp(max=cap), norm), new

    def _threshold(self, mean: Tensor, std: Tensor, z: Tensor) -> Tensor:
        if self.mode == "mean":
            return mean
        if self.mode == "percentile":
            return mean + self.z * std
        return self.clip_factor * (mean + self.z**2 / z * std)

    def _entered(self, state: Moments, norm: Tensor, entering: Tensor, is_outlier: Tensor) -> Moments:
        """The moments with this norm in: a running mean and variance at first, then moving averages."""
        num_outliers = (state.num_outliers + 1) * is_outlier
        is_new_level = num_outliers >= self.rebaseline_steps
        entering = torch.where(is_new_level, norm, entering)
        num = torch.where(is_new_level, 0, state.num) + 1
        running = num.to(state.mean.dtype).reciprocal()  # 1 for the first norm: what was before is gone
        rate = torch.where(num > self.warmup, 1 - self.alpha, running)
        mean = state.mean + rate * (entering - state.mean)
        before = torch.where(num > self.warmup, entering - mean, entering - state.mean)
        variance = (1 - rate) * state.variance + rate * before * (entering - mean)
        new = Moments(mean, variance, num, torch.where(is_new_level, 0, num_outliers))
        is_good = tells_something(norm)
        return Moments(*(torch.where(is_good, n, s) for n, s in zip(new, state, strict=True)))


def _scale_to(threshold: Tensor, norm: Tensor) -> Scale:
    """The factor that brings a norm to a threshold, with torch's own constant."""
    return Scale((threshold / (norm + EPS)).clamp(max=1.0))


def tells_something(norm: Tensor) -> Tensor:
    """Whether a norm may enter a history: a bad one would poison it, and 0 stands for no gradient."""
    return norm.isfinite() & (norm > 0)


def _filled(value: float, layout: Layout) -> Tensor:
    return torch.full(layout.norm_shape, value, dtype=wide_dtype(layout.device), device=layout.device)
