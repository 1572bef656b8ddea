"""Rules about values and gradients at the edge of a function's domain."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, final

from trimtab.lint.gradients import RANDOM, is_cut_off, may_be_differentiated
from trimtab.lint.rules.logarithms import of
from trimtab.lint.source import Source

_EDGE = 1e-3


def squared(source: Source, node: ast.expr) -> ast.expr | None:
    """What is squared, if this is a square.

    Args:
        source: The file.
        node: An expression.
    """
    found = source.through(node)
    if found is None or not found.inputs:
        return None
    if found.name == "square":
        return found.inputs[0]
    if found.name == "pow" and len(found.inputs) == 2 and source.number(found.inputs[1]) == 2:
        return found.inputs[0]
    is_product = found.name == "mul" and len(found.inputs) == 2
    return found.inputs[0] if is_product and source.is_same(*found.inputs) else None


@final
@dataclass(frozen=True, slots=True)
class SqrtOfSquares:
    """What it detects: the square root of a sum of squares, with nothing added, where autograd is on.

    Why it matters: the slope of the root at 0 is infinite, and infinity times 0 is NaN: one vector of
    zeros, as padding or the distance of a point to itself, makes the gradient NaN. The squares also
    overflow from 1.8e19 in float32 and from 256 in float16.

    Instead: `torch.linalg.vector_norm(x, dim=dim)`, whose gradient at 0 is 0, or
    `trimtab.numerics.safe_norm(x, dim)`, which does not overflow either.

    Known false alarms: vectors that are never 0, and code that never asks for gradients. Under no_grad it
    is not reported.
    """

    name = "sqrt-of-sum-of-squares"
    nodes = (ast.Call, ast.BinOp)
    advice = "Use torch.linalg.vector_norm(x, dim=dim) or trimtab.numerics.safe_norm(x, dim)."

    def check(self, source: Source, node: ast.AST) -> Iterator[str]:
        """See `Rule.check`."""
        if not isinstance(node, (ast.Call, ast.BinOp)):
            return
        found = source.operation(node)
        if found is None or not found.inputs:
            return
        is_power = found.name == "pow" and len(found.inputs) == 2 and source.number(found.inputs[1]) == 0.5
        if not (is_power or (found.name == "sqrt" and found.is_torch)):
            return
        total = of(source, found.inputs[0], "sum")
        base = None if total is None else squared(source, total.inputs[0])
        if base is None or not may_be_differentiated(source, node, base):
            return
        if found.is_torch or source.is_tensor(found.inputs[0]):
            yield "sqrt(sum(x**2)) has the gradient NaN where all of x are 0."


@final
@dataclass(frozen=True, slots=True)
class DivisionByNorm:
    """What it detects: x / x.norm(dim=...) with nothing that keeps a row's norm from 0.

    Why it matters: 0 / 0 is NaN, for a row of zeros as padding and dead units make them.

    Instead: `torch.nn.functional.normalize(x, dim=dim)` or `trimtab.numerics.normalize(x, dim=dim)`.

    Known false alarms: rows that are never 0. Random ones, those chosen by a condition, and the norm of a
    whole tensor are not reported.
    """

    name = "division-by-norm"
    nodes = (ast.BinOp,)
    advice = "Use torch.nn.functional.normalize(x, dim=dim)."

    def check(self, source: Source, node: ast.AST) -> Iterator[str]:
        """See `Rule.check`."""
        if not isinstance(node, ast.BinOp) or not isinstance(node.op, ast.Div):
            return
        norm = of(source, node.right, "norm")
        if norm is None or not norm.is_torch or not source.is_same(node.left, norm.inputs[0]):
            return
        if not {"dim", "keepdim"} & {*norm.options} and len(norm.inputs) < 3:
            return  # of one vector, which its author knows
        order = norm.options.get("p", norm.options.get("ord"))
        if order is not None and not isinstance(order, ast.Constant):
            return  # another norm, of values that are known to have one
        if not is_cut_off(source, node.left) and not self._is_guarded(source, node, norm.node):
            yield "x / norm(x) is NaN where x is 0."

    def _is_guarded(self, source: Source, node: ast.BinOp, norm: ast.expr) -> bool:
        """Whether it stands under a condition on the norm, or where() or a nan-function deals with it."""
        above = source.value(node.left)
        if isinstance(above, ast.Subscript) and any(
            isinstance(n, ast.Compare) for n in ast.walk(above.slice)
        ):
            return True
        if "rand" in ast.unparse(node.left) or "ones" in ast.unparse(above):
            return True  # drawn at random, or with a part that is not 0
        names = {ast.unparse(part) for part in (node.left, node.right, norm)}
        for outer in source.flow.above(node):
            if isinstance(outer, ast.Call) and (
                source.dotted(outer.func) == "torch.where"
                or (isinstance(outer.func, ast.Attribute) and outer.func.attr.startswith("nan"))
            ):
                return True
            if isinstance(outer, (ast.If, ast.IfExp)):
                parts = (n for n in ast.walk(outer.test) if isinstance(n, ast.Compare))
                if any(ast.unparse(n) in names for part in parts for n in ast.walk(part)):
                    return True
        return False


@final
@dataclass(frozen=True, slots=True)
class DivisionByStd:
    """What it detects: (x - x.mean()) / x.std() with nothing that keeps the deviation from 0.

    Why it matters: equal values have the deviation 0 and one value has NaN; the result is NaN in both cases.

    Instead: `trimtab.numerics.standardize(x, dim=dim)`, or `/ (x.std() + eps)`.

    Known false alarms: values that are never all equal, as when the deviation is taken over a whole data set.
    """

    name = "division-by-std"
    nodes = (ast.BinOp,)
    advice = "Use trimtab.numerics.standardize(x, dim), or add an eps to the deviation."

    def check(self, source: Source, node: ast.AST) -> Iterator[str]:
        """See `Rule.check`."""
        if not isinstance(node, ast.BinOp) or not isinstance(node.op, ast.Div):
            return
        above, below = of(source, node.left, "sub"), of(source, node.right, "std")
        mean = None if above is None else of(source, above.inputs[1], "mean")
        if above is None or below is None or mean is None:
            return
        base = above.inputs[0]
        is_one = source.is_same(base, mean.inputs[0]) and source.is_same(base, below.inputs[0])
        random = source.through(base)
        if random is not None and random.name in RANDOM:
            return
        has_dim = bool({"dim", "keepdim", "unbiased", "correction"} & {*below.options, *mean.options})
        if is_one and (has_dim or mean.is_torch or below.is_torch or source.is_tensor(base)):
            yield "(x - mean(x)) / std(x) is NaN where all of x are equal."


@final
@dataclass(frozen=True, slots=True)
class UnsafeBranchOfWhere:
    """What it detects: torch.where(x > 0, f(x), ...) whose f is not defined where the condition is false.

    Why it matters: where() chooses values, but gradients flow through both branches: the one that was not
    taken gives 0 times infinity, which is NaN. Functions meant: log, sqrt, rsqrt, division.

    Instead: make the argument harmless first: `f(torch.where(x > 0, x, 1.0))`, or use
    `trimtab.numerics.safe_log`, `safe_sqrt`, `safe_div`.

    Known false alarms: code that never asks for gradients. Under no_grad it is not reported.
    """

    name = "unsafe-branch-of-where"
    nodes = (ast.Call,)
    advice = (
        "Make the argument harmless first, as in f(torch.where(x > 0, x, 1.0)), or use "
        "trimtab.numerics.safe_log, safe_sqrt or safe_div."
    )

    def check(self, source: Source, node: ast.AST) -> Iterator[str]:
        """See `Rule.check`."""
        if not isinstance(node, ast.Call) or source.dotted(node.func) != "torch.where" or len(node.args) != 3:
            return
        if not may_be_differentiated(source, node, *node.args[1:]):
            return
        compared = list(_guarded(source, source.value(node.args[0])))
        for branch, is_taken in zip(node.args[1:], (True, False), strict=True):
            for name, argument in _risks(source, source.value(branch)):
                guards = [each for each in compared if source.is_same(argument, each.value)]
                if any(g.holds_at_zero is not is_taken for g in guards) and not _is_held(source, argument):
                    yield f"where() guards {name} in the value only: its gradient is NaN where not taken."
                    return


class _Guard(NamedTuple):
    """A comparison with about 0, and whether 0 itself fulfills it."""

    value: ast.expr
    holds_at_zero: bool


_COMPARISONS: dict[type[ast.cmpop], Callable[[float, float], bool]] = {
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}


def _guarded(source: Source, condition: ast.expr) -> Iterator[_Guard]:
    if any(isinstance(part, (ast.Invert, ast.Not)) for part in ast.walk(condition)):
        return
    for part in ast.walk(condition):
        if not isinstance(part, ast.Compare) or len(part.comparators) != 1:
            continue
        compare = _COMPARISONS.get(type(part.ops[0]))
        left, right = source.number(part.left), source.number(part.comparators[0])
        if compare is not None and right is not None and abs(right) < _EDGE:
            yield _Guard(part.left, compare(0.0, right))
        elif compare is not None and left is not None and abs(left) < _EDGE:
            yield _Guard(part.comparators[0], compare(left, 0.0))


def _risks(source: Source, branch: ast.expr) -> Iterator[tuple[str, ast.expr]]:
    """Functions that are not defined at 0, with their arguments."""
    for part in ast.walk(branch):
        if isinstance(part, (ast.Call, ast.BinOp)):
            found = source.operation(part)
            if found is None or not found.inputs:
                continue
            if found.name in ("log", "sqrt", "rsqrt", "reciprocal") and found.is_torch:
                yield found.name, found.inputs[0]
            elif found.name == "div" and len(found.inputs) == 2:
                yield "a division", found.inputs[1]


def _is_held(source: Source, argument: ast.expr) -> bool:
    """Whether an argument was kept from the edge before."""
    found = source.through(argument)
    return found is not None and found.name in ("clamp", "where", "maximum", "masked_fill", "exp", "softplus")


@final
@dataclass(frozen=True, slots=True)
class AcosOfCosine:
    """What it detects: acos or asin of a scalar product, a cosine similarity or a trace, without a clamp.

    Why it matters: rounding makes cosines of equal directions 1.0000001, and acos of that is NaN; at exactly
    1 the gradient is infinite.

    Instead: `trimtab.numerics.safe_acos`, or `torch.atan2` of the cross and the scalar product.

    Known false alarms: none known.
    """

    name = "acos-of-cosine"
    nodes = (ast.Call,)
    advice = "Use trimtab.numerics.safe_acos or safe_asin, or torch.atan2 of cross and scalar product."

    def check(self, source: Source, node: ast.AST) -> Iterator[str]:
        """See `Rule.check`."""
        found = source.operation(node) if isinstance(node, ast.Call) else None
        if found is None or found.name not in ("acos", "asin") or not found.is_torch or not found.inputs:
            return
        inner = source.through(found.inputs[0], picks=True)
        if inner is not None and inner.name == "div" and len(inner.inputs) == 2:
            above = source.through(inner.inputs[0])
            is_trace = above is not None and above.name == "sub" and source.number(inner.inputs[1]) == 2
            if is_trace and above is not None and source.number(above.inputs[1]) == 1:
                yield f"{found.name} of (trace - 1) / 2 is NaN as soon as rounding takes it above 1."
                return
            inner = above
        if inner is None or not inner.inputs:
            return
        is_sum = inner.name == "sum" and of(source, inner.inputs[0], "mul") is not None
        if is_sum or inner.name in ("cosine_similarity", "dot", "matmul", "einsum"):
            yield f"{found.name} of a cosine is NaN as soon as rounding takes it above 1."
