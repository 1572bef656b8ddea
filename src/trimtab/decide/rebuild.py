"""From the text of a policy back to the policy: the run log's header is such text."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable
from typing import Any

from trimtab.decide.adaptive import EmaClip, MeanClip, QuantileClip, ZScoreClip
from trimtab.decide.clips import NormClip
from trimtab.decide.cooldown import CoolDown
from trimtab.decide.detectors import NonFinite, Overflow
from trimtab.decide.elementwise import ValueClip
from trimtab.decide.grouping import ByGroup, ByName, Grouped
from trimtab.decide.ladder import Escalate, PerPlace, Retry, Rewind
from trimtab.decide.layers import LayerClip
from trimtab.decide.mending import ReplaceBad, RescaleBad, ZeroBad
from trimtab.decide.remedies import Observe, Raise, Skip
from trimtab.decide.spikes import LossSpike, NormSpike, SpikeRule
from trimtab.decide.tensors import TensorClip
from trimtab.decide.units import UnitClip
from trimtab.decide.watch import SteadyClipping, Underflow
from trimtab.decide.wrappers import AfterWarmup, EveryNth, First, LossAbove, NormAbove, When

# All policies by their role; a new one is added here
CLIPS = (
    *(NormClip, QuantileClip, MeanClip, EmaClip, ZScoreClip, ValueClip, LayerClip, UnitClip, TensorClip),
    *(Grouped, ByName, ByGroup, AfterWarmup, First, When),
)
DETECTORS = (NonFinite, Overflow, LossSpike, NormSpike, SteadyClipping, Underflow)
REMEDIES = (
    Observe,
    Raise,
    Skip,
    ZeroBad,
    ReplaceBad,
    RescaleBad,
    Rewind,
    Retry,
    PerPlace,
    Escalate,
)
_PARTS = (NormAbove, LossAbove, EveryNth, SpikeRule, CoolDown)
_POLICIES: dict[str, Callable[..., Any]] = {
    policy.__name__: policy for policy in (*CLIPS, *DETECTORS, *REMEDIES, *_PARTS)
}
_NUMBERS = {"inf": math.inf, "nan": math.nan}


def policy_from_repr(text: str) -> Any:
    """Rebuild the policy, tuple of policies or None whose `repr` is `text`.

    The text is parsed, never evaluated: only the names of this package's policies and literal
    arguments are understood.

    Raises:
        ValueError: The text is not the `repr` of a policy of this version.

    Example:
        >>> policy_from_repr("NormClip(max_norm=1.0, norm_type=inf)")
        NormClip(max_norm=1.0, norm_type=inf)
    """
    try:
        return _build(ast.parse(text, mode="eval").body)
    except SyntaxError as error:
        raise ValueError(f"{text!r} is not the text of a policy") from error


def _build(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name(id=name) if name in _NUMBERS:
            return _NUMBERS[name]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_build(operand)
        case ast.Tuple(elts=items):
            return tuple(_build(item) for item in items)
        case ast.Dict(keys=keys, values=values):
            return {_build(k): _build(v) for k, v in zip(keys, values, strict=True) if k is not None}
        case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords) if name in _POLICIES:
            named = {k.arg: _build(k.value) for k in keywords if k.arg is not None}
            return _POLICIES[name](*(_build(arg) for arg in args), **named)
        case ast.Call(func=ast.Attribute(value=ast.Name(id="np"), attr="float64"), args=[number]):
            return _build(number)  # a float of NumPy given as an argument
    raise ValueError(
        f"{ast.unparse(node)!r} is not a policy of this version; known are {', '.join(sorted(_POLICIES))}"
    )
