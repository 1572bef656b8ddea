"""Whether gradients may flow through a place: where they do not, an infinite slope does no harm."""

from __future__ import annotations

import ast

from trimtab.lint.source import Source

_MAX_DEPTH = 8
# What the bases of classes are called whose values are trained through
_LEARNERS = ("Module", "Loss", "Layer", "Model", "Net", "Flow", "Distribution", "Transform", "Lightning")
RANDOM = ("randn", "rand", "randn_like", "rand_like", "normal", "empty", "sample")
# Through these no gradient comes, so that an infinite slope before them does no harm
_WITHOUT_GRADIENT = frozenset(
    (
        *("detach", "item", "tolist", "numpy", "long", "int", "bool", "argmax", "argmin"),
        *("argsort", "count_nonzero", "numel", "size", "bucketize", "isfinite", "histc"),
        *("unique", "searchsorted", "allclose", "isclose"),
    )
)


def may_be_differentiated(source: Source, node: ast.expr, *inputs: ast.expr) -> bool:
    """Whether gradients may flow through a node: autograd is on, and neither side is cut off.

    Args:
        source: The file.
        node: An expression.
        inputs: What it is computed from: one of them must be able to ask for a gradient.
    """
    if not source.may_train or source.keeps_no_graph(node) or _is_of_other_class(source, node):
        return False
    return any(not is_cut_off(source, each) for each in inputs) and not _is_only_looked_at(source, node)


def _is_of_other_class(source: Source, node: ast.expr) -> bool:
    """Whether a node is in a class that neither is a module nor sounds like one: detectors, processors."""
    owner = source.flow.class_of(node)
    if owner is None:
        return False
    bases = [ast.unparse(base).rpartition(".")[2] for base in owner.bases]
    return not any(word in base for word in _LEARNERS for base in bases) and "Loss" not in owner.name


def is_cut_off(source: Source, node: ast.expr, depth: int = 0) -> bool:
    """Whether a value comes from comparisons, counts, constants or random numbers alone.

    Args:
        source: The file.
        node: An expression.
        depth: How many operations were followed already.
    """
    node = source.value(node)
    if depth > _MAX_DEPTH:
        return False
    if isinstance(node, (ast.Compare, ast.Constant)):
        return True
    if isinstance(node, ast.Attribute) and node.attr in ("data", "shape", "ndim", "eps"):
        return True
    if isinstance(node, ast.Call):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        if name in _WITHOUT_GRADIENT or name in RANDOM or name in ("arange", "linspace", "tensor"):
            return True
        inputs = list(node.args)
        if isinstance(node.func, ast.Attribute) and source.dotted(node.func) is None:
            inputs = [node.func.value, *node.args]
        return bool(inputs) and all(is_cut_off(source, each, depth + 1) for each in inputs)
    if isinstance(node, ast.BinOp):
        return all(is_cut_off(source, side, depth + 1) for side in (node.left, node.right))
    return isinstance(node, ast.UnaryOp) and is_cut_off(source, node.operand, depth + 1)


def _is_only_looked_at(source: Source, node: ast.expr) -> bool:
    """Whether a value is only compared, asserted, or given to functions without a gradient."""
    statement = next((n for n in source.flow.above(node) if isinstance(n, ast.stmt)), None)
    uses: list[ast.expr] = [node]
    if isinstance(statement, ast.Assign):
        name = statement.targets[0]
        scope = source.flow.function(node) or source.tree
        if isinstance(name, ast.Name):
            loads = (n for n in ast.walk(scope) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load))
            uses = [n for n in loads if n.id == name.id]
    return bool(uses) and all(_is_look(source, use) for use in uses)


def _is_look(source: Source, use: ast.expr) -> bool:
    for outer in source.flow.above(use):
        if isinstance(outer, (ast.Assert, ast.Compare)):
            return True
        if isinstance(outer, ast.Call):
            name = outer.func.attr if isinstance(outer.func, ast.Attribute) else ""
            if name in _WITHOUT_GRADIENT:
                return True
        if isinstance(outer, ast.stmt):
            return False
    return False
