"""Histograms of losses and gradient norms, for the parts of a run beside each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from trimtab.record.columns import BoolArray, FloatArray
from trimtab.record.log import RunLog
from trimtab.report import decimate
from trimtab.report.theme import LIGHT, Theme, dress, legend, new_figure, say

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NUM_BINS = 40
_PARTS = ("first third", "middle third", "last third")
# beyond this ratio a linear axis puts nearly all into one bin
_LOG_AXIS_RATIO = 30.0


def plot_distributions(log: RunLog, *, theme: Theme = LIGHT) -> Figure:
    """How losses and gradient norms are distributed, in the first, middle and last third of the run.

    Learning moves a distribution; trouble widens it or gives it a tail. What is not finite is counted in
    the title and drawn nowhere.

    Args:
        log: The run.
        theme: The colors.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    figure = new_figure(theme, height=6.0)
    top, bottom = figure.subplots(2, 1)
    _draw(top, log.loss, log.given("loss"), "loss", theme)
    _draw(bottom, log.grad_norm, log.given("grad_norm"), "gradient norm", theme)
    return figure


def _draw(axes: Axes, values: FloatArray, given: BoolArray, name: str, theme: Theme) -> None:
    num_bad = int((given & ~np.isfinite(values)).sum())
    bad = f", {num_bad:,} not finite left out" if num_bad else ""
    dress(axes, theme, title=f"Distribution of the {name}{bad}", xlabel=name, ylabel="share of the part, %")
    there = decimate.drawable(values[given & np.isfinite(values)])
    if len(there) == 0:
        text = f"No {name} is finite" if given.any() else f"No {name} was recorded"
        say(axes, theme, text if len(values) else "The log is empty")
        return
    edges = _edges(axes, there, name)
    colors = (theme.muted, theme.second, theme.main)
    thirds = np.array_split(np.arange(len(values)), len(_PARTS))
    for rows, label, color in zip(thirds, _PARTS, colors, strict=True):
        part = values[rows][given[rows] & np.isfinite(values[rows])]
        if len(part):
            share = (
                100.0 * np.histogram(decimate.drawable(part).clip(edges[0], edges[-1]), edges)[0] / len(part)
            )
            axes.stairs(share, edges, color=color, fill=True, alpha=0.35)
            axes.stairs(share, edges, color=color, linewidth=1.4, label=label)
    axes.set_ylim(bottom=0.0)
    legend(axes, theme, columns=3)


def _edges(axes: Axes, values: FloatArray, name: str) -> FloatArray:
    """Bins over all values: by factors if they span too much for a linear axis."""
    low, high = float(values.min()), float(values.max())
    positive = values[values > 0]
    if low >= 0 and len(positive) and high / float(positive.min()) > _LOG_AXIS_RATIO:
        axes.set_xscale("log")
        axes.set_xlabel(f"{name} (log)")
        return np.geomspace(float(positive.min()) / 1.001, high * 1.001, _NUM_BINS + 1)
    room = 1e-3 * max(high - low, abs(high), 1e-12)
    return np.linspace(low - room, high + room, _NUM_BINS + 1)
