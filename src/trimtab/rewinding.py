"""When a guard takes snapshots, and the way back."""

from __future__ import annotations

import functools
import logging
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from trimtab import act
from trimtab.resuming import progress
from trimtab.types import Back, StepOutcome

if TYPE_CHECKING:
    from trimtab.guard import Guard

logger = logging.getLogger(__name__)


class Rewinding:
    """The snapshots of one guard.

    A snapshot that is due is not taken at the end of `guard.step()`: a scheduler and an average of the
    weights are stepped after that. It is taken when the next step begins, which shows first in
    `Batches`, else in the closure, else in the first training forward pass.

    Args:
        guard: The guard.
        snapshots: Where they are kept.
    """

    def __init__(self, guard: Guard, snapshots: act.Snapshots) -> None:
        snapshots.bind(guard.model, guard.optimizer)
        self.snapshots = snapshots
        self._guard = weakref.ref(guard)
        self._is_due = False
        hook = guard.model.register_forward_pre_hook(_Beginning(self), prepend=True)
        handles = [hook, *(batches.on_next(_Beginning(self)) for batches in self._data())]
        self._finalizer = weakref.finalize(self, _remove, handles)

    def _data(self) -> list[act.Batches[Any]]:
        return [x for x in self.snapshots.also.values() if isinstance(x, act.Batches)]

    def note(self, outcome: StepOutcome) -> None:
        """A step is over: it may be time for a snapshot, or the last one is in doubt."""
        if any(not fault.is_advisory for fault in outcome.faults):
            self.snapshots.note_fault()
        else:
            self._is_due = self._is_due or self.snapshots.wants(outcome.step)

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

    def __call__(self, module: nn.Module | None = None, args: Any = None) -> None:
        rewinding = self._rewinding()
        if rewinding is not None and (module is None or module.training):
            rewinding.take_if_due()

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial, (dict.get, {})


def _remove(handles: Sequence[RemovableHandle]) -> None:
    for handle in handles:
        handle.remove()
