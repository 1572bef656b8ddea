"""What the operands of one operation were like when it made a non-finite value."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trimtab.trace.marks import FLOATING, NAN, broadcast_position, codes_of, dense_values, unravel
from trimtab.trace.operations import Operation, Shape


@dataclass(frozen=True, slots=True)
class Operand:
    """One tensor that went into an operation.

    Attributes:
        name: Name of the argument.
        dtype: Its type.
        shape: Its shape.
        num_zeros: Elements that are exactly 0.
        num_negative: Elements below 0, -inf among them.
        num_nan: Elements that are NaN.
        num_positive_inf: Elements that are +inf.
        num_negative_inf: Elements that are -inf.
        low: Smallest finite element; nan without any.
        high: Largest finite element; nan without any.
        at: The element that the first bad result was made from; None where no single one did.
        position: Its position in row-major order.
        needs_grad: Whether a gradient flows through it.
        num_distinct: Number of different values, when there are only one or two; 0 for more.
    """

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    num_zeros: int
    num_negative: int
    num_nan: int
    num_positive_inf: int
    num_negative_inf: int
    low: float
    high: float
    at: float | None
    position: int | None
    needs_grad: bool
    num_distinct: int

    @property
    def num_elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def index(self) -> tuple[int, ...]:
        """Index of the element that the first bad result was made from."""
        return unravel(self.position, self.shape) if self.position is not None else ()

    @property
    def largest(self) -> float:
        """Largest finite magnitude."""
        return max(abs(self.low), abs(self.high))


@dataclass(frozen=True, slots=True)
class Row:
    """The row of an operand that a bad result was made from.

    Attributes:
        index: Index of the row, without the dimensions that make it.
        length: Its number of elements.
        num_negative_inf: How many of them are -inf.
        num_positive_inf: How many are +inf.
        num_alike: Number of rows that consist of -inf altogether.
        num_rows: Number of rows.
    """

    index: tuple[int, ...]
    length: int
    num_negative_inf: int
    num_positive_inf: int
    num_alike: int
    num_rows: int


@dataclass(frozen=True, slots=True)
class Facts:
    """The operands of one operation, seen from its first bad result.

    Attributes:
        operands: Floating-point tensors among the arguments.
        scalars: Numbers among the arguments, by name.
        index: Index of the first bad element of the result.
        code: Whether it is NaN or which infinity.
        num_bad: Number of bad elements of the result that are of this kind and made here.
        dtype: Type of the result.
        shape: Shape of the result.
        row: The row it was made from, for operations over rows.
    """

    operands: tuple[Operand, ...]
    scalars: Mapping[str, float]
    index: tuple[int, ...]
    code: int
    num_bad: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    row: Row | None = None

    def operand(self, *names: str) -> Operand | None:
        """The operand of the first of these names that there is; the first of all without names."""
        for name in names:
            for operand in self.operands:
                if operand.name == name:
                    return operand
        return self.operands[0] if self.operands and not names else None


def named_tensors(
    operation: Operation, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> list[tuple[str, Tensor]]:
    """The floating-point tensors among the arguments, by name; those in lists with their number."""
    found: list[tuple[str, Tensor]] = []
    for name, value in [*zip(operation.argument_names, args, strict=False), *kwargs.items()]:
        if isinstance(value, Tensor):
            if value.dtype in FLOATING:
                found.append((name, value))
        elif isinstance(value, (list, tuple)):
            items = enumerate(value)
            found += [(f"{name}[{i}]", t) for i, t in items if isinstance(t, Tensor) and t.dtype in FLOATING]
    return found


def named_numbers(operation: Operation, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, float]:
    """The numbers among the arguments, by name. A 0-dim tensor made of a Python number counts as one."""
    pairs = [*zip(operation.argument_names, args, strict=False), *kwargs.items()]
    return {name: float(v) for name, v in pairs if isinstance(v, (int, float)) and not isinstance(v, bool)}


def take(
    operation: Operation,
    tensors: Sequence[tuple[str, Tensor]],
    scalars: Mapping[str, float],
    result: Tensor,
    culprit: tuple[int, int, int],
) -> Facts:
    """Look at the operands of an operation.

    Args:
        operation: The operation.
        tensors: Its floating-point operands, as they were before it.
        scalars: Its numbers.
        result: What it made.
        culprit: Position of the first bad element of the result, its code, and how many there are.
    """
    position, code, num_bad = culprit
    shape = tuple(result.shape)
    is_pointwise = operation.shape is Shape.POINTWISE
    return Facts(
        operands=tuple(operand_of(n, t, position if is_pointwise else None, shape) for n, t in tensors),
        scalars=scalars,
        index=unravel(position, shape),
        code=code,
        num_bad=num_bad,
        dtype=result.dtype,
        shape=shape,
    )


def operand_of(
    name: str, tensor: Tensor, position: int | None = None, result: tuple[int, ...] = ()
) -> Operand:
    """Facts about one tensor.

    Args:
        name: Name of the argument.
        tensor: The tensor.
        position: Position of an element of the result that was made from it, element by element.
        result: Shape of the result.
    """
    found = dense_values(tensor.detach())
    values = found if found is not None else torch.zeros(0)
    if tensor.is_complex() and found is not None:
        values = torch.view_as_complex(found).abs()
    codes = codes_of(values)
    is_finite = codes == 0
    finite = values[is_finite] if not bool(is_finite.all()) else values.reshape(-1)
    low, high = (float(x) for x in finite.aminmax()) if finite.numel() else (math.nan, math.nan)
    inner = number = None
    is_plain = tensor.layout is torch.strided and tensor.numel() > 0
    if position is not None and is_plain and tensor.dim() <= len(result):
        inner = broadcast_position(position, result, tuple(tensor.shape))
        number = float(values.reshape(-1)[inner]) if inner < values.numel() else None
    return Operand(
        name=name,
        dtype=tensor.dtype,
        shape=tuple(tensor.shape),
        num_zeros=int((values == 0).sum()),
        num_negative=int((values < 0).sum()),
        num_nan=int((codes == NAN).sum()),
        num_positive_inf=int((values == math.inf).sum()),
        num_negative_inf=int((values == -math.inf).sum()),
        low=low,
        high=high,
        at=number,
        position=inner,
        needs_grad=tensor.requires_grad,
        num_distinct=_num_distinct(finite, low, high),
    )


def _num_distinct(finite: Tensor, low: float, high: float) -> int:
    if not finite.numel():
        return 0
    if low == high:
        return 1
    return 2 if bool(((finite == low) | (finite == high)).all()) else 0
