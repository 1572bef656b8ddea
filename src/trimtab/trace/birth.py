"""What is to be remembered of an operation that has just made a bad value."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import CodeType, FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trimtab.trace import facts
from trimtab.trace.facts import Facts, Operand, Row, named_numbers, named_tensors, operand_of
from trimtab.trace.marks import INFINITE, NAN, Marks, Region, address_of, codes_of, unravel
from trimtab.trace.operations import Operation, Shape
from trimtab.trace.places import Lines, Site
from trimtab.trace.records import History, Place, Read, Record, Write

# Facts cost some passes over the operands: enough of them for every loop to be told apart from its neighbors
_FACTS_PER_LINE = 8

# A tensor that was there before the step, in `Write.time`
BEFORE = -1


@dataclass(slots=True)
class Made:
    """An operation that has just run, and its arguments.

    Attributes:
        operation: The operation.
        args: Arguments by position.
        kwargs: Arguments by name.
        before: Operands as they were, for an operation in place.
        originals: The operand that each of those is a copy of, by its id.
    """

    operation: Operation
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    before: list[tuple[str, Tensor]] | None = None
    originals: Mapping[int, Tensor] = field(default_factory=dict)
    _tensors: list[tuple[str, Tensor]] | None = None

    def tensors(self) -> list[tuple[str, Tensor]]:
        """The floating-point operands by name, as they were before."""
        if self._tensors is None:
            self._tensors = self.before
        if self._tensors is None:
            operation = self.operation
            results = {"self", *operation.out_names} if operation.overwrites else operation.out_names
            pairs = named_tensors(operation, self.args, self.kwargs)
            is_new = operation.is_in_place and results
            self._tensors = [pair for pair in pairs if pair[0] not in results] if is_new else pairs
        return self._tensors

    def original(self, tensor: Tensor) -> Tensor:
        """The operand itself, of which this may be a copy from before the operation."""
        return self.originals.get(id(tensor), tensor)

    def argument(self, name: str) -> Any:
        """An argument by its name in the schema; None if it was left out."""
        if name in self.kwargs:
            return self.kwargs[name]
        names = self.operation.argument_names
        place = names.index(name) if name in names else len(self.args)
        return self.args[place] if place < len(self.args) else None


class Birthplace:
    """Writes the record of a bad result.

    Args:
        history: What is known of storages that hold bad values.
        is_created: Whether a storage was made during the step.
        lines: Knows names of tensors.
    """

    def __init__(self, history: History, is_created: Callable[[int], bool], lines: Lines) -> None:
        self._history = history
        self._is_created = is_created
        self._lines = lines
        self._num_facts: dict[tuple[CodeType | None, int, Operation], int] = {}
        self.names: dict[int, str] = {}
        self.found: dict[int, Operand] = {}
        self.entered: dict[int, Site | None] = {}
        self.first_bad: dict[int, tuple[int, ...]] = {}

    def record(
        self,
        time: int,
        place: Place,
        made: Made,
        result: Tensor,
        index: int,
        marks: Marks,
        frame: FrameType | None,
    ) -> Record:
        """Look at the operands of an operation whose result is bad.

        Args:
            time: Number of the operation.
            place: Where it ran.
            made: The operation and its arguments.
            result: One of its results, which is bad.
            index: Which one.
            marks: Its bad elements.
            frame: Frame that ran it.
        """
        tensors = made.tensors()
        if made.operation.is_foreach:
            tensors = [
                (n.partition("[")[0], t) for n, t in tensors if n.endswith(f"[{index}]") or "[" not in n
            ]
        scalars = named_numbers(made.operation, made.args, made.kwargs)
        record = Record(time, place, tuple(result.shape), [], scalars)
        if made.operation.is_empty:
            return record
        reads = (self._read(name, t, made.original(t), frame) for name, t in tensors)
        record.reads = [read for read in reads if read is not None]
        if made.operation.base == "where":
            record.chosen = _packed_condition(made.argument("condition"), result)
        if made.operation.shape is Shape.ROWS and tensors:
            record.dims = _row_dims(made, tensors[0][1])
        self._add_facts(record, made, tensors, result, marks)
        return record

    def _read(self, name: str, tensor: Tensor, original: Tensor, frame: FrameType | None) -> Read | None:
        """The bad elements of an operand; None without any."""
        if tensor.numel() == 0:
            return None
        is_strided = tensor.layout is torch.strided and not tensor.is_nested
        address = address_of(original)
        is_known = address in self._history.writes
        if not is_known and self._is_created(address):
            return None
        region = Region.of(original) if is_strided else None
        marks = self._history.marks_of(address, region) if is_known else None
        if marks is None:
            marks = Marks.of(tensor)
            if marks is None:
                return None
        if not is_known:
            self._history.add(address, Write(BEFORE, region, marks, None))
            self.found[address] = operand_of(name, tensor)
            self.first_bad[address] = unravel(marks.first(NAN | INFINITE) or 0, tuple(tensor.shape))
            self.entered[address] = self._lines.of_caller(frame)
            name_there = self._lines.name_of(frame, address)
            if name_there is not None:
                self.names[address] = name_there
        return Read(name, address, region, tuple(tensor.shape), marks)

    def _add_facts(
        self, record: Record, made: Made, tensors: list[tuple[str, Tensor]], result: Tensor, marks: Marks
    ) -> None:
        site = record.place.site
        key = (site.code if site else None, site.instruction if site else 0, made.operation)
        if self._num_facts.get(key, 0) >= _FACTS_PER_LINE:
            return
        fresh, turned = _births(record, made, tensors, result, marks)
        if fresh is None and turned is None:
            return
        self._num_facts[key] = self._num_facts.get(key, 0) + 1
        values = result.detach()
        if fresh is not None:
            record.fresh = self._facts(record, made, tensors, values, fresh)
        if turned is not None:
            record.turned = self._facts(record, made, tensors, values, turned)

    def _facts(
        self,
        record: Record,
        made: Made,
        tensors: list[tuple[str, Tensor]],
        result: Tensor,
        culprit: tuple[int, int, int],
    ) -> Facts:
        taken = facts.take(made.operation, tensors, record.scalars, result, culprit)
        row = _row_facts(record, tensors[0][1], culprit[0]) if record.dims and tensors else None
        return replace(taken, row=row)


Culprit = tuple[int, int, int]


def _births(
    record: Record, made: Made, tensors: list[tuple[str, Tensor]], result: Tensor, marks: Marks
) -> tuple[Culprit | None, Culprit | None]:
    """The first element that is bad although no source is, and the first NaN made of infinities alone."""
    if not record.reads:
        position = marks.first(NAN)
        position = marks.first(NAN | INFINITE) if position is None else position
        assert position is not None
        return (position, marks.at(position), _count(result, marks)), None
    if marks.is_uniform and marks.kinds == NAN and any(_is_all_nan(read) for read in record.reads):
        return None, None
    found = codes_of(result)
    sources = _source_codes(record, made, tensors, result)
    fresh = (found != 0) & (sources == 0)
    turned = (found == NAN) & (sources != 0) & ((sources & NAN) == 0)
    return _first(fresh, found), _first(turned, found)


def _is_all_nan(read: Read) -> bool:
    return read.marks.is_uniform and read.marks.kinds == NAN


def _count(result: Tensor, marks: Marks) -> int:
    is_strided = result.layout is torch.strided and not result.is_nested
    return int(np.count_nonzero(marks.array(tuple(result.shape)))) if is_strided else 1


def _first(where: Tensor, codes: Tensor) -> Culprit | None:
    flat = where.reshape(-1)
    number = int(flat.sum())
    if not number:
        return None
    position = int(flat.to(torch.uint8).argmax())
    return position, int(codes.reshape(-1)[position]), number


def _source_codes(record: Record, made: Made, tensors: list[tuple[str, Tensor]], result: Tensor) -> Tensor:
    """For each element of the result, the kinds of bad elements among its sources."""
    shape = tuple(result.shape)
    total = torch.zeros(shape, dtype=torch.uint8, device=result.device)
    for read in record.reads:
        tensor = next(t for name, t in tensors if name == read.name)
        codes = codes_of(tensor) if tensor.layout is torch.strided and not tensor.is_nested else None
        if codes is None or made.operation.shape is Shape.MIXED:
            total |= read.marks.kinds
        elif made.operation.shape is Shape.POINTWISE:
            if record.chosen is not None:
                condition = made.argument("condition")
                codes = torch.where(condition if read.name == "self" else ~condition, codes, 0)
            total = total | (codes.expand(shape) if codes.dim() <= len(shape) else read.marks.kinds)
        else:
            total = total | _over_rows(codes, record.dims, shape, read.marks.kinds)
    return total


def _over_rows(codes: Tensor, dims: tuple[int, ...], shape: tuple[int, ...], otherwise: int) -> Tensor:
    """The kinds in each row, laid out as the result is."""
    kinds = torch.zeros((), dtype=torch.uint8, device=codes.device)
    dims = dims or tuple(range(codes.dim()))
    rows = codes
    for kind in (NAN, 2, 4):
        has = ((codes & kind) != 0).to(torch.uint8)
        rows = has.amax(dims, keepdim=True) if codes.dim() else has
        kinds = kinds | rows * kind
    if len(shape) == codes.dim() - len(dims):
        return kinds.reshape(shape)
    if len(shape) == codes.dim() and all(k in (1, s) for k, s in zip(kinds.shape, shape, strict=True)):
        return kinds.expand(shape)
    return torch.full(shape, otherwise, dtype=torch.uint8, device=codes.device)


def _row_dims(made: Made, tensor: Tensor) -> tuple[int, ...]:
    rank = tensor.dim()
    if made.operation.base in ("native_layer_norm", "_fused_rms_norm"):
        return tuple(range(rank - len(made.argument("normalized_shape") or ()), rank))
    dim = made.argument("dim")
    if dim is None or dim == []:
        return tuple(range(rank))
    dims = [dim] if isinstance(dim, int) else list(dim)
    return tuple(sorted({d % rank for d in dims})) if rank else ()


def _row_facts(record: Record, tensor: Tensor, position: int) -> Row | None:
    read = Read("", 0, None, tuple(tensor.shape), Marks(torch.zeros(0, dtype=torch.uint8)))
    index = record._row(read, position)
    if index is None or tensor.layout is not torch.strided or tensor.is_complex() or not tensor.numel():
        return None
    values = tensor.detach()
    row = values[index].reshape(-1)
    if not row.numel():
        return None
    masked = (values == float("-inf")).to(torch.uint8)
    alike = masked.amin(record.dims) if tensor.dim() else masked
    return Row(
        index=tuple(i for i in index if isinstance(i, int)),
        length=row.numel(),
        num_negative_inf=int((row == float("-inf")).sum()),
        num_positive_inf=int((row == float("inf")).sum()),
        num_alike=int(alike.sum()),
        num_rows=alike.numel(),
    )


def _packed_condition(condition: Any, result: Tensor) -> Any:
    return np.packbits(condition.expand(result.shape).reshape(-1).cpu().numpy())
