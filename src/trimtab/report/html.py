"""One self-contained HTML page of a run: facts, what happened in words, figures, faults."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from trimtab._version import __version__
from trimtab.errors import MissingDependencyError
from trimtab.record.columns import FloatArray
from trimtab.record.export import refuse_folder, written_atomically
from trimtab.record.log import RunLog
from trimtab.report.facts import Fact, culprits_in_words, run_facts, setup_facts
from trimtab.report.origins import Birthplace, birthplaces
from trimtab.report.story import FaultEpisode, episodes, sentence
from trimtab.report.theme import DARK, LIGHT, Theme, to_svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MAX_EPISODES, _MAX_FAULTS, _MAX_BIRTHS = 100, 200, 20


@dataclass(frozen=True, slots=True)
class _Picture:
    """A figure on the page, once for light and once for dark paper, as data URIs."""

    light: str
    dark: str
    alt: str


@dataclass(frozen=True, slots=True)
class _FaultRow:
    """One line of the table of faults."""

    step: int
    what: str
    where: str
    culprits: str
    action: str
    reason: str


@dataclass(frozen=True, slots=True)
class _Birth:
    """Where bad values were born, on the page."""

    heading: str
    code: str
    where: str
    rows: tuple[Fact, ...]


@dataclass(frozen=True, slots=True)
class _StoryLine:
    """One episode on the page."""

    text: str
    is_fault: bool


def report(
    log: RunLog,
    path: str | os.PathLike[str],
    *,
    baseline: RunLog | None = None,
    title: str | None = None,
) -> Path:
    """Write one HTML page about a run. It needs no network, no scripts and no other file.

    Args:
        log: The run.
        path: File to write; appears only when complete.
        baseline: Another run, drawn into the figure of the loss.
        title: Heading of the page.

    Returns:
        The path.

    Raises:
        IsADirectoryError: The path is a folder.
        MissingDependencyError: matplotlib or jinja2 is not installed.

    Cost:
        Some 3 s; 8 s for a million steps.
    """
    refuse_folder(path)  # before seconds are spent on drawing
    try:
        from jinja2 import Environment
    except ImportError as error:
        raise MissingDependencyError("jinja2", extra="report", purpose="The HTML report") from error
    # every name in a log comes from outside: escaped, always
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    text = resources.files("trimtab.report").joinpath("page.html.j2").read_text(encoding="utf-8")
    found = episodes(log)
    page = environment.from_string(text).render(
        title=title or "Training run",
        version=__version__,
        num_steps=log.num_steps,
        facts=run_facts(log),
        setup=setup_facts(log),
        births=[_birth(place) for place in birthplaces(log)[:_MAX_BIRTHS]],
        story=[_StoryLine(sentence(e), isinstance(e, FaultEpisode)) for e in found[:_MAX_EPISODES]],
        num_more_episodes=max(len(found) - _MAX_EPISODES, 0),
        pictures=list(_pictures(log, baseline)),
        faults=list(_fault_rows(log)),
        num_faults=len(log.faults),
        num_more_faults=max(len(log.faults) - _MAX_FAULTS, 0),
    )
    with written_atomically(path) as file:
        file.write(page)
    return Path(path)


def _pictures(log: RunLog, baseline: RunLog | None) -> Iterator[_Picture]:
    from trimtab.report import figures

    drawn: list[tuple[Callable[[Theme], Figure], str]] = [
        (lambda theme: figures.plot_loss(log, baseline=baseline, theme=theme), _loss_in_words(log)),
        (lambda theme: figures.plot_norms(log, theme=theme), _norms_in_words(log)),
    ]
    if log.given("clip_factor").any():
        drawn.append((lambda theme: figures.plot_clipping(log, theme=theme), "Clip factor over the steps"))
    if log.faults:
        drawn.append((lambda theme: figures.plot_faults(log, theme=theme), _faults_in_words(log)))
    if log.layer_norms.size:
        words = f"Heat map of the gradient norms of {len(log.layer_names)} layers"
        drawn.append((lambda theme: figures.plot_layers(log, theme=theme), words))
    if log.num_steps > 1:
        drawn.append((lambda theme: figures.plot_score(log, theme=theme), "Stability score, sliding mean"))
    for draw, words in drawn:
        yield _Picture(_data_uri(draw(LIGHT)), _data_uri(draw(DARK)), words)


def _data_uri(figure: Figure) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(to_svg(figure)).decode("ascii")


def _birth(place: Birthplace) -> _Birth:
    origin = place.origin
    line = f"{origin.file}, line {origin.line}" if origin.file else ""
    module = None if origin.module is None else origin.module or "the model itself"
    rows = (
        ("Operation", f"{origin.op} ({origin.phase})"),
        ("Module", module if origin.module_type is None else f"{module} ({origin.module_type})"),
        ("Because", origin.why),
        ("Travelled", origin.route),
        ("Fix", origin.advice),
        ("Evidence", place.evidence),
    )
    return _Birth(place.heading, origin.code, line, tuple(Fact(name, text) for name, text in rows if text))


def _fault_rows(log: RunLog) -> Iterator[_FaultRow]:
    for fault in islice(log.faults, _MAX_FAULTS):
        beyond = "" if fault.threshold is None else f" (above {fault.threshold:g})"
        yield _FaultRow(
            step=fault.step,
            what=fault.kind.value + beyond,
            where=fault.place.value,
            culprits=culprits_in_words(fault),
            action=fault.action.value,
            reason=fault.reason,
        )


def _loss_in_words(log: RunLog) -> str:
    return f"Loss and stability score over {log.num_steps:,} steps{_ends(log.loss)}"


def _norms_in_words(log: RunLog) -> str:
    return f"Gradient norm before and after clipping over {log.num_steps:,} steps{_ends(log.grad_norm)}"


def _faults_in_words(log: RunLog) -> str:
    return f"Timeline of {len(log.faults):,} faults, and their running total"


def _ends(values: FloatArray) -> str:
    there = values[np.isfinite(values)]
    return f", from {there[0]:.3g} to {there[-1]:.3g}" if len(there) else ", never finite"
