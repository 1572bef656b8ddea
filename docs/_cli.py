"""Writes docs/cli.md from the commands' own help."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from trimtab.cli import app

HEAD = """# Command line

Generated from `--help` by `make docs-cli`; a test fails when it is stale. Exit status: 0 clean,
1 failure, 2 usage. With `--json`, standard output holds one JSON object.
"""


def page() -> str:
    """The whole page."""
    runner = CliRunner(env={"COLUMNS": "90", "TERM": "dumb", "NO_COLOR": "1"})
    parts = [HEAD]
    for command in ("", "demo", "run", "show", "diagnose", "report", "trace", "check", "lint"):
        output = runner.invoke(app, [*command.split(), "--help"], prog_name="trimtab").output
        text = "\n".join(line.rstrip() for line in output.strip("\n").splitlines())
        parts.append(f"## trimtab {command}".rstrip() + f"\n\n```text\n{text}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    Path(__file__).with_name("cli.md").write_text(page())
