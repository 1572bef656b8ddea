"""Figures of a run log: each a pure function from a log to a matplotlib Figure, shown by nobody.

Numbers that are not finite are marked, never drawn over: a red band over the step. Logs of a million
steps are thinned to the extremes of each pixel column.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from trimtab.record.columns import BoolArray, FloatArray
from trimtab.record.log import RunLog
from trimtab.report import decimate
from trimtab.report.decimate import positive
from trimtab.report.distribution_figures import plot_distributions as plot_distributions
from trimtab.report.fault_figures import plot_faults as plot_faults
from trimtab.report.layer_figures import plot_layers as plot_layers
from trimtab.report.theme import (
    LIGHT,
    Theme,
    draw_line,
    dress,
    fit_steps,
    legend,
    mark_spans,
    new_figure,
    say,
)
from trimtab.types import CLIPPING_WEIGHT, STABILITY_WEIGHTS, Kind

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# beyond this ratio a linear axis shows a flat line and one spike
_LOG_AXIS_RATIO = 30.0


def plot_loss(log: RunLog, *, baseline: RunLog | None = None, theme: Theme = LIGHT) -> Figure:
    """Loss over the steps, and below it the stability score.

    Args:
        log: The run.
        baseline: Another run, such as the same training without a guard, drawn behind this one.
        theme: The colors.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    figure = new_figure(theme, height=5.0)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(2.6, 1.0))
    dress(top, theme, title="Loss", ylabel="loss")
    dress(bottom, theme, title="Stability score", ylabel="1 is best", xlabel="step")
    runs = [log] if baseline is None else [baseline, log]
    ends = [run.step[[0, -1]] for run in runs if run.num_steps]
    fit_steps(top, np.sort(np.concatenate(ends)) if ends else log.step)
    if baseline is not None:
        draw_line(top, baseline.step, baseline.loss, color=theme.second, label="baseline", width=1.2)
        draw_line(bottom, baseline.step, baseline.stability_score, color=theme.second, label="", width=1.0)
        _mark_ghost(top, baseline, theme)
    bad = _not_finite(log, "loss")
    draw_line(top, log.step, log.loss, color=theme.main, label="loss" if baseline is None else "this run")
    mark_spans(top, log.step, bad, color=theme.bad, label="NaN or Inf")
    draw_line(bottom, log.step, log.stability_score, color=theme.good, label="")
    bottom.set_ylim(0.25, 1.06)  # the formula never goes below 0.3
    bottom.set_yticks([0.4, 0.6, 0.8, 1.0])
    _scale(top, np.concatenate([run.loss for run in runs]))
    if not any(np.isfinite(run.loss).any() for run in runs):
        say(top, theme, _nothing(log, "loss", "loss"))
    legend(top, theme)
    return figure


def plot_norms(log: RunLog, *, theme: Theme = LIGHT) -> Figure:
    """Gradient norm before and after clipping, on a log axis.

    Args:
        log: The run.
        theme: The colors.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    figure = new_figure(theme, height=3.8)
    axes = figure.subplots()
    dress(axes, theme, title="Gradient norm", ylabel="norm (log)", xlabel="step")
    fit_steps(axes, log.step)
    with np.errstate(invalid="ignore", over="ignore"):
        clipped = log.grad_norm * np.where(log.clip_factor > 0, log.clip_factor, np.nan)
    norm, zero = positive(log.grad_norm), log.grad_norm == 0
    has_clip = bool(np.isfinite(clipped).any())
    label = "before clipping" if has_clip else "norm"
    color = theme.second if has_clip else theme.main
    draw_line(axes, log.step, norm, color=color, label=label, width=1.1)
    if has_clip:
        draw_line(axes, log.step, positive(clipped), color=theme.main, label="after clipping", layer=3)
    mark_spans(axes, log.step, _not_finite(log, "grad_norm"), color=theme.bad, label="NaN or Inf")
    mark_spans(axes, log.step, zero, color=theme.muted, label="exactly 0")
    if np.isfinite(norm).any():
        _log_axis(axes, np.concatenate((norm, positive(clipped))))
    else:
        text = "All gradient norms are 0" if zero.any() else _nothing(log, "grad_norm", "gradient norm")
        say(axes, theme, text)
    legend(axes, theme)
    return figure


def plot_clipping(log: RunLog, *, theme: Theme = LIGHT) -> Figure:
    """Clip factor over the steps, and at its right how it is distributed.

    Args:
        log: The run.
        theme: The colors.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    figure = new_figure(theme, height=3.8)
    axes, side = figure.subplots(1, 2, sharey=True, width_ratios=(4.0, 1.0))
    dress(axes, theme, title="Clip factor", ylabel="gradients multiplied by", xlabel="step")
    dress(side, theme, title="Distribution", xlabel="share of steps, %")
    side.tick_params(labelleft=False)
    fit_steps(axes, log.step)
    factor = positive(log.clip_factor)
    draw_line(axes, log.step, factor, color=theme.main, label="clip factor", width=1.1)
    no_factor = log.given("clip_factor") & ~np.isfinite(factor)
    mark_spans(axes, log.step, no_factor, color=theme.bad, label="no factor: norm not finite")
    there = factor[np.isfinite(factor)]
    if len(there) == 0:
        say(axes, theme, _nothing(log, "clip_factor", "clip factor"))
        side.set_xticks([])
    else:
        _draw_distribution(side, there, theme)
    legend(axes, theme)
    return figure


def plot_score(log: RunLog, window: int = 100, *, theme: Theme = LIGHT) -> Figure:
    """Mean stability score over a sliding window; the colored areas are what it lost, and to what.

    Args:
        log: The run.
        window: Number of steps that each mean looks back on.
        theme: The colors.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    figure = new_figure(theme, height=3.8)
    axes = figure.subplots()
    parts = log.windowed_score(window)
    title = f"Stability score, mean of the last {window} steps"
    dress(axes, theme, title=title, ylabel="score, 1 is best", xlabel="step")
    fit_steps(axes, log.step)
    # thinned by the score: the areas change with it
    rows = np.unique(
        np.searchsorted(log.step, decimate.envelope(log.step, parts.score)[0]).clip(
            0, max(len(log.step) - 1, 0)
        )
    )
    ceiling = np.ones(len(rows))
    losses = (
        ("NaN", STABILITY_WEIGHTS[Kind.NAN] * parts.nan_share, theme.bad),
        ("Inf", STABILITY_WEIGHTS[Kind.INF] * parts.inf_share, theme.second),
        ("overflow", STABILITY_WEIGHTS[Kind.OVERFLOW] * parts.overflow_share, theme.good),
        ("clipping", CLIPPING_WEIGHT * parts.clipped_share, theme.muted),
    )
    for label, lost, color in losses:
        if len(rows) and lost.max() > 0:
            floor = ceiling - lost[rows]
            axes.fill_between(
                log.step[rows], floor, ceiling, color=color, alpha=0.45, linewidth=0, label=f"lost to {label}"
            )
            ceiling = floor
    draw_line(axes, log.step, parts.score, color=theme.main, label="score", width=1.5)
    lowest = float(parts.score.min()) if len(rows) else 0.0
    # the losses are what matters here: the axis ends a little below the lowest score
    axes.set_ylim(
        max(0.0, lowest - max(0.02, 0.25 * (1.0 - lowest))), 1.0 + max(0.002, 0.05 * (1.0 - lowest))
    )
    if not len(rows):
        say(axes, theme, "The log is empty")
    legend(axes, theme, columns=5)
    return figure


def _draw_distribution(axes: Axes, factor: FloatArray, theme: Theme) -> None:
    """A histogram that lies on its side, next to the curve that it sums up."""
    if factor.min() < 0.05:
        low = np.floor(np.log10(factor.min()))
        edges = np.logspace(low, max(0.0, np.log10(factor.max())), 31)
        edges[-1] *= 1.0 + 1e-9
        axes.set_yscale("log")
        axes.set_ylim(edges[0] / 1.25, edges[-1] * 1.25)
    else:
        top = max(1.0, float(factor.max()))
        edges = np.linspace(0.0, top, 31)
        axes.set_ylim(-0.03 * top, 1.05 * top)
    counts, edges = np.histogram(factor, bins=edges)
    share = 100.0 * counts / len(factor)
    heights = np.diff(edges)
    axes.barh(edges[:-1], share, height=heights * 0.92, align="edge", color=theme.main, alpha=0.75)
    axes.set_xlim(0.0, max(share.max() * 1.08, 1.0))


def _mark_ghost(axes: Axes, baseline: RunLog, theme: Theme) -> None:
    """Where the baseline's loss was not finite: a strip at the top, apart from this run's bands."""
    bad = _not_finite(baseline, "loss")
    bands = decimate.spans(baseline.step, bad)
    if bands:
        num = int(bad.sum())
        axes.broken_barh(
            bands,
            (0.965, 0.035),
            transform=axes.get_xaxis_transform(),
            facecolor=theme.second,
            linewidth=0,
            label=f"baseline NaN or Inf ({num:,} step{'s' if num > 1 else ''})",
        )


def _not_finite(log: RunLog, column: str) -> BoolArray:
    """Where a number was given and is not finite."""
    values: FloatArray = getattr(log, column)
    return log.given(column) & ~np.isfinite(values)


def _nothing(log: RunLog, column: str, name: str) -> str:
    if log.num_steps == 0:
        return "The log is empty"
    if not log.given(column).any():
        return f"No {name} was recorded"
    return f"No {name} is finite"


def _scale(axes: Axes, values: FloatArray) -> None:
    """A log axis if the values span too much for a linear one."""
    there = decimate.drawable(values[np.isfinite(values)])
    if len(there) == 0:
        axes.set_ylim(0.0, 1.0)
    elif there.min() > 0 and there.max() / there.min() > _LOG_AXIS_RATIO:
        _log_axis(axes, positive(there))
        axes.set_ylabel(axes.get_ylabel() + " (log)")


def _log_axis(axes: Axes, values: FloatArray) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    there = values[np.isfinite(values)]
    low, high = float(there.min()), float(there.max())
    room = max((high / low) ** 0.06, 1.3)
    axes.set_yscale("log")
    axes.set_ylim(low / room, high * room)
    axes.yaxis.set_major_locator(LogLocator(numticks=8))
    if high / low > 20:
        axes.yaxis.set_minor_formatter(NullFormatter())
