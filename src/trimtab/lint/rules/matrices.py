"""Rules about matrices and moments."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

from trimtab.lint.rules.logarithms import of
from trimtab.lint.rules.singular_points import squared
from trimtab.lint.source import Source


@final
@dataclass(frozen=True, slots=True)
class InverseTimes:
    """What it detects: the inverse of a matrix multiplied by something, and used for nothing else.

    Why it matters: it costs three times as much as solving, and its error grows with the condition number
    even where the solution's own does not.

    Instead: `torch.linalg.solve(A, b)`, or `trimtab.numerics.solve_psd(A, b)` for a covariance.

    Known false alarms: small rotations and camera matrices, for which it does little harm. An inverse that
    is used more than once is not reported.
    """

    name = "inverse-times"
    nodes = (ast.BinOp, ast.Call)
    advice = "Use torch.linalg.solve(A, b), or trimtab.numerics.solve_psd(A, b) for a covariance."

    def check(self, source: Source, node: ast.AST) -> Iterator[str]:
        """See `Rule.check`."""
        found = source.operation(node) if isinstance(node, (ast.BinOp, ast.Call)) else None
        if found is None or found.name != "matmul" or found.node is not node:
            return
        for side in found.inputs[:2]:
            inner = source.operation(side)
            if (
                inner is None
                or inner.name != "inverse"
                or not inner.inputs
                or self._is_used_again(source, side)
            ):
                continue
            if inner.is_torch or source.is_tensor(inner.inputs[0]):
                yield "inverse(A) @ b is slower and less accurate than solving A x = b."
                return

    def _is_used_again(self, source: Source, side: ast.expr) -> bool:
        scope = source.flow.function(side) or source.tree
        name = side.id if isinstance(side, ast.Name) else None
        uses = [n for n in ast.walk(scope) if isinstance(n, ast.Name) and n.id == name]
        return sum(isinstance(n.ctx, ast.Load) for n in uses) > 1


@final
@dataclass(frozen=True, slots=True)
class LogOfDeterminant:
    """What it detects: log(det(A)).

    Why it matters: the determinant of a 100 x 100 matrix with entries of a few tenths is 0 or inf in
    float32; its logarithm is a small number.

    Instead: `torch.linalg.slogdet(A)`, or `trimtab.numerics.logdet_psd(A)` for a covariance.

    Known false alarms: 2 x 2 and 3 x 3 matrices, for which it does little harm.
    """

    name = "log-of-determinant"
    nodes = (ast.Call,)
    advice = "Use torch.linalg.slogdet(A), or trimtab.numerics.logdet_psd(A) for a covariance."

    def check(self, source: Source, node: ast.AST) -> Iterator[str]:
        """See `Rule.check`."""
        found = source.operation(node) if isinstance(node, ast.Call) else None
        if found is None or found.name != "log" or not found.is_torch or not found.inputs:
            return
        inner = of(source, found.inputs[0], "det", "abs")
        if inner is not None and inner.name == "abs":
            inner = of(source, inner.inputs[0], "det")
        if inner is not None and inner.is_torch:
            yield "log(det(A)) is -inf or inf where the determinant leaves the range of its format."


@final
@dataclass(frozen=True, slots=True)
class VarianceByDifference:
    """What it detects: mean(x**2) - mean(x)**2.

    Why it matters: the two are nearly equal when the mean is larger than the deviation, and their difference
    is rounding error, sometimes below 0. In float32 nothing is left from a mean of 4096 deviations.

    Instead: `x.var(correction=0)`, `torch.var_mean`, or `trimtab.numerics.Moments` for a stream.

    Known false alarms: data whose mean is known to be small.
    """

    name = "variance-by-difference"
    nodes = (ast.BinOp,)
    advice = "Use x.var(correction=0) or torch.var_mean, or trimtab.numerics.Moments for a stream."

    def check(self, source: Source, node: ast.AST) -> Iterator[str]:
        """See `Rule.check`."""
        if not isinstance(node, ast.BinOp) or not isinstance(node.op, ast.Sub):
            return
        mean_of_square = of(source, node.left, "mean")
        root = squared(source, node.right)
        mean = None if root is None else of(source, root, "mean")
        if mean_of_square is None or mean is None:
            return
        base = squared(source, mean_of_square.inputs[0])
        if base is None or not source.is_same(base, mean.inputs[0]):
            return
        if mean.is_torch or mean_of_square.is_torch or source.is_tensor(node):
            yield "mean(x**2) - mean(x)**2 loses its digits where the mean is larger than the deviation."
