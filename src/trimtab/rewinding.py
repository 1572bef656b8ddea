"""When a guard takes snapshots, and the way back."""

from __future__ import annotations

import functools
import logging
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from trimtab import act
from trimtab.errors import SnapshotError
from trimtab.resuming import progress
from trimtab.types import Back, StepOutcome

if TYPE_CHECKING:
    from trimtab.guard import Guard

logger = logging.getLogger(__name__)


class Rewinding:
    """The snapshots of one guard.

    A snapshot that is due is not taken at the end of `guard.step()`: a scheduler and an average of the
    weights are stepped after that. It is taken when the next step begins, which shows first in
    `Batches`, else in the closure, else in the first training forward pass. Where a step turns out to have
    begun unseen (the parts of the model are called and not itself, or it trains in eval mode), the parts are
    watched as well; where that does not help, snapshots are taken at the end of `guard.step()` after all,
    with a warning.

    Args:
        guard: The guard.
        snapshots: Where they are kept.
    """

    def __init__(self, guard: Guard, snapshots: act.Snapshots) -> None:
        snapshots.bind(guard.model, guard.optimizer)
        self.snapshots = snapshots
        self._guard = weakref.ref(guard)
        self._is_due = False
        self._num_missed = 0  # steps that began unseen while a snapshot was due
        self.is_blind = False
        self._beginning = _Beginning(self)
        self._handles = [batches.on_next(self._beginning) for batches in self._data()]
        self._watch([guard.model] if not isinstance(guard.model, _CONTAINERS) else _parts(guard.model))
        self._finalizer = weakref.finalize(self, _remove, self._handles)

    def _watch(self, modules: Sequence[nn.Module]) -> None:
        self._handles += [m.register_forward_pre_hook(self._beginning, prepend=True) for m in modules]

    def _data(self) -> list[act.Batches[Any]]:
        return [x for x in self.snapshots.also.values() if isinstance(x, act.Batches)]

    def note(self, outcome: StepOutcome) -> None:
        """A step is over: it may be time for a snapshot, or the last one is in doubt."""
        if self._is_due:
            self._miss(outcome.step)
        if any(not fault.is_advisory for fault in outcome.faults):
            self.snapshots.note_fault()
        else:
            self._is_due = self._is_due or self.snapshots.wants(outcome.step)

    def _miss(self, step: int) -> None:
        """A step began unseen: look closer next time."""
        guard = self._guard()
        assert guard is not None
        self._num_missed += 1
        if self._num_missed == 1 and not self._beginning.is_compiled:
            self._watch(_parts(guard.model))
        elif not self.is_blind:
            self.is_blind = True
            logger.warning(
                "the beginning of step %d was not seen: %s is compiled, or neither it nor its parts were "
                "called. Snapshots are now taken at the end of guard.step(), and what is stepped after that, "
                "as a scheduler, comes back one step older. Wrap the loader in Batches and put it in also=, "
                "use guard.step(closure), or give the compiled model to Guard.",
                step,
                type(guard.model).__name__,
            )

    def end_step(self) -> None:
        """All of a step is counted: the moment for a snapshot where no better one is seen."""
        if self.is_blind:
            self.take_if_due()

    def begins_with(self, module: nn.Module) -> bool:
        """Whether a forward pass of this module belongs to a training step."""
        return module.training or (self._num_missed > 0 and torch.is_grad_enabled())

    def take_if_due(self) -> None:
        """Take the snapshot that is due, unless the state is bad."""
        guard = self._guard()
        if guard is None or not self._is_due:
            return
        self._is_due = False
        faults = guard.inspect()
        if faults:
            said = "; ".join(fault.summary for fault in faults)
            logger.warning("no snapshot after step %d, its state is bad: %s", guard._step - 1, said)
            self.snapshots.note_fault()
            return
        self.snapshots.take(guard._step - 1, progress(guard))

    def resume_(self) -> act.Restored | None:
        """Restore the newest snapshot of the folder, if its policies are those of the guard."""
        guard = self._guard()
        if guard is not None and guard._step:
            raise RuntimeError(f"resume() came after {guard._step} steps. Call it before the first one.")
        return self.snapshots.load_(self._check_policies)

    def _check_policies(self, saved: Mapping[str, Any]) -> None:
        guard = self._guard()
        assert guard is not None
        then, now = saved["learned_by"], progress(guard)["learned_by"]
        if then != now:
            raise SnapshotError(
                f"the snapshot is of a guard with clip, detectors and scaler {', '.join(then)}; this one has "
                f"{', '.join(now)}. Build it as it was then, or start afresh in another folder."
            )

    def can_rewind(self) -> bool:
        """Whether there is a snapshot to go back to."""
        return len(self.snapshots.steps) > 0

    def rewind_(self, back: Back) -> act.Restored:
        """Put everything back."""
        self._is_due = False
        num = min(back.snapshots, len(self.snapshots.steps))
        if back.skip_batches == 0:
            return self.snapshots.restore_(num)
        restored = self.snapshots.restore_(num, except_for=self.snapshots.data)
        for batches in self._data():
            batches.skip(back.skip_batches - 1)
        return restored

    @contextmanager
    def last_parameters(self) -> Iterator[None]:
        """The parameters of the newest snapshot in place of the live ones, for an experiment."""
        guard = self._guard()
        assert guard is not None
        saved = self.snapshots.parameters()
        live = dict(guard.model.named_parameters())
        with torch.no_grad():
            now = {name: p.detach().clone() for name, p in live.items()}
            for name, tensor in saved.items():
                live[name].copy_(tensor)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, tensor in now.items():
                    live[name].copy_(tensor)

    def close(self) -> None:
        """Remove the hook and finish what is being written. Safe to call twice."""
        self._finalizer()
        self.snapshots.close()


class _Beginning:
    """Called when a step begins. A copy or a pickle of the model carries an idle hook instead."""

    def __init__(self, rewinding: Rewinding) -> None:
        self._rewinding = weakref.ref(rewinding)
        self.is_compiled = False

    def __call__(self, module: nn.Module | None = None, args: Any = None) -> None:
        if torch.compiler.is_compiling():
            self.is_compiled = True  # nothing can be taken from within a graph
            return
        rewinding = self._rewinding()
        if rewinding is not None and (module is None or rewinding.begins_with(module)):
            rewinding.take_if_due()

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial, (dict.get, {})


_CONTAINERS = (nn.ModuleList, nn.ModuleDict)  # never called themselves


def _parts(module: nn.Module) -> list[nn.Module]:
    """The modules that a model is made of, as far as they are called."""
    parts = []
    for child in module.children():
        parts += _parts(child) if isinstance(child, _CONTAINERS) else [child]
    return parts


def _remove(handles: Sequence[RemovableHandle]) -> None:
    for handle in handles:
        handle.remove()
