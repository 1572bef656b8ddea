"""Files in, findings out. Nothing of the code that is read is run."""

from __future__ import annotations

import ast
import io
import os
import re
import tokenize
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

from trimtab.lint.finding import LintFinding
from trimtab.lint.rules import RULES
from trimtab.lint.source import Source

_COMMENT = re.compile(r"#\s*trimtab:\s*ignore(?:\[([^\]]*)\])?")
# The rule of a file that cannot be parsed
UNREADABLE = "unreadable"
_NOT_SOURCES = ("__pycache__", "node_modules", "site-packages")


def lint(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> tuple[LintFinding, ...]:
    r"""Find what is not numerically safe in Python files that use PyTorch, without running them.

    Only patterns that are sure enough are reported: names are followed through assignments that have been
    made for sure, models and losses through `self` and the classes of the same file. A comment
    `# trimtab: ignore[rule]`, or without a rule for all, in the lines of an expression silences it.

    Args:
        paths: Files, or folders that are searched for `*.py`; hidden folders below them are left out.

    Returns:
        Findings in the order of files and lines.

    Raises:
        FileNotFoundError: A path does not exist, or a folder holds no Python file.

    Cost:
        About 2 ms for each 100 lines that use torch; next to nothing for files that do not import it.

    Example:
        >>> import pathlib, tempfile
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "model.py"
        >>> _ = file.write_text("import torch\ndef f(x):\n    return torch.log(torch.softmax(x, 1))\n")
        >>> [(finding.line, finding.rule) for finding in lint(file)]
        [(3, 'log-of-softmax')]
    """
    given = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    found: list[LintFinding] = []
    for path in dict.fromkeys(file for each in given for file in _files(Path(each))):
        found += _lint_file(path)
    return tuple(found)


def lint_source(text: str, path: Path) -> tuple[LintFinding, ...]:
    """The findings in one source text.

    Args:
        text: The source.
        path: What the file is called in findings.
    """
    if "torch" not in text:
        return ()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes: not what is asked
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError) as error:
        return (_unreadable(path, error),)
    source = Source(tree)
    if not source.uses_torch:
        return ()
    ignored = _ignored(text)
    found = [each for each, node in _looked_at(source, path) if not _is_ignored(each, node, ignored)]
    return tuple(sorted(found, key=lambda f: (f.line, f.column, f.rule)))


def _looked_at(source: Source, path: Path) -> Iterator[tuple[LintFinding, ast.expr | ast.stmt]]:
    for node in source.flow.nodes:
        if not isinstance(node, (ast.expr, ast.stmt)):
            continue
        for rule in RULES:
            if isinstance(node, rule.nodes):
                for message in rule.check(source, node):
                    place = (path, node.lineno, node.col_offset + 1)
                    yield LintFinding(*place, rule.name, message, rule.advice), node


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
        return
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such file or folder.")
    is_empty = True
    for folder, below, names in os.walk(path):
        below[:] = sorted(b for b in below if not b.startswith(".") and b not in _NOT_SOURCES)
        for name in sorted(names):
            if name.endswith(".py"):
                is_empty = False
                yield Path(folder, name)
    if is_empty:
        raise FileNotFoundError(f"{path}: no Python file in this folder.")


def _lint_file(path: Path) -> tuple[LintFinding, ...]:
    try:
        with tokenize.open(path) as file:  # heeds an encoding comment
            text = file.read()
    except (SyntaxError, UnicodeDecodeError) as error:
        return (_unreadable(path, error),)
    return lint_source(text, path)


def _unreadable(path: Path, error: Exception) -> LintFinding:
    line = (error.lineno or 1) if isinstance(error, SyntaxError) else 1
    told = error.msg if isinstance(error, SyntaxError) else str(error)
    message = f"this is not Python that can be read: {told}."
    return LintFinding(path, line, 1, UNREADABLE, message, "It was not looked at.")


def _ignored(text: str) -> dict[int, frozenset[str]]:
    """Rules that a comment silences, by line; the empty set silences all."""
    found: dict[int, frozenset[str]] = {}
    if "trimtab:" not in text:
        return found
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        match = _COMMENT.search(token.string) if token.type == tokenize.COMMENT else None
        if match is not None:
            names = (match[1] or "").replace(",", " ").split()
            found[token.start[0]] = frozenset(names)
    return found


def _is_ignored(finding: LintFinding, node: ast.expr | ast.stmt, ignored: dict[int, frozenset[str]]) -> bool:
    lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
    said = [ignored[line] for line in lines if line in ignored]
    return any(not names or finding.rule in names for names in said)
