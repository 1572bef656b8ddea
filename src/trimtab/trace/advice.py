"""What to change in the very line: its expression rewritten where that is sound, else the pattern."""

from __future__ import annotations

import ast
import textwrap

import torch

from trimtab.trace.facts import Facts
from trimtab.trace.places import Site
from trimtab.trace.records import Place
from trimtab.types import Cause

_SAFE = {
    Cause.LOG_ZERO: "safe_log",
    Cause.DIV_ZERO: "safe_div",
    Cause.SINGULAR_GRADIENT: "safe_sqrt",
    Cause.FULLY_MASKED_SOFTMAX: "masked_softmax",
    Cause.DEGENERATE_LINALG: "safe_eigh",
}
_BY_OPERATION = {
    **{"linalg_vector_norm": "safe_norm", "norm": "safe_norm", "pow": "safe_pow", "sqrt": "safe_sqrt"},
    **{
        "rsqrt": "safe_rsqrt",
        "acos": "safe_acos",
        "asin": "safe_asin",
        "_linalg_svd": "safe_svd",
        "_linalg_eigh": "safe_eigh",
    },
    "std": "safe_std",
}
_SPREADS = frozenset({"std", "var", "std_mean", "var_mean"})
_OF_ONE = "pass correction=0, or leave the term out when there is one sample, whose spread is unknown"


_NAMESPACES = frozenset({"torch", "F", "special", "linalg", "math"})


def advise(cause: Cause, place: Place, facts: Facts | None) -> str:
    """A change for this line, and the function of `trimtab.numerics` that does it.

    Args:
        cause: Why the value became bad.
        place: Where. In the backward pass the forward place counts.
        facts: The operands.
    """
    operation = place.forward.operation if place.forward is not None else place.operation
    site = place.site
    rewritten = _rewritten(cause, operation.base, site, facts) if site is not None else None
    if cause is Cause.EMPTY_REDUCTION and operation.base in _SPREADS:
        return _OF_ONE
    safe = _BY_OPERATION.get(operation.base) if cause in _SAFE or cause is Cause.DOMAIN_EDGE else None
    safe = safe or _SAFE.get(cause)
    if rewritten is None:
        return cause.fixes[0] + (
            f", or use trimtab.numerics.{safe}" if safe and safe not in cause.fixes[0] else ""
        )
    return rewritten + (f"    or trimtab.numerics.{safe}" if safe else "")


def _rewritten(cause: Cause, base: str, site: Site, facts: Facts | None) -> str | None:
    """The line with a safe argument in place of the unsafe one; None if that cannot be done soundly."""
    text, expression = _without_comment(site.text), site.expression
    if expression is None or text.count(expression) != 1:
        return None
    node = _parsed(expression)
    argument = _argument(node, base) if node is not None else None
    if node is None or argument is None:
        return None
    below = facts.operand("other") if facts is not None and base == "div" else None
    if below is not None and below.num_negative:
        return None  # a clamp from below would change the negative ones
    is_half = facts is not None and facts.dtype in (torch.float16, torch.bfloat16)
    safer = _safer(cause, base, ast.unparse(argument), "1e-4" if is_half else "1e-12")
    if safer is None:
        return None
    replacement = ast.parse(safer, mode="eval").body
    changed = ast.unparse(_Exchange(argument, replacement).visit(node))
    line = text.replace(expression, changed)
    # one more pair of parentheses where a neighbor would bind more tightly
    return line if _is_same(text, expression, line, changed) else text.replace(expression, f"({changed})")


def _without_comment(text: str) -> str:
    """A line of code without the comment at its end."""
    before, mark, _ = text.rpartition("  #")
    return before.rstrip() if mark and before.count('"') % 2 == 0 and before.count("'") % 2 == 0 else text


def _is_same(text: str, expression: str, line: str, changed: str) -> bool:
    """Whether exchanging the text exchanged just this expression in the line's syntax tree."""
    trees = [_statement(text.replace(expression, "_x_")), _statement(line.replace(changed, "_x_", 1))]
    whole = _statement(line)
    if any(tree is None for tree in (*trees, whole)):
        return True  # part of a statement over several lines: nothing can be compared
    filled = ast.unparse(_Fill(changed).visit(trees[0]))  # type: ignore[arg-type]
    return filled == ast.unparse(whole)  # type: ignore[arg-type]


def _statement(line: str) -> ast.Module | None:
    try:
        return ast.parse(line)
    except SyntaxError:
        return None


def _parsed(expression: str) -> ast.expr | None:
    try:
        return ast.parse(textwrap.dedent(expression), mode="eval").body
    except SyntaxError:
        return None


def _argument(node: ast.expr, base: str) -> ast.expr | None:
    """The operand of this very operation that has to be made safe."""
    if isinstance(node, ast.BinOp):
        if isinstance(node.op, ast.Div):
            return node.right if base in ("div", "reciprocal") else None
        return node.left if isinstance(node.op, ast.Pow) and base in ("pow", "square") else None
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return None
    name, owner = node.func.attr.rstrip("_"), node.func.value
    if name != base and not (base == "div" and name == "true_divide"):
        return None
    operands = list(node.args)
    if not (isinstance(owner, ast.Name) and owner.id in _NAMESPACES) and not _is_namespace(owner):
        operands.insert(0, owner)
    place = 1 if base == "div" else 0
    return operands[place] if len(operands) > place and not isinstance(operands[place], ast.Starred) else None


def _is_namespace(owner: ast.expr) -> bool:
    return isinstance(owner, ast.Attribute) and ast.unparse(owner).startswith("torch.")


def _safer(cause: Cause, base: str, argument: str, epsilon: str) -> str | None:
    """An expression for the operand at which the operation is finite, and its derivative too."""
    tiny = f"({argument}).clamp(min={epsilon})"
    if cause is Cause.LOG_ZERO:
        return tiny if base != "log1p" else f"({argument}).clamp(min=-1 + 1e-6)"
    if cause is Cause.DIV_ZERO:
        return tiny
    if cause is Cause.SINGULAR_GRADIENT:
        return f"({argument}) + {epsilon}" if base in ("sqrt", "pow", "rsqrt") else None
    if cause is Cause.EXP_OVERFLOW:
        return f"({argument}).clamp(max=80.0)"
    if cause is Cause.DOMAIN_EDGE:
        edges = {"acosh": "min=1 + 1e-6", "logit": "1e-6, 1 - 1e-6"}
        return f"({argument}).clamp({edges.get(base, '-1 + 1e-6, 1 - 1e-6')})"
    if cause is Cause.DOMAIN_ERROR:
        return tiny if base in ("log", "sqrt", "pow", "rsqrt") else None
    if cause is Cause.WHERE_GRAD_TRAP:
        edges = {"exp": "max=80.0", "expm1": "max=80.0", "acos": "-1 + 1e-6, 1 - 1e-6"}
        return f"({argument}).clamp({edges.get(base, f'min={epsilon}')})"
    if cause is Cause.HALF_OVERFLOW:
        return f"({argument}).float()"
    return None


class _Exchange(ast.NodeTransformer):
    """Puts one expression in the place of another."""

    def __init__(self, old: ast.expr, new: ast.expr) -> None:
        self._old = old
        self._new = new

    def visit(self, node: ast.AST) -> ast.AST:
        return self._new if node is self._old else super().visit(node)


class _Fill(ast.NodeTransformer):
    """Puts an expression where the placeholder stands."""

    def __init__(self, expression: str) -> None:
        self._expression = ast.parse(expression, mode="eval").body

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return self._expression if node.id == "_x_" else node
