"""The rule of parameters and optimizers that do not belong together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from trimtab.diagnose.clues import Clue
from trimtab.diagnose.view import Need, View
from trimtab.record import Signal
from trimtab.types import Evidence, FindingCause

_MIN_LOOKS = 3
_MANY_LOOKS, _ALL_DEAD = 6, 0.95
# Of what the optimizer holds so much takes no part
_MOST = 0.5


@final
@dataclass(frozen=True, slots=True)
class Wiring:
    """What it detects: trained parameters that the optimizer does not hold, or that no gradient reaches.

    Why it matters: these parts stay at their random start while the loss may still fall, and nobody notices.

    Evidence used: of each parameter in at least three looks: whether it wants a gradient, has one, is in
    the optimizer, and changes; of what was replaced or thawed on the way, in the later half of them.

    What to try: build the optimizer after the last change to the model, from `model.parameters()`; look
    for `detach()`, `.data`, `.item()` or `torch.no_grad()` on the way from the part to the loss.

    Known false alarms: parameters with `requires_grad=False` are frozen on purpose; parts that were never
    called, and parts that another optimizer moves, are left out; so are experts that are chosen now and then,
    and what was taken out of the optimizer, as layers that have learned.

    References: Jiang et al., "Training with confidence: catching silent errors in deep learning training
    with automated proactive checks" (TrainCheck), OSDI 2025.
    """

    causes = (
        FindingCause.STALE_OPTIMIZER,
        FindingCause.PARAMETER_NOT_IN_OPTIMIZER,
        FindingCause.DETACHED,
        FindingCause.DUPLICATED_PARAMETERS,
    )
    needs = Need.PARAMETERS

    def look(self, view: View) -> tuple[Clue, ...]:
        """See `Rule.look`."""
        has, own = view.signal("has_gradient"), view.signal("in_optimizer")
        wants, size = view.signal("requires_gradient"), view.signal("weight_rms")
        if has is None or own is None or wants is None or size is None or len(has.steps) < _MIN_LOOKS:
            return ()
        reached = np.all(has.values == 1, axis=0) & np.all(wants.values == 1, axis=0)
        foreign = view.column("optimizer", "num_foreign")
        outside = _are_outside(has, wants, own, size)
        if not (len(foreign) and foreign[-1] > 0):  # nothing was replaced: what was held or moved is let be
            outside &= np.all(own.values == 0, axis=0) & np.all(size.values == size.values[0], axis=0)
        cut = (
            np.all(wants.values == 1, axis=0)
            & np.all(own.values == 1, axis=0)
            & np.all(has.values == 0, axis=0)
        )
        nothing = _gets_nothing(view)
        cut |= nothing
        cut &= _is_called(view, has.axis) & ~_are_beside(has.axis, reached & ~nothing)
        if _is_last_of_list(has.axis, cut, reached & ~nothing):
            cut[:] = False
        found: list[Clue] = []
        if _is_bypassed(view, has, np.all(own.values == 1, axis=0) & np.all(wants.values == 1, axis=0)):
            found.append(_bypassed(has, view))
        if outside.any():
            found.append(_outside(view, has, outside, int(foreign[-1]) if len(foreign) else 0))
        if cut.any():
            found.append(_cut(view, has, cut))
        twice = view.column("optimizer", "num_duplicated")
        if len(twice) and twice[-1] > 0:
            summary = f"The optimizer holds {int(twice[-1])} parameters twice: they are stepped twice."
            evidence = (Evidence("parameters held twice", float(twice[-1])),)
            advice = "Give each parameter to one group once."
            found.append(
                Clue(FindingCause.DUPLICATED_PARAMETERS, 0.2, 0.95, summary, advice, evidence, view.span)
            )
        return tuple(found)


def _are_outside(has: Signal, wants: Signal, own: Signal, size: Signal) -> np.ndarray:
    """Which parameters get gradients in all late looks, and are neither held by the optimizer nor moved."""
    late = slice(len(has.steps) // 2, None)
    gets = np.all(has.values[late] == 1, axis=0) & np.all(wants.values[late] == 1, axis=0)
    stays = np.all(size.values[late] == size.values[-1], axis=0)
    return np.asarray(gets & np.all(own.values[late] == 0, axis=0) & stays)


def _gets_nothing(view: View) -> np.ndarray:
    """Weights whose gradient is exactly zero at all looks, beside others that get some: cut by a rounding."""
    zeros, own, weights = view.signal("gradient_zero_share"), view.signal("in_optimizer"), view.weights
    if zeros is None or own is None or weights is None or len(zeros.steps) < _MANY_LOOKS:
        return np.zeros(0 if own is None else own.values.shape[1], dtype=bool)
    nothing = np.all(zeros.values == 1, axis=0) & np.all(own.values == 1, axis=0)
    others = weights & np.all(zeros.values < 1, axis=0)
    # more than one layer: a single one may be dead for reasons of its own
    dead = view.signal("dead_share")
    if dead is not None and bool(np.any(dead.values > _ALL_DEAD)):
        return np.zeros_like(nothing)  # a dead layer stops gradients as well, and is told as such
    is_told = bool(others.any()) and int((nothing & weights).sum()) >= 2
    return nothing if is_told else np.zeros_like(nothing)


def _names(signal: Signal, chosen: np.ndarray) -> tuple[str, str]:
    """The first of the chosen names, and all of them in words."""
    names = [name for name, is_chosen in zip(signal.axis, chosen, strict=True) if is_chosen]
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return names[0], names[0] + more


def _outside(view: View, signal: Signal, chosen: np.ndarray, num_foreign: int) -> Clue:
    layer, words = _names(signal, chosen)
    share = float(chosen.mean())
    evidence = (
        Evidence("parameters not in the optimizer", float(chosen.sum())),
        Evidence("parameters of the model", float(len(chosen))),
        Evidence("parameters that only the optimizer has", float(num_foreign)),
    )
    steps = (int(signal.steps[0]), int(signal.steps[-1]))
    harm = min(1.0, 0.3 + share)
    if num_foreign:
        summary = (
            f"{words} get gradients but are not in the optimizer, which "
            f"holds {num_foreign} parameters that are not "
            "in the model: a part was replaced after the optimizer was built."
        )
        advice = "Build the optimizer after the last change to the model."
        return Clue(FindingCause.STALE_OPTIMIZER, harm, 0.95, summary, advice, evidence, steps, layer)
    summary = f"{words} get gradients, but are not in the optimizer and never change."
    advice = (
        "Pass them to the optimizer, as with optimizer = "
        "Adam(model.parameters()); if they are to be frozen, set "
        "requires_grad_(False)."
    )
    return Clue(FindingCause.PARAMETER_NOT_IN_OPTIMIZER, harm, 0.9, summary, advice, evidence, steps, layer)


def _cut(view: View, signal: Signal, chosen: np.ndarray) -> Clue:
    layer, words = _names(signal, chosen)
    summary = (
        f"No gradient ever reaches {words}, though the optimizer holds them and the forward pass uses them."
    )
    advice = (
        "Look for detach(), .data, .item(), .numpy() or torch.no_grad() "
        "between this part and the loss; if it is to be "
        "frozen, set requires_grad_(False)."
    )
    evidence = (
        Evidence("parameters without a gradient", float(chosen.sum())),
        Evidence("parameters of the model", float(len(chosen))),
        Evidence("looks", float(len(signal.steps))),
    )
    steps = (int(signal.steps[0]), int(signal.steps[-1]))
    return Clue(
        FindingCause.DETACHED,
        min(1.0, 0.3 + float(chosen.mean())),
        0.9,
        summary,
        advice,
        evidence,
        steps,
        layer,
    )


def _are_beside(names: tuple[str, ...], reached: np.ndarray) -> np.ndarray:
    """Which parameters belong to a module whose others get gradients.

    Nothing is cut there: the slope of a potential does not hang on its last bias.
    """
    homes = {name.rpartition(".")[0] for name, is_reached in zip(names, reached, strict=True) if is_reached}
    return np.array([name.rpartition(".")[0] in homes for name in names])


def _is_last_of_list(names: tuple[str, ...], cut: np.ndarray, reached: np.ndarray) -> bool:
    """Whether one module alone is cut, the last of a list: what it hands on may have nobody to go to."""
    homes = {name.rpartition(".")[0] for name, is_cut in zip(names, cut, strict=True) if is_cut}
    if len(homes) != 1:
        return False
    place, _, number = homes.pop().rpartition(".")
    others = {name.rpartition(".")[0] for name, is_reached in zip(names, reached, strict=True) if is_reached}
    return number.isdigit() and int(number) >= 2 and all(f"{place}.{k}" in others for k in range(int(number)))


def _is_bypassed(view: View, has: Signal, held: np.ndarray) -> bool:
    """Whether the model itself is never called and most of what the optimizer holds never takes part."""
    if view.signal("mode") is not None or len(has.steps) < _MANY_LOOKS or not held.any():
        return False
    idle = held & np.all(has.values == 0, axis=0) & ~_is_called(view, has.axis)
    return float(idle[held].mean()) >= _MOST and bool(np.any(np.all(has.values == 1, axis=0)))


def _bypassed(has: Signal, view: View) -> Clue:
    idle = float(np.all(has.values == 0, axis=0).sum())
    summary = (
        f"The model that is watched is never called, and {idle:.0f} of its {len(has.axis)} parameters never "
        "get a gradient: the loss comes from another model that shares some of them, as a copy does."
    )
    advice = "Build the optimizer, and the guard, from the model that is called: after deepcopy or a wrapper."
    evidence = (
        Evidence("parameters without a gradient", idle),
        Evidence("parameters of the model", float(len(has.axis))),
    )
    return Clue(FindingCause.STALE_OPTIMIZER, 0.9, 0.9, summary, advice, evidence, view.span)


def _is_called(view: View, names: tuple[str, ...]) -> np.ndarray:
    """Whether the module of each parameter was seen in the forward pass."""
    forward = view.signal("forward_rms")
    called = set() if forward is None else set(forward.axis)
    return np.array([name.rpartition(".")[0] in called for name in names])
