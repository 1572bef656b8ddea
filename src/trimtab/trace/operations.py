"""What is known of an operation from its schema and its name."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from functools import cache
from typing import Any

import torch


class Shape(Enum):
    """How the elements of an operation's result go back to those of its operands."""

    POINTWISE = auto()  # each to the same place, after broadcasting
    ROWS = auto()  # each to a row of the first operand
    MIXED = auto()  # anything else: matrix products, convolutions, gathers


# Tagged as pointwise by torch, or not, for reasons of its own
_COPIES = frozenset({"clone", "_to_copy", "copy", "lift_fresh_copy", "alias_copy", "nan_to_num", "where"})
_SOFTMAX = frozenset({"_softmax", "_log_softmax", "_safe_softmax"})
_ROWS = _SOFTMAX | {
    *("logsumexp", "sum", "mean", "var", "std", "var_mean", "std_mean", "prod", "amax", "amin", "max", "min"),
    *("norm", "linalg_vector_norm", "cumsum", "cumprod", "logcumsumexp", "nansum", "median", "nanmedian"),
    *("_softmax_backward_data", "_log_softmax_backward_data", "aminmax", "argmax", "sort", "topk"),
    *("native_layer_norm", "_fused_rms_norm"),
}
# Results that no value of an operand decides
_FACTORIES = frozenset(
    {
        *("empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "empty_permuted"),
        *(
            "zeros",
            "ones",
            "full",
            "zeros_like",
            "ones_like",
            "full_like",
            "new_zeros",
            "new_ones",
            "new_full",
        ),
        *(
            "arange",
            "linspace",
            "scalar_tensor",
            "eye",
            "rand",
            "randn",
            "randint",
            "rand_like",
            "randn_like",
        ),
    }
)
_EMPTY = frozenset({n for n in _FACTORIES if "empty" in n})
_OVERWRITING = frozenset(
    {
        *("fill", "zero", "copy", "normal", "uniform", "bernoulli", "exponential", "random", "geometric"),
        *("log_normal", "cauchy", "set", "resize"),
    }
)
# Kernels that write running statistics although their schema does not say so
_WRITES_STATISTICS = frozenset({"native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm"})


@dataclass(frozen=True, slots=True, eq=False)
class Operation:
    """An operation of the dispatcher.

    Attributes:
        name: As `aten.log_`; without the overload.
        base: As `log`: without namespace, `_foreach_`, and the underscore of an operation in place.
        shape: How results go back to operands.
        is_view: The result is another view of an operand's memory, or the operand itself.
        is_empty: The result is memory that nobody has filled.
        is_factory: No operand's value decides the result.
        is_foreach: Operands are lists, worked through side by side.
        overwrites: In place, and the old values do not matter.
        written: Positions of the arguments that it writes to.
        written_names: The same for arguments given by name.
        out_names: Those of them that are results only.
        argument_names: Names of the arguments by position.
    """

    name: str
    base: str
    shape: Shape
    is_view: bool
    is_empty: bool
    is_factory: bool
    is_foreach: bool
    overwrites: bool
    written: tuple[int, ...]
    written_names: tuple[str, ...]
    out_names: frozenset[str]
    argument_names: tuple[str, ...]

    @property
    def is_in_place(self) -> bool:
        """Whether it writes to an argument."""
        return bool(self.written or self.written_names)

    @property
    def is_softmax(self) -> bool:
        """Whether it is a softmax or a log-softmax."""
        return self.base in _SOFTMAX


@cache
def operation_of(func: Any) -> Operation:
    """What the schema of an overload says.

    Args:
        func: A `torch._ops.OpOverload`.
    """
    schema = func._schema
    namespace, _, short = schema.name.partition("::")
    base = short.removeprefix("_foreach_") if short.startswith("_foreach_") else short
    base = base if base.endswith("__") else base.removesuffix("_")
    written = [
        i for i, a in enumerate(schema.arguments) if a.alias_info is not None and a.alias_info.is_write
    ]
    if base in _WRITES_STATISTICS:
        written += [3, 4]
    is_pointwise = torch.Tag.pointwise in func.tags or base in _COPIES or short.startswith("_foreach_")
    shape = Shape.ROWS if base in _ROWS else Shape.POINTWISE if is_pointwise else Shape.MIXED
    return Operation(
        name=f"{namespace}.{short}",
        base=base,
        shape=shape,
        is_view=any(r.alias_info is not None and not r.alias_info.is_write for r in schema.returns),
        is_empty=base in _EMPTY,
        is_factory=base in _FACTORIES,
        is_foreach=short.startswith("_foreach_"),
        overwrites=base in _OVERWRITING,
        written=tuple(i for i in written if not schema.arguments[i].kwarg_only),
        written_names=tuple(schema.arguments[i].name for i in written),
        out_names=frozenset(schema.arguments[i].name for i in written if schema.arguments[i].kwarg_only),
        argument_names=tuple(a.name for a in schema.arguments),
    )
