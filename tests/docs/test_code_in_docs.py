"""Every piece of code that a reader may copy runs: README, pages, examples; and the pages are up to date."""

from __future__ import annotations

import contextlib
import io
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p)], ids=lambda p: p.name)
def test_code_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    code = "\n".join(blocks(page))
    names = {"__name__": "page"}
    # a page's classes need a module to live in: dataclasses look theirs up
    monkeypatch.setitem(sys.modules, "page", type(sys)("page"))
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, page.name, "exec", dont_inherit=True), names)
    if page.name in ("quickstart.md", "README.md"):
        shown = re.search(r"^step 40 skipped.*?(?=^```)", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        assert shown is not None
        count = re.compile(r"\d+ of 256")  # depends on the seed
        assert count.sub("N", shown.group()) in count.sub("N", printed.getvalue())
    for guard in [value for value in names.values() if type(value).__name__ == "Guard"]:
        guard.close()


def test_readme_begins_with_code():
    assert blocks(ROOT / "README.md")


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda p: p.stem)
def test_example_runs(example, tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "error", str(example)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize("name", ["cli.md", "rules.md", "lint.md"])
def test_a_page_that_is_made_of_the_sources_is_up_to_date(name):
    module = runpy.run_path(str(ROOT / "docs" / "_pages.py"))
    made = module["PAGES"][name]()
    assert (ROOT / "docs" / name).read_text() == made, f"docs/{name} is stale: python docs/_pages.py {name}"
