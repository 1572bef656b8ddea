"""How far the values of each module are from the end of their type's range."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trimtab.trace.birth import Made
from trimtab.trace.facts import named_numbers
from trimtab.trace.kept import Kept
from trimtab.trace.marks import dense_values, is_finite
from trimtab.trace.modules import Running
from trimtab.trace.places import Lines
from trimtab.trace.replay import Replay
from trimtab.trace.watching import Watch
from trimtab.types import Phase


@dataclass(frozen=True, slots=True)
class Level:
    """The value of a module that came nearest to the end of its type's range.

    Attributes:
        module: Dotted path of the module; "" for the model itself, None outside of it.
        phase: Forward, loss or backward.
        op: The operation that made it.
        largest: Its magnitude; inf for an overflow. Infinities that were put there are passed over.
        dtype: Its type, as "float16".
        headroom: Largest number of the type, divided by it; 0 after an overflow, inf for a module of zeros.
        num_nonfinite: NaN and infinities among the values of this module and phase.
    """

    module: str | None
    phase: Phase
    op: str
    largest: float
    dtype: str
    headroom: float
    num_nonfinite: int


@dataclass(frozen=True, slots=True)
class Headroom:
    """The levels of all modules in one step, the least headroom first.

    Attributes:
        levels: One for each module and phase.
    """

    levels: tuple[Level, ...]

    def describe(self) -> str:
        """A table for a terminal."""
        head = f"{'headroom':>12}  {'largest':>12}  {'type':<10}{'phase':<10}{'operation':<28}module"
        rows = [
            f"{level.headroom:>12.3g}  {level.largest:>12.4g}  {level.dtype:<10}{level.phase:<10}"
            f"{level.op:<28}{'-' if level.module is None else level.module or 'the model itself'}"
            for level in self.levels
        ]
        return "\n".join([head, *rows])

    def __str__(self) -> str:
        return self.describe()

    def to_json(self) -> str:
        """The levels as one line of JSON. What is infinite is null."""
        levels = [asdict(level) for level in self.levels]
        for level in levels:
            for name in ("headroom", "largest"):
                level[name] = level[name] if math.isfinite(level[name]) else None
        return json.dumps({"levels": levels})


def headroom(model: nn.Module, closure: Callable[[], Any]) -> Headroom:
    """The largest magnitude that each module makes in one step, and how far from overflow that is.

    Args:
        model: The model.
        closure: The step in torch's convention, called once.

    Returns:
        The levels, the least headroom first.

    Raises:
        TypeError: `closure` is not a function.

    Cost:
        One run of the closure and a pass over every result. Leaves nothing behind, as `trace`.

    Example:
        >>> from trimtab.trace import headroom
        >>> model = torch.nn.Linear(2, 1, bias=False).half()
        >>> _ = model.weight.data.fill_(100.0)
        >>> level = headroom(model, lambda: model(torch.ones(1, 2).half()).sum()).levels[0]
        >>> level.module, level.largest, level.dtype, level.headroom
        ('', 200.0, 'float16', 327.52)
    """
    with Replay(model, None, Gauge) as replay:
        replay.run(closure)
        return Headroom(tuple(sorted(replay.watch.levels.values(), key=lambda level: level.headroom)))


class Gauge(Watch):  # type: ignore[no-untyped-call]
    """Keeps, for each module and phase, the value with the least headroom.

    Args:
        kept: As for `Watch`.
        running: As for `Watch`.
        lines: As for `Watch`.
    """

    def __init__(self, kept: Kept, running: Running, lines: Lines) -> None:
        super().__init__(kept, running, lines)
        self.levels: dict[tuple[str | None, Phase], Level] = {}

    def _look(self, made: Made, results: Sequence[Tensor]) -> None:
        if made.operation.is_empty:
            return
        for result in results:
            values = dense_values(result.detach())
            if values is not None and values.numel():
                self._gauge(made, result.dtype, values)

    def _gauge(self, made: Made, dtype: torch.dtype, values: Tensor) -> None:
        is_good = values.isfinite()
        num_bad = values.numel() - int(is_good.sum())
        largest = float(values.abs().amax()) if not num_bad else _largest(made, values[is_good])
        limit = float(torch.finfo(dtype).max)
        place = self._place(made.operation, self._frame())
        key = (place.module, place.phase)
        known = self.levels.get(key)
        room = limit / largest if largest else math.inf
        num_bad += known.num_nonfinite if known is not None else 0
        if known is not None and known.headroom <= room:
            largest, room, name, kind = known.largest, known.headroom, known.op, known.dtype
        else:
            name, kind = place.node or made.operation.name, str(dtype).removeprefix("torch.")
        self.levels[key] = Level(*key, name, largest, kind, room, num_bad)


def _largest(made: Made, finite: Tensor) -> float:
    """Largest finite magnitude; infinite if the infinities were made here, out of finite operands."""
    numbers = named_numbers(made.operation, made.args, made.kwargs).values()
    if all(map(math.isfinite, numbers)) and all(is_finite(tensor) for _, tensor in made.tensors()):
        return math.inf
    return float(finite.abs().amax()) if finite.numel() else 0.0
