"""From a bad value back to where it was born, element by element."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple

from trimtab.trace.marks import NAN
from trimtab.trace.records import History, Record, Source, Write

# Births that are gone into: a step that is poisoned all over repeats a few of them
_MOST_TURNED = 256


class How(Enum):
    """How a value became bad."""

    FRESH = auto()  # out of finite ones
    TURNED = auto()  # a NaN out of infinities
    FOUND = auto()  # it was there before the step


@dataclass(frozen=True, slots=True, eq=False)
class Path:
    """Records from one to where the bad value was seen, as a chain of links."""

    record: Record
    rest: Path | None = None

    def __iter__(self) -> Iterator[Record]:
        """From here to where it was seen."""
        link: Path | None = self
        while link is not None:
            yield link.record
            link = link.rest


@dataclass(frozen=True, slots=True, eq=False)
class Birth:
    """Where a bad value came from.

    Attributes:
        how: How it became bad.
        code: NaN or which infinity it was.
        path: From the operation that made it (or the first to use what was found) to where it was seen.
        address: Storage of what was found.
        parents: Births of the infinities that turned into this NaN.
    """

    how: How
    code: int
    path: Path
    address: int = 0
    parents: tuple[Birth, ...] = ()

    @property
    def record(self) -> Record:
        """The operation that made it, or the first to use what was found."""
        return self.path.record

    @property
    def time(self) -> int:
        """Number of that operation in the step."""
        return self.record.time


class _Step(NamedTuple):
    """A bad element that was written, and the way from there to where it was seen."""

    write: Write
    position: int
    path: Path | None
    address: int


class Descent:
    """Walks back through what was recorded of a step.

    Args:
        history: What was written where.
    """

    def __init__(self, history: History) -> None:
        self._history = history
        self._num_turned = 0

    def births(self, address: int, kinds: int) -> list[Birth]:
        """Where the first bad elements of these kinds in a storage came from, as it was written last."""
        writes = self._history.writes.get(address, [])
        for write in reversed(writes):
            if write.marks is not None and write.marks.kinds & kinds:
                position = write.marks.first(kinds)
                assert position is not None
                return self._walk([_Step(write, position, None, address)])
        return []

    def _walk(self, steps: list[_Step]) -> list[Birth]:
        found: list[Birth] = []
        seen: set[tuple[int, int, int]] = set()
        while steps:
            step = steps.pop()
            key = (step.address, step.write.time, step.position)
            if key in seen or step.write.marks is None:
                continue
            seen.add(key)
            code = step.write.marks.at(step.position)
            record = step.write.record
            if record is None:
                if step.path is not None:
                    found.append(Birth(How.FOUND, code, step.path, step.address))
                continue
            path = Path(record, step.path)
            sources = record.sources(step.position)
            same = [s for s in sources if (s.code == NAN) == (code == NAN)]
            before = list(self._steps(record, same, path))
            if before:
                steps += before
            elif code == NAN and sources:
                found.append(self._turned(record, sources, path))
            else:
                found.append(Birth(How.FRESH, code, path))
        return found

    def _turned(self, record: Record, sources: list[Source], path: Path) -> Birth:
        self._num_turned += 1
        parents: list[Birth] = []
        if self._num_turned <= _MOST_TURNED:
            parents = self._walk(list(self._steps(record, sources, path)))
        return Birth(How.TURNED, NAN, path, parents=tuple(parents))

    def _steps(self, record: Record, sources: Iterable[Source], path: Path) -> Iterator[_Step]:
        """The writes that these elements were read from."""
        for source in sources:
            found = self._history.written(source.read, source.position, record.time)
            if found is not None:
                yield _Step(*found, path, source.read.address)
