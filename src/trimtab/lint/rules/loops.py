"""Rules about the order of calls in a training loop."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

from trimtab.lint.source import Source

_LOOPS = (ast.For, ast.AsyncFor, ast.While)
_CLIPS = ("clip_grad_norm_", "clip_grad_value_", "clip_grad_norm")


def _calls(root: ast.AST, name: str) -> list[ast.Call]:
    """Calls of a method or function of this name, in order of their lines."""
    found = [n for n in ast.walk(root) if isinstance(n, ast.Call) and _last_name(n.func) == name]
    return sorted(found, key=lambda call: (call.lineno, call.col_offset))


def _last_name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


@final
@dataclass(frozen=True, slots=True)
class ClipBeforeUnscale:
    """What it detects: gradients clipped while they are still multiplied by the scale of a GradScaler.

    Why it matters: the scale is some 65536: a norm of 1 is then a norm of 1 / 65536 after unscaling, and
    every step is clipped to almost nothing.

    Instead: `scaler.unscale_(optimizer)` before clipping, or a `trimtab.Guard` with `scaler=`.

    Known false alarms: none known.
    """

    name = "clip-before-unscale"
    nodes = (ast.Call,)
    advice = "Call scaler.unscale_(optimizer) before, or give the scaler to trimtab.Guard."

    def check(self, source: Source, node: ast.AST) -> Iterator[str]:
        """See `Rule.check`."""
        if not isinstance(node, ast.Call) or _last_name(node.func) not in _CLIPS:
            return
        scope = source.flow.function(node) or source.tree
        scaled = [call for call in _calls(scope, "backward") if _scaler_of(call) is not None]
        if not scaled:
            return
        scaler = _scaler_of(scaled[0])
        steps = [c for c in _calls(scope, "step") if isinstance(c.func, ast.Attribute) and c.args]
        if not any(ast.unparse(c.func.value) == scaler for c in steps if isinstance(c.func, ast.Attribute)):
            return
        before = [c for c in _calls(scope, "unscale_") if c.lineno < node.lineno]
        if before or scaled[0].lineno > node.lineno or _are_alternatives(source, scaled[0], node):
            return
        yield "gradients are clipped before they are unscaled: the threshold is 65536 times too low."


def _are_alternatives(source: Source, one: ast.AST, other: ast.AST) -> bool:
    """Whether two nodes are in different branches of one `if`."""
    around = list(source.flow.above(one))
    for outer in source.flow.above(other):
        if isinstance(outer, ast.If) and outer in around:
            return _is_in(source, one, outer.body) != _is_in(source, other, outer.body)
    return False


def _is_in(source: Source, node: ast.AST, block: list[ast.stmt]) -> bool:
    return any(outer in block for outer in source.flow.above(node))


def _scaler_of(backward: ast.Call) -> str | None:
    """The text of S in `S.scale(loss).backward()`."""
    inner = backward.func.value if isinstance(backward.func, ast.Attribute) else None
    if isinstance(inner, ast.Call) and isinstance(inner.func, ast.Attribute) and inner.func.attr == "scale":
        return ast.unparse(inner.func.value)
    return None


@final
@dataclass(frozen=True, slots=True)
class SumOfLosses:
    """What it detects: total += loss in a loop that calls loss.backward().

    Why it matters: the sum is a tensor that keeps the graph of every step alive: memory grows with each.

    Instead: `total += loss.detach()`, which does not wait for the device, or `loss.item()`.

    Known false alarms: none known; a total that is itself differentiated is not reported.
    """

    name = "sum-of-losses-keeps-graphs"
    nodes = (ast.AugAssign,)
    advice = "Add loss.detach()."

    def check(self, source: Source, node: ast.AST) -> Iterator[str]:
        """See `Rule.check`."""
        if not isinstance(node, ast.AugAssign) or not isinstance(node.op, ast.Add):
            return
        if not isinstance(node.value, ast.Name) or not isinstance(node.target, ast.Name):
            return
        loop = next((outer for outer in source.flow.above(node) if isinstance(outer, _LOOPS)), None)
        if loop is None or source.keeps_no_graph(node) or self._is_differentiated(source, node):
            return
        begun = source.flow.binding(node.target).where
        if begun is None or (begun is not loop and loop in source.flow.above(begun)):
            return  # begun anew in each turn, or not known
        where = source.flow.binding(node.value).where
        for call in _calls(loop, "backward"):
            root = call.func.value if isinstance(call.func, ast.Attribute) else None
            if isinstance(root, ast.Call):  # scaler.scale(loss).backward()
                root = root.args[0] if _scaler_of(call) and root.args else None
            if not isinstance(root, ast.Name) or root.id != node.value.id or call.keywords:
                continue
            if where is not None and source.flow.binding(root).where is where:
                yield f"{node.target.id} keeps the graph of every loss alive."
                return

    def _is_differentiated(self, source: Source, node: ast.AugAssign) -> bool:
        scope = source.flow.function(node) or source.tree
        roots = [c.func.value for c in _calls(scope, "backward") if isinstance(c.func, ast.Attribute)]
        target = node.target.id if isinstance(node.target, ast.Name) else None
        return any(isinstance(n, ast.Name) and n.id == target for r in roots for n in ast.walk(r))


@final
@dataclass(frozen=True, slots=True)
class MissingZeroGrad:
    """What it detects: a loop with backward() and optimizer.step() in a function that never clears gradients.

    Why it matters: each step uses the sum of all gradients so far, which looks like a learning rate that
    grows until the loss does too.

    Instead: `optimizer.zero_grad()` once for each step.

    Known false alarms: an optimizer whose step() clears them. Where the optimizer or the model is handed to
    another function in the loop, or gradients are set anywhere, it is not reported.
    """

    name = "missing-zero-grad"
    nodes = (ast.Call,)
    advice = "Call optimizer.zero_grad() once for each step."

    def check(self, source: Source, node: ast.AST) -> Iterator[str]:
        """See `Rule.check`."""
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            return
        if node.func.attr != "step" or node.args or node.keywords:
            return
        optimizer = node.func.value
        if not isinstance(optimizer, ast.Name) or not self._is_optimizer(source, optimizer):
            return
        scope = source.flow.function(node) or source.tree
        loops = [outer for outer in source.flow.above(node) if isinstance(outer, _LOOPS)]
        if not loops or not _calls(loops[0], "backward") or self._may_clear(scope, optimizer.id):
            return
        yield "nothing clears the gradients between the steps of this loop: they add up."

    def _is_optimizer(self, source: Source, name: ast.Name) -> bool:
        made = source.value(name)
        dotted = source.dotted(made.func) if isinstance(made, ast.Call) else None
        return dotted is not None and dotted.startswith("torch.optim.")

    def _may_clear(self, scope: ast.AST, optimizer: str) -> bool:
        text = ast.unparse(scope)
        if "zero_grad" in text or ".grad" in text or "zero_(" in text or "set_to_none" in text:
            return True
        given = [a for n in ast.walk(scope) if isinstance(n, ast.Call) for a in n.args]
        given += [k.value for n in ast.walk(scope) if isinstance(n, ast.Call) for k in n.keywords]
        return any(isinstance(a, ast.Name) and a.id == optimizer for a in given)


@final
@dataclass(frozen=True, slots=True)
class ScalerForBfloat16:
    """What it detects: a GradScaler beside autocast to bfloat16.

    Why it matters: bfloat16 has the range of float32 and needs no loss scaling: the scaler only skips steps,
    and hides that their gradients were not finite.

    Instead: leave the scaler out.

    Known false alarms: one scaler for both formats. With `enabled=` it is not reported.
    """

    name = "scaler-for-bfloat16"
    nodes = (ast.Call,)
    advice = "Leave the GradScaler out."

    def check(self, source: Source, node: ast.AST) -> Iterator[str]:
        """See `Rule.check`."""
        if not isinstance(node, ast.Call) or any(k.arg in ("enabled", None) for k in node.keywords):
            return
        if source.dotted(node.func) not in ("torch.cuda.amp.GradScaler", "torch.amp.GradScaler"):
            return
        scope = source.flow.function(node) or source.tree
        formats = {self._format(source, call) for call in _calls(scope, "autocast")}
        if formats == {"torch.bfloat16"}:
            yield "bfloat16 needs no loss scaling."

    def _format(self, source: Source, call: ast.Call) -> str | None:
        given = [k.value for k in call.keywords if k.arg == "dtype"] or call.args[1:2]
        return source.dotted(given[0]) if given else None
