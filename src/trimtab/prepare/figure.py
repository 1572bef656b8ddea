"""The figure of a range test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from trimtab.report.theme import LIGHT, Theme, dress, legend, new_figure, say

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from trimtab.prepare.range_test import RangeTest


def plot_range_test(test: RangeTest, *, theme: Theme = LIGHT) -> Figure:
    """Losses over the learning rate, the curve that was read, the interval that works, and the pick.

    Args:
        test: The range test.
        theme: The colors.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    figure = new_figure(theme, height=4.2)
    axes = figure.subplots()
    answer = "no answer" if test.suggested_lr is None else f"take {test.suggested_lr:.2g}"
    dress(axes, theme, title=f"Learning rate: {answer}", ylabel="loss", xlabel="learning rate (log)")
    axes.set_xscale("log")
    axes.set_xlim(float(test.lrs[0]), float(test.lrs[-1]))
    many = len(test.sweeps) > 1
    for row in test.sweeps:
        axes.plot(test.lrs, row, ".", color=theme.muted, markersize=3, alpha=0.6, zorder=1)
    axes.plot([], [], ".", color=theme.muted, label="each sweep" if many else "losses")
    axes.plot(test.lrs, test.smoothed, color=theme.main, linewidth=1.8, label="smoothed", zorder=3)
    _frame(axes, test)
    if test.interval is not None:
        low, high = test.interval
        axes.axvspan(low, high, color=theme.good, alpha=0.12, linewidth=0, zorder=0)
        axes.plot([], [], color=theme.good, alpha=0.4, linewidth=8, label=f"works: {low:.1g} to {high:.1g}")
    if test.suggested_lr is not None:
        axes.axvline(test.suggested_lr, color=theme.second, linewidth=1.6, label=test.method.value, zorder=2)
    if not np.isfinite(test.losses).any():
        say(axes, theme, "No loss is finite")
    elif test.suggested_lr is None:
        axes.set_xlabel(f"learning rate (log): {test.why}", color=theme.muted, fontsize=9)
    legend(axes, theme)
    return figure


def _frame(axes: Axes, test: RangeTest) -> None:
    """The fall in full; of the explosion at the end only its beginning."""
    curve = test.smoothed[np.isfinite(test.smoothed)]
    if not len(curve):
        return
    start = float(np.median(curve[: max(3, len(curve) // 10)]))
    low = float(curve.min())
    span = max(start - low, 4 * test.noise, 1e-3 * abs(start), 1e-12)
    axes.set_ylim(low - 0.15 * span, max(start, low + span) + 0.6 * span)
