from __future__ import annotations

import io
import sys

import numpy as np
import pytest
from rich.console import Console

from trimtab.errors import MissingDependencyError
from trimtab.record import RunLog
from trimtab.report import summary
from trimtab.report.terminal import sparkline


def shown(log, width=160) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(summary(log))
    return console.file.getvalue()


def test_the_summary_tells_the_facts(eventful):
    text = shown(eventful)
    for words in (
        "300 (0 to 299)",
        "290 applied, 10 not",
        "NormClip(max_norm=1.0)",
        "Steps 212-214: gradients of all 26 parameters became NaN",
        "norm (log10)",
    ):
        assert words in text, words


def test_everything_fits_into_80_columns(eventful):
    extremes = RunLog.from_arrays(
        loss=[-1.23456e300] * 40 + [-1.23456e-149] * 40,
        grad_norm=[1.23456e-100] * 40 + [1.23456e299] * 40,
        clip_factor=[1.23456e-100] * 40 + [0.987654] * 40,
    )
    for log in (eventful, extremes):
        text = shown(log, 80)
        assert chr(0x2026) not in text
        for label in ("loss", "norm (log10)", "clip factor"):
            (line,) = [line for line in text.split("\n") if line[2:].startswith(label)]
            bars, _, ends = line.strip(chr(0x2502) + " ")[len(label) :].strip().partition("  ")
            assert len(bars) == 36
            low, high = ends.split(" to ")
            assert float(low) < float(high)


def test_a_long_label_is_folded_and_not_cut():
    log = RunLog.from_arrays(loss=[1.0], metrics={"m" * 150: [2.0]})
    text = shown(log, 80)
    assert chr(0x2026) not in text
    assert text.count("m") == 150


def test_names_are_not_markup():
    log = RunLog.from_arrays(loss=[1.0], metrics={"[red]x[/]": [2.0]})
    assert "[red]x[/]" in shown(log)


def test_edge_cases(edge_log):
    for width in (30, 160):
        assert "What happened" in shown(edge_log, width)


def test_healthy_and_empty_runs_say_so():
    assert "Nothing went wrong." in shown(RunLog.from_arrays(loss=[1.0, 0.5]))
    assert "The log is empty." in shown(RunLog.from_arrays(loss=[]))


def test_a_sparkline_shows_where_it_was_not_finite():
    values = np.array([0.0, 1.0, np.nan, 1.0, 0.5])
    given = np.array([True, True, True, True, False])
    text = sparkline(values, given).plain
    assert text == chr(0x2581) + chr(0x2588) + "x" + chr(0x2588) + "  0 to 1"


def test_without_rich_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "rich.console", None)
    with pytest.raises(MissingDependencyError, match=r"'rich'.*trimtab\[report\]"):
        summary(RunLog.from_arrays(loss=[1.0]))
