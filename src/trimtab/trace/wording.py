"""Why a value became bad, in one sentence made of numbers."""

from __future__ import annotations

import torch

from trimtab.trace.facts import Facts, Operand
from trimtab.trace.legitimacy import Fault
from trimtab.trace.marks import NAN, NEGATIVE
from trimtab.types import Cause
from trimtab.types.origin import operation_of_node

_PLAIN = {"self": "inputs", "input": "inputs", "other": "denominators", "tensor2": "denominators"}


def because(fault: Fault, cause: Cause, largest_parameter: float) -> str:
    """The sentence.

    Args:
        fault: The operation to blame.
        cause: Its cause.
        largest_parameter: Largest finite magnitude among the parameters.
    """
    facts = fault.facts
    if facts is None:
        return _without_facts(fault, cause)
    write = _SENTENCES.get(cause)
    text = write(fault, facts) if write is not None else _ranges(fault, facts)
    if cause is Cause.DIVERGENCE and largest_parameter > 0:
        text += f"; the largest parameter is {largest_parameter:.3g}"
    if fault.record.notes:
        text += f"; {'; '.join(sorted(fault.record.notes)[:2])}"
    return text


def _without_facts(fault: Fault, cause: Cause) -> str:
    reads = fault.record.reads
    if cause is not Cause.INF_ARITHMETIC or not reads:
        return cause.explanation
    names = ", ".join(read.name for read in reads)
    return f"{_name(fault)} met infinities that were put there on purpose, in {names}"


def count(number: int, operand: Operand, what: str) -> str:
    """As `37 of 4096 elements of other were exactly 0 (first: index (5, 3))`."""
    name = _PLAIN.get(operand.name, operand.name)
    where = f" (first: index {operand.index})" if operand.index else ""
    return f"{number} of {operand.num_elements} {name} were {what}{where}"


def span(operand: Operand) -> str:
    """Range of an operand's finite values."""
    return f"{operand.low:.4g} to {operand.high:.4g}"


def _name(fault: Fault) -> str:
    place = fault.record.place
    if place.node is not None:
        return f"the backward of {operation_of_node(place.node)}"
    return place.operation.base.strip("_")


def _code(facts: Facts) -> str:
    return "NaN" if facts.code == NAN else "-inf" if facts.code == NEGATIVE else "inf"


def _limit(dtype: torch.dtype) -> str:
    return (
        f"{str(dtype).removeprefix('torch.')} ends at {torch.finfo(dtype).max:.4g}"
        if dtype.is_floating_point
        else ""
    )


def _ranges(fault: Fault, facts: Facts) -> str:
    inputs = ", ".join(f"{o.name} {span(o)}" for o in facts.operands if o.num_elements)
    made = (
        f"{facts.num_bad} results became {_code(facts)} (first: index {facts.index})"
        if facts.index
        else f"the result became {_code(facts)}"
    )
    return f"{_name(fault)} of finite operands ({inputs}): {made}; {_limit(facts.dtype)}"


def _zeros(fault: Fault, facts: Facts) -> str:
    zero = next((o for o in facts.operands if o.at == 0 and o.name in ("other", "tensor2", "self")), None)
    for name in ("other", "tensor2"):
        found = facts.operand(name)
        if found is not None and found.at == 0:
            zero = found
    if zero is None:
        return _ranges(fault, facts)
    sentence = f"{_name(fault)} at 0 is not finite; {count(zero.num_zeros, zero, 'exactly 0')}"
    first = facts.operand("self")
    if first is not zero and first is not None and first.at == 0:
        sentence += ", the numerator there too"
    return sentence


def _singular(fault: Fault, facts: Facts) -> str:
    zero = next((o for o in reversed(facts.operands) if o.at == 0), None)
    if zero is None:
        return (
            f"the derivative of {_name(fault).removeprefix('the backward of ')} is infinite there; "
            + _ranges(fault, facts)
        )
    what = _name(fault).removeprefix("the backward of ")
    where = f" (first: index {zero.index})" if zero.index else ""
    zeros = f"{zero.num_zeros} of {zero.num_elements} inputs were exactly 0{where}"
    return f"{what} has infinite slope at 0; {zeros}"


def _edge(fault: Fault, facts: Facts) -> str:
    zero = next((o for o in reversed(facts.operands) if o.at == 0), None)
    if fault.record.place.node is None or zero is None:
        return _outside(fault, facts)
    where = f" (first: index {zero.index})" if zero.index else ""
    what = _name(fault).removeprefix("the backward of ")
    lay = f"{zero.num_zeros} of {zero.num_elements} inputs lay on it{where}"
    return f"{what} has infinite slope at the edge of its domain; {lay}"


def _outside(fault: Fault, facts: Facts) -> str:
    operand = facts.operand("self", "other") or facts.operand()
    if operand is None:
        return Cause.DOMAIN_ERROR.explanation
    value = f"{operand.at:.6g}" if operand.at is not None else "a value"
    where = f" at index {operand.index}" if operand.index else ""
    negative = f"{operand.num_negative} of {operand.num_elements} are negative"
    return f"{_name(fault)} was given {value}{where}; its inputs range over {span(operand)}, {negative}"


def _exp(fault: Fault, facts: Facts) -> str:
    operand = facts.operand("self", "exponent") or facts.operand()
    if operand is None:
        return Cause.EXP_OVERFLOW.explanation
    value = f"{operand.at:.6g}" if operand.at is not None else f"{operand.high:.6g}"
    limit = torch.log(torch.tensor(torch.finfo(facts.dtype).max, dtype=torch.float64)).item()
    where = f" at index {operand.index}" if operand.index else ""
    kind = str(facts.dtype).removeprefix("torch.")
    return (
        f"{_name(fault)}({value}){where} leaves {kind}, in which exp ends at {limit:.4g}; "
        f"{facts.num_bad} of {operand.num_elements} results were inf, inputs range over {span(operand)}"
    )


def _trap(fault: Fault, facts: Facts) -> str:
    hidden = sorted(fault.record.absorbers)
    by = f" by {hidden[0]}" if len(hidden) == 1 else f" by {', '.join(hidden[:3])}" if hidden else ""
    where = f" (first: index {facts.index})" if facts.index else ""
    return (
        f"{_name(fault)} gave {facts.num_bad} non-finite results{where}, which the forward pass masked "
        f"out{by}; in the backward pass they came back as 0 * inf"
    )


def _masked_row(fault: Fault, facts: Facts) -> str:
    row = facts.row
    if row is None:
        return Cause.FULLY_MASKED_SOFTMAX.explanation
    index = f"row {row.index}" if row.index else "the row"
    alike = f"{row.num_alike} of {row.num_rows} rows are fully masked"
    return f"all {row.length} scores of {index} were -inf; {alike}"


def _empty(fault: Fault, facts: Facts) -> str:
    operand = facts.operand()
    if operand is not None and operand.num_elements == 0:
        return f"{_name(fault)} over no element: the shape was {operand.shape}"
    if fault.record.place.operation.base.startswith("nll_loss"):
        return "the mean over targets had nothing to average: every target was ignored, or its weight was 0"
    length = facts.row.length if facts.row is not None else 0
    return f"{_name(fault)} over {length} element{'s' * (length != 1)}"


def _infinities(fault: Fault, facts: Facts) -> str:
    parts = []
    for operand in facts.operands:
        counts = [(operand.num_negative_inf, "-inf"), (operand.num_positive_inf, "inf")]
        found = " and ".join(f"{n} {what}" for n, what in counts if n)
        if found:
            parts.append(f"{found} among the {operand.num_elements} elements of {operand.name}")
        elif operand.at == 0:
            parts.append(f"{operand.name} was 0 there")
    parts += [
        f"{name} was {x}" for name, x in fault.record.scalars.items() if x in (float("inf"), -float("inf"))
    ]
    if fault.is_escape:
        return f"{_name(fault)} mixed a mask value with ordinary ones: {', '.join(parts)}"
    return f"{_name(fault)} met infinities that were put there on purpose: {', '.join(parts)}"


def _target(fault: Fault, facts: Facts) -> str:
    return f"{facts.num_bad} of the losses are infinite: the target does not fit into the input's length"


def _linalg(fault: Fault, facts: Facts) -> str:
    zero = next((o for o in facts.operands if o.at == 0), None)
    alike = (
        f"; {zero.num_zeros} of {zero.num_elements} differences were exactly 0" if zero is not None else ""
    )
    return f"{_name(fault)} divides by differences of eigenvalues or singular values{alike}"


def _garbage(fault: Fault, facts: Facts) -> str:
    return Cause.UNINITIALIZED_MEMORY.explanation


_SENTENCES = {
    Cause.LOG_ZERO: _zeros,
    Cause.DIV_ZERO: _zeros,
    Cause.HALF_UNDERFLOW: _zeros,
    Cause.DOMAIN_ERROR: _outside,
    Cause.DOMAIN_EDGE: _edge,
    Cause.SINGULAR_GRADIENT: _singular,
    Cause.EXP_OVERFLOW: _exp,
    Cause.WHERE_GRAD_TRAP: _trap,
    Cause.FULLY_MASKED_SOFTMAX: _masked_row,
    Cause.EMPTY_REDUCTION: _empty,
    Cause.INF_ARITHMETIC: _infinities,
    Cause.INFEASIBLE_TARGET: _target,
    Cause.DEGENERATE_LINALG: _linalg,
    Cause.UNINITIALIZED_MEMORY: _garbage,
}
