"""Trying things out on a model that must be afterwards what it was before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from trimtab.act.training_state import Stateful, TrainingState
from trimtab.act.tree import TreeCopy, flatten

# What an optimizer calls before and after a step: a guard that is attached must not see trial steps
_STEP_HOOKS = ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")


class Beginning:
    """The state of a training run before something is tried: parameters, buffers, optimizer, generators.

    Args:
        modules: The model, and a loss that has parameters or buffers of its own.
        optimizer: The optimizer, if there is one.
        also: More with `state_dict` and `load_state_dict`, by name.

    Raises:
        TypeError: Some state cannot be copied; the message says which.
        ValueError: There are no parameters.

    Cost:
        Memory and one pass for a copy of all of it, on the host.
    """

    def __init__(
        self,
        modules: Sequence[nn.Module],
        optimizer: Optimizer | None = None,
        also: Mapping[str, Stateful] | None = None,
    ) -> None:
        held = nn.ModuleList(modules)
        known = set(held.parameters())
        if not known:
            raise ValueError(f"{type(modules[0]).__name__} has no parameters: there is nothing to train.")
        foreign = [p for p in _optimized(optimizer) if p not in known]
        held.append(nn.ParameterList(p for p in foreign if isinstance(p, nn.Parameter)))
        stand_in = optimizer or torch.optim.SGD([torch.zeros(1)], lr=0.0)
        self._state = TrainingState(held, stand_in, dict(also or {}))
        self._copy = TreeCopy(flatten(self._state.capture(0, None)))
        self._gradients = list(held.parameters())

    def restore_(self) -> None:
        """Put everything back, bit for bit, without gradients."""
        self._state.restore_(self._copy)
        for parameter in self._gradients:
            parameter.grad = None


@contextmanager
def kept(
    modules: Sequence[nn.Module],
    optimizer: Optimizer | None = None,
    also: Mapping[str, Stateful] | None = None,
) -> Iterator[Beginning]:
    """Leave everything as it was found, whatever happens in this context, errors included.

    That is: parameters, gradients, `requires_grad`, buffers, training modes, the optimizer's state, groups
    and hooks, random number generators. What a module keeps in plain attributes is not looked at. Gradients
    are taken away for the time being, and step hooks of the optimizer do not run.

    Args:
        modules: The model, and a loss that has parameters or buffers of its own.
        optimizer: The optimizer, if there is one.
        also: More with `state_dict` and `load_state_dict`, by name.

    Yields:
        The state to begin each trial with.

    Cost:
        As `Beginning`.
    """
    held = nn.ModuleList(modules)
    modes = [(m, m.training) for m in held.modules()]
    parameters = list(dict.fromkeys([*held.parameters(), *_optimized(optimizer)]))
    before = [(p, p.grad, p.requires_grad) for p in parameters]
    buffers = [(m, dict(m._buffers)) for m in held.modules() if m._buffers]
    beginning = Beginning(modules, optimizer, also)
    try:
        for parameter in parameters:
            parameter.grad = None
        with _without_hooks(optimizer), torch.enable_grad():
            yield beginning
    finally:
        for module, training in modes:
            module.training = training
        for parameter, _, requires_grad in before:
            parameter.requires_grad_(requires_grad)
        for module, tensors in buffers:  # the tensors themselves, should a trial have replaced them
            module._buffers.clear()
            module._buffers.update(tensors)
        beginning.restore_()
        for parameter, gradient, _ in before:
            parameter.grad = gradient


@contextmanager
def _without_hooks(optimizer: Optimizer | None) -> Iterator[None]:
    """No step hooks, and afterwards all attributes of the optimizer as they were."""
    if optimizer is None:
        yield
        return
    held = vars(optimizer)
    before = {key: value for key, value in held.items() if key not in ("state", "param_groups")}
    hooks = {key: dict(held[key]) for key in _STEP_HOOKS if key in held}
    for key in hooks:
        held[key].clear()
    try:
        yield
    finally:
        for key in set(held) - set(before) - {"state", "param_groups"}:
            del held[key]
        held.update(before)
        for key, saved in hooks.items():
            held[key].clear()
            held[key].update(saved)


def _optimized(optimizer: Optimizer | None) -> list[Tensor]:
    groups: list[dict[str, Any]] = [] if optimizer is None else optimizer.param_groups
    return [p for group in groups for p in group["params"]]
