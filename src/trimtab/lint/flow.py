"""Where the value of a name comes from: the last assignment that is sure to have been made before."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_SCOPES = (*_FUNCTIONS, ast.ClassDef, ast.Lambda)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_LOOPS = (ast.For, ast.AsyncFor, ast.While)


class Binding(NamedTuple):
    """What binds a name at the place where it is used.

    Attributes:
        where: The statement, or the function whose parameter it is; None if it is not known.
        value: What it is bound to, if that is a plain assignment that has been made for sure.
    """

    where: ast.AST | None
    value: ast.expr | None


UNKNOWN = Binding(None, None)


class _Place(NamedTuple):
    owner: ast.AST
    block: list[ast.stmt]
    position: int


class Flow:
    """Parents, blocks and bindings of one file.

    Args:
        tree: The file.

    Attributes:
        nodes: All nodes, those above first.
    """

    def __init__(self, tree: ast.Module) -> None:
        self._tree = tree
        self._parents: dict[ast.AST, ast.AST] = {}
        self._places: dict[ast.AST, _Place] = {}
        self._bound: dict[ast.AST, frozenset[str]] = {}
        self._globals: set[str] = set()
        self._binders: dict[str, list[ast.stmt]] = {}
        self.nodes = tuple(ast.walk(tree))
        for node in self.nodes:
            if isinstance(node, ast.Global):
                self._globals |= set(node.names)
            for _, value in ast.iter_fields(node):
                if isinstance(value, ast.AST):
                    self._parents[value] = node
                elif isinstance(value, list):
                    self._note(node, value)

    def _note(self, owner: ast.AST, block: list[ast.AST]) -> None:
        for index, child in enumerate(block):
            if isinstance(child, ast.AST):
                self._parents[child] = owner
            if isinstance(child, ast.stmt):
                self._places[child] = _Place(owner, block, index)  # type: ignore[arg-type]

    def above(self, node: ast.AST) -> Iterator[ast.AST]:
        """What a node is in, from the inside out.

        Args:
            node: A node of the file.
        """
        while node in self._parents:
            node = self._parents[node]
            yield node

    def function(self, node: ast.AST) -> Function | None:
        """The innermost function that a node is in; None at the top of a file or class.

        Args:
            node: A node of the file.
        """
        for outer in self.above(node):
            if isinstance(outer, _FUNCTIONS):
                return outer
            if isinstance(outer, ast.ClassDef):
                return None
        return None

    def class_of(self, node: ast.AST) -> ast.ClassDef | None:
        """The innermost class that a node is in.

        Args:
            node: A node of the file.
        """
        return next((outer for outer in self.above(node) if isinstance(outer, ast.ClassDef)), None)

    def binding(self, name: ast.Name) -> Binding:
        """What a name is bound to where it is used.

        A loop may bring a later assignment around, a branch may not have been taken, an exception may
        have come before: in all these cases nothing is known.

        Args:
            name: The name, at the place where it is read.
        """
        node: ast.AST = name
        for outer in self.above(name):
            if isinstance(outer, (ast.Lambda, *_COMPREHENSIONS)) and _takes(outer, name.id):
                return UNKNOWN
            if isinstance(outer, ast.Lambda):
                return UNKNOWN  # runs at another time
            node = outer
            if isinstance(outer, ast.stmt):
                break
        return self._before(node, name.id) if isinstance(node, ast.stmt) else UNKNOWN

    def _before(self, statement: ast.AST, name: str) -> Binding:
        while statement in self._places:
            owner, block, index = self._places[statement]
            for earlier in reversed(block[:index]):
                if name in self.bound(earlier):
                    return Binding(earlier, _assigned(earlier, name))
            if isinstance(owner, _FUNCTIONS):
                return self._outside(owner, name)
            if isinstance(owner, (ast.ClassDef, ast.Module)):
                return UNKNOWN
            if self._may_be_bound_by(owner, block, name):
                return Binding(owner, None)
            statement = owner
            if not isinstance(owner, ast.stmt):  # a handler or a case: go on from its statement
                statement = self._parents[owner]
        return UNKNOWN

    def _may_be_bound_by(self, owner: ast.AST, block: list[ast.stmt], name: str) -> bool:
        if isinstance(owner, (*_LOOPS, ast.ExceptHandler)):
            whole = self._parents[owner] if isinstance(owner, ast.ExceptHandler) else owner
            return name in self.bound(whole)
        if isinstance(owner, ast.Try):
            return block is not owner.body and name in self.bound(owner)
        if isinstance(owner, (ast.With, ast.AsyncWith)):
            return any(name in _stored(item) for item in owner.items)
        if isinstance(owner, ast.If):
            return name in _stored(owner.test)
        return True

    def _outside(self, function: Function, name: str) -> Binding:
        if name in _parameters(function):
            return Binding(function, None)
        if any(name in self.bound(statement) for statement in function.body):
            return UNKNOWN  # bound later, or declared to be another function's
        if any(isinstance(outer, _FUNCTIONS) for outer in self.above(function)):
            return UNKNOWN
        binders = self._module_binders().get(name, [])
        if len(binders) != 1 or name in self._globals:
            return UNKNOWN
        return Binding(binders[0], _assigned(binders[0], name))

    def _module_binders(self) -> dict[str, list[ast.stmt]]:
        if not self._binders:
            for statement in self._tree.body:
                for name in self.bound(statement):
                    self._binders.setdefault(name, []).append(statement)
        return self._binders

    def bound(self, statement: ast.AST) -> frozenset[str]:
        """Names that a statement, with all that is in it, may bind or change in place.

        Args:
            statement: A statement.
        """
        if statement not in self._bound:
            self._bound[statement] = frozenset(_stored(statement))
        return self._bound[statement]


def _stored(root: ast.AST) -> set[str]:
    found: set[str] = set()
    queue = [root]
    while queue:
        node = queue.pop()
        found |= _names_changed(node)
        if isinstance(node, (*_FUNCTIONS, ast.ClassDef)):
            # its body binds names of its own, save those it says are others'
            inner = (n for n in ast.walk(node) if isinstance(n, (ast.Nonlocal, ast.Global)))
            found.update(name for declared in inner for name in declared.names)
            if node is root or isinstance(node, _FUNCTIONS):
                continue
        if not isinstance(node, (ast.Lambda, *_COMPREHENSIONS)):
            queue += ast.iter_child_nodes(node)
        else:  # a comprehension keeps its targets to itself; a walrus gets out
            walrus = (n.target.id for n in ast.walk(node) if isinstance(n, ast.NamedExpr))
            found.update(walrus)
    return found


def _names_changed(node: ast.AST) -> set[str]:
    if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
        return {node.id}
    if isinstance(node, (*_FUNCTIONS, ast.ClassDef, ast.ExceptHandler)):
        return {node.name} if node.name else set()
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return {alias.asname or alias.name.partition(".")[0] for alias in node.names}
    if isinstance(node, (ast.Global, ast.Nonlocal)):
        return set(node.names)
    if isinstance(node, (ast.MatchAs, ast.MatchStar)):
        return {node.name} if node.name else set()
    if isinstance(node, ast.MatchMapping):
        return {node.rest} if node.rest else set()
    if isinstance(node, (ast.Subscript, ast.Attribute)) and not isinstance(node.ctx, ast.Load):
        return _root(node.value)
    if isinstance(node, ast.Call):
        return _changed_by_call(node)
    return set()


def _changed_by_call(call: ast.Call) -> set[str]:
    """Names changed in place: `x.clamp_(0)`, `torch.exp(x, out=y)`, `nn.init.zeros_(w)`."""
    found = set()
    name = call.func.attr if isinstance(call.func, ast.Attribute) else ""
    if name.endswith("_") and not name.endswith("__") and name != "requires_grad_":
        found |= _root(call.func)
        if call.args:
            found |= _root(call.args[0])
    for keyword in call.keywords:
        if keyword.arg == "out":
            found |= _root(keyword.value)
    return found


def _root(node: ast.AST) -> set[str]:
    while isinstance(node, (ast.Attribute, ast.Subscript)):
        node = node.value
    return {node.id} if isinstance(node, ast.Name) else set()


def _assigned(statement: ast.stmt, name: str) -> ast.expr | None:
    if isinstance(statement, ast.Assign):
        is_it = any(isinstance(target, ast.Name) and target.id == name for target in statement.targets)
        return statement.value if is_it else None
    if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
        return statement.value
    return None


def _parameters(function: Function | ast.Lambda) -> set[str]:
    given = function.args
    every = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
    return {argument.arg for argument in every if argument is not None}


def _takes(scope: ast.AST, name: str) -> bool:
    if isinstance(scope, ast.Lambda):
        return name in _parameters(scope)
    return any(name in _stored(part.target) for part in getattr(scope, "generators", ()))
