"""The command line: parse, make one library call, print. The only file that prints.

Exit status: 0 clean, 1 failure, 2 usage. With `--json`, standard output holds one JSON object.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from trimtab import running
from trimtab._version import __version__
from trimtab.diagnose import as_facts, certificate, load
from trimtab.diagnose import diagnose as find_faults
from trimtab.errors import TrimtabError
from trimtab.evidence import read as read_evidence
from trimtab.lint import LintFinding
from trimtab.lint import lint as lint_files
from trimtab.prepare import WrongLossError, arguments_of, facts_of, preflight
from trimtab.record import read
from trimtab.report import report as write_report
from trimtab.report.terminal import summary
from trimtab.retracing import load_factory, retrace
from trimtab.screens import closing_screen, demo_facts, facts, told_origin
from trimtab.types import Finding

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


def _written_policies() -> str:
    """How policies are written, for the help of `run`."""
    parts = [
        "A POLICY is NAME, or NAME:VALUE,KEY=VALUE,... with its arguments in their order or by name. One "
        "that is made of others is written as in Python, in quotes: 'AfterWarmup(NormClip(1.0), steps=100)', "
        "'Escalate((RescaleBad(3), Skip(10), Raise()))'. These are all, with their defaults; --clip and "
        "--remedy also take none:"
    ]
    for role, usages in running.describe():
        parts.append("\b\n" + "\n".join([f"--{role}", *(f"  {usage}" for usage in usages)]))
    return "\n\n".join(parts)


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
            print(json.dumps({"run": str(run), **facts(log)}))
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


@app.command(
    epilog=_written_policies(),
    # everything after the script is its own
    context_settings={"allow_interspersed_args": False},
)
def run(
    context: typer.Context,
    script: Annotated[str, typer.Argument(metavar="SCRIPT", help="Python file, or with -m a module.")],
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[ARGS]...", help="What the script is given.")
    ] = None,
    is_module: Annotated[bool, typer.Option("-m", help="SCRIPT names a module, as in python -m.")] = False,
    clip: Annotated[
        str, typer.Option(metavar="POLICY", help="How gradients are clipped, as in norm:1.0.")
    ] = "none",
    detect: Annotated[
        list[str] | None,
        typer.Option(metavar="POLICY", help="A detector besides NaN and Inf; may be given again."),
    ] = None,
    remedy: Annotated[
        str | None,
        typer.Option(metavar="POLICY", help="What is done about a faulty step.  [default: skip:10]"),
    ] = None,
    cooldown: Annotated[
        str | None,
        typer.Option(metavar="FACTOR,STEPS", help="Lower the learning rate for a while after a rewind."),
    ] = None,
    snapshots: Annotated[
        str | None,
        typer.Option(metavar="EVERY,KEEP", help="What a rewind goes back to.  [default with it: 100,3]"),
    ] = None,
    record: Annotated[
        str | None,
        typer.Option(metavar="FOLDER|none", help="Where the run log goes.  [default: runs/SCRIPT-TIME]"),
    ] = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Nothing of trimtab's own on standard error.")
    ] = False,
) -> None:
    """Run a training script as it is, with a guard on each of its optimizers.

    Options come before SCRIPT; what follows it is the script's. Its output, exit status and signals
    are as under python; one line on standard error at the end says how it went and where the log is.
    """
    folder: Path | None = Path("runs") / f"{Path(script).stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    if record is not None:
        folder = None if record == "none" else Path(record)
    try:
        policies = running.policies_from_text(
            clip=clip,
            detect=detect or (),
            remedy=remedy,
            cooldown=cooldown,
            snapshots=snapshots,
            record=folder,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error), ctx=context) from error

    def on_end(tallies: Sequence[running.Tally]) -> None:
        if not quiet:
            print(f"trimtab: {running.sentence(tallies)}", file=sys.stderr)

    if quiet:
        logging.getLogger("trimtab").addHandler(logging.NullHandler())
    with _failures():
        try:
            running.run_script(script, arguments or (), policies, is_module=is_module, on_end=on_end)
        except running.MissingScriptError as error:
            raise typer.BadParameter(str(error), ctx=context) from error


@app.command()
def trace(
    folder: Annotated[Path, typer.Argument(help="Fault folder, such as runs/exp1/faults/step-000812.")],
    model: Annotated[
        str | None,
        typer.Option(
            help="MODULE:FUNCTION that returns the model, or the model and loss_fn(model, batch): "
            "the step is run again with it."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Tell where the bad values of a failed step were born; with --model, by running it again.

    Exit status 1 if a bad value was found, 0 if everything is finite this time.
    """
    with _failures():
        found = read_evidence(folder)
        origin = found.origin
        if model is not None:
            try:
                origin = retrace(folder, load_factory(model))
            except (ValueError, TypeError) as error:
                raise typer.BadParameter(str(error), param_hint="--model") from error
    if as_json:
        said = None if origin is None else json.loads(origin.to_json())
        print(json.dumps({"step": found.step, "is_replay": model is not None, "origin": said}))
    else:
        Console(highlight=False).print(Text(told_origin(found, origin, is_replay=model is not None)))
    raise typer.Exit(0 if origin is None else 1)


@app.command()
def diagnose(
    run: Annotated[
        Path, typer.Argument(help="Run folder, .sqlite, .csv, .jsonl, trainer state or events file.")
    ],
    as_json: JsonOption = False,
) -> None:
    """Say what is wrong with a run, where, how sure that is, and what to change.

    Exit status 1 if anything is.

    Reads logs of trimtab, and the curves in CSV, JSONL, trainer_state.json and TensorBoard event files.
    """
    with _failures():
        log = load(run)
        found, proof = find_faults(log), certificate(log)
    if as_json:
        print(
            json.dumps(
                {"run": str(run), "findings": [as_facts(f) for f in found], "certificate": asdict(proof)}
            )
        )
    else:
        for finding in found:
            _print_finding(finding)
        print(proof.text)
    if found:
        raise typer.Exit(1)


def _print_finding(finding: Finding) -> None:
    console = Console(highlight=False)
    color = {"critical": "bold red", "warning": "bold yellow"}.get(finding.severity.value, "bold")
    console.print(Text.assemble((str(finding), color)), soft_wrap=True)
    for evidence in finding.evidence:
        console.print(Text(f"    {evidence}", style="dim"), soft_wrap=True)
    if finding.runners_up:
        console.print(
            Text(f"    also possible: {', '.join(finding.runners_up)}", style="dim"), soft_wrap=True
        )
    told = f"    {finding.confidence:.0%} sure. What to try: {finding.advice}"
    console.print(Text(told), soft_wrap=True)


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
    One to two minutes on a CPU, no download.
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
        print(json.dumps(demo_facts(result, log, other, page)))
    else:
        console.print(closing_screen(result, log, other, page))


@app.command()
def check(
    factory: Annotated[str, typer.Argument(help="MODULE:FUNCTION that builds the set-up.")],
    seconds: Annotated[float, typer.Option(help="Time for the experiments.", min=0.1)] = 20.0,
    as_json: JsonOption = False,
) -> None:
    """Check a model, its loss, a batch and an optimizer before the first step.

    The function returns (model, loss_fn, batch[, optimizer]) or a mapping of arguments of preflight().
    """
    try:
        arguments = arguments_of(load_factory(factory)(), seconds)
    except (ValueError, TypeError) as error:
        raise typer.BadParameter(str(error)) from error
    try:
        result = preflight(**arguments)
    except WrongLossError as error:  # any other is a bug of ours
        raise typer.BadParameter(str(error)) from error
    print(json.dumps(facts_of(result)) if as_json else result.describe())
    raise typer.Exit(0 if result.is_clean else 1)


@app.command()
def lint(
    paths: Annotated[
        list[Path], typer.Argument(exists=True, help="Python files, or folders that hold some.")
    ],
    as_json: JsonOption = False,
) -> None:
    """Find what is not numerically safe in Python sources, without running them.

    Exit status 1 if anything is. A comment "trimtab: ignore[RULE]" silences a rule for its line.
    """
    with _failures():
        found = lint_files(paths)
    if as_json:
        print(json.dumps({"findings": [_lint_facts(each) for each in found]}))
    else:
        for each in found:
            print(each)
        print(f"{len(found)} finding{'' if len(found) == 1 else 's'}" if found else "nothing found")
    raise typer.Exit(1 if found else 0)


def _lint_facts(finding: LintFinding) -> dict[str, object]:
    return {**asdict(finding), "path": str(finding.path)}


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
