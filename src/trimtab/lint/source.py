"""One source file as the rules see it: what names mean, and what a value is computed from."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from trimtab.lint.flow import UNKNOWN, Binding, Flow
from trimtab.lint.operations import (
    PICKS,
    SAME_VALUES,
    Operation,
    of_function,
    of_layer,
    of_method,
    of_operator,
)

# Names are followed so far; longer chains are of no pattern here
_MAX_STEPS = 12


class Source:
    r"""A parsed file.

    Args:
        tree: The file.

    Example:
        >>> tree = ast.parse("import torch.nn.functional as F\np = F.softmax(x, 1)\nq = p.log()")
        >>> source = Source(tree)
        >>> log = source.operation(tree.body[2].value)
        >>> log.name, source.operation(log.inputs[0]).name
        ('log', 'softmax')
    """

    def __init__(self, tree: ast.Module) -> None:
        self.tree = tree
        self.flow = Flow(tree)
        self._imports: dict[str, str] = {}
        self._operations: dict[ast.expr, Operation | None] = {}
        # by class and name, where `self.name = ...` stands
        self._stores: dict[tuple[ast.ClassDef, str], list[ast.Attribute]] = {}
        self._classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
        for node in self.flow.nodes:
            if isinstance(node, ast.Import):
                for alias in node.names:
                    whole, short = alias.name, alias.name.partition(".")[0]
                    self._imports[alias.asname or short] = whole if alias.asname else short
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                for alias in node.names:
                    self._imports[alias.asname or alias.name] = f"{node.module}.{alias.name}"
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                owner = self.flow.class_of(node)
                if owner is not None:
                    self._stores.setdefault((owner, node.attr), []).append(node)

        self._may_train = any(_is_of_training(node) for node in self.flow.nodes)

    @property
    def uses_torch(self) -> bool:
        """Whether it imports torch at all."""
        return any(name == "torch" or name.startswith("torch.") for name in self._imports.values())

    @property
    def may_train(self) -> bool:
        """Whether it defines layers or losses, or asks for gradients: preprocessing does neither."""
        return self._may_train

    def dotted(self, node: ast.AST) -> str | None:
        """The full name of what an expression names, such as `torch.nn.functional.softmax`.

        Args:
            node: A name or attribute; anything else gives None.
        """
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name) or node.id not in self._imports:
            return None
        return ".".join([self._imports[node.id], *reversed(parts)])

    def value(self, node: ast.expr) -> ast.expr:
        """What a name was assigned, as far as that is sure; other expressions are their own value.

        Args:
            node: Any expression.
        """
        for _ in range(_MAX_STEPS):
            found = self.flow.binding(node).value if isinstance(node, ast.Name) else None
            if found is None:
                return node
            node = found
        return node

    def operation(self, node: ast.expr) -> Operation | None:
        """What computes the value of an expression; None if that is not known.

        Args:
            node: Any expression; names are followed.
        """
        node = self.value(node)
        if node not in self._operations:
            self._operations[node] = self._operation(node)
        return self._operations[node]

    def _operation(self, node: ast.expr) -> Operation | None:
        if isinstance(node, ast.BinOp):
            name = of_operator(node.op)
            return (
                None if name is None else Operation(name, (node.left, node.right), {}, node, is_torch=False)
            )
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return Operation("neg", (node.operand,), {}, node, is_torch=False)
        if not isinstance(node, ast.Call) or any(isinstance(a, ast.Starred) for a in node.args):
            return None
        options = {k.arg: k.value for k in node.keywords if k.arg is not None}
        return self._of_call(node, options)

    def _of_call(self, node: ast.Call, options: dict[str, ast.expr]) -> Operation | None:
        dotted = self.dotted(node.func)
        if dotted is not None:
            name = of_function(dotted)
            inputs = tuple(node.args)
            if not inputs and "input" in options:
                inputs = (options["input"],)
            return None if name is None else Operation(name, inputs, options, node, is_torch=True)
        layer = self.layer(node.func)
        if layer is not None:
            return Operation(layer, tuple(node.args), options, node, is_torch=True)
        if isinstance(node.func, ast.Attribute):
            found = of_method(node.func.attr)
            if found is not None:
                inputs = (node.func.value, *node.args)
                return Operation(found[0], inputs, options, node, found[1])
        return None

    def through(self, node: ast.expr, *, picks: bool = False) -> Operation | None:
        """The operation behind reshapes and casts.

        Args:
            node: Any expression.
            picks: Go through what takes some of the values too, such as an index.
        """
        for _ in range(_MAX_STEPS):
            node = self.value(node)
            if picks and isinstance(node, ast.Subscript):
                node = node.value
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                if self.dotted(node.func) is not None:
                    break
                if node.func.attr not in SAME_VALUES and not (picks and node.func.attr in PICKS):
                    break
                node = node.func.value
            else:
                break
        return self.operation(node)

    def layer(self, node: ast.expr) -> str | None:
        """The operation that calling this ends with: of a layer, a Sequential, or a model of this file.

        Args:
            node: What is called.
        """
        return self._layer(node, 0)

    def _layer(self, node: ast.expr, depth: int) -> str | None:
        if depth > _MAX_STEPS:
            return None
        made = self._attribute_value(node) if isinstance(node, ast.Attribute) else self.value(node)
        if not isinstance(made, ast.Call):
            return None
        if isinstance(made.func, ast.Attribute) and made.func.attr in ("to", "cuda", "cpu", "train", "eval"):
            return self._layer(made.func.value, depth + 1)
        dotted = self.dotted(made.func)
        if dotted in ("torch.nn.Sequential", "torch.nn.modules.Sequential"):
            last = made.args[-1] if made.args else None
            return None if last is None or isinstance(last, ast.Starred) else self._layer(last, depth + 1)
        if dotted is not None:
            return of_layer(dotted)
        if isinstance(made.func, ast.Name) and made.func.id in self._classes:
            return self._end_of_forward(self._classes[made.func.id], depth)
        return None

    def _attribute_value(self, node: ast.Attribute) -> ast.expr | None:
        """What `self.x` was assigned, if that happens once in its class, at the top of `__init__`."""
        owner = self.flow.class_of(node)
        if owner is None or not isinstance(node.value, ast.Name) or node.value.id != "self":
            return None
        stores = self._stores.get((owner, node.attr), [])
        if len(stores) != 1:
            return None
        statement = next(self.flow.above(stores[0]))
        function = self.flow.function(stores[0])
        if not isinstance(statement, ast.Assign) or function is None or function.name != "__init__":
            return None
        return statement.value if statement in function.body else None

    def _end_of_forward(self, owner: ast.ClassDef, depth: int) -> str | None:
        forward = [n for n in owner.body if isinstance(n, ast.FunctionDef) and n.name == "forward"]
        returns = [n for f in forward for n in ast.walk(f) if isinstance(n, ast.Return)]
        ends: set[str | None] = set()
        for each in returns:
            if each.value is None or self.flow.function(each) is not forward[0]:
                return None
            value = self.value(each.value)
            if isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute):
                layer = self._layer(value.func, depth + 1) if self.dotted(value.func) is None else None
                if layer is not None:
                    ends.add(layer)
                    continue
            found = self.operation(value)
            ends.add(found.name if found is not None and found.is_torch else None)
        return ends.pop() if len(ends) == 1 else None

    def number(self, node: ast.expr | None) -> float | None:
        """The number that an expression is, if it is a constant.

        Args:
            node: Any expression.
        """
        if node is None:
            return None
        node = self.value(node)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            inner = self.number(node.operand)
            return None if inner is None else -inner
        if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
            return float(node.value)
        return None

    def is_same(self, one: ast.expr, other: ast.expr) -> bool:
        """Whether two expressions have the same value for sure: the same text of the same bindings.

        Args:
            one: An expression.
            other: Another one.
        """
        if isinstance(one, ast.Name) and isinstance(other, ast.Name):
            if one.id == other.id and self._binds(one) == self._binds(other):
                return True
            return self._is_same_value(one, other)
        if isinstance(one, ast.Name) or isinstance(other, ast.Name):
            return self._is_same_value(one, other)
        if ast.dump(one) != ast.dump(other):
            return False
        names = zip(_names(one), _names(other), strict=True)
        return all(self._binds(a) == self._binds(b) for a, b in names)

    def _binds(self, name: ast.Name) -> object:
        found: Binding = self.flow.binding(name)
        return self._statement(name) if found == UNKNOWN else found.where

    def _is_same_value(self, one: ast.expr, other: ast.expr) -> bool:
        a, b = self.value(one), self.value(other)
        return a is b or ((a is not one or b is not other) and self.is_same(a, b))

    def _statement(self, node: ast.AST) -> ast.AST:
        return next((n for n in self.flow.above(node) if isinstance(n, ast.stmt)), node)

    def is_tensor(self, node: ast.expr) -> bool:
        """Whether an expression is a tensor for sure: from torch's functions, methods, or an annotation.

        Args:
            node: Any expression.
        """
        return self._is_tensor(node, 0)

    def _is_tensor(self, node: ast.expr, depth: int) -> bool:
        for part in ast.walk(node):
            if isinstance(part, ast.Call):
                found = self.operation(part)
                if found is not None and found.is_torch:
                    return True
            elif isinstance(part, ast.Name):
                value = self.value(part)
                is_deeper = value is not part and depth < _MAX_STEPS and self._is_tensor(value, depth + 1)
                if is_deeper or self._is_annotated(part):
                    return True
        return False

    def _is_annotated(self, name: ast.Name) -> bool:
        where = self.flow.binding(name).where
        if not isinstance(where, (ast.FunctionDef, ast.AsyncFunctionDef)):
            return False
        given = [*where.args.posonlyargs, *where.args.args, *where.args.kwonlyargs]
        hints = [a.annotation for a in given if a.arg == name.id and a.annotation is not None]
        return any(self.dotted(hint) in ("torch.Tensor", "torch.FloatTensor") for hint in hints)

    def keeps_no_graph(self, node: ast.AST) -> bool:
        """Whether a node runs without autograd: under no_grad, inference_mode, or in an autograd.Function.

        Args:
            node: A node of the file.
        """
        for outer in self.flow.above(node):
            if isinstance(outer, (ast.With, ast.AsyncWith)):
                switches = [item.context_expr for item in outer.items]
            elif isinstance(outer, (ast.FunctionDef, ast.AsyncFunctionDef)):
                switches = outer.decorator_list
            elif isinstance(outer, ast.ClassDef) and any(
                ast.unparse(base).rpartition(".")[2] == "Function" for base in outer.bases
            ):
                return True
            else:
                continue
            if any(self._switches_off(switch) for switch in switches):
                return True
        return False

    def _switches_off(self, node: ast.expr) -> bool:
        named = self.dotted(node.func if isinstance(node, ast.Call) else node)
        return named in ("torch.no_grad", "torch.inference_mode", "torch.autograd.no_grad")


def _names(node: ast.expr) -> Iterator[ast.Name]:
    return (part for part in ast.walk(node) if isinstance(part, ast.Name))


def _is_of_training(node: ast.AST) -> bool:
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and "loss" in node.name.lower():
        return True
    if isinstance(node, ast.ClassDef):
        return any(ast.unparse(base).rpartition(".")[2] in ("Module", "Function") for base in node.bases)
    if isinstance(node, ast.keyword):
        return node.arg == "requires_grad"
    return isinstance(node, ast.Attribute) and node.attr in ("backward", "requires_grad_", "autograd")
