"""The fault timeline: when something went wrong, where, what was done about it, how it adds up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trimtab.record.log import FaultEvent, RunLog
from trimtab.report.theme import LIGHT, Theme, dress, fit_steps, legend, new_figure, say
from trimtab.types import Action, Kind, Place

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NUM_SLOTS = 1000


def plot_faults(log: RunLog, *, theme: Theme = LIGHT) -> Figure:
    """Fault timeline: a line per kind and place, colored by what was done; below, running totals.

    Args:
        log: The run.
        theme: The colors.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    steps: dict[tuple[Place, Kind], list[FaultEvent]] = {}
    for fault in log.faults:
        steps.setdefault((fault.place, fault.kind), []).append(fault)
    rows = [(place, kind) for place in Place for kind in Kind if (place, kind) in steps]
    figure = new_figure(theme, height=2.9 + 0.3 * max(len(rows), 1))
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(0.6 + 0.35 * max(len(rows), 1), 1.5))
    dress(top, theme, title="Faults")
    dress(bottom, theme, title="Running total", ylabel="faults", xlabel="step")
    fit_steps(top, log.step)
    top.set_ylim(max(len(rows), 1) - 0.5, -0.5)
    top.set_yticks(range(len(rows)), [f"{kind.value} in the {place.value}" for place, kind in rows])
    if not rows:
        say(top, theme, "No faults" if log.num_steps else "The log is empty")
        bottom.set_yticks([0])
        return figure
    _draw_events(top, log, [steps[row] for row in rows], theme)
    _draw_totals(bottom, log, theme)
    legend(top, theme)
    legend(bottom, theme)
    return figure


def _draw_events(axes: Axes, log: RunLog, rows: list[list[FaultEvent]], theme: Theme) -> None:
    styles = {
        Action.SKIP: (theme.main, "update skipped", "|"),
        Action.APPLY: (theme.warn, "update applied", "|"),
        Action.MEND: (theme.good, "mended and applied", "|"),
        Action.REWIND: (theme.second, "run rewound", "<"),
        Action.RAISE: (theme.bad, "training stopped", "X"),
    }
    first, last = int(log.step[0]), int(log.step[-1])
    slot = max((last - first) / _NUM_SLOTS, 1.0)
    for action in Action:
        color, label, marker = styles.get(action, (theme.good, f"action: {action.value}", "|"))
        x: list[float] = []
        y: list[int] = []
        for row, faults in enumerate(rows):
            places = np.array([fault.step for fault in faults if fault.action is action], dtype=np.float64)
            # one mark per place that can be told apart
            marks = np.unique(np.round((places - first) / slot)) * slot + first
            x.extend(marks.tolist())
            y.extend([row] * len(marks))
        if x:
            axes.scatter(
                x, y, marker=marker, s=110 if marker == "|" else 70, color=color, linewidths=1.6, zorder=3
            )
            axes.plot([], [], "s", color=color, label=label)


def _draw_totals(axes: Axes, log: RunLog, theme: Theme) -> None:
    from matplotlib.ticker import MaxNLocator

    colors = {Kind.NAN: theme.bad, Kind.INF: theme.second, Kind.OVERFLOW: theme.good, Kind.SPIKE: theme.main}
    dashes = {Kind.NAN: "solid", Kind.INF: "dashed", Kind.OVERFLOW: "dotted", Kind.SPIKE: "dashdot"}
    # what is only advice is drawn alike
    colors |= {Kind.UNDERFLOW: theme.warn, Kind.CLIPPING: theme.warn}
    dashes |= {Kind.UNDERFLOW: "dashed", Kind.CLIPPING: "dotted"}
    for kind in Kind:
        steps = np.array([fault.step for fault in log.faults if fault.kind is kind], dtype=np.int64)
        if len(steps):
            x, total = _staircase(steps, int(log.step[0]), int(log.step[-1]))
            axes.step(x, total, where="post", color=colors[kind], linestyle=dashes[kind], label=kind.value)
    axes.set_ylim(bottom=0.0)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))


def _staircase(
    steps: NDArray[np.int64], first: int, last: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Running total at up to `_NUM_SLOTS` places, from the first to the last step of the run."""
    places = np.unique(steps)
    if len(places) > _NUM_SLOTS:
        places = np.unique(np.linspace(places[0], places[-1], _NUM_SLOTS).astype(np.int64))
    total = np.searchsorted(np.sort(steps), places, side="right")
    x = np.concatenate(([first], places, [last])).astype(np.float64)
    return x, np.concatenate(([0], total, [len(steps)])).astype(np.int64)
