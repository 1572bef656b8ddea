"""What is remembered of operations that made or passed on non-finite values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trimtab.trace.facts import Facts
from trimtab.trace.marks import INFINITE, NAN, NEGATIVE, POSITIVE, Marks, Region, broadcast_position, unravel
from trimtab.trace.operations import Operation, Shape
from trimtab.trace.places import Site
from trimtab.types import Phase


@dataclass(slots=True, eq=False)
class Place:
    """Where in the step and in the code an operation ran.

    Attributes:
        operation: The operation.
        site: The user's line.
        module: Innermost module of the model; None outside of it.
        phase: Part of the step.
        node: Name of the node of the backward pass that ran it; None outside of one.
        forward: Where the operation ran that made this node, if it was seen.
        inner: Line inside a custom backward that ran it.
        record: What is remembered of it, if its result was bad.
    """

    operation: Operation
    site: Site | None
    module: str | None
    phase: Phase
    node: str | None = None
    forward: Place | None = None
    inner: Site | None = None
    record: Record | None = None


@dataclass(slots=True, eq=False)
class Read:
    """A tensor with bad elements that went into an operation."""

    name: str
    address: int
    region: Region | None
    shape: tuple[int, ...]
    marks: Marks


class Source(NamedTuple):
    """One bad element of an operand."""

    read: Read
    position: int
    code: int


@dataclass(slots=True, eq=False)
class Record:
    """An operation whose result has bad elements.

    Attributes:
        time: Number of the operation in the step.
        place: Where it ran.
        shape: Shape of the bad result.
        reads: Operands with bad elements.
        scalars: Numbers among its arguments.
        dims: Dimensions of the rows it works over, for operations over rows.
        chosen: For `where`, which elements come from the first of the two.
        fresh: The operands at the first element that is bad although none of its sources are.
        turned: The operands at the first NaN that was made of infinities.
        absorbers: Operations that took an infinity born here and gave something finite.
        is_flipped: An infinity born here went on with the other sign.
        notes: What was rounded away on the way to the operands.
        hidden: Births of infinities that had vanished on the way to the operands.
    """

    time: int
    place: Place
    shape: tuple[int, ...]
    reads: list[Read]
    scalars: dict[str, float]
    dims: tuple[int, ...] = ()
    chosen: NDArray[np.uint8] | None = None
    fresh: Facts | None = None
    turned: Facts | None = None
    absorbers: set[str] = field(default_factory=set)
    is_flipped: bool = False
    notes: frozenset[str] = frozenset()
    hidden: frozenset[Record] = frozenset()

    def sources(self, position: int) -> list[Source]:
        """The bad elements of operands that this element of the result was made from."""
        operation = self.place.operation
        if operation.shape is Shape.POINTWISE:
            return list(self._pointwise(position))
        if operation.shape is Shape.ROWS and self.dims:
            return [s for read in self.reads for s in _first_of_each(read, self._row(read, position))]
        return [s for read in self.reads for s in _first_of_each(read, None)]

    def _pointwise(self, position: int) -> Iterator[Source]:
        for read in self.reads:
            if self.chosen is not None and read.name in ("self", "other"):
                is_first = bool(self.chosen[position >> 3] & (128 >> (position & 7)))
                if is_first != (read.name == "self"):
                    continue
            inner = broadcast_position(position, self.shape, read.shape)
            code = read.marks.at(inner)
            if code:
                yield Source(read, inner, code)

    def _row(self, read: Read, position: int) -> tuple[int | slice, ...] | None:
        """Index of the row of an operand that this element of the result belongs to."""
        rank = len(read.shape)
        index = unravel(position, self.shape)
        if len(self.shape) != rank:
            if len(self.shape) != rank - len(self.dims):
                return None
            rest = iter(index)
            return tuple(slice(None) if d in self.dims else next(rest) for d in range(rank))
        return tuple(
            slice(None) if d in self.dims else index[d] if read.shape[d] > 1 else 0 for d in range(rank)
        )


def _first_of_each(read: Read, row: tuple[int | slice, ...] | None) -> Iterator[Source]:
    """The first NaN and the first infinity of either sign, in a row or in all of an operand."""
    if row is None:
        found = {kind: read.marks.first(kind) for kind in (NAN, POSITIVE, NEGATIVE)}
    else:
        numbers = np.arange(read.marks.array(read.shape).size).reshape(read.shape)[row].reshape(-1)
        codes = read.marks.array(read.shape)[row].reshape(-1)
        found = {
            kind: int(numbers[np.argmax(codes == kind)]) if (codes == kind).any() else None
            for kind in (NAN, POSITIVE, NEGATIVE)
        }
    for kind, place in found.items():
        if place is not None:
            yield Source(read, place, kind)


class Write(NamedTuple):
    """One time that a storage was written; without marks what was written is finite."""

    time: int
    region: Region | None
    marks: Marks | None
    record: Record | None


def _offsets(read: Read, position: int, write: Write) -> Sequence[int | None]:
    """Where in the storage an element lies: a complex one may have been written part by part."""
    if read.region is None:
        return (None,)
    start = read.region.offset_of(position)
    size = write.region.itemsize if write.region is not None else read.region.itemsize
    return range(start, start + read.region.itemsize, min(size, read.region.itemsize))


class History:
    """What was written to each storage that ever held a bad value."""

    def __init__(self) -> None:
        self.writes: dict[int, list[Write]] = {}

    def add(self, address: int, write: Write) -> None:
        """Remember a write."""
        self.writes.setdefault(address, []).append(write)

    def marks_of(self, address: int, region: Region | None) -> Marks | None:
        """Marks of a tensor that was written as a whole, and last; None if that is not known."""
        writes = self.writes.get(address)
        return writes[-1].marks if writes and region is not None and writes[-1].region == region else None

    def written(self, read: Read, position: int, time: int) -> tuple[Write, int] | None:
        """The last write, before a time, of what is read at this position; and the bad element of it."""
        for write in reversed(self.writes.get(read.address, [])):
            if write.time >= time:
                continue
            found = [self.position_in(write, offset) for offset in _offsets(read, position, write)]
            there = [p for p in found if p is not None]
            if there:
                bad = [p for p in there if write.marks is not None and write.marks.at(p)]
                return (write, bad[0]) if bad else None
        return None

    @staticmethod
    def position_in(write: Write, offset: int | None) -> int | None:
        """Position in what was written of a place in the storage."""
        if offset is None or write.region is None:
            return write.marks.first(NAN | INFINITE) if write.marks is not None else None
        return write.region.position_of(offset)
