"""What the command line shows of runs and demos. It returns things to print, and prints nothing."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from trimtab.evidence import Evidence
from trimtab.record import RunLog
from trimtab.report.facts import run_facts, setup_facts
from trimtab.report.origins import birthplaces
from trimtab.report.story import FaultEpisode, episodes, sentence
from trimtab.report.terminal import births
from trimtab.types import Origin

if TYPE_CHECKING:
    from trimtab import demo as demos


def closing_screen(result: demos.DemoResult, log: RunLog, other: RunLog, page: Path) -> Group:
    """What happened, in plain words."""
    table = Table(box=None, padding=(0, 2), header_style="bold")
    for column in ("", "steps", "refused", result.guarded.score.label, "ended"):
        table.add_column(column, justify="left" if column in ("", "ended") else "right")
    for run in (result.unguarded, result.guarded):
        score = f"{run.score.value:.2f}"
        lost = run.lost_at_step is not None
        ended = f"NaN from step {run.lost_at_step} on" if lost else "a useful model"
        style = "red" if lost else "green"
        steps = f"{run.num_steps} of {run.planned_steps}" if lost else str(run.num_steps)
        table.add_row(
            run.run, steps, str(run.num_refused), Text(score, style=style), Text(ended, style=style)
        )
    parts: list[Any] = [table, Text()]
    parts += told("What broke the unguarded run", other, only_first=2)
    parts += told("What the guarded run met, and what was done", log, only_first=20)
    parts += [*births(log)[1:], Text()]
    if result.guarded.sample:
        parts += [
            Text("A sample of the guarded model", style="bold"),
            Text(result.guarded.sample, style="dim"),
            Text(),
        ]
    parts.append(Text.assemble("Report   ", (str(page), "bold cyan")))
    parts.append(
        Text.assemble("Again    ", (f"trimtab show {shlex.quote(str(result.guarded_folder))}", "cyan"))
    )
    return Group(Panel(Group(*parts), title=f"trimtab demo, {result.seconds:.0f} s", title_align="left"))


def told(heading: str, log: RunLog, *, only_first: int) -> list[Any]:
    """The first episodes of a run under a heading."""
    lines: list[Any] = [Text(heading, style="bold")]
    for episode in episodes(log)[:only_first]:
        mark = ("x ", "red") if isinstance(episode, FaultEpisode) else ("~ ", "yellow")
        row = Table.grid(padding=(0, 0))
        row.add_row(Text.assemble(mark), Text(sentence(episode)))
        lines.append(row)
    return [*lines, Text()]


def facts(log: RunLog) -> dict[str, Any]:
    """A run as JSON takes it."""
    return {
        "num_steps": log.num_steps,
        "num_refused": int((~log.applied).sum()),
        "num_faulty": len({fault.step for fault in log.faults}),
        "facts": {fact.label: fact.text for fact in (*run_facts(log), *setup_facts(log))},
        "episodes": [sentence(episode) for episode in episodes(log)],
        "origins": [
            {"steps": place.steps, **json.loads(place.origin.to_json())} for place in birthplaces(log)
        ],
    }


def demo_facts(result: demos.DemoResult, log: RunLog, other: RunLog, page: Path) -> dict[str, Any]:
    """Both runs of a demo as JSON takes them."""
    runs = {}
    for run, folder, own in (
        (result.unguarded, result.unguarded_folder, other),
        (result.guarded, result.guarded_folder, log),
    ):
        value = run.score.value
        runs[run.run] = {
            "run": str(folder),
            "score": run.score.label,
            "value": value if value == value else None,  # JSON has no NaN
            "lost_at_step": run.lost_at_step,
            **facts(own),
        }
    return {"report": str(page), "seconds": round(result.seconds, 1), "sample": result.guarded.sample, **runs}


def told_origin(found: Evidence, origin: Origin | None, *, is_replay: bool) -> str:
    """A replay, or what was written at the time, in words."""
    if origin is None:
        then = ", ".join(f"{name} {version}" for name, version in found.versions.items())
        return f" step {found.step}: everything is finite this time (it failed with {then})"
    lines = [f" step {found.step}, {'run again' if is_replay else 'as recorded'}:", origin.describe()]
    lines += [f" not kept  {part}: {why}" for part, why in found.left_out.items()]
    return "\n".join(lines)
