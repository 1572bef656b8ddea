"""All that a training run consists of, as one tree, and the way back."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from trimtab.act import rng
from trimtab.act.tree import TreeCopy, WriteBack
from trimtab.errors import SnapshotError


@runtime_checkable
class Stateful(Protocol):
    """Anything that gives its state and takes it back: a scheduler, a scaler, an EMA, a loader."""

    def state_dict(self) -> Any:
        """The state, as a tree (see `trimtab.act.tree`)."""

    def load_state_dict(self, state_dict: Any) -> Any:
        """Take back what `state_dict` returned."""


class Restored(NamedTuple):
    """What was restored.

    Attributes:
        step: The step after which it had been saved.
        policies: The tree that was saved for the caller.
    """

    step: int
    policies: Any


class TrainingState:
    """The state of one model, one optimizer and all that goes with them.

    Args:
        model: Its parameters and all its buffers, also those that `state_dict` leaves out.
        optimizer: Its state as it is (`Optimizer.load_state_dict` would cast moments to the type of their
            parameter), and the hyperparameters of its groups.
        also: More state, by name.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer, also: Mapping[str, Stateful]) -> None:
        self._model = model
        self._optimizer = optimizer
        self._also = also

    def capture(self, step: int, policies: Any) -> dict[str, Any]:
        """The whole state now, in the live tensors.

        Args:
            step: The step just made.
            policies: A tree to be saved with it.
        """
        return {
            "step": step,
            "model": {
                "parameters": {_plain(name): p for name, p in self._model.named_parameters()},
                "buffers": {
                    _plain(name): dict(m._buffers) for name, m in self._model.named_modules() if m._buffers
                },
            },
            "optimizer": self._optimizer_state(),
            "also": {name: thing.state_dict() for name, thing in self._also.items()},
            "policies": policies,
            "rng": rng.capture(),
        }

    def restore_(self, copy: TreeCopy, *, except_for: Collection[str] = ()) -> Restored:
        """Write everything back; the generators come last.

        Args:
            copy: A copy of what `capture` returned, for a model and an optimizer like these.
            except_for: Names in `also` that are left as they are.

        Raises:
            SnapshotError: The copy is of another model, optimizer or set of names; nothing was changed.

        Cost:
            One pass over all. Memory for what has none of its own any more, and for each of `also` in turn.
        """
        saved = copy.structure
        moved = self.check(copy, except_for)
        for name, thing in self._also.items():
            if name not in except_for:
                # a copy of its own: schedulers keep the very containers that they are given
                thing.load_state_dict(WriteBack(copy, moved).anew(saved["also"][name]))
        back = WriteBack(copy, moved)
        self._restore_model(back, saved["model"])
        self._restore_optimizer(back, saved["optimizer"])
        policies = back.anew(saved["policies"])
        state_of_rng = back.anew(saved["rng"])
        back.run()
        rng.restore_(state_of_rng)
        return Restored(saved["step"], policies)

    def _parameters(self) -> list[Tensor]:
        """The optimizer's, by position."""
        return [p for group in self._optimizer.param_groups for p in group["params"]]

    def _optimizer_state(self) -> dict[str, Any]:
        positions = {p: index for index, p in enumerate(self._parameters())}
        state = self._optimizer.state
        return {
            "kind": type(self._optimizer).__name__,
            "sizes": [len(group["params"]) for group in self._optimizer.param_groups],
            "groups": [_hyperparameters(group) for group in self._optimizer.param_groups],
            "state": {positions[key]: value for key, value in state.items() if key in positions},
            # of tensors that are in no group any more nothing is kept
            "other": {key: value for key, value in state.items() if not isinstance(key, Tensor)},
        }

    def _restore_model(self, back: WriteBack, saved: Mapping[str, Any]) -> None:
        for name, parameter in self._model.named_parameters():
            back.over(parameter, saved["parameters"][_plain(name)])
        for name, module in self._model.named_modules():
            then = saved["buffers"].get(_plain(name), {})
            if then or module._buffers:
                buffers = back.into(module._buffers, then)
                module._buffers.clear()
                module._buffers.update(buffers)

    def _restore_optimizer(self, back: WriteBack, saved: Mapping[str, Any]) -> None:
        for group, then in zip(self._optimizer.param_groups, saved["groups"], strict=False):
            hyperparameters = back.into(_hyperparameters(group), then)
            # what a later release of the optimizer knows besides stays
            for key in set(group) - set(then) - set(self._optimizer.defaults) - {"params"}:
                del group[key]
            group.update(hyperparameters)
        live = self._optimizer.state
        parameters = self._parameters()
        state = {
            parameters[index]: back.into(live.get(parameters[index]), then)
            for index, then in saved["state"].items()
        }
        other = {key: back.into(live.get(key), then) for key, then in saved["other"].items()}
        live.clear()
        live.update(state)
        live.update(other)

    def check(self, copy: TreeCopy, except_for: Collection[str]) -> dict[torch.device, torch.device]:
        """See that everything has its place, before anything is changed.

        Args:
            copy: A copy of what `capture` returned.
            except_for: Names in `also` that are left as they are.

        Returns:
            Which device is which one now.

        Raises:
            SnapshotError: The copy is of another model, optimizer or set of names.
        """
        saved = copy.structure
        _check_names("also", set(saved["also"]) - set(except_for), set(self._also) - set(except_for))
        live = {_plain(name): p for name, p in self._model.named_parameters()}
        then = saved["model"]["parameters"]
        _check_names("the model's parameters", set(then), set(live))
        moved: dict[torch.device, torch.device] = {}
        for name, parameter in live.items():
            tensor, device = copy.tensors[then[name].index], copy.devices[then[name].index]
            if (tensor.shape, tensor.dtype, device.type) != (
                parameter.shape,
                parameter.dtype,
                parameter.device.type,
            ):
                raise SnapshotError(
                    f"parameter {name} is {_facts(parameter, parameter.device)}, but in the snapshot of step "
                    f"{saved['step']} it is {_facts(tensor, device)}. Build the model as it was then."
                )
            if device != parameter.device:
                moved[device] = parameter.device
        kind = type(self._optimizer).__name__
        if saved["optimizer"]["kind"] != kind:
            raise SnapshotError(
                f"the optimizer is {kind}, but in the snapshot of step {saved['step']} it is "
                f"{saved['optimizer']['kind']}. Build it as it was then."
            )
        sizes = [len(group["params"]) for group in self._optimizer.param_groups]
        if sizes[: len(saved["optimizer"]["sizes"])] != saved["optimizer"]["sizes"]:
            raise SnapshotError(
                f"the optimizer's groups have {sizes} parameters, but in the snapshot of step "
                f"{saved['step']} they have {saved['optimizer']['sizes']}. Build it as it was then."
            )
        return moved


def _hyperparameters(group: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key != "params"}


def _check_names(what: str, saved: set[str], live: set[str]) -> None:
    if saved != live:
        only = [f"only the snapshot has {sorted(saved - live)[:3]}"] if saved - live else []
        only += [f"the snapshot has no {sorted(live - saved)[:3]}"] if live - saved else []
        raise SnapshotError(f"this snapshot is of other names in {what}: {'; '.join(only)}.")


def _facts(tensor: Tensor, device: torch.device) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')} on {device}"


def _plain(name: str) -> str:
    """A name without the prefix of the wrapper that torch.compile adds."""
    return ".".join(p for p in name.split(".") if p != "_orig_mod") if "_orig_mod" in name else name
