"""The summary that the terminal shows. It returns something to print and prints nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from trimtab.errors import MissingDependencyError
from trimtab.record.columns import BoolArray, FloatArray
from trimtab.record.log import RunLog
from trimtab.report import decimate
from trimtab.report.facts import Fact, run_facts, setup_facts
from trimtab.report.origins import birthplaces
from trimtab.report.story import episodes, sentence

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

# eight heights of a block, U+2581 to U+2588
_BARS = [chr(0x2581 + height) for height in range(8)]
# 12 of the longest label, the gaps and both ends of a range fit beside it into 80 columns
_WIDTH = 36
_MAX_EPISODES, _MAX_BIRTHS = 20, 5


def summary(log: RunLog) -> RenderableType:
    """What to print about a run: its facts, small curves, and what happened in words.

    Args:
        log: The run.

    Raises:
        MissingDependencyError: rich is not installed.
    """
    try:
        from rich.console import Group
        from rich.panel import Panel
        from rich.table import Table
        from rich.text import Text
    except ImportError as error:
        raise MissingDependencyError("rich", extra="report", purpose="The terminal summary") from error
    # Text everywhere: a name such as [red] must not be taken for markup
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", overflow="fold")
    grid.add_column(overflow="fold")
    for fact in _all_facts(log):
        grid.add_row(Text(fact.label), Text(fact.text))
    curves = Table.grid(padding=(0, 2))
    curves.add_column(style="dim", overflow="fold")
    curves.add_column(overflow="fold")
    named = (("loss", "loss"), ("norm (log10)", "grad_norm"), ("clip factor", "clip_factor"))
    for label, column in named:
        given = log.given(column)
        if given.any():
            curves.add_row(Text(label), sparkline(_drawable(getattr(log, column), column), given))
    found = episodes(log)
    story = [Text(f"* {sentence(episode)}") for episode in found[:_MAX_EPISODES]]
    if len(found) > _MAX_EPISODES:
        story.append(Text(f"  and {len(found) - _MAX_EPISODES} more", style="dim"))
    if not found:
        story = [Text("Nothing went wrong." if log.num_steps else "The log is empty.", style="green")]
    heading = Text("What happened", style="bold")
    parts: list[RenderableType] = [grid, Text(), curves, Text(), heading, *story, *births(log)]
    return Panel(Group(*parts), title="Run", title_align="left")


def births(log: RunLog) -> list[RenderableType]:
    """Where the bad values were born, one paragraph for each origin.

    Args:
        log: The run.
    """
    from rich.table import Table
    from rich.text import Text

    found = birthplaces(log)
    lines: list[RenderableType] = [Text(), Text("Where it began", style="bold")] if found else []
    for place in found[:_MAX_BIRTHS]:
        lines.append(Text(place.heading, style="red"))
        rows = place.origin.describe().splitlines()[1:]
        rows += [f" {'evidence':<10}{place.evidence}"] if place.evidence else []
        grid = Table.grid(padding=(0, 1))
        grid.add_column(style="dim", width=10)
        grid.add_column(overflow="fold")
        for row in rows:
            grid.add_row(Text(row[:11].rstrip()), Text(row[11:]))
        lines.append(grid)
    if len(found) > _MAX_BIRTHS:
        lines.append(Text(f"  and {len(found) - _MAX_BIRTHS} more", style="dim"))
    return lines


def sparkline(values: FloatArray, given: BoolArray, width: int = _WIDTH) -> Text:
    """A curve of block characters: the mean of each part of the run.

    Red where a value of the part was not finite; an x where none was.

    Args:
        values: What to draw.
        given: Where a number was recorded.
        width: Number of characters.
    """
    from rich.text import Text

    line = Text()
    rows = np.flatnonzero(given)
    parts = np.array_split(decimate.drawable(values)[rows], min(width, max(len(rows), 1)))
    finite = [part[np.isfinite(part)] for part in parts]
    means = [float(part.mean()) if len(part) else np.nan for part in finite]
    there = [mean for mean in means if np.isfinite(mean)]
    low, high = (min(there), max(there)) if there else (0.0, 1.0)
    for part, good, mean in zip(parts, finite, means, strict=True):
        style = "bold red" if len(good) < len(part) else ""
        if np.isfinite(mean):
            height = (mean - low) / (high - low) if high > low else 0.0
            line.append(_BARS[round(7 * height)], style=style)
        elif len(part):
            line.append("x", style=style)
    line.append(f"  {low:.3g} to {high:.3g}" if there else "  never finite", style="dim")
    return line


def _all_facts(log: RunLog) -> tuple[Fact, ...]:
    return run_facts(log) + setup_facts(log)


def _drawable(values: FloatArray, column: str) -> FloatArray:
    """What a small curve shows: a norm by its logarithm, no factor where a bad norm made it 0."""
    if column == "clip_factor":
        return np.where(values > 0, values, np.nan)
    if column != "grad_norm":
        return values
    logs = np.log10(decimate.positive(values))
    # 0 has no logarithm, but is no fault: it is drawn as the smallest positive norm
    floor = logs[np.isfinite(logs)].min() if np.isfinite(logs).any() else 0.0
    return np.where(values == 0, floor, logs)
