"""A guard on every optimizer that steps, found through the hooks that torch has for all optimizers."""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from trimtab import act
from trimtab.decide import Clip, CoolDown, Detector, Remedy, Skip
from trimtab.guard import Guard
from trimtab.record import RunWriter
from trimtab.running.finding import find_model, parameters_of
from trimtab.running.losses import Losses
from trimtab.running.patching import replaced
from trimtab.running.tally import Tally

_DEFAULT_REMEDY = Skip()


@dataclass(frozen=True, slots=True)
class Policies:
    """What every guard of a script gets; the fields are those of `Guard`.

    Attributes:
        clip: How gradients are clipped, or None.
        detect: Detectors besides `NonFinite`.
        remedy: What is done about a faulty step, or None.
        cooldown: How the learning rate is lowered for a while, or None.
        snapshots: Makes the snapshots of one guard; None for none.
        record: Folder of the run log, or None. The second optimizer that steps gets a folder in it.
    """

    clip: Clip[Any] | None = None
    detect: tuple[Detector[Any], ...] = ()
    remedy: Remedy[Any] | None = _DEFAULT_REMEDY
    cooldown: CoolDown | None = None
    snapshots: Callable[[], act.Snapshots] | None = None
    record: Path | None = None


@dataclass(slots=True)
class _Known:
    """What is kept of one optimizer: neither it nor its guard, which may be collected."""

    tally: Tally
    guard: Callable[[], Guard | None] = lambda: None
    num_parameters: int = 0
    num_calls: int = 0  # of its step
    last: object = field(default=None)  # outcome counted last


class Watch:
    """Guards every optimizer that steps between `open` and `close`; also a context manager.

    An optimizer gets its guard at the first forward pass, in training mode, that follows its making, or else
    at its first step. Guards do not keep models or optimizers alive.

    Args:
        policies: What every guard gets.

    Attributes:
        tallies: What came of each optimizer, in the order in which they were found.

    Example:
        >>> from trimtab.running import Policies, Watch
        >>> model = torch.nn.Linear(1, 1)
        >>> with Watch(Policies()) as watch:
        ...     optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        ...     (model(torch.ones(1, 1)) * float("inf")).sum().backward()
        ...     optimizer.step()
        >>> watch.tallies
        [Tally(optimizer='SGD', ..., num_steps=1, num_faulty=1, num_refused=1, num_overflows=0)]
    """

    def __init__(self, policies: Policies) -> None:
        self._policies = policies
        self._losses = Losses()
        self._known: weakref.WeakKeyDictionary[Optimizer, _Known] = weakref.WeakKeyDictionary()
        # in the order in which they were made, which is that of their logs
        self._pending: weakref.WeakKeyDictionary[Optimizer, None] = weakref.WeakKeyDictionary()
        self._waiting = ExitStack()
        self._is_waiting = False
        self._stack = ExitStack()
        self._process = os.getpid()
        self._made: list[Path] = []  # folders, innermost first
        self.tallies: list[Tally] = []

    def open(self) -> None:
        """Begin.

        Raises:
            RunLogError: The folder of the run log cannot be written.
        """
        record = self._policies.record
        if record is not None and rank() == 0:
            self._made = [folder for folder in (record, *record.parents) if not folder.exists()]
            RunWriter(record).check()
        self._stack.enter_context(self._losses.watched())
        for owner, name, around in (
            (Optimizer, "__init__", self._make),
            (torch.amp.GradScaler, "step", self._step_scaled),
        ):
            self._stack.enter_context(replaced(owner, name, around))
        self._stack.callback(register_optimizer_step_pre_hook(self._before).remove)
        self._stack.callback(register_optimizer_step_post_hook(self._after).remove)

    def close(self) -> None:
        """Take back everything, and close the run logs. Safe to call twice."""
        self._stack.close()
        self._stop_waiting()
        for known in list(self._known.values()):
            guard = known.guard()
            if guard is not None:
                self._count(known, guard)
                guard.close()
        folders = [tally.folder for tally in self.tallies if tally.folder is not None]
        for folder in [*reversed(folders), *self._made]:
            with contextlib.suppress(OSError):  # it holds a log, as it should
                folder.rmdir()

    def __enter__(self) -> Watch:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _make(self, original: Any, optimizer: Optimizer, *args: Any, **kwargs: Any) -> None:
        """In place of `Optimizer.__init__`."""
        original(optimizer, *args, **kwargs)
        self._pending[optimizer] = None
        self._losses.follow(optimizer)
        # not a global forward hook, of which torch.compile warns: for one call it stands before all modules
        if not self._is_waiting:
            self._is_waiting = True
            self._waiting.enter_context(replaced(nn.Module, "__call__", self._call))

    def _call(self, original: Any, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """In place of a forward pass after an optimizer was made: the last moment to know its buffers."""
        if not torch.compiler.is_compiling() and module.training and torch.is_grad_enabled():
            self._guard_pending()
        return original(module, *args, **kwargs)

    def _guard_pending(self) -> None:
        self._stop_waiting()
        for optimizer in list(self._pending):
            if optimizer not in self._known:
                self._add(optimizer)
        self._pending.clear()

    def _stop_waiting(self) -> None:
        self._waiting.close()
        self._is_waiting = False

    def _met(self, optimizer: Optimizer) -> _Known:
        """What is kept of an optimizer that steps."""
        if optimizer in self._pending:
            self._guard_pending()
        return self._known.get(optimizer) or self._add(optimizer)

    def _add(self, optimizer: Optimizer) -> _Known:
        """Give an optimizer its guard, or know why not."""
        known = _Known(Tally(type(optimizer).__name__), num_parameters=len(parameters_of(optimizer)))
        self._known[optimizer] = known
        inner = [thing for thing in vars(optimizer).values() if isinstance(thing, Optimizer)]
        if inner:
            return known  # it leaves its steps to that one, which is guarded by itself
        self.tallies.append(known.tally)
        known.tally.unguarded_because = _obstacle(optimizer)
        if known.tally.unguarded_because is None:
            try:
                self._attach(optimizer, known)
            except (ValueError, TypeError, RuntimeError) as error:  # the script must go on
                known.tally.unguarded_because = str(error).rstrip(".")
        return known

    def _attach(self, optimizer: Optimizer, known: _Known) -> None:
        others = {*self._known, *self._pending} - {optimizer}
        strangers = {parameter for other in others for parameter in parameters_of(other)}
        policies = self._policies
        known.tally.folder = self._free_folder()
        guard = Guard(
            find_model(optimizer, strangers),
            optimizer,
            clip=policies.clip,
            detect=policies.detect,
            remedy=policies.remedy,
            cooldown=policies.cooldown,
            snapshots=None if policies.snapshots is None else policies.snapshots(),
            record=known.tally.folder,
        )
        self._losses.follow(optimizer)
        losses, this, owner = self._losses, weakref.ref(optimizer), weakref.ref(guard)

        def loss() -> Tensor | None:
            followed, its_guard = this(), owner()
            if followed is None or its_guard is None:
                return None
            return losses.of(followed, is_scaled=its_guard._scaling is not None)

        guard.attach(loss=loss)
        known.guard = owner  # the optimizer's hooks hold the guard, and go with it

    def _free_folder(self) -> Path | None:
        """Folder for the log of one more optimizer; of several ranks only the first keeps one."""
        record = self._policies.record
        if record is None or rank() != 0:
            return None
        if os.getpid() != self._process:
            record /= f"process-{os.getpid()}"  # forked by the script: no two processes may write one log
        taken = [tally.folder for tally in self.tallies if tally.folder is not None]
        num = sum(folder == record or record in folder.parents for folder in taken)
        return record if num == 0 else record / f"optimizer-{num + 1}"

    def _before(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """Before any step of any optimizer; its own hooks, the guard's among them, come after."""
        del args, kwargs
        known = self._met(optimizer)
        known.num_calls += 1
        guard = known.guard()
        num = sum(len(group["params"]) for group in optimizer.param_groups)
        if guard is not None and num != known.num_parameters:
            known.num_parameters = num
            if set(parameters_of(optimizer)) - set(guard.model.parameters()):
                self._begin_anew(optimizer, known, guard)

    def _begin_anew(self, optimizer: Optimizer, known: _Known, guard: Guard) -> None:
        """The optimizer was given parameters of another module: a new guard, and a new log, for them all."""
        self._count(known, guard)
        guard.close()
        del self._known[optimizer]
        self._add(optimizer).num_calls = known.num_calls

    def _after(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """After any step of any optimizer, its own hooks included."""
        del args, kwargs
        known = self._known.get(optimizer)
        guard = None if known is None else known.guard()
        if known is not None and guard is not None:
            self._count(known, guard)
        self._losses.end_step(optimizer)

    def _count(self, known: _Known, guard: Guard) -> None:
        outcome = guard.outcome
        if outcome is not None and outcome is not known.last:
            known.last = outcome
            known.tally.count(outcome)

    def _step_scaled(
        self, original: Any, scaler: torch.amp.GradScaler, optimizer: Optimizer, *args: Any, **kwargs: Any
    ) -> Any:
        """In place of `GradScaler.step`."""
        known = self._met(optimizer)
        guard = known.guard()
        attachment = None if guard is None else guard._attachment
        if guard is None or attachment is None or not scaler.is_enabled():
            return original(scaler, optimizer, *args, **kwargs)
        attachment.follow(scaler)
        if act.is_fused(optimizer) and not self._unscaled(scaler, optimizer):
            known.tally.unguarded_because = "its float16 gradients are unscaled within its kernel"
            known.guard = lambda: None
            guard.close()
            return original(scaler, optimizer, *args, **kwargs)
        num_calls = known.num_calls
        result = original(scaler, optimizer, *args, **kwargs)
        if known.num_calls == num_calls:
            attachment.note_refused()
            self._after(optimizer, (), {})
        return result

    def _unscaled(self, scaler: torch.amp.GradScaler, optimizer: Optimizer) -> bool:
        """Unscale before a fused kernel would, with the same pass that looks for Inf."""
        gradients = [p.grad for p in parameters_of(optimizer) if p.grad is not None]
        if any(gradient.dtype is torch.float16 for gradient in gradients):
            return False
        if scaler._per_optimizer_states[id(optimizer)]["stage"].name == "READY":
            scaler.unscale_(optimizer)
        return True


def _obstacle(optimizer: Optimizer) -> str | None:
    """Why an optimizer cannot be guarded, if it is so."""
    if any(hasattr(p, "device_mesh") or hasattr(p, "_is_flat_param") for p in parameters_of(optimizer)):
        return "its parameters are sharded, and a part of a gradient does not tell of the whole"
    return None


def rank() -> int:
    """Number of this process among those that train together."""
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized():
        return int(distributed.get_rank())
    return int(os.environ.get("RANK", "0"))  # as torchrun tells it
