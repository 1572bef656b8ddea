"""How our figures look: colors that the color-blind can tell apart, on light and on dark paper."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trimtab.errors import MissingDependencyError
from trimtab.record.columns import BoolArray, FloatArray
from trimtab.report import decimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True)
class Theme:
    """Colors of a figure.

    Attributes:
        paper: Background.
        ink: Text.
        muted: Axis labels and ticks.
        faint: Grid and axes.
        main: The line that the figure is about.
        second: The line next to it.
        good: What went well.
        bad: NaN and Inf.
        warn: Overflow, and what was let through.
        zero: Cells of the heat map that are exactly 0.
    """

    paper: str
    ink: str
    muted: str
    faint: str
    main: str
    second: str
    good: str
    bad: str
    warn: str
    zero: str


# The hues of Okabe and Ito, "Color Universal Design", 2008; darker, or lighter, for contrast.
LIGHT = Theme(
    paper="#ffffff",
    ink="#1c2733",
    muted="#566270",
    faint="#dfe4ea",
    main="#0063a3",
    second="#d08700",
    good="#00815f",
    bad="#cc2f1f",
    warn="#d08700",
    zero="#c5ccd5",
)
DARK = Theme(
    paper="#171d25",
    ink="#e8edf3",
    muted="#a3afbd",
    faint="#313b47",
    main="#6db9f2",
    second="#f2b63d",
    good="#3fcfa0",
    bad="#ff7a66",
    warn="#f2b63d",
    zero="#a3afbd",
)


def new_figure(theme: Theme, *, width: float = 9.0, height: float = 4.0) -> Figure:
    """An empty figure in the theme's paper; sizes in inches.

    Args:
        theme: The colors.
        width: Inches.
        height: Inches.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError("matplotlib", extra="report", purpose="Drawing a run") from error
    return Figure(figsize=(width, height), layout="constrained", facecolor=theme.paper)


def dress(axes: Axes, theme: Theme, *, title: str = "", ylabel: str = "", xlabel: str = "") -> None:
    """Give axes the house look: a title at the left, a faint grid, no box.

    Args:
        axes: The axes.
        theme: The colors.
        title: Above the axes.
        ylabel: Left of them.
        xlabel: Below them.
    """
    axes.set_facecolor(theme.paper)
    axes.set_title(title, loc="left", color=theme.ink, fontsize=11, fontweight="bold", pad=8)
    axes.set_ylabel(ylabel, color=theme.muted, fontsize=9.5)
    axes.set_xlabel(xlabel, color=theme.muted, fontsize=9.5)
    axes.tick_params(which="both", colors=theme.muted, labelsize=9, length=3)
    axes.grid(visible=True, which="major", color=theme.faint, linewidth=0.7)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in {"left", "bottom"})
        spine.set_color(theme.faint)


def legend(axes: Axes, theme: Theme, *, columns: int = 4) -> None:
    """A legend above the axes, at the right of the title, where it covers no data.

    Args:
        axes: The axes; without labeled artists there is no legend.
        theme: The colors.
        columns: Entries per line.
    """
    handles, labels = axes.get_legend_handles_labels()
    if not handles:
        return
    axes.legend(
        handles,
        labels,
        loc="lower right",
        bbox_to_anchor=(1.0, 1.0),
        ncols=min(columns, len(handles)),
        frameon=False,
        fontsize=9,
        labelcolor=theme.ink,
        borderaxespad=0.2,
        handlelength=1.4,
        columnspacing=1.4,
    )


def say(axes: Axes, theme: Theme, text: str) -> None:
    """Write in the middle of the axes why there is nothing to see.

    Args:
        axes: The axes.
        theme: The colors.
        text: A few words.
    """
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=theme.muted)
    axes.grid(visible=False)


def fit_steps(axes: Axes, step: NDArray[np.int64]) -> None:
    """Let the x axis reach from the first to the last step, also when there is only one, or none.

    Args:
        axes: The axes.
        step: Step numbers, growing.
    """
    from matplotlib.ticker import MaxNLocator

    first, last = (float(step[0]), float(step[-1])) if len(step) else (0.0, 1.0)
    margin = max(0.01 * (last - first), 0.5)
    axes.set_xlim(first - margin, last + margin)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, steps=[1, 2, 5, 10]))


def draw_line(
    axes: Axes,
    step: NDArray[np.int64],
    values: FloatArray,
    *,
    color: str,
    label: str,
    width: float = 1.3,
    layer: float = 2.0,
) -> None:
    """A line that breaks where a value is not finite; points without neighbors become dots.

    Args:
        axes: The axes.
        step: Step numbers, growing.
        values: What to draw.
        color: Of the line.
        label: For the legend.
        width: Of the line, in points.
        layer: Higher is nearer to the reader.
    """
    x, y = decimate.envelope(step, decimate.drawable(values))
    axes.plot(x, y, color=color, linewidth=width, label=label, zorder=layer, solid_joinstyle="round")
    there = np.isfinite(y)
    beside = np.concatenate(([False], there[:-1])) | np.concatenate((there[1:], [False]))
    alone = there & ~beside[: len(there)]
    axes.plot(x[alone], y[alone], ".", color=color, markersize=4, zorder=layer)


def mark_spans(axes: Axes, step: NDArray[np.int64], marked: BoolArray, *, color: str, label: str) -> None:
    """Mark steps by a band over the height of the axes and a strip on the axis itself.

    Args:
        axes: The axes.
        step: Step numbers, growing.
        marked: Which of them.
        color: Of the band.
        label: For the legend; the number of steps is added.
    """
    bands = decimate.spans(step, marked)
    if not bands:
        return
    num = int(marked.sum())
    where = axes.get_xaxis_transform()
    axes.broken_barh(bands, (0.0, 1.0), transform=where, facecolor=color, alpha=0.16, linewidth=0, zorder=1)
    label = f"{label} ({num:,} step{'s' if num > 1 else ''})"
    axes.broken_barh(
        bands, (0.0, 0.035), transform=where, facecolor=color, linewidth=0, zorder=4, label=label
    )


def printable(texts: Sequence[str]) -> list[str]:
    """The texts with a question mark for each character that the reader's fonts cannot draw.

    Matplotlib would warn about each of them at every drawing, and draw an empty box.

    Args:
        texts: Texts from outside, such as names of layers.
    """
    from matplotlib import font_manager

    families = font_manager.FontProperties().get_family()
    files = {font_manager.findfont(font_manager.FontProperties(family=[family])) for family in families}
    fonts = [font_manager.get_font(file) for file in files]
    drawable = {c for c in set().union(*texts) if any(font.get_char_index(ord(c)) for font in fonts)}
    return ["".join(c if c in drawable else "?" for c in text) for text in texts]


def to_svg(figure: Figure) -> bytes:
    """The figure as SVG, the same bytes for the same figure.

    Args:
        figure: A figure of ours.
    """
    from matplotlib import rc_context

    buffer = io.BytesIO()
    with rc_context({"svg.hashsalt": "trimtab", "svg.fonttype": "path"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None}, dpi=144)
    return buffer.getvalue()
