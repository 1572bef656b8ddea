"""The dispatch mode that follows every operation of a replayed step."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from trimtab.trace.birth import Birthplace, Made
from trimtab.trace.facts import named_tensors
from trimtab.trace.kept import Kept
from trimtab.trace.marks import FLOATING, Marks, Region, address_of
from trimtab.trace.modules import Running
from trimtab.trace.operations import Operation, operation_of
from trimtab.trace.places import ENGINE, Lines
from trimtab.trace.records import History, Place, Write
from trimtab.trace.trails import Trails
from trimtab.types import Phase

_PLAIN_DISPATCH = Tensor.__torch_dispatch__
_current_node = torch._C._current_autograd_node
_next_sequence = torch._C._autograd._get_sequence_nr


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows values through the operations that run while it is entered.

    Args:
        kept: Is told before memory from before the step is written.
        running: Knows the innermost module.
        lines: Finds the user's line.

    Cost:
        For each operation that computes something: one sum over its result, one read of that sum. What
        is kept of a result that is finite is a weak reference to its storage. A result that is not
        finite leaves a bit for each of its elements at most, and facts about the operands.
    """

    supports_higher_order_operators = True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # compiled modules are replayed eagerly; the wrapper would cost on every operation

    def __init__(self, kept: Kept, running: Running, lines: Lines) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._kept = kept
        self._running = running
        self._lines = lines
        self._operations: dict[Any, Operation] = {}
        self._created: dict[int, StorageWeakRef] = {}
        self._nodes: dict[int, Place] = {}
        self._sequence = _next_sequence()
        self._last: Place | None = None
        self._linked: Place | None = None
        self._time = 0
        self.history = History()
        self.trails = Trails()
        self.births = Birthplace(self.history, self.is_created, lines)
        self.is_in_optimizer = False
        self.is_looking = True

    def is_created(self, address: int) -> bool:
        """Whether a storage was made during the step."""
        return address in self._created

    @contextmanager
    def blind(self, kept: Kept) -> Iterator[None]:
        """Look at nothing for a while; `kept` is told what is written in the meantime."""
        mine, self._kept, self.is_looking = self._kept, kept, False
        try:
            yield
        finally:
            self._kept, self.is_looking = mine, True

    @property
    def time(self) -> int:
        """Number of operations so far."""
        return self._time

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation, and look at what it made."""
        kwargs = kwargs or {}
        operation = self._operations.get(func)
        if operation is None:
            if not isinstance(func, torch._ops.OpOverload):
                return func(*args, **kwargs)
            operation = self._operations[func] = operation_of(func)
        for kind in types:
            if kind.__torch_dispatch__ is not _PLAIN_DISPATCH:
                return NotImplemented  # a tensor made of tensors: what it does to those is what we follow
        self._linked = None
        if _next_sequence() != self._sequence:
            self._link(operation, sys._getframe(1))
        if kwargs and kwargs.get("generator") is not None:
            self._kept.protect_generator(kwargs["generator"])
        if not self.is_looking:
            self._protect(_written(operation, args, kwargs))
            return func(*args, **kwargs)
        if operation.is_view:
            return func(*args, **kwargs)
        self._time += 1
        if operation.is_in_place:
            return self._run_in_place(func, operation, args, kwargs)
        result = func(*args, **kwargs)
        results = _tensors(result)
        self._note_created(results)
        self._look(Made(operation, args, kwargs), results)
        return result

    def _protect(self, written: Sequence[Tensor]) -> None:
        for tensor in written:
            if tensor.layout is torch.strided and tensor.untyped_storage()._cdata not in self._created:
                self._kept.protect(tensor)

    def _run_in_place(self, func: Any, operation: Operation, args: Any, kwargs: Any) -> Any:
        written = _written(operation, args, kwargs)
        self._protect(written)
        before: list[tuple[str, Tensor]] | None = None
        originals: dict[int, Tensor] = {}
        if not operation.overwrites and operation.written:
            # the operands as they were: once the result is seen to be bad they are gone
            before = []
            for name, tensor in named_tensors(operation, args, kwargs):
                copy = tensor.clone() if any(tensor is w for w in written) else tensor
                before.append((name, copy))
                originals[id(copy)] = tensor
        result = func(*args, **kwargs)
        new = [t for t in _tensors(result) if not any(t is w for w in written)]
        self._note_created(new)
        self._look(Made(operation, args, kwargs, before, originals), [*new, *written])
        return result

    def _look(self, made: Made, results: Sequence[Tensor]) -> None:
        for index, result in enumerate(results):
            if result.dtype in FLOATING:
                self._look_at(made, result, index)

    def _note_created(self, results: Sequence[Tensor]) -> None:
        """Remember storages that are new. A weak reference keeps their address from being given away."""
        for result in results:
            if result.layout is torch.strided and not result.is_nested:
                storage = result.untyped_storage()
                if storage._cdata not in self._created:
                    self._created[storage._cdata] = StorageWeakRef(storage)  # type: ignore[no-untyped-call]

    def _look_at(self, made: Made, result: Tensor, index: int) -> None:
        marks = _marks_of(made.operation, result)
        if marks is None:
            self._look_away(made, result)
            return
        frame = self._frame()
        place = self._linked or self._place(made.operation, frame)
        record = self.births.record(self._time, place, made, result, index, marks, frame)
        place.record = record
        record.notes, record.hidden = self.trails.of(made)
        address = address_of(result)
        self.history.add(address, Write(self._time, _region(result), marks, record))
        self.trails.pass_on(record, marks, address)

    def _look_away(self, made: Made, result: Tensor) -> None:
        """A finite result: it may stand where a bad one stood, or come from one."""
        if self.history.writes or self.trails.is_needed(result.dtype):
            address = address_of(result)
            if address in self.history.writes:
                self.history.add(address, Write(self._time, _region(result), None, None))
            self.trails.follow(made, result, address, self.history)

    def _frame(self) -> FrameType | None:
        """The frame that runs the operation at hand."""
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and frame.f_code is not _DISPATCH:
            frame = frame.f_back
        return frame.f_back if frame is not None else None

    def _link(self, operation: Operation, frame: FrameType | None) -> None:
        """Remember which operation made the nodes that are new since the last one."""
        sequence = _next_sequence()
        place = self._linked = self._place(operation, frame)
        if place.node is None and not torch.is_grad_enabled():
            # the forward of a custom function: its node belongs to the line that applies it
            applied = self._lines.of_apply(frame)
            place = replace(place, site=applied) if applied is not None else place
        previous = self._last
        for number in range(self._sequence, sequence):
            is_last = number == sequence - 1
            belongs_before = not is_last and previous is not None and previous.operation.is_in_place
            self._nodes[number] = previous if belongs_before and previous is not None else place
        self._sequence = sequence
        self._last = place

    def _place(self, operation: Operation, frame: FrameType | None) -> Place:
        node: Any = _current_node()  # None outside of a backward pass
        module = self._running.name
        if node is None:
            return Place(operation, self._lines.of(frame), module, self._phase())
        forward = self._nodes.get(node._sequence_nr())
        name = node.name().rpartition("::")[2]
        if frame is None or frame.f_code is ENGINE:
            return _backward_place(operation, forward, name, None)
        python = self._lines.in_backward(frame)
        if python.is_function:
            return _backward_place(operation, forward, name, python)
        if python.is_recomputation:
            return Place(operation, python.site, module, Phase.FORWARD)
        return Place(operation, python.site, module, Phase.BACKWARD)

    def _phase(self) -> Phase:
        if self.is_in_optimizer:
            return Phase.OPTIMIZER
        is_after = self._running.has_run and self._running.name is None
        return Phase.LOSS if is_after else Phase.FORWARD


_DISPATCH = Watch.__torch_dispatch__.__code__


def _backward_place(operation: Operation, forward: Place | None, name: str, python: Any) -> Place:
    site = forward.site if forward is not None else None
    inner = python.site if python is not None else None
    module = forward.module if forward is not None else None
    return Place(operation, site or inner, module, Phase.BACKWARD, name, forward, inner)


def _marks_of(operation: Operation, result: Tensor) -> Marks | None:
    if operation.is_empty and result.numel() and result.dtype.itemsize > 1:
        result.fill_(math.nan)  # whoever reads it before it is filled shall show
    return Marks.of(result)


def _tensors(result: Any) -> Sequence[Tensor]:
    if isinstance(result, Tensor):
        return (result,)
    if isinstance(result, (list, tuple)):
        return [t for item in result for t in _tensors(item)]
    return ()


def _written(operation: Operation, args: Any, kwargs: Any) -> Sequence[Tensor]:
    if not operation.is_in_place:
        return ()
    values = [args[i] for i in operation.written if i < len(args)]
    values += [kwargs[name] for name in operation.written_names if name in kwargs]
    return [tensor for value in values for tensor in _tensors(value)]


def _region(tensor: Tensor) -> Region | None:
    if tensor.layout is not torch.strided or tensor.is_nested:
        return None
    return Region.of(tensor)
