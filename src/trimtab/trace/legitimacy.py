"""Which non-finite values were meant, and which of the others is the first."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from trimtab.trace.descent import Birth, How, Path
from trimtab.trace.facts import Facts, Operand
from trimtab.trace.marks import NAN, NEGATIVE, POSITIVE
from trimtab.trace.operations import Shape
from trimtab.trace.records import Record
from trimtab.types import Phase

LOGS = frozenset({"log", "log2", "log10", "log1p"})
# What takes the -inf of an empty set, or of an impossible event, and knows what to do with it
_KNOWS_NEGATIVE = frozenset(
    {
        *(
            "_softmax",
            "_log_softmax",
            "_safe_softmax",
            "logsumexp",
            "exp",
            "logaddexp",
            "max",
            "amax",
            "maximum",
        ),
        *(
            "_scaled_dot_product_flash_attention_for_cpu",
            "_scaled_dot_product_attention_math",
            "logcumsumexp",
        ),
    }
)
# Give the neutral element where they have nothing to reduce, or pad with it
_NEUTRAL = frozenset({"scatter_reduce", "index_reduce", "segment_reduce", "_segment_reduce", "_ctc_loss"})
# Carry an infinity along without mixing it with other values
_CARRIES = frozenset(
    {
        *(
            "max",
            "amax",
            "min",
            "amin",
            "aminmax",
            "logsumexp",
            "_log_softmax",
            "cummax",
            "sort",
            "topk",
            "index",
        ),
        *(
            "gather",
            "cat",
            "stack",
            "select_scatter",
            "slice_scatter",
            "scatter",
            "index_select",
            "index_put",
        ),
        *(
            "flip",
            "roll",
            "triu",
            "tril",
            "constant_pad_nd",
            "masked_select",
            "repeat",
            "embedding",
            "_softmax",
        ),
        *("scatter_reduce", "take", "logcumsumexp", "_unsafe_index"),
    }
)
# Where a zero among the operands makes the result non-finite
_SINGULAR_AT_ZERO = frozenset(
    {"div", "reciprocal", "rsqrt", "pow", "log", "log2", "log10", "xlogy", "remainder"}
)
# Plain arithmetic that overflows, and what makes a zero of it
_OVERFLOWS = frozenset(
    {"pow", "mul", "square", "sum", "mean", "mm", "bmm", "addmm", "linalg_vector_norm", "add"}
)
_DIVIDES = frozenset({"rsqrt", "reciprocal", "div"})
_FEW_VALUES = 2
# Masks that are made of the most negative number of a type overflow when two of them are added
_MASK_SIZE = 1e30


@dataclass(frozen=True, slots=True, eq=False)
class Fault:
    """The birth that is to blame.

    Attributes:
        birth: The birth on whose way the fault lies.
        record: The operation to blame: the one that made the value, or that met infinities it could not bear.
        how: How the value became bad there.
        facts: Its operands, if they were looked at.
        code: NaN or which infinity.
        is_escape: An infinity that was meant got out of the operations that know it.
        is_hidden: The infinity is not to be seen in the loss: it came back in the backward pass.
    """

    birth: Birth
    record: Record
    how: How
    facts: Facts | None
    code: int
    is_escape: bool = False
    is_hidden: bool = False


class Judge:
    """Tells faults from values that were meant to be infinite.

    Args:
        found: Facts about tensors that were bad before the step, by storage.
        parameters: Storages of parameters: nothing in them is meant to be infinite.
    """

    def __init__(self, found: Mapping[int, Operand], parameters: frozenset[int]) -> None:
        self._found = found
        self._parameters = parameters

    def first_fault(self, births: Sequence[Birth], *, is_loss_bad: bool) -> Fault | None:
        """The earliest birth that is not legitimate; None if all are."""
        faults = [self._fault(birth) for birth in births]
        if not faults:
            return None
        first = min(faults, key=lambda fault: fault.record.time)
        forward = first.record.place.forward
        if first.record.place.node is not None and forward is not None and forward.record is not None:
            origin = forward.record  # the derivative of what was infinite in the forward pass already
            if origin.fresh is not None and not self._is_meant(_alone(origin)):
                first = Fault(first.birth, origin, How.FRESH, origin.fresh, origin.fresh.code)
        came_back = any(record.place.node is not None for record in first.birth.path)
        is_hidden = came_back and first.record.place.node is None and not is_loss_bad
        return replace(first, is_hidden=is_hidden)

    def vanished(self, records: Iterable[Record]) -> Fault | None:
        """The first overflow of float16 that a division or a root made to 0, where 0 is not the answer.

        Of other infinities that vanish nothing can be said: 1 / (1 + exp(100)) is 0 for good reason.
        """
        for record in sorted(records, key=lambda r: r.time):
            facts = record.fresh
            is_half = facts is not None and facts.dtype is torch.float16 and facts.code == POSITIVE
            is_made = record.place.node is None and record.place.operation.base in _OVERFLOWS
            if is_half and is_made and record.absorbers & _DIVIDES and not record.absorbers & _KNOWS_NEGATIVE:
                birth = _alone(record)
                if not self._is_meant(birth):
                    return Fault(birth, record, How.FRESH, facts, POSITIVE)
        return None

    def _fault(self, birth: Birth) -> Fault:
        if birth.how is How.TURNED:
            faults = [self._parent(p) for p in birth.parents if not self._is_meant(p, birth.record)]
            if faults:
                return min(faults, key=lambda fault: fault.record.time)
            return Fault(birth, birth.record, How.TURNED, birth.record.turned, NAN)
        if self._is_meant(birth):
            records = list(birth.path)
            is_domain = birth.code == NAN and len(records) > 1
            escape = records[1] if is_domain else next((r for r in records if not _is_carrier(r)), None)
            record = escape or records[-1]
            return Fault(birth, record, How.TURNED, record.turned or record.fresh, birth.code, is_escape=True)
        return self._parent(birth)

    def _parent(self, birth: Birth) -> Fault:
        record = birth.record
        if birth.how is How.TURNED:
            return self._fault(birth)
        if birth.how is How.FOUND:
            return Fault(birth, record, How.FOUND, record.fresh or record.turned, birth.code)
        hidden = [r for r in record.hidden if r.time < record.time and self._is_hidden_fault(r)]
        hidden = [r for r in hidden if _comes_from(record, r)]
        if hidden:
            earlier = min(hidden, key=lambda r: r.time)
            code = earlier.fresh.code if earlier.fresh is not None else birth.code
            return Fault(birth, earlier, How.FRESH, earlier.fresh, code)
        return Fault(birth, record, How.FRESH, record.fresh, birth.code)

    def _is_hidden_fault(self, record: Record) -> bool:
        return record.fresh is not None and not self._is_meant(_alone(record))

    def _is_meant(self, birth: Birth, user: Record | None = None) -> bool:
        """Whether whoever wrote this wanted it to be infinite."""
        if birth.how is How.TURNED:
            return False
        if birth.how is How.FOUND:
            return self._is_found_meant(birth, user or birth.record)
        record = birth.record
        if birth.code == NAN:
            # a constant that torch's own code takes for "outside the domain"
            return record.place.operation.is_factory and not record.place.operation.is_empty
        if any(not math.isfinite(x) for x in record.scalars.values()):
            return True
        if record.place.operation.base in _NEUTRAL:
            return record.place.operation.base != "_ctc_loss" or birth.code == NEGATIVE
        return birth.code == NEGATIVE and record.fresh is not None and _is_mask(record, record.fresh)

    def _is_found_meant(self, birth: Birth, user: Record) -> bool:
        operand = self._found.get(birth.address)
        if operand is None or operand.num_nan or birth.address in self._parameters:
            return False
        num_infinite = operand.num_positive_inf + operand.num_negative_inf
        if operand.num_elements == 1 or num_infinite == operand.num_elements:
            return True
        if 0 < operand.num_distinct <= _FEW_VALUES:
            return operand.num_positive_inf == 0 or operand.low == operand.high == 0
        return operand.num_positive_inf == 0 and user.place.operation.is_softmax


def _is_mask(record: Record, facts: Facts) -> bool:
    """Whether a -inf made of finite numbers is the logarithm of an indicator, or a sum of masks."""
    operand = facts.operand("self")
    if operand is None:
        return False
    is_known = bool(record.absorbers & _KNOWS_NEGATIVE) and not record.is_flipped
    if record.place.operation.base in LOGS:
        is_indicator = (operand.low, operand.high, operand.num_distinct) == (0.0, 1.0, 2)
        return not operand.needs_grad and (is_indicator or is_known)
    if record.place.operation.base not in ("add", "sub") or not is_known:
        return False
    has_mask = any(o.low <= -_MASK_SIZE for o in facts.operands)
    return has_mask and not any(o.high >= _MASK_SIZE for o in facts.operands)


def _comes_from(record: Record, hidden: Record) -> bool:
    """Whether an infinity that had vanished is what made this one: as a zero, or as the largest number."""
    if record.place.phase is Phase.BACKWARD or record.fresh is None:
        return False
    if record.place.operation.base in _SINGULAR_AT_ZERO:
        return True
    limit = torch.finfo(record.fresh.dtype).max
    return "nan_to_num" in hidden.absorbers and any(o.largest >= limit / 2 for o in record.fresh.operands)


def _is_carrier(record: Record) -> bool:
    operation = record.place.operation
    return operation.shape is Shape.POINTWISE or operation.base in _CARRIES or operation.is_factory


def _alone(record: Record) -> Birth:
    """The birth of an infinity at an operation, wherever it went from there."""
    code = record.fresh.code if record.fresh is not None else NAN
    return Birth(How.FRESH, code, Path(record))
