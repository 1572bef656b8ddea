"""What torch's functions, tensor methods and layers are called here: one name for each operation."""

from __future__ import annotations

import ast
from typing import NamedTuple

_HOMES = ("torch", "torch.nn.functional", "torch.special", "torch.linalg", "torch.Tensor")
_OTHER_NAMES = {
    "expit": "sigmoid",
    "arccos": "acos",
    "arcsin": "asin",
    "linalg_norm": "norm",
    "vector_norm": "norm",
    "linalg_det": "det",
    "inv": "inverse",
    "true_divide": "div",
    "divide": "div",
    "multiply": "mul",
    "subtract": "sub",
    "cross_entropy_loss": "cross_entropy",
    "clip": "clamp",
    "clamp_min": "clamp",
    "clamp_max": "clamp",
    "clamp_": "clamp",
    "bmm": "matmul",
    "mm": "matmul",
    "mv": "matmul",
    "masked_fill_": "masked_fill",
}
# Methods that a NumPy array has not: what they are called on is a tensor
_OF_TENSORS = frozenset(
    (
        *("softmax", "log_softmax", "sigmoid", "log", "log1p", "exp", "expm1", "sqrt", "rsqrt"),
        *("norm", "pow", "square", "det", "logdet", "acos", "asin", "masked_fill", "matmul"),
        *("mm", "bmm", "mv", "amax", "unsqueeze", "abs", "bernoulli"),
    )
)
_OF_ARRAYS = frozenset(
    (
        *("inverse", "sum", "mean", "std", "var", "max", "min", "dot", "prod", "clip", "clamp"),
        *("div", "mul", "sub", "add", "clamp_min"),
    )
)
_LAYERS = {
    "Softmax": "softmax",
    "LogSoftmax": "log_softmax",
    "Sigmoid": "sigmoid",
    "LogSigmoid": "logsigmoid",
    "ReLU": "relu",
    "CrossEntropyLoss": "cross_entropy",
    "NLLLoss": "nll_loss",
    "BCELoss": "binary_cross_entropy",
    "BCEWithLogitsLoss": "binary_cross_entropy_with_logits",
    "KLDivLoss": "kl_div",
    "CosineSimilarity": "cosine_similarity",
}
_BINARY: dict[type[ast.operator], str] = {
    ast.Add: "add",
    ast.Sub: "sub",
    ast.Mult: "mul",
    ast.Div: "div",
    ast.Pow: "pow",
    ast.MatMult: "matmul",
}
# What changes neither the values nor which of them belong together
SAME_VALUES = frozenset(
    (
        *("view", "reshape", "squeeze", "unsqueeze", "flatten", "contiguous", "clone", "float"),
        *("double", "to", "cuda", "cpu", "permute", "transpose", "t", "type_as", "type"),
        *("view_as", "reshape_as", "expand", "expand_as"),
    )
)
# What picks some of the values
PICKS = frozenset(
    (
        *("gather", "index_select", "take_along_dim", "select", "narrow", "masked_select"),
        *("take",),
    )
)


class Operation(NamedTuple):
    """A value as what it is computed from.

    Attributes:
        name: What computes it, such as `softmax` or `add`.
        inputs: The operands that are given by position; for a method the tensor comes first.
        options: Those that are given by name.
        node: The expression.
        is_torch: Whether it is torch for sure: `a + b` and `a.sum()` may be anything.
    """

    name: str
    inputs: tuple[ast.expr, ...]
    options: dict[str, ast.expr]
    node: ast.expr
    is_torch: bool

    def option(self, name: str, position: int) -> ast.expr | None:
        """An argument that may be given by name or by position.

        Args:
            name: Its name.
            position: Its position, with the tensor at 0.
        """
        if name in self.options:
            return self.options[name]
        return self.inputs[position] if len(self.inputs) > position else None


def of_function(dotted: str) -> str | None:
    """The operation of a function by its full name.

    Args:
        dotted: Such as `torch.nn.functional.softmax`.

    Example:
        >>> of_function("torch.special.expit"), of_function("numpy.exp")
        ('sigmoid', None)
    """
    home, _, name = dotted.rpartition(".")
    return _OTHER_NAMES.get(name, name) if home in _HOMES else None


def of_layer(dotted: str) -> str | None:
    """The operation of a layer by its full name.

    Args:
        dotted: Such as `torch.nn.Softmax`.
    """
    home, _, name = dotted.rpartition(".")
    return _LAYERS.get(name) if home in ("torch.nn", "torch.nn.modules") else None


def of_method(name: str) -> tuple[str, bool] | None:
    """The operation of a method, and whether only tensors have it.

    Args:
        name: Its name.
    """
    if name in _OF_TENSORS or name in _OF_ARRAYS:
        return _OTHER_NAMES.get(name, name), name in _OF_TENSORS
    if name in _OTHER_NAMES:
        return _OTHER_NAMES[name], True
    return None


def of_operator(operator: ast.operator) -> str | None:
    """The operation of `+` and the like.

    Args:
        operator: Its node.
    """
    return _BINARY.get(type(operator))
