from __future__ import annotations

import base64
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from trimtab.errors import MissingDependencyError
from trimtab.record import RunLog, export
from trimtab.report import html, report

NAN = float("nan")


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.words = [], []
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(scope="session")
def page_file(eventful, tmp_path_factory):
    baseline = RunLog.from_arrays(loss=[2.0] * 200 + [NAN] * 100)
    path = tmp_path_factory.mktemp("page") / "deep" / "report.html"
    return report(eventful, path, baseline=baseline, title="Fish & <chips>")


@pytest.fixture(scope="session")
def page(page_file):
    return Page(page_file.read_text(encoding="utf-8"))


def test_the_page_tells_what_happened(page):
    for words in (
        "Fish & <chips>",
        "Steps 212-214: gradients of all 26 parameters became NaN (first: embed.weight, 512 of 8192 "
        "elements)",
        "7 steps between 23 and 270",
        "300 (0 to 299)",
        "290 applied, 10 not",
        "NormClip(max_norm=1.0)",
        "Skip(budget=10)",
        "torch 2.",
        "0.5 at step 299",
        "embed.weight (512 of 8,192)",
        "23 more",
        "within the budget",
    ):
        assert words in page.text, words


def test_names_from_outside_are_never_markup(page, page_file):
    assert "script" not in {tag for tag, _ in page.tags}
    assert "<script" not in page_file.read_text()
    assert "head.weight<script>alert(1)</script>" in page.text
    assert "<b>note</b>" in page.text


def test_the_page_needs_no_other_file_and_no_network(page):
    for _, attributes in page.tags:
        for name, value in attributes.items():
            if name in {"src", "srcset", "href", "action", "poster", "background"}:
                assert value.startswith("data:image/svg+xml;base64,")
    assert {"link", "iframe", "object"}.isdisjoint(tag for tag, _ in page.tags)


def test_figures_come_twice_with_words_for_those_who_cannot_see_them(page):
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    dark = [attributes for tag, attributes in page.tags if tag == "source"]
    assert len(images) == len(dark) == 6
    assert all(len(image["alt"]) > 15 for image in images)
    assert all("prefers-color-scheme: dark" in source["media"] for source in dark)
    first = base64.b64decode(images[0]["src"].split(",")[1])
    assert b"<svg" in first
    # what matplotlib writes into a figure names its own site: as an identifier, not as a link
    assert not re.search(rb"xlink:href=\"https?:", first)


def test_the_table_of_faults_is_bounded(tmp_path):
    log = RunLog.from_arrays(loss=[NAN] * 450)
    page = Page(report(log, tmp_path / "r.html").read_text())
    assert sum(tag == "tr" for tag, _ in page.tags) == 201
    assert "The first 200 of 450 faults; 250 more are in the run log" in page.text


def test_edge_cases(edge_log, tmp_path, monkeypatch):
    # the figures have their own tests
    monkeypatch.setattr(html, "_pictures", lambda log, baseline: ())
    page = Page(report(edge_log, tmp_path / "r.html").read_text())
    assert "What happened" in page.text


def test_an_empty_and_a_healthy_run_say_so(tmp_path):
    empty = Page(report(RunLog.from_arrays(loss=[]), tmp_path / "a.html").read_text())
    assert "The log holds no step." in empty.text
    healthy = Page(report(RunLog.from_arrays(loss=[1.0, 0.5]), tmp_path / "b.html").read_text())
    assert "Nothing went wrong" in healthy.text


def test_a_folder_is_refused_before_anything_is_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(html, "_pictures", None)
    with pytest.raises(IsADirectoryError, match=r"is a folder\. Give the name of a file") as caught:
        report(RunLog.from_arrays(loss=[1.0]), str(tmp_path))
    assert repr(str(tmp_path)) in str(caught.value)
    assert ".part" not in str(caught.value)


def test_a_failure_leaves_no_half_page(tmp_path, monkeypatch):
    target = tmp_path / "r.html"
    target.write_text("old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(export.os, "replace", fail)
    monkeypatch.setattr(html, "_pictures", lambda log, baseline: ())
    with pytest.raises(OSError, match="disk full"):
        report(RunLog.from_arrays(loss=[1.0]), target)
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["r.html"]


@pytest.mark.parametrize("missing", ["jinja2", "matplotlib.figure"])
def test_a_missing_package_is_named(tmp_path, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MissingDependencyError, match=rf"'{missing.split('.')[0]}'.*trimtab\[report\]"):
        report(RunLog.from_arrays(loss=[1.0]), tmp_path / "r.html")
    assert list(tmp_path.iterdir()) == []


def test_importing_report_loads_no_optional_package():
    script = (
        "import sys, trimtab.report;"
        "print([n for n in ('matplotlib', 'jinja2', 'rich', 'pandas') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.skipif(
    shutil.which("chromium") is None, reason="needs the program chromium, which is not installed"
)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_the_page(page_file, tmp_path, scheme):
    import numpy as np
    from matplotlib.image import imread

    picture = tmp_path / "page.png"
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    flags += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    flags += ["--hide-scrollbars", "--window-size=1000,1600", "--virtual-time-budget=4000"]
    color = f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}"
    profile, shot = f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={picture}"
    command = ["chromium", *flags, color, profile, shot, page_file.as_uri()]
    subprocess.run(command, capture_output=True, check=True, timeout=60)
    pixels = imread(picture)[..., :3]
    assert pixels.shape == (1600, 1000, 3)
    brightness = pixels.mean(axis=2)
    background = float(np.median(brightness))
    assert background < 0.2 if scheme == "dark" else background > 0.8
    # ink: text and curves, everywhere on the page
    ink = np.abs(brightness - background) > 0.3
    assert 0.01 < ink.mean() < 0.4
    assert all(part.any() for part in np.array_split(ink, 8))
