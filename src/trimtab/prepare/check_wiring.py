"""Checks of the wiring: which parameters get a gradient, and what the optimizer holds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from trimtab.prepare.checks import Check, Number, nothing, ok, problem, unsure

_SHOWN = 3


def check_gradients(model: nn.Module, called: frozenset[str], reached: Mapping[str, float | None]) -> Check:
    """Whether every trainable parameter takes part in the loss.

    Args:
        model: The model.
        called: Names of modules that were called.
        reached: Largest gradient of each parameter over all passes; None where there was none.
    """
    name = "parameters used"
    trainable = [label for label, p in model.named_parameters() if p.requires_grad]
    num_frozen = sum(1 for p in model.parameters() if not p.requires_grad)
    numbers = (Number("trainable", float(len(trainable))), Number("frozen", float(num_frozen)))
    if not trainable:
        text = "no parameter is trainable" if num_frozen else "the model has no parameter"
        return problem(name, text, *numbers, advice="Set requires_grad on what is to learn.")
    missing = [label for label in trainable if reached[label] is None]
    if missing:
        routed = [label for label in missing if _is_one_of_many(model, label, called)]
        if len(routed) == len(missing):
            text = f"{_listed(routed)} had no part in this batch, though others beside them had"
            advice = "Fine if inputs are routed, as to experts; else look for a loop that leaves them out."
            return unsure(name, text, *numbers, advice=advice)
        return _unreached(missing, called, numbers)
    if any(math.isnan(reached[label] or 0.0) for label in trainable):
        return unsure(name, "the gradients are not finite", *numbers)
    if not any(reached[label] for label in trainable):
        text = "the gradient of every parameter is exactly 0"
        return problem(name, text, *numbers, advice="The loss does not depend on them: look for dead units.")
    frozen = f"; {num_frozen} are frozen" if num_frozen else ""
    return ok(name, f"a gradient reaches all {len(trainable)} trainable parameters{frozen}", *numbers)


def _is_one_of_many(model: nn.Module, label: str, called: frozenset[str]) -> bool:
    """Whether a parameter is of one of several like modules, some of which were called: an expert."""
    owner = label.rpartition(".")[0]
    while owner:
        parent, _, own = owner.rpartition(".")
        siblings = model.get_submodule(parent)
        if isinstance(siblings, (nn.ModuleList, nn.ModuleDict)) and owner not in called:
            prefix = f"{parent}." if parent else ""
            return any(prefix + name in called for name, _ in siblings.named_children() if name != own)
        owner = parent
    return False


def _unreached(missing: list[str], called: frozenset[str], numbers: tuple[Number, ...]) -> Check:
    owners = {label: label.rpartition(".")[0] for label in missing}
    cut = [label for label in missing if owners[label] in called]
    shown = cut or missing
    listed = ", ".join(shown[:_SHOWN]) + (f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else "")
    if cut:
        text = f"no gradient reaches {listed}, though called in the forward pass"
        advice = "Look for detach(), .data, no_grad(), .item(), argmax or NumPy between them and the loss."
    else:
        text = f"{listed} take no part in the loss"
        advice = "Use them in forward(), remove them, or set requires_grad_(False)."
    return problem(
        "parameters used", text, Number("without gradient", float(len(missing))), *numbers, advice=advice
    )


def check_optimizer(model: nn.Module, optimizer: Optimizer | None) -> Check:
    """Whether the optimizer holds the parameters of this model, each once, with a learning rate."""
    name = "optimizer wiring"
    if optimizer is None:
        return nothing(name, "no optimizer was given")
    names = dict((id(p), label) for label, p in model.named_parameters())
    held = [p for group in optimizer.param_groups for p in group["params"]]
    own = {id(p) for p in held}
    missing = [label for label, p in model.named_parameters() if p.requires_grad and id(p) not in own]
    foreign = [p for p in held if id(p) not in names]
    doubled = len(held) - len(own)
    numbers = (
        Number("held", float(len(held))),
        Number("missing", float(len(missing))),
        Number("of another model", float(len(foreign))),
        Number("twice", float(doubled)),
    )
    if held and len(foreign) == len(held):
        text = "the optimizer holds none of the model's parameters"
        return problem(name, text, *numbers, advice=_ANEW)
    if missing and foreign and _same_shapes(model, missing, foreign):
        text = f"the optimizer holds old tensors in place of {_listed(missing)}"
        return problem(name, text, *numbers, advice=_ANEW)
    if missing:
        text = f"the optimizer does not hold {_listed(missing)}"
        return problem(name, text, *numbers, advice="Add them to a group, or set requires_grad_(False).")
    if doubled:
        text = f"the optimizer holds {doubled} parameters twice"
        return problem(name, text, *numbers, advice="They are stepped twice: give each to one group.")
    return _hyperparameters(optimizer, names, numbers)


_ANEW = "Make the optimizer after the model has its final parameters: after loading, moving, tying, wrapping."


def _same_shapes(model: nn.Module, missing: Sequence[str], foreign: Sequence[Tensor]) -> bool:
    shapes = {p.shape for p in foreign}
    own = dict(model.named_parameters())
    return any(own[label].shape in shapes for label in missing)


def _listed(labels: Sequence[str]) -> str:
    more = f" and {len(labels) - _SHOWN} more" if len(labels) > _SHOWN else ""
    return ", ".join(labels[:_SHOWN]) + more


def _hyperparameters(optimizer: Optimizer, names: Mapping[int, str], numbers: tuple[Number, ...]) -> Check:
    name = "optimizer wiring"
    rates = [float(group.get("lr", math.nan)) for group in optimizer.param_groups]
    if any(rate == 0 or not math.isfinite(rate) for rate in rates if not math.isnan(rate)):
        text = "a group has the learning rate " + ", ".join(f"{r:g}" for r in rates)
        return problem(
            name, text, *numbers, advice="Such a group learns nothing. To freeze it, use requires_grad."
        )
    if any(group.get("maximize") for group in optimizer.param_groups):
        text = "the optimizer maximizes the loss"
        return problem(name, text, *numbers, advice="Leave out maximize=True, unless the loss is a reward.")
    decayed = _decayed_vectors(optimizer, names)
    note = ""
    if decayed:
        note = (
            f"Weight decay also pulls {len(decayed)} biases and gains to 0 ({decayed[0]}): commonly left out."
        )
    return ok(
        name,
        f"{len(optimizer.param_groups)} groups hold every trainable parameter once",
        *numbers,
        advice=note,
    )


def _decayed_vectors(optimizer: Optimizer, names: Mapping[int, str]) -> list[str]:
    return [
        names[id(p)]
        for group in optimizer.param_groups
        if float(group.get("weight_decay") or 0.0) > 0
        for p in group["params"]
        if p.dim() <= 1 and id(p) in names
    ]


def check_number_format(model: nn.Module, optimizer: Optimizer | None) -> Check:
    """Whether parameters and the constants of the optimizer fit their number format."""
    name = "number format"
    types = {p.dtype for p in model.parameters() if p.is_floating_point()}
    for group in [] if optimizer is None else optimizer.param_groups:
        epsilon = group.get("eps")
        if epsilon is None or not group["params"]:
            continue
        for dtype in {p.dtype for p in group["params"]}:
            if float(torch.tensor(float(epsilon), dtype=torch.float64).to(dtype)) == 0.0:
                text = f"eps={epsilon} is 0 in {str(dtype).removeprefix('torch.')}"
                smallest = torch.finfo(dtype).tiny
                advice = f"Take one of at least {smallest:.0e}: a unit without gradient would divide 0 by 0."
                return problem(name, text, Number("eps", float(epsilon)), advice=advice)
    if torch.float16 in types and any(
        p.requires_grad for p in model.parameters() if p.dtype == torch.float16
    ):
        text = "parameters are stored in float16: small updates are lost, and gradients underflow"
        advice = (
            "Keep them in float32 and compute in half precision: torch.autocast, or trimtab.MixedPrecision."
        )
        return problem(name, text, *_epsilon_numbers(optimizer), advice=advice)
    listed = ", ".join(sorted(str(t).removeprefix("torch.") for t in types)) or "no floating type"
    note = ""
    if types & {torch.bfloat16}:
        note = (
            "An update smaller than 1/512 of a bfloat16 weight is lost: keep a float32 copy of the weights."
        )
    return ok(name, listed, *_epsilon_numbers(optimizer), advice=note)


def _epsilon_numbers(optimizer: Optimizer | None) -> tuple[Number, ...]:
    groups = [] if optimizer is None else optimizer.param_groups
    return tuple(Number("eps", float(g["eps"])) for g in groups[:1] if g.get("eps") is not None)


def check_clipping(clip: Any, grad_norm: float, model: nn.Module) -> Check:
    """Whether a clip leaves something of the gradient.

    Args:
        clip: A number is the largest norm; anything else is a policy, known by its fields.
        grad_norm: Norm of the first gradient.
        model: The model.
    """
    name = "clipping"
    if clip is None:
        return nothing(name, "no clip was given")
    bound = clip if isinstance(clip, (int, float)) else getattr(clip, "max_norm", None)
    numbers = [Number("first gradient norm", grad_norm)]
    if isinstance(bound, (int, float)):
        numbers.append(Number("max_norm", float(bound)))
        if not bound > 0:
            advice = "Take a number > 0, such as 1.0; a norm of 0 turns every gradient into 0."
            return problem(name, f"max_norm={bound} leaves nothing of the gradient", *numbers, advice=advice)
        factor = grad_norm / bound
        note = f"The first gradient is {factor:.3g} times that." if factor > 1e3 else ""
        return ok(name, f"max_norm={bound:g}; the first gradient has {grad_norm:.3g}", *numbers, advice=note)
    ratio = _unit_ratio(clip)
    if ratio is None:
        return ok(name, f"{type(clip).__name__}: nothing known against it", *numbers)
    zero = [label for label, p in model.named_parameters() if p.requires_grad and not bool(p.detach().any())]
    matrices = [label for label in zero if dict(model.named_parameters())[label].dim() >= 2]
    if matrices and not type(clip).__module__.startswith("trimtab."):
        text = f"a bound relative to the weight holds back {_listed(matrices)}, which begin at 0"
        advice = "Leave those out, or use trimtab.UnitClip, which takes the size they would have had."
        return problem(name, text, *numbers, advice=advice)
    return ok(name, f"bound of {ratio:g} relative to the weights", *numbers)


def _unit_ratio(clip: Any) -> float | None:
    """The bound of a clip that is relative to the weight (AGC), by the names it goes by."""
    for field in ("max_ratio", "clip_factor", "clipping", "clip_lambda"):
        value = getattr(clip, field, None)
        if isinstance(value, float):
            return value
    return None
