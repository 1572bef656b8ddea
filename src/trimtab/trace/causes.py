"""From an operation and what its operands were like to a cause, and one sentence that says why."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from trimtab.trace.descent import How
from trimtab.trace.facts import Facts, Operand
from trimtab.trace.legitimacy import Fault
from trimtab.trace.marks import NAN
from trimtab.trace.records import Record
from trimtab.trace.wording import because
from trimtab.types import Cause

_LOGS = {"log": 0.0, "log2": 0.0, "log10": 0.0, "log1p": -1.0}
_XLOGS = {"xlogy": ("other", 0.0), "special_xlogy": ("other", 0.0), "special_xlog1py": ("other", -1.0)}
_EXPS = frozenset({"exp", "exp2", "expm1", "sinh", "cosh", "special_expm1", "special_exp2", "logaddexp"})
_INVERSE = frozenset(
    {"div", "reciprocal", "rsqrt", "remainder", "fmod", "floor_divide", "addcdiv", "true_divide"}
)
# Smallest and largest argument, and whether the value itself is infinite there
_DOMAINS = {
    **dict.fromkeys(("acos", "asin"), (-1.0, 1.0)),
    **dict.fromkeys(("atanh", "erfinv", "special_erfinv"), (-1.0, 1.0)),
    "acosh": (1.0, float("inf")),
    **dict.fromkeys(("logit", "special_logit", "special_ndtri"), (0.0, 1.0)),
    "sqrt": (0.0, float("inf")),
}
_POLES = frozenset({"lgamma", "digamma", "polygamma", "special_zeta", "tan"})
_REDUCTIONS = frozenset(
    {"mean", "std", "var", "var_mean", "std_mean", "nanmean", "median", "nanmedian", "quantile"}
)
# Divide by a norm or a standard deviation
_NORMALIZE = frozenset(
    {
        *(
            "native_layer_norm",
            "native_group_norm",
            "native_batch_norm",
            "_fused_rms_norm",
            "cudnn_batch_norm",
        ),
        *("_weight_norm_interface", "_weight_norm", "renorm"),
    }
)
_NLL = frozenset({"nll_loss_forward", "nll_loss2d_forward"})
_LINALG = frozenset(
    {"linalgeigh", "linalgsvd", "linalgeig", "linalgqr", "linalglstsq", "linalgpinv", "linalgmatrixexp"}
)
_SINGULAR_NODES = (
    *(
        "sqrt",
        "rsqrt",
        "norm",
        "linalgvectornorm",
        "std",
        "stdmean",
        "pow",
        "cdist",
        "pdist",
        "abs",
        "dist",
        "hypot",
    ),
)
_EDGE_NODES = ("acos", "asin", "acosh", "atanh", "erfinv", "specialerfinv", "logit", "asinh", "specialndtri")
_SELECTS = frozenset(
    {
        *(
            "where",
            "masked_fill",
            "nan_to_num",
            "index",
            "index_select",
            "gather",
            "masked_select",
            "index_put",
        ),
        *("clamp", "clamp_min", "clamp_max", "minimum", "maximum", "masked_scatter", "isfinite", "mul"),
    }
)
_HALVES = frozenset({torch.float16, torch.bfloat16})
# Parameters of a run that is still sound are nowhere near this
_BLOWN_UP = 1e6


@dataclass(frozen=True, slots=True)
class Context:
    """What is known of the step beside the operation.

    Attributes:
        largest_parameter: Largest finite magnitude among the parameters.
        is_loss_bad: Whether the loss is bad.
    """

    largest_parameter: float
    is_loss_bad: bool


def explain(fault: Fault, context: Context) -> tuple[Cause, str]:
    """The cause of a fault, and a sentence with the facts.

    Args:
        fault: What `Judge.first_fault` found.
        context: The step.
    """
    cause = _cause(fault, context)
    return cause, because(fault, cause, context.largest_parameter)


def _cause(fault: Fault, context: Context) -> Cause:
    record, facts = fault.record, fault.facts
    if record.place.operation.is_empty:
        return Cause.UNINITIALIZED_MEMORY
    if fault.how is How.TURNED:
        if fault.is_escape and fault.code == NAN:
            return Cause.DOMAIN_ERROR
        return _of_infinities(record, facts)
    if record.place.operation.base == "_ctc_loss":
        return Cause.INFEASIBLE_TARGET
    if facts is None:
        return Cause.DIVERGENCE
    if fault.is_hidden and record.absorbers & _SELECTS and record.place.node is None:
        return Cause.WHERE_GRAD_TRAP
    if record.place.node is not None and (cause := _of_node(record, facts)) is not None:
        return cause
    return _of_operation(record, facts, context)


def _of_infinities(record: Record, facts: Facts | None) -> Cause:
    operation = record.place.operation
    node = record.place.node
    if operation.is_softmax and node is None:
        row = facts.row if facts is not None else None
        if row is None or row.num_negative_inf == row.length:
            return Cause.FULLY_MASKED_SOFTMAX
    return Cause.INF_ARITHMETIC


def _of_node(record: Record, facts: Facts) -> Cause | None:
    """The cause by the derivative that was taken."""
    name = (record.place.node or "").split("Backward")[0].lower()
    if name in _LINALG:
        return Cause.DEGENERATE_LINALG
    if name in _EDGE_NODES:
        return Cause.DOMAIN_EDGE
    if name in _SINGULAR_NODES and not _is_overflow(record, facts):
        negative = name == "pow" and any(o.at is not None and o.at < 0 for o in facts.operands[:1])
        return Cause.DOMAIN_ERROR if negative and facts.code == NAN else Cause.SINGULAR_GRADIENT
    return None


def _is_overflow(record: Record, facts: Facts) -> bool:
    base = record.place.operation.base
    return base in ("mul", "add", "sub", "sum", "mm", "bmm") and not any(o.at == 0 for o in facts.operands)


def _of_operation(record: Record, facts: Facts, context: Context) -> Cause:
    base = record.place.operation.base
    for find in (_of_reduction, _of_log, _of_inverse, _of_power, _of_domain):
        cause = find(base, record, facts)
        if cause is not None:
            if record.place.node is not None and cause in (Cause.LOG_ZERO, Cause.DIV_ZERO):
                return Cause.SINGULAR_GRADIENT
            is_rounded = cause in (Cause.LOG_ZERO, Cause.DIV_ZERO) and record.notes and facts.dtype in _HALVES
            return Cause.HALF_UNDERFLOW if is_rounded else cause
    if any(x != x or x in (float("inf"), -float("inf")) for x in record.scalars.values()):
        return Cause.INF_ARITHMETIC
    return _of_overflow(base, facts, context)


def _of_overflow(base: str, facts: Facts, context: Context) -> Cause:
    if facts.dtype is torch.float16:
        return Cause.HALF_OVERFLOW
    if (
        base in _EXPS
        or (base == "pow" and len(facts.operands) > 1)
        or (base == "pow" and "self" not in _names(facts))
    ):
        return Cause.DIVERGENCE if context.largest_parameter > _BLOWN_UP else Cause.EXP_OVERFLOW
    if base.startswith("linalg") or base in ("_linalg_slogdet", "_linalg_det", "cholesky_inverse", "inverse"):
        return Cause.DEGENERATE_LINALG
    return Cause.DIVERGENCE


def _names(facts: Facts) -> set[str]:
    return {o.name for o in facts.operands}


def _of_reduction(base: str, record: Record, facts: Facts) -> Cause | None:
    if base in _NLL:
        return Cause.EMPTY_REDUCTION
    operand = facts.operand()
    is_empty = operand is not None and operand.num_elements == 0
    if is_empty:
        return Cause.EMPTY_REDUCTION
    if base in _REDUCTIONS and facts.code == NAN and (facts.row is None or facts.row.length <= 1):
        return Cause.EMPTY_REDUCTION
    if base not in ("std", "var", "var_mean", "std_mean") or facts.row is None:
        return None
    return Cause.EMPTY_REDUCTION if facts.row.length <= record.scalars.get("correction", 1.0) else None


def _of_log(base: str, record: Record, facts: Facts) -> Cause | None:
    if base in _LOGS:
        operand, edge = facts.operand("self"), _LOGS[base]
    elif base in _XLOGS:
        operand, edge = facts.operand(_XLOGS[base][0]), _XLOGS[base][1]
    else:
        return None
    return _side(operand, edge)


def _side(operand: Operand | None, edge: float) -> Cause | None:
    if operand is None or operand.at is None:
        return None
    return Cause.LOG_ZERO if operand.at == edge else Cause.DOMAIN_ERROR if operand.at < edge else None


def denominator(base: str, facts: Facts) -> Operand | None:
    """The operand of a division, a reciprocal or a root under a fraction line that must not be 0."""
    if base == "addcdiv":
        return facts.operand("tensor2", "tensors2")
    if base in ("reciprocal", "rsqrt"):
        return facts.operand("self")
    return facts.operand("other")


def _of_inverse(base: str, record: Record, facts: Facts) -> Cause | None:
    if base in _NORMALIZE and facts.code == NAN:
        # a NaN of finite operands is 0 / 0, unless squares overflow
        is_huge = any(o.largest**2 >= torch.finfo(facts.dtype).max for o in facts.operands[:1])
        return None if is_huge else Cause.DIV_ZERO
    if base not in _INVERSE:
        return None
    if record.scalars.get("other") == 0.0:
        return Cause.DIV_ZERO
    below = denominator(base, facts)
    if below is None or below.at is None:
        return None
    if base == "rsqrt" and below.at < 0:
        return Cause.DOMAIN_ERROR
    return Cause.DIV_ZERO if below.at == 0 else None


def _of_power(base: str, record: Record, facts: Facts) -> Cause | None:
    if base not in ("pow", "float_power"):
        return None
    operand, other = facts.operand("self"), facts.operand("exponent")
    number = operand.at if operand is not None else record.scalars.get("self")
    exponent = other.at if other is not None else record.scalars.get("exponent")
    if number is None or exponent is None:
        return None
    if number == 0 and exponent < 0:
        return Cause.DIV_ZERO
    return Cause.DOMAIN_ERROR if number < 0 and exponent != int(exponent) else None


def _of_domain(base: str, record: Record, facts: Facts) -> Cause | None:
    operand = facts.operand("self")
    if base in _POLES:
        return Cause.DOMAIN_EDGE
    if base not in _DOMAINS or operand is None or operand.at is None:
        return None
    low, high = _DOMAINS[base]
    is_outside = operand.at < low or operand.at > high
    return Cause.DOMAIN_ERROR if is_outside else Cause.DOMAIN_EDGE
