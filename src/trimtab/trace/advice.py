"""What to change in the very line: its expression rewritten where that is sound, else the pattern."""

from __future__ import annotations

import ast
import textwrap

from trimtab.trace.places import Site
from trimtab.trace.records import Place
from trimtab.types import Cause

_SAFE = {
    Cause.LOG_ZERO: "safe_log",
    Cause.DIV_ZERO: "safe_div",
    Cause.DOMAIN_EDGE: "safe_acos",
    Cause.SINGULAR_GRADIENT: "safe_sqrt",
    Cause.FULLY_MASKED_SOFTMAX: "masked_softmax",
    Cause.DEGENERATE_LINALG: "safe_eigh",
}
_BY_OPERATION = {
    **{"linalg_vector_norm": "safe_norm", "norm": "safe_norm", "pow": "safe_pow", "sqrt": "safe_sqrt"},
    **{"rsqrt": "safe_rsqrt", "acos": "safe_acos", "_linalg_svd": "safe_svd", "_linalg_eigh": "safe_eigh"},
    "std": "safe_std",
}


def advise(cause: Cause, place: Place) -> str:
    """A change for this line, and the function of `trimtab.numerics` that does it.

    Args:
        cause: Why the value became bad.
        place: Where. In the backward pass the forward place counts.
    """
    operation = place.forward.operation if place.forward is not None else place.operation
    site = place.site
    rewritten = _rewritten(cause, operation.base, site) if site is not None else None
    safe = _BY_OPERATION.get(operation.base) if cause in _SAFE else None
    safe = safe or _SAFE.get(cause)
    if rewritten is None:
        return cause.fixes[0]
    return rewritten + (f"    or trimtab.numerics.{safe}" if safe else "")


def _rewritten(cause: Cause, base: str, site: Site) -> str | None:
    """The line with a safe argument in place of the unsafe one; None if that cannot be done soundly."""
    text, expression = site.text, site.expression
    if expression is None or expression not in text:
        return None
    node = _parsed(expression)
    argument = _argument(node, cause) if node is not None else None
    if node is None or argument is None:
        return None
    safer = _safer(cause, base, ast.unparse(argument))
    if safer is None:
        return None
    replacement = ast.parse(safer, mode="eval").body
    changed = ast.unparse(_Exchange(argument, replacement).visit(node))
    is_inner = text.strip() != expression and isinstance(node, ast.BinOp)
    return text.replace(
        expression,
        f"({changed})"
        if is_inner
        and f"({expression})" not in text
        and not text.endswith(f"= {expression}")
        and not text.endswith(f"return {expression}")
        else changed,
        1,
    )


def _parsed(expression: str) -> ast.expr | None:
    try:
        return ast.parse(textwrap.dedent(expression), mode="eval").body
    except SyntaxError:
        return None


def _argument(node: ast.expr, cause: Cause) -> ast.expr | None:
    """The operand that has to be made safe."""
    if isinstance(node, ast.BinOp):
        if isinstance(node.op, ast.Div):
            return node.right
        return node.left if isinstance(node.op, ast.Pow) else None
    if not isinstance(node, ast.Call):
        return None
    if isinstance(node.func, ast.Attribute):
        owner = node.func.value
        is_namespace = isinstance(owner, ast.Name) and owner.id in ("torch", "F", "special", "linalg", "math")
        is_nested = isinstance(owner, ast.Attribute) and ast.unparse(owner).startswith("torch.")
        if not (is_namespace or is_nested):
            return node.args[0] if node.func.attr in ("div", "true_divide", "div_") and node.args else owner
        if node.func.attr in ("div", "true_divide") and len(node.args) > 1:
            return node.args[1]
    return node.args[0] if node.args and not isinstance(node.args[0], ast.Starred) else None


def _safer(cause: Cause, base: str, argument: str) -> str | None:
    """An expression for the operand at which the operation is finite, and its derivative too."""
    tiny = f"({argument}).clamp(min=1e-12)"
    if cause is Cause.LOG_ZERO:
        return f"({argument}).clamp(min=1e-12)" if base != "log1p" else f"({argument}).clamp(min=-1 + 1e-6)"
    if cause is Cause.DIV_ZERO:
        return tiny
    if cause is Cause.SINGULAR_GRADIENT:
        return f"({argument}) + 1e-12" if base in ("sqrt", "pow", "rsqrt") else None
    if cause is Cause.EXP_OVERFLOW:
        return f"({argument}).clamp(max=80.0)"
    if cause is Cause.DOMAIN_EDGE:
        edges = {"acosh": "min=1 + 1e-6", "logit": "1e-6, 1 - 1e-6"}
        return f"({argument}).clamp({edges.get(base, '-1 + 1e-6, 1 - 1e-6')})"
    if cause is Cause.DOMAIN_ERROR:
        return f"({argument}).clamp(min=1e-12)" if base in ("log", "sqrt", "pow", "rsqrt") else None
    if cause is Cause.WHERE_GRAD_TRAP:
        edges = {"exp": "max=80.0", "expm1": "max=80.0", "acos": "-1 + 1e-6, 1 - 1e-6"}
        return f"({argument}).clamp({edges.get(base, 'min=1e-12')})"
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
