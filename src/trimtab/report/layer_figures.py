"""The heat map of the layers: which layer's gradient was how large, and which ones broke."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from trimtab.record.log import RunLog
from trimtab.report.layer_grid import Cells, layer_cells
from trimtab.report.theme import LIGHT, Theme, dress, new_figure, printable, say

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# not more columns than the narrowest map has pixels: a faulty step is one column, and must be seen
_MAX_ROWS, _MAX_COLUMNS, _MAX_NAMES, _NAME_LENGTH = 600, 500, 30, 34


def plot_layers(log: RunLog, *, theme: Theme = LIGHT) -> Figure:
    """Gradient norm of each layer over the steps, as a heat map with a log color scale.

    A recorded step stands for the steps around it, a faulty one only for itself. NaN, Inf and zero
    have colors of their own; blank means that the layer had no gradient, or that nothing was
    recorded near.

    Args:
        log: The run.
        theme: The colors.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    num_layers = len(log.layer_names)
    height = float(np.clip(1.6 + 0.19 * min(num_layers, _MAX_NAMES), 3.0, 7.5))
    figure = new_figure(theme, height=height)
    axes = figure.subplots()
    dress(axes, theme, title="Gradient norm per layer", xlabel="step")
    axes.grid(visible=False)
    if log.layer_norms.size == 0:
        say(axes, theme, "No per-layer norms were recorded")
        axes.set_xticks([])
        axes.set_yticks([])
        return figure
    is_faulty = np.isin(log.layer_steps, np.array([fault.step for fault in log.faults], dtype=np.int64))
    cells = layer_cells(
        log.layer_norms, log.layer_steps, is_faulty, max_columns=_MAX_COLUMNS, max_rows=_MAX_ROWS
    )
    ends = float(log.layer_steps.min()) - 0.5, float(log.layer_steps.max()) + 0.5
    _draw_cells(axes, cells, ends, theme)
    _name_rows(axes, log.layer_names, cells.norms.shape[1])
    # what new_figure() found missing, it has named
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, steps=[1, 2, 5, 10]))
    return figure


def _draw_cells(axes: Axes, cells: Cells, ends: tuple[float, float], theme: Theme) -> None:
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, LogNorm, to_rgba

    # layers downwards, steps to the right
    norms, has_nan, has_inf, absent = cells.norms.T, cells.has_nan.T, cells.has_inf.T, cells.is_absent.T
    positive = norms[np.isfinite(norms) & (norms > 0)]
    low, high = (float(positive.min()), float(positive.max())) if len(positive) else (0.1, 1.0)
    if low == high:
        low, high = low / 2, high * 2
    scale = LogNorm(low, high)
    drawable = np.where(np.isfinite(norms) & (norms > 0), norms, low)
    # without the yellow end of viridis, which is too near to the color of Inf
    colors = ListedColormap(colormaps["viridis"](np.linspace(0.0, 0.84, 256)))
    picture = colors(scale(drawable))
    marks: list[tuple[str, Any, str]] = [
        ("0", (norms == 0) & ~has_nan & ~has_inf, theme.zero),
        ("Inf", has_inf, theme.second),
        ("NaN", has_nan, theme.bad),
    ]
    for _, where, color in marks:
        picture[where] = to_rgba(color)
    picture[absent] = to_rgba(theme.paper, 0.0)
    edges = (*ends, len(norms) - 0.5, -0.5)
    axes.imshow(picture, aspect="auto", interpolation="nearest", extent=edges)
    present = [(label, color) for label, where, color in marks if where.any()]
    if absent.any():
        present.append(("nothing recorded", theme.paper))
    _explain(axes, present, theme)
    if len(positive):
        figure = axes.figure
        bar = figure.colorbar(ScalarMappable(scale, colors), ax=axes, pad=0.015, aspect=30)
        bar.set_label("norm (log)", color=theme.muted, fontsize=9.5)
        bar.ax.tick_params(which="both", colors=theme.muted, labelsize=9)
        bar.outline.set_visible(False)


def _explain(axes: Axes, marks: list[tuple[str, str]], theme: Theme) -> None:
    from matplotlib.patches import Patch

    if not marks:
        return
    handles = [Patch(facecolor=color, edgecolor=theme.muted, linewidth=0.6) for _, color in marks]
    axes.legend(
        handles,
        [label for label, _ in marks],
        loc="lower right",
        bbox_to_anchor=(1.0, 1.0),
        ncols=len(marks),
        frameon=False,
        fontsize=9,
        labelcolor=theme.ink,
        borderaxespad=0.2,
        handlelength=1.0,
    )


def _name_rows(axes: Axes, names: tuple[str, ...], num_rows: int) -> None:
    """As many names as can be read, evenly chosen; a long name keeps its end, which tells more."""
    shown = np.unique(np.linspace(0, num_rows - 1, min(num_rows, _MAX_NAMES)).astype(int))
    labels = [names[int(row * len(names) / num_rows)] for row in shown]
    short = [name if len(name) <= _NAME_LENGTH else "..." + name[3 - _NAME_LENGTH :] for name in labels]
    # a name is not mathematics: $ would make it so
    axes.set_yticks(shown, [name.replace("$", r"\$") for name in printable(short)], fontsize=8)
    axes.tick_params(axis="y", length=0)
