"""Rules about logarithms and exponentials that have a stable form."""

from __future__ import annotations

import ast
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

from trimtab.lint.gradients import is_cut_off
from trimtab.lint.operations import Operation
from trimtab.lint.source import Source


def of(source: Source, node: ast.expr, *names: str) -> Operation | None:
    """The operation behind reshapes, if it is one of these.

    Args:
        source: The file.
        node: An expression.
        names: Operations.
    """
    found = source.through(node)
    return found if found is not None and found.name in names and found.inputs else None


def _logarithm(source: Source, node: ast.AST) -> ast.expr | None:
    """What the logarithm is taken of, if this is a natural logarithm of torch."""
    found = source.operation(node) if isinstance(node, ast.Call) else None
    is_log = found is not None and found.name == "log" and found.is_torch
    return found.inputs[0] if is_log and found is not None and found.inputs else None


def _one_minus(source: Source, node: ast.expr) -> ast.expr | None:
    found = of(source, node, "sub")
    return found.inputs[1] if found is not None and source.number(found.inputs[0]) == 1 else None


def _exponent(source: Source, node: ast.expr) -> ast.expr | None:
    found = of(source, node, "exp")
    return found.inputs[0] if found is not None and found.is_torch else None


def _is_shifted(source: Source, exponent: ast.expr) -> bool:
    """Whether a maximum was taken off, or the exponent is negative by its form: then nothing overflows."""
    found = source.through(exponent)
    if found is None:
        return False
    if found.name == "neg":
        return True
    if found.name in ("mul", "div"):
        factors = [source.number(part) for part in found.inputs]
        return any(f is not None and f < 0 for f in factors) or _is_shifted(source, found.inputs[0])
    if found.name in ("clamp", "log_softmax", "logsigmoid", "log", "tanh"):
        return True
    words = ("max", "logsumexp", "lse", "shift", "log_z", "logz", "norm")
    return found.name == "sub" and any(_mentions(source, part, words) for part in found.inputs[1:])


def _mentions(source: Source, node: ast.expr, words: tuple[str, ...]) -> bool:
    texts = ast.unparse(node).lower() + ast.unparse(source.value(node)).lower()
    return any(word in texts for word in words)


class _OfLogarithm(ABC):
    """A natural logarithm of something for which there is a form of its own."""

    __slots__ = ()

    nodes = (ast.Call,)

    def check(self, source: Source, node: ast.AST) -> Iterator[str]:
        """See `Rule.check`."""
        inner = _logarithm(source, node)
        if inner is not None:
            yield from self._look(source, inner)

    @abstractmethod
    def _look(self, source: Source, inner: ast.expr) -> Iterator[str]:
        """What is wrong with the logarithm of this."""


@final
@dataclass(frozen=True, slots=True)
class LogOfSoftmax(_OfLogarithm):
    """What it detects: the logarithm of a softmax.

    Why it matters: a probability below the smallest number of its format is 0, and its logarithm -inf;
    the gradient is NaN. In float32 that needs logits 104 apart, in float16 some 17.

    Instead: `torch.log_softmax(x, dim)`, which never forms the probability.

    Known false alarms: none known; with `+ eps` or `clamp` in between it is not reported.
    """

    name = "log-of-softmax"
    advice = "Use torch.log_softmax(x, dim)."

    def _look(self, source: Source, inner: ast.expr) -> Iterator[str]:
        found = source.through(inner, picks=True)
        if (
            found is not None
            and found.name == "softmax"
            and found.is_torch
            and not self._is_random(source, found)
        ):
            yield "log(softmax(x)) is -inf where a probability rounds to 0, and its gradient NaN."

    def _is_random(self, source: Source, softmax: Operation) -> bool:
        """Whether the logits are drawn on the spot, as tests do: none is far from the others."""
        return bool(softmax.inputs) and is_cut_off(source, softmax.inputs[0])


@final
@dataclass(frozen=True, slots=True)
class LogOfSigmoid(_OfLogarithm):
    """What it detects: log(sigmoid(x)) and log(1 - sigmoid(x)).

    Why it matters: in float32 sigmoid(x) is 1 from x = 17, so that log(1 - sigmoid(x)) is -inf, and 0 below
    x = -104; the gradients are NaN or wrong long before.

    Instead: `torch.nn.functional.logsigmoid(x)`, and `logsigmoid(-x)` for log(1 - sigmoid(x)).

    Known false alarms: none known; with `+ eps` or `clamp` in between it is not reported.
    """

    name = "log-of-sigmoid"
    advice = "Use torch.nn.functional.logsigmoid(x), or logsigmoid(-x) for log(1 - sigmoid(x))."

    def _look(self, source: Source, inner: ast.expr) -> Iterator[str]:
        rest = _one_minus(source, inner)
        found = source.through(inner if rest is None else rest, picks=True)
        if found is not None and found.name == "sigmoid" and found.is_torch:
            form = "log(sigmoid(x))" if rest is None else "log(1 - sigmoid(x))"
            yield f"{form} is -inf where the sigmoid rounds to {0 if rest is None else 1}."


@final
@dataclass(frozen=True, slots=True)
class LogOfSumOfExp(_OfLogarithm):
    """What it detects: log(sum(exp(x))) or log(mean(exp(x))) without taking a maximum off first.

    Why it matters: exp overflows from 88.8 in float32 and from 11.1 in float16, and the sum is 0 when all
    are far below.

    Instead: `torch.logsumexp(x, dim)`, or `trimtab.numerics.logmeanexp(x, dim)`.

    Known false alarms: exponents that are known to be small. Those that are negative by their form, clamped,
    or shifted by something called a maximum are not reported.
    """

    name = "log-of-sum-of-exp"
    advice = "Use torch.logsumexp(x, dim), or trimtab.numerics.logmeanexp(x, dim)."

    def _look(self, source: Source, inner: ast.expr) -> Iterator[str]:
        total = of(source, inner, "sum", "mean")
        exponent = None if total is None else _exponent(source, total.inputs[0])
        if total is not None and exponent is not None and not _is_shifted(source, exponent):
            yield f"log({total.name}(exp(x))) overflows to inf although its result is as large as x."


@final
@dataclass(frozen=True, slots=True)
class HandWrittenSoftmax:
    """What it detects: exp(x) / sum(exp(x)) without taking a maximum off first.

    Why it matters: exp overflows from 88.8 in float32 and from 11.1 in float16, and inf / inf is NaN.

    Instead: `torch.softmax(x, dim)`.

    Known false alarms: exponents that are known to be small. Those that are negative by their form, clamped,
    or shifted by something called a maximum are not reported.
    """

    name = "softmax-by-hand"
    nodes = (ast.BinOp,)
    advice = "Use torch.softmax(x, dim)."

    def check(self, source: Source, node: ast.AST) -> Iterator[str]:
        """See `Rule.check`."""
        if not isinstance(node, ast.BinOp) or not isinstance(node.op, ast.Div):
            return
        exponent = _exponent(source, node.left)
        total = of(source, node.right, "sum")
        if exponent is None or total is None or _is_shifted(source, exponent):
            return
        below = _exponent(source, total.inputs[0])
        if below is not None and source.is_same(exponent, below):
            yield "exp(x) / sum(exp(x)) is NaN as soon as one exp overflows."


@final
@dataclass(frozen=True, slots=True)
class LogOfOnePlusExp:
    """What it detects: log(1 + exp(x)) and log1p(exp(x)).

    Why it matters: exp overflows from 88.8 in float32, from 11.1 in float16: the result is inf instead of
    x, and its gradient NaN. The first form also loses all digits of small results.

    Instead: `torch.nn.functional.softplus(x)`.

    Known false alarms: exponents that are known to be small; -abs(x) is not reported.
    """

    name = "log-of-one-plus-exp"
    nodes = (ast.Call,)
    advice = "Use torch.nn.functional.softplus(x)."

    def check(self, source: Source, node: ast.AST) -> Iterator[str]:
        """See `Rule.check`."""
        inner = _logarithm(source, node)
        if inner is not None:
            total = of(source, inner, "add")
            parts = () if total is None else total.inputs
            rest = [p for p in parts if source.number(p) != 1]
            inner = rest[0] if len(rest) == 1 and len(parts) == 2 else None
        elif isinstance(node, ast.Call):
            found = source.operation(node)
            is_it = found is not None and found.name == "log1p" and found.is_torch and found.inputs
            inner = found.inputs[0] if is_it and found is not None else None
        exponent = None if inner is None else _exponent(source, inner)
        if exponent is not None and not _is_shifted(source, exponent) and not self._is_negative(exponent):
            yield "log(1 + exp(x)) is inf where exp overflows, and its gradient NaN."

    def _is_negative(self, exponent: ast.expr) -> bool:
        return "abs" in ast.unparse(exponent)


@final
@dataclass(frozen=True, slots=True)
class LogOfOneMinusExp(_OfLogarithm):
    """What it detects: log(1 - exp(x)) and log1p(-exp(x)).

    Why it matters: for x near 0 the difference has lost its digits, or is 0; for x far below 0 the first
    form is exactly 0. Each form is right on one side of -log(2) only.

    Instead: `trimtab.numerics.log1mexp(x)`.

    Known false alarms: none known.
    """

    name = "log-of-one-minus-exp"
    advice = "Use trimtab.numerics.log1mexp(x)."

    def _look(self, source: Source, inner: ast.expr) -> Iterator[str]:
        rest = _one_minus(source, inner)
        if rest is not None and _exponent(source, rest) is not None:
            yield "log(1 - exp(x)) loses all digits near x = 0 and far below it."
