"""What travels with finite values: infinities that vanished in arithmetic, and numbers rounded away."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from trimtab.trace.birth import Made
from trimtab.trace.marks import NEGATIVE, POSITIVE, Marks, address_of
from trimtab.trace.records import History, Record

_HALVES = frozenset({torch.float16, torch.bfloat16})
# Arithmetic in which an infinity disappears unseen
_HIDES = frozenset(
    {"rsqrt", "reciprocal", "div", "pow", "sigmoid", "tanh", "atan", "erf", "erfc", "nan_to_num"}
)
_CAN_UNDERFLOW = frozenset(
    {"_softmax", "sigmoid", "exp", "_to_copy", "mul", "pow", "square", "div", "_safe_softmax"}
)
_ADDS = frozenset({"add", "sub", "rsub", "clamp", "clamp_min", "maximum"})
# Chains of a step stay short; a set that grows without end would cost more than it tells
_MOST = 64


class Trails:
    """Follows, by storage, what the values themselves no longer show.

    Cost:
        Nothing until a step has an infinity or computes in half precision.
    """

    def __init__(self) -> None:
        self._births: dict[int, frozenset[Record]] = {}
        self._hidden: dict[int, frozenset[Record]] = {}
        self._notes: dict[int, frozenset[str]] = {}

    def is_needed(self, dtype: torch.dtype) -> bool:
        """Whether a finite result of this type has to be followed."""
        return dtype in _HALVES or bool(self._hidden) or bool(self._notes)

    def of(self, made: Made) -> tuple[frozenset[str], frozenset[Record]]:
        """What came with the operands: notes, and infinities that had vanished."""
        notes: frozenset[str] = frozenset()
        hidden: frozenset[Record] = frozenset()
        if self._notes or self._hidden:
            for _, tensor in made.tensors():
                address = address_of(made.original(tensor))
                notes |= self._notes.get(address, frozenset())
                hidden |= self._hidden.get(address, frozenset())
        return notes, hidden

    def pass_on(self, record: Record, marks: Marks, address: int) -> None:
        """A bad result carries the births of its operands, and its own."""
        births: frozenset[Record] = frozenset()
        for read in record.reads:
            births |= self._births.get(read.address, frozenset())
        if record.fresh is not None and len(births) < _MOST:
            births |= {record}
        kinds = {kind for read in record.reads for kind in (POSITIVE, NEGATIVE) if read.marks.kinds == kind}
        if kinds and not marks.kinds & sum(kinds):
            for birth in births:
                birth.is_flipped = True
        self._births[address] = births

    def follow(self, made: Made, result: Tensor, address: int, history: History) -> None:
        """A finite result: what went into it?"""
        if made.operation.is_factory:
            return
        notes, hidden = self.of(made)
        for _, tensor in made.tensors():
            source = address_of(made.original(tensor))
            births = self._births.get(source)
            if births and source in history.writes:
                for birth in births:
                    birth.absorbers.add(made.operation.base)
                if made.operation.base in _HIDES:
                    hidden |= births
        if result.dtype in _HALVES:
            note = _rounded_away(made, result)
            notes |= {note} if note is not None else frozenset()
        if hidden and len(hidden) <= _MOST:
            self._hidden[address] = hidden
        if notes and len(notes) <= _MOST:
            self._notes[address] = notes


def _rounded_away(made: Made, result: Tensor) -> str | None:
    """In words, what the narrow type of this result could not hold."""
    base = made.operation.base
    kind = str(result.dtype).removeprefix("torch.")
    if base in _ADDS:
        for name in ("other", "min", "scalar"):
            value: Any = made.argument(name)
            if isinstance(value, Tensor) and value.dim() == 0 and value.dtype is torch.float64:
                value = float(value)
            if (
                isinstance(value, (int, float))
                and value
                and not float(torch.tensor(value, dtype=result.dtype))
            ):
                return f"{value:g} is 0 in {kind}"
    if base in _CAN_UNDERFLOW and result.numel() and bool((result == 0).any()):
        tensors = [tensor for _, tensor in made.tensors()]
        if tensors and _underflows(base, tensors, result):
            name = "the conversion" if base == "_to_copy" else base.strip("_")
            return f"a result of {name} was rounded to 0 in {kind}"
    if base in ("sigmoid", "_softmax") and result.numel() and bool((result == 1).any()):
        return f"a result of {base.strip('_')} was rounded to 1 in {kind}"
    return None


def _underflows(base: str, tensors: list[Tensor], result: Tensor) -> bool:
    if base == "_to_copy" or base in ("mul", "pow", "square", "div"):
        if any(t.dim() and t.shape != result.shape for t in tensors):
            return False
        is_nonzero = torch.ones_like(result, dtype=torch.bool)
        for tensor in tensors:
            is_nonzero &= (tensor != 0) & tensor.isfinite()
        return bool((is_nonzero & (result == 0)).any())
    # softmax, sigmoid and exp are never 0 but for what is masked
    return bool((tensors[0].isfinite().expand_as(result) & (result == 0)).any())
