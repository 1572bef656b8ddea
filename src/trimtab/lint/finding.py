"""What the linter says about one place, and what a rule is."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from trimtab.lint.source import Source


@dataclass(frozen=True, slots=True)
class LintFinding:
    """One place in a source file that is not numerically safe.

    Attributes:
        path: The file, as it was given or found below the folder that was given.
        line: Its line, from 1.
        column: Its column, from 1.
        rule: Name of the rule.
        message: What is wrong, in one sentence.
        advice: What to write instead.
    """

    path: Path
    line: int
    column: int
    rule: str
    message: str
    advice: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}:{self.column} {self.rule} {self.message} {self.advice}"


class Rule(Protocol):
    """One pattern. Its docstring is its document, and the page about the rules is made of them."""

    @property
    def name(self) -> str:
        """What it is called in findings and in `# trimtab: ignore[...]`."""

    @property
    def nodes(self) -> tuple[type[ast.AST], ...]:
        """The kinds of nodes it is shown."""

    @property
    def advice(self) -> str:
        """What to write instead."""

    def check(self, source: Source, node: ast.AST) -> Iterator[str]:
        """A sentence for each thing that is wrong at this node.

        Args:
            source: The file it is in.
            node: One of the kinds in `nodes`.
        """
