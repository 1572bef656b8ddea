"""The command line: parse, make one library call, print. The only file that prints.

Exit status: 0 clean, 1 failure, 2 usage. With `--json`, standard output holds one JSON object.
"""

from __future__ import annotations

import importlib
import json
import logging
import math
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
import typer
from rich.console import Console, Group
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from trimtab._version import __version__
from trimtab.errors import TrimtabError
from trimtab.prepare import Preflight, preflight
from trimtab.record import RunLog, read
from trimtab.report import report as write_report
from trimtab.report.facts import run_facts, setup_facts
from trimtab.report.story import FaultEpisode, episodes, sentence
from trimtab.report.terminal import summary

if TYPE_CHECKING:
    from trimtab import demo as demos

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,  # brackets in help texts are meant
    context_settings={"help_option_names": ["-h", "--help"]},
)

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
RunArgument = Annotated[Path, typer.Argument(help="Folder of the run, or its .sqlite file.")]


class DemoData(str, Enum):
    """What the demo trains on."""

    TEXT = "text"
    DIGITS = "digits"


@contextmanager
def _failures() -> Iterator[None]:
    """What our own errors say goes to standard error, with exit status 1; anything else is a bug."""
    try:
        yield
    except (TrimtabError, OSError) as error:
        Console(stderr=True).print(Text.assemble(("trimtab: ", "bold red"), str(error)))
        raise typer.Exit(1) from error


def _version(value: bool) -> None:
    if value:
        print(f"trimtab {__version__}")
        raise typer.Exit


@app.callback(
    help="Numerically safe PyTorch training: what broke, at which step, and what was done about it."
)
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")
    ] = False,
) -> None:
    """Options of the command itself."""
    del version


@app.command()
def show(run: RunArgument, as_json: JsonOption = False) -> None:
    """Print what happened in a run, finished or still running."""
    with _failures():
        log = read(run)
        if as_json:
            print(json.dumps({"run": str(run), **_facts(log)}))
        else:
            Console().print(summary(log))


@app.command()
def report(
    run: RunArgument,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="File to write [default: report.html in the run's folder]."),
    ] = None,
    baseline: Annotated[Path | None, typer.Option(help="Another run, drawn into the loss figure.")] = None,
    title: Annotated[
        str | None, typer.Option(help="Heading of the page [default: the run's folder].")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a run as one self-contained HTML page."""
    with _failures():
        folder = run if run.is_dir() else run.parent
        log, other = read(run), None if baseline is None else read(baseline)
        page = write_report(log, out or folder / "report.html", baseline=other, title=title or str(run))
    print(json.dumps({"report": str(page)}) if as_json else f"Report written to {page}")


@app.command()
def demo(
    data: Annotated[
        DemoData, typer.Option(help="A language model on Python's own sources, or a vision model on digits.")
    ] = DemoData.TEXT,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder [default: runs/demo-DATA].")] = None,
    seed: Annotated[int, typer.Option(help="Where all randomness comes from.", min=0)] = 1,
    as_json: JsonOption = False,
) -> None:
    """Watch a small training run go wrong, unguarded and guarded.

    The same model trains twice from one seed. The data holds empty documents, a data worker hands
    over garbage, and the learning rate is far too large for a while. Nothing tells the guard where.
    Under 90 seconds on a CPU, no download.
    """
    folder = out or Path("runs") / f"demo-{data.value}"
    logging.getLogger("trimtab").addHandler(logging.NullHandler())  # the closing screen tells it better
    console = Console(stderr=as_json)
    with _failures():
        result = _run_demo(data.value, folder, seed, console)
        log, other = read(result.guarded_folder), read(result.unguarded_folder)
        page = folder / "report.html"
        with console.status("Writing the report"):
            write_report(log, page, baseline=other, title=f"trimtab demo: {data.value}, guarded")
    if as_json:
        print(json.dumps(_demo_facts(result, log, other, page)))
    else:
        console.print(_closing_screen(result, log, other, page))


@app.command()
def check(
    factory: Annotated[
        str, typer.Argument(help="MODULE:FUNCTION, a function without arguments that builds the set-up.")
    ],
    seconds: Annotated[float, typer.Option(help="Time for the experiments on the batch.", min=0.1)] = 20.0,
    as_json: JsonOption = False,
) -> None:
    """Check a model, its loss, a batch and an optimizer before the first step.

    The function returns (model, loss_fn, batch) or (model, loss_fn, batch, optimizer), or a mapping of
    arguments of trimtab.preflight. loss_fn is called as loss_fn(model, batch), or as loss_fn(output,
    target) for a batch (inputs, target). Exit status 1 if there is a problem.
    """
    with _failures():
        result = preflight(**_arguments(_factory(factory)(), seconds))
    if as_json:
        print(json.dumps(_preflight_facts(result)))
    else:
        # not wrapped: numbers and advice stand below the line they belong to
        Console().print(Text(result.describe()), soft_wrap=True)
    if result.problems:
        raise typer.Exit(1)


def _factory(name: str) -> Callable[[], Any]:
    try:
        return load_factory(name)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def load_factory(name: str) -> Callable[[], Any]:
    """The function that `pkg.module:factory` names, looked for in the current folder too.

    Raises:
        ValueError: The name is not of this form, or there is no such thing to call.
    """
    module_name, colon, attribute = name.partition(":")
    if not (module_name and colon and attribute):
        raise ValueError(f"{name!r}: expected MODULE:FUNCTION, such as mypackage.models:build.")
    sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ValueError(f"{name!r}: no module {error.name!r} here or among the installed ones.") from error
    finally:
        sys.path.pop(0)
    factory = getattr(module, attribute, None)
    if not callable(factory):
        raise ValueError(f"{name!r}: {module_name} has no function {attribute!r}.")
    return factory  # type: ignore[no-any-return]


def _arguments(made: Any, seconds: float) -> dict[str, Any]:
    """What a factory returned as the arguments of `preflight`."""
    names = ("model", "loss_fn", "batch", "optimizer")
    if isinstance(made, Mapping):
        arguments = dict(made)
    elif isinstance(made, (tuple, list)) and len(made) in (3, 4):
        arguments = dict(zip(names, made, strict=False))
    else:
        raise TypeError(
            f"the factory returned {type(made).__name__}: expected (model, loss_fn, batch), the same with an "
            "optimizer, or a mapping of arguments of trimtab.preflight."
        )
    missing = [name for name in names[:3] if name not in arguments]
    if missing or not isinstance(arguments["model"], torch.nn.Module) or not callable(arguments["loss_fn"]):
        raise TypeError(
            f"the factory returned {sorted(arguments)}: expected a torch.nn.Module as model, a function as "
            "loss_fn, and a batch."
        )
    return {"budget_sec": seconds, **arguments}


def _preflight_facts(result: Preflight) -> dict[str, Any]:
    """A pre-flight check as JSON takes it, which knows neither NaN nor Inf."""
    return {
        "is_clean": result.is_clean,
        "seconds": round(result.seconds, 2),
        "checks": [
            {
                "name": each.name,
                "verdict": each.verdict.value,
                "summary": each.summary,
                "evidence": {
                    n.name: n.value if math.isfinite(n.value) else str(n.value) for n in each.evidence
                },
                "advice": each.advice,
            }
            for each in result.checks
        ],
    }


def _run_demo(name: str, folder: Path, seed: int, console: Console) -> demos.DemoResult:
    """Train with a progress bar for each of the two runs."""
    from trimtab.demo import run_demo

    # small models: one thread is as fast as two, and twice as fast on a busy machine
    torch.set_num_threads(1)
    columns = (
        TextColumn("{task.description:<10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[state]}"),
    )
    bars: dict[str, TaskID] = {}
    refused = dict.fromkeys(("unguarded", "guarded"), 0)
    with Progress(*columns, console=console) as progress:

        def on_step(step: demos.Progress) -> None:
            if step.run not in bars:
                for earlier in bars.values():
                    progress.stop_task(earlier)  # a run that is lost ends before its bar does
                bars[step.run] = progress.add_task(step.run, total=step.num_steps, state="")
            outcome = step.outcome
            refused[step.run] += not outcome.applied
            state = f"loss {outcome.loss:7.3f}" + (
                f", {refused[step.run]} steps refused" if refused[step.run] else ""
            )
            progress.update(bars[step.run], advance=1, state=state)

        return run_demo(name, folder, seed=seed, on_step=on_step)


def _closing_screen(result: demos.DemoResult, log: RunLog, other: RunLog, page: Path) -> Group:
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
    parts += _told("What broke the unguarded run", other, only_first=2)
    parts += _told("What the guarded run met, and what was done", log, only_first=20)
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


def _told(heading: str, log: RunLog, *, only_first: int) -> list[Any]:
    lines: list[Any] = [Text(heading, style="bold")]
    for episode in episodes(log)[:only_first]:
        mark = ("x ", "red") if isinstance(episode, FaultEpisode) else ("~ ", "yellow")
        row = Table.grid(padding=(0, 0))
        row.add_row(Text.assemble(mark), Text(sentence(episode)))
        lines.append(row)
    return [*lines, Text()]


def _facts(log: RunLog) -> dict[str, Any]:
    """A run as JSON takes it."""
    return {
        "num_steps": log.num_steps,
        "num_refused": int((~log.applied).sum()),
        "num_faulty": len({fault.step for fault in log.faults}),
        "facts": {fact.label: fact.text for fact in (*run_facts(log), *setup_facts(log))},
        "episodes": [sentence(episode) for episode in episodes(log)],
    }


def _demo_facts(result: demos.DemoResult, log: RunLog, other: RunLog, page: Path) -> dict[str, Any]:
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
            **_facts(own),
        }
    return {"report": str(page), "seconds": round(result.seconds, 1), "sample": result.guarded.sample, **runs}
