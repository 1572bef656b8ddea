"""From what is bad after a step to the origin of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from trimtab.trace.advice import advise
from trimtab.trace.causes import Context, explain
from trimtab.trace.descent import Descent, How, Path
from trimtab.trace.legitimacy import Fault, Judge
from trimtab.trace.marks import FLOATING, INFINITE, NAN, address_of, is_finite
from trimtab.trace.modules import Running
from trimtab.trace.places import Site
from trimtab.trace.records import Place, Record
from trimtab.trace.watching import Watch
from trimtab.types import Cause, Origin, Phase

_MOST_GRADIENTS = 64

# Operations that only pass values on: left out of the way that a value took
_PLUMBING = frozenset({"clone", "copy", "to_copy", "unsafe_view", "reshape_copy", "view_copy", "contiguous"})


@dataclass(frozen=True, slots=True)
class Seen:
    """A tensor that is bad after the step.

    Attributes:
        name: In words.
        address: Its storage.
        kind: NaN or Inf.
        parameter: Name of the parameter it belongs to.
        is_end: Whether it is where a step ends: loss, gradient, or output that made these bad. Infinities
            that were put there on purpose must not get there.
    """

    name: str
    address: int
    kind: str
    parameter: str | None = None
    is_end: bool = False

    @classmethod
    def of(cls, tensor: Tensor, name: str, parameter: str | None = None, *, is_end: bool = False) -> Seen:
        """What there is to say of a bad tensor."""
        values = tensor.detach()
        values = values if values.layout is torch.strided else values.coalesce().values()
        kind = "NaN" if bool(torch.isnan(values).any()) else "Inf"
        return cls(name, address_of(tensor), kind, parameter, is_end)

    @staticmethod
    def is_nan(tensor: Tensor) -> bool:
        """Whether a tensor holds a NaN."""
        return tensor.dtype in FLOATING and bool(torch.isnan(tensor.detach()).any())

    @property
    def is_loss(self) -> bool:
        """Whether it is the loss."""
        return self.name == "the loss"


def is_any_bad(model: nn.Module, optimizer: Optimizer) -> bool:
    """Whether a parameter, a buffer or a state of the optimizer is bad."""
    named = _named(model, optimizer)
    tensors = [*named.values(), *model.buffers(), *(t for _, _, t in _states(named, optimizer))]
    return not all(is_finite(tensor.detach()) for tensor in tensors)


def what_is_bad(watch: Watch, model: nn.Module, optimizer: Optimizer | None, loss: object) -> list[Seen]:
    """The loss, or else the gradients, or else parameters, buffers and states that the step made bad.

    Args:
        watch: What followed the step.
        model: The model.
        optimizer: Its optimizer, if there is one.
        loss: What the closure returned; None once the loss is known to be sound.
    """
    value = loss if isinstance(loss, Tensor) else None
    if value is not None and not is_finite(value.detach()):
        return [Seen.of(value, "the loss", is_end=True)]
    named = _named(model, optimizer)
    bad = [
        Seen.of(p.grad, f"gradient of {name}", name, is_end=True)
        for name, p in named.items()
        if p.grad is not None and not is_finite(p.grad.detach())
    ]
    if bad:
        return sorted(bad, key=lambda seen: _written_at(watch, seen.address))
    # only what the step wrote: what was infinite before may be meant to be
    changed = [(f"parameter {name}", name, p) for name, p in named.items()]
    changed += [(f"buffer {name}", name, b) for name, b in model.named_buffers()]
    changed += _states(named, optimizer)
    return [
        Seen.of(tensor, what, name)
        for what, name, tensor in changed
        if address_of(tensor) in watch.history.writes and not is_finite(tensor.detach())
    ]


def origin_of(watch: Watch, running: Running, model: nn.Module, seen: Sequence[Seen]) -> Origin | None:
    """Follow what is bad back to its birth.

    Args:
        watch: What followed the step.
        running: Knows the modules.
        model: The model.
        seen: What `what_is_bad` found.
    """
    descent = Descent(watch.history)
    births = []
    for one in seen[:_MOST_GRADIENTS]:
        births += [b for kinds in (NAN, INFINITE) for b in descent.births(one.address, kinds)]
    names = _storages(model)
    judge = Judge(watch.births.found, frozenset(a for a, n in names.items() if n[1]))
    is_loss_bad = any(one.is_loss for one in seen)
    fault = judge.first_fault(births, is_loss_bad=is_loss_bad)
    if fault is None or (fault.is_escape and not any(one.is_end for one in seen)):
        return None
    return _told(watch, running, model, seen, fault)


def vanished_in(watch: Watch, running: Running, model: nn.Module) -> Origin | None:
    """An overflow of which nothing is to be seen in a step that looks sound."""
    writes = [write for of in watch.history.writes.values() for write in of]
    records = [write.record for write in writes if write.record is not None]
    fault = Judge(watch.births.found, frozenset()).vanished(records)
    if fault is None:
        return None
    name = f"a result of {fault.record.place.operation.base.strip('_')}"
    seen = Seen(name, 0, "Inf, and vanished in " + ", ".join(sorted(fault.record.absorbers)[:2]))
    return _told(watch, running, model, [seen], fault)


def _told(watch: Watch, running: Running, model: nn.Module, seen: Sequence[Seen], fault: Fault) -> Origin:
    """The origin, in words and numbers."""
    is_loss_bad = any(one.is_loss for one in seen)
    names = _storages(model)
    largest = max(
        (float(p.detach().nan_to_num(0, 0, 0).abs().max()) for p in model.parameters() if p.numel()),
        default=0.0,
    )
    told = (
        _found(watch, fault, names) if fault.how is How.FOUND else _made(fault, Context(largest, is_loss_bad))
    )
    place, site = told.place, told.site
    return Origin(
        phase=told.phase,
        op=told.op,
        module=place.module,
        file=site.file if site is not None else None,
        line=site.line if site is not None else None,
        code=site.text if site is not None else "",
        cause=told.cause,
        why=told.why,
        advice=told.advice,
        parameter=told.parameter or next((one.parameter for one in seen if one.parameter), None),
        chain=_chain(fault, seen),
        seen=f"{seen[0].name} became {seen[0].kind}",
        poisoned=tuple(one.parameter for one in seen if one.parameter and "gradient" in one.name),
        input=told.input,
        module_type=running.type_of(place.module),
    )


def born_in_loss() -> Origin:
    """The origin when a module and its outputs are sound, but not the loss or what came back from it."""
    return Origin(
        phase=Phase.LOSS,
        op="loss",
        module=None,
        file=None,
        line=None,
        code="",
        cause=Cause.INF_ARITHMETIC,
        why="the model is sound from its inputs to its outputs, and what was made of these is not: the bad "
        "value was born in the loss function",
        advice="pass a closure to guard.step(), or call trimtab.trace(model, closure), to get the line",
        seen="the loss, or the gradient of the model's output, became non-finite",
    )


@dataclass(frozen=True, slots=True)
class _Told:
    """What an origin says of the fault itself."""

    place: Place
    site: Site | None
    phase: Phase
    op: str
    cause: Cause
    why: str
    advice: str
    parameter: str | None = None
    input: str | None = None


def _made(fault: Fault, context: Context) -> _Told:
    """An operation of the step made it."""
    cause, why = explain(fault, context)
    place = fault.record.place
    op = place.node if place.node is not None else place.operation.name
    return _Told(
        place, place.site, place.phase, op, cause, why + _inner(place), advise(cause, place, fault.facts)
    )


def _found(watch: Watch, fault: Fault, names: dict[int, tuple[str, bool]]) -> _Told:
    """It was there before the step: the first operation that used it."""
    address = fault.birth.address
    place = fault.record.place
    place = place.forward or place if place.node is not None else place
    operand = watch.births.found[address]
    known = names.get(address)
    name = known[0] if known else watch.births.names.get(address)
    what = "parameter or buffer" if known else "input"
    site = watch.births.entered.get(address) if place is fault.record.place else place.site
    why = (
        f"{what} {name or 'of unknown name'} of shape {operand.shape} held {operand.num_nan} NaN and "
        f"{operand.num_positive_inf + operand.num_negative_inf} infinite values before the step "
        f"(first: index {watch.births.first_bad.get(address, ())})"
    )
    if known:
        cause = Cause.BAD_PARAMETER
        return _Told(place, site, Phase.PARAMETER, "parameter", cause, why, cause.fixes[0], parameter=name)
    cause = Cause.BAD_INPUT
    return _Told(place, site, Phase.INPUT, "input", cause, why, cause.fixes[0], input=name)


def _inner(place: Place) -> str:
    if place.inner is None or place.node is None or place.inner == place.site:
        return ""
    return (
        f"; in its backward, {place.inner.file.rsplit('/', 1)[-1]}:{place.inner.line} ran {place.inner.text}"
    )


def _chain(fault: Fault, seen: Sequence[Seen]) -> tuple[str, ...]:
    """Operations and modules on the way from the birth to where it was seen."""
    links: list[str] = []
    module: str | None = None
    for record in _from(fault.record, fault.birth.path):
        place = record.place
        what = place.node if place.node is not None else place.operation.base.strip("_")
        if what in _PLUMBING and record is not fault.record:
            continue
        links.append(f"{what} ({place.module})" if place.module and place.module != module else what)
        module = place.module
    return (*(name for name, _ in groupby(links)), seen[0].name)


def _from(record: Record, path: Path) -> list[Record]:
    records = list(path)
    return records if record in records else [record, *records]


def _named(model: nn.Module, optimizer: Optimizer | None) -> dict[str, Tensor]:
    named: dict[str, Tensor] = dict(model.named_parameters())
    known = {id(p) for p in named.values()}
    for i, group in enumerate(optimizer.param_groups if optimizer is not None else ()):
        for j, parameter in enumerate(group["params"]):
            if id(parameter) not in known:
                named[f"param_groups[{i}][{j}]"] = parameter
    return named


def _states(named: dict[str, Tensor], optimizer: Optimizer | None) -> list[tuple[str, str, Tensor]]:
    names = {parameter: name for name, parameter in named.items()}
    states = optimizer.state.items() if optimizer is not None else ()
    return [
        (f"{key} of {names.get(parameter, 'a parameter')}", names.get(parameter, ""), value)
        for parameter, of in states
        for key, value in (of.items() if isinstance(of, dict) else ())
        if isinstance(value, Tensor) and value.dtype in FLOATING
    ]


def _storages(model: nn.Module) -> dict[int, tuple[str, bool]]:
    """Names of parameters and buffers by storage, and whether they are trained."""
    names = {address_of(b): (name, False) for name, b in model.named_buffers()}
    return {**names, **{address_of(p): (name, p.requires_grad) for name, p in model.named_parameters()}}


def _written_at(watch: Watch, address: int) -> int:
    writes = watch.history.writes.get(address)
    return writes[-1].time if writes else 0
