"""A source linter: patterns that are not numerically safe, found without running the code."""

from trimtab.lint.finding import LintFinding as LintFinding
from trimtab.lint.finding import Rule as Rule
from trimtab.lint.linting import lint as lint
from trimtab.lint.linting import lint_source as lint_source
from trimtab.lint.rules import RULES as RULES

__all__ = ["RULES", "LintFinding", "Rule", "lint", "lint_source"]
