"""Rules about NaN and half precision."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

from trimtab.lint.source import Source

_HALF = ("torch.float16", "torch.half")
# Half of the smallest float16 above 0: what is below rounds to 0
_SMALLEST = 2.0**-25
_NANS = ("math.nan", "numpy.nan", "numpy.NaN", "numpy.NAN", "torch.nan")


@final
@dataclass(frozen=True, slots=True)
class ComparisonWithNan:
    """What it detects: == or != with NaN.

    Why it matters: NaN equals nothing, itself included: the one is always false, the other always true.

    Instead: `torch.isnan(x)` or `math.isnan(x)`.

    Known false alarms: none known.
    """

    name = "comparison-with-nan"
    nodes = (ast.Compare,)
    advice = "Use torch.isnan(x) or math.isnan(x)."

    def check(self, source: Source, node: ast.AST) -> Iterator[str]:
        """See `Rule.check`."""
        if not isinstance(node, ast.Compare):
            return
        sides = [node.left, *node.comparators]
        for position, operator in enumerate(node.ops):
            is_equality = isinstance(operator, (ast.Eq, ast.NotEq))
            if is_equality and any(self._is_nan(source, side) for side in sides[position : position + 2]):
                answer = "false" if isinstance(operator, ast.Eq) else "true"
                yield f"a comparison with NaN is always {answer}."

    def _is_nan(self, source: Source, node: ast.expr) -> bool:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "float":
            given = node.args[0] if len(node.args) == 1 else None
            text = given.value if isinstance(given, ast.Constant) else None
            return isinstance(text, str) and text.strip().lower().lstrip("+-") == "nan"
        return source.dotted(node) in _NANS


@final
@dataclass(frozen=True, slots=True)
class EpsilonLostInHalf:
    """What it detects: an epsilon below 3e-8 that is added to a float16 tensor, or that it is clamped by.

    Why it matters: the smallest float16 is 6e-8: the epsilon rounds to 0 and protects from nothing.

    Instead: an epsilon of 1e-6 or more, or compute it in float32.

    Known false alarms: none known.
    """

    name = "epsilon-lost-in-half"
    nodes = (ast.BinOp, ast.Call)
    advice = "Use 1e-6 or more, or compute it in float32."

    def check(self, source: Source, node: ast.AST) -> Iterator[str]:
        """See `Rule.check`."""
        found = source.operation(node) if isinstance(node, (ast.BinOp, ast.Call)) else None
        if found is None or found.node is not node or found.name not in ("add", "clamp", "maximum"):
            return
        given = [*found.inputs, *(found.options[k] for k in ("min", "other") if k in found.options)]
        numbers = [source.number(part) for part in given]
        is_lost = any(n is not None and 0 < n < _SMALLEST for n in numbers)
        if is_lost and any(self._is_half(source, part) for part in given):
            yield "this epsilon rounds to 0 in float16."

    def _is_half(self, source: Source, node: ast.expr) -> bool:
        node = source.value(node)
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            return False
        if node.func.attr == "half":
            return True
        given = [*node.args, *(k.value for k in node.keywords)]
        return node.func.attr in ("to", "type") and any(source.dotted(part) in _HALF for part in given)


@final
@dataclass(frozen=True, slots=True)
class AdamOnHalf:
    """What it detects: Adam with an epsilon below 3e-8, as by default, on the parameters of a model.half().

    Why it matters: with float16 parameters the moments are float16 too; the epsilon rounds to 0 there, and
    a second moment that is 0 divides 0 by 0.

    Instead: float32 parameters under autocast, `trimtab.MasterWeights`, or eps=1e-4.

    Known false alarms: none known.
    """

    name = "adam-on-half"
    nodes = (ast.Call,)
    advice = "Keep float32 parameters and use autocast, or trimtab.MasterWeights; or set eps=1e-4."

    def check(self, source: Source, node: ast.AST) -> Iterator[str]:
        """See `Rule.check`."""
        if not isinstance(node, ast.Call) or not node.args:
            return
        if source.dotted(node.func) not in ("torch.optim.Adam", "torch.optim.AdamW", "torch.optim.NAdam"):
            return
        options = {k.arg: k.value for k in node.keywords}
        epsilon = source.number(options["eps"]) if "eps" in options else 1e-8
        if None in options or epsilon is None or epsilon >= _SMALLEST:
            return
        given = node.args[0]
        if not isinstance(given, ast.Call) or not isinstance(given.func, ast.Attribute):
            return
        if given.func.attr == "parameters" and self._is_half(source, given.func.value):
            yield "the epsilon of this Adam rounds to 0 in the float16 of its parameters."

    def _is_half(self, source: Source, node: ast.expr) -> bool:
        node = source.value(node)
        while isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr == "half" and not node.args:
                return True
            if node.func.attr not in ("to", "cuda", "train"):
                return False
            node = source.value(node.func.value)
        return False
