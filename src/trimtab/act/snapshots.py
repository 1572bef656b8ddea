"""Snapshots of a whole training run to go back to: in memory, and on disk if a folder is given."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from trimtab.act.batches import Batches
from trimtab.act.snapshot_files import SnapshotFolder
from trimtab.act.training_state import Restored, Stateful, TrainingState
from trimtab.act.tree import Flat, TreeCopy, flatten, num_bytes
from trimtab.errors import SnapshotError

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Held:
    """A snapshot in memory. It is proven once `every` healthy steps have followed it."""

    step: int
    copy: TreeCopy
    is_proven: bool = False


class Snapshots:
    """The last states of a training run that were good, and the way back to them.

    A snapshot holds parameters and all buffers, the optimizer's state and hyperparameters, whatever is in
    `also`, the random number generators (Python, NumPy, torch, CUDA) and the caller's policies. It is taken
    only of a state that was verified finite. Going back and continuing gives, bit for bit on the CPU, what
    an uninterrupted run gives.

    The newest snapshot that was followed by healthy steps up to the next one is *proven*. It is kept, in
    memory and on disk, until a newer one is proven: a run that goes wrong slowly does not push out the last
    state from which it went well.

    Args:
        every: A snapshot is due after step 0 and then after every so many steps.
        keep: How many of the newest are held; an older proven one is held besides.
        folder: Where each snapshot is also written (needs `pip install 'trimtab[snapshots]'`), or None.
        also: Whatever else has `state_dict` and `load_state_dict`, by name: schedulers, scalers, an EMA,
            `Batches`. They are restored in this order, before the model.
        memory_budget_bytes: Limit for all snapshots in memory; fewer are held if need be. With room for one
            only, that one is the newest, proven or not.

    Attributes:
        also: The objects by name.
        data: Names in `also` of the `Batches`.

    Raises:
        ValueError: A number is no whole number of at least 1.
        TypeError: An object in `also` has no `state_dict` or no `load_state_dict`, or is a loader without
            `Batches` around it.

    Cost:
        Taking one: a copy of all the state into memory that is used again; no host read of its own
        (`GradScaler.state_dict` reads its scale). On CUDA the copy goes to pinned memory and is not waited
        for; not run on a GPU. On disk: see `SnapshotFolder`.

    Example:
        >>> from trimtab.act.snapshots import Snapshots
        >>> model = torch.nn.Linear(1, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> snapshots = Snapshots(every=10)
        >>> snapshots.bind(model, optimizer)
        >>> snapshots.take(0, policies=None)
        >>> _ = torch.nn.init.constant_(model.weight, float("nan"))
        >>> snapshots.restore_()
        Restored(step=0, policies=None)
        >>> model.weight.isfinite().all()
        tensor(True)

    References:
        Chowdhery et al., "PaLM: Scaling Language Modeling with Pathways", 2022, arXiv:2204.02311, section
        5.1, for going back about 100 steps.
    """

    def __init__(
        self,
        *,
        every: int = 100,
        keep: int = 3,
        folder: str | os.PathLike[str] | None = None,
        also: Mapping[str, Stateful] | None = None,
        memory_budget_bytes: int | None = None,
    ) -> None:
        for name, given in (("every", every), ("keep", keep), ("memory_budget_bytes", memory_budget_bytes)):
            is_count = isinstance(given, int) and not isinstance(given, bool) and given >= 1
            if not is_count and (given is not None or name != "memory_budget_bytes"):
                raise ValueError(f"Snapshots({name}={given!r}): expected a whole number >= 1.")
        _check_also(also)
        self.every = every
        self.keep = keep
        self.folder = None if folder is None else os.fspath(folder)
        self.also: Mapping[str, Stateful] = MappingProxyType(dict(also or {}))
        self.data = tuple(name for name, thing in self.also.items() if isinstance(thing, Batches))
        self.memory_budget_bytes = memory_budget_bytes
        self._held: list[_Held] = []  # oldest first
        self._is_healthy = True  # no fault since the newest was taken or restored
        self._state: TrainingState | None = None
        self._files: SnapshotFolder | None = None

    def __repr__(self) -> str:
        return (
            f"Snapshots(every={self.every}, keep={self.keep}, folder={self.folder!r}, "
            f"also={list(self.also)}, memory_budget_bytes={self.memory_budget_bytes})"
        )

    @property
    def steps(self) -> tuple[int, ...]:
        """Steps of the snapshots in memory, oldest first."""
        return tuple(held.step for held in self._held)

    @property
    def proven(self) -> int | None:
        """Step of the newest proven snapshot in memory, or None."""
        return next((held.step for held in reversed(self._held) if held.is_proven), None)

    def bind(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Say of what the snapshots are. The guard does this.

        Args:
            model: The model.
            optimizer: Its optimizer.

        Raises:
            RuntimeError: They are bound already.
            SnapshotError: The folder cannot be used, or somebody else writes to it.
            MissingDependencyError: There is a folder, but safetensors is not installed.
        """
        if self._state is not None:
            raise RuntimeError("these Snapshots belong to another guard already. Make one for each guard.")
        if self.folder is not None:
            self._files = SnapshotFolder(self.folder, keep=self.keep)
        self._state = TrainingState(model, optimizer, self.also)

    def wants(self, step: int) -> bool:
        """Whether a snapshot is due after this step.

        Args:
            step: Number of the step, counted from 0.
        """
        return step % self.every == 0

    def take(self, step: int, policies: Any) -> None:
        """Copy the state as it is now. Only for a state that was verified finite.

        Best called between two steps, when the scheduler and the EMA have moved as well: see
        `Batches.on_next`.

        Args:
            step: Number of the step just made.
            policies: A tree to save with it.

        Raises:
            TypeError: An object's state holds something that no snapshot can hold; the message says where.
            ValueError: The memory budget has no room for even one, or `step` is not after the last one.
            SnapshotError: The snapshot before this one could not be written to the folder.
            RuntimeError: `bind` was not called.
        """
        state = self._bound()
        if self._held and step <= self._held[-1].step:
            raise ValueError(f"take({step}): the newest snapshot is of step {self._held[-1].step} already")
        flat = flatten(state.capture(step, policies))
        self._check_budget(flat)
        if self._files is not None:
            self._files.wait()  # it may be reading the memory that is used again
        if self._held and self._is_healthy:
            self._held[-1].is_proven = True
            if self._files is not None:
                self._files.mark_proven(self._held[-1].step)
        copy = TreeCopy(flat, memory=self._make_room(num_bytes(flat.tensors)))
        self._held.append(_Held(step, copy))
        self._is_healthy = True
        if self._files is not None:
            self._files.write(step, copy)

    def note_fault(self) -> None:
        """A step was faulty: the newest snapshot is not proven by it and those up to the next one."""
        self._is_healthy = False

    def parameters(self) -> dict[str, Tensor]:
        """The parameters of the newest snapshot by name, to look at and not to write to.

        Raises:
            SnapshotError: There is no snapshot.
        """
        if not self._held:
            raise SnapshotError("parameters(): no snapshot is held yet.")
        copy = self._held[-1].copy
        return {name: copy.tensors[at.index] for name, at in copy.structure["model"]["parameters"].items()}

    def restore_(self, back: int = 1, *, except_for: Collection[str] = ()) -> Restored:
        """Write everything back as it was, and drop the snapshots after that.

        Tensors stay the objects they are, wherever they still fit.

        Args:
            back: 1 for the newest snapshot, 2 for the one before it, and so on.
            except_for: Names in `also` that are left as they are: with `snapshots.data` the run goes on with
                the batches that follow now instead of seeing the old ones again.

        Returns:
            The step after which the snapshot had been taken, and the policies of then.

        Raises:
            ValueError: `back` is below 1, or `also` has no such name.
            SnapshotError: There are not so many, the model is not as it was, or the newer ones cannot be
                removed from the folder; nothing was changed.
            RuntimeError: `bind` was not called.
        """
        state = self._bound()
        if back < 1:
            raise ValueError(
                f"restore_(back={back}): expected 1 for the newest snapshot, 2 for the one before it"
            )
        unknown = set(except_for) - set(self.also)
        if unknown:
            raise ValueError(f"restore_(except_for={sorted(unknown)}): also has {sorted(self.also)}")
        if back > len(self._held):
            raise SnapshotError(
                f"restore_(back={back}): {len(self._held)} snapshots are held, of steps {self.steps}. Give "
                "Snapshots a larger keep."
            )
        held = self._held[-back]
        state.check(held.copy, except_for)
        if self._files is not None:
            self._files.drop_newer(held.step)  # it may fail, so it comes before anything is changed
        restored = state.restore_(held.copy, except_for=except_for)
        del self._held[len(self._held) - back + 1 :]
        self._is_healthy = True
        return restored

    def load_(self, accept: Callable[[Any], None] | None = None) -> Restored | None:
        """Go on where an earlier process left off: restore the newest whole snapshot of the folder.

        Build everything as it was then, call this, and continue. A damaged snapshot is set aside with a
        `NumericalWarning`, in favor of the one before it.

        Args:
            accept: Called with the policies before anything is changed; raises if they are not right.

        Returns:
            The step after which it had been taken, and its policies; None if the folder holds none.

        Raises:
            SnapshotError: All are damaged; or the newest is of another model, optimizer or set of names.
            RuntimeError: There is no folder, `bind` was not called, or a snapshot was already taken.
        """
        state = self._bound()
        if self._files is None:
            raise RuntimeError("load_() needs a folder: Snapshots(folder='runs/exp1/snapshots')")
        if self._held:
            raise RuntimeError(
                f"load_() came after the snapshot of step {self._held[-1].step}. Call it first."
            )
        read = self._files.newest()
        if read is None:
            return None
        self._check_budget(read.flat)
        copy = TreeCopy(read.flat, devices=read.devices)
        if accept is not None:
            accept(copy.structure["policies"])
        restored = state.restore_(copy)
        self._files.drop_newer(read.step)
        self._held.append(_Held(read.step, copy))
        self._is_healthy = True
        return restored

    def close(self) -> None:
        """Wait for what is being written and let go of the folder. Safe to call twice.

        Raises:
            SnapshotError: The last snapshot could not be written.
        """
        if self._files is not None:
            self._files.close()

    def _bound(self) -> TrainingState:
        if self._state is None:
            raise RuntimeError("these Snapshots are not bound yet. Give them to a Guard, or call bind().")
        return self._state

    def _check_budget(self, flat: Flat) -> None:
        needed = num_bytes(flat.tensors)
        budget = self.memory_budget_bytes
        if budget is None:
            return
        if needed > budget:
            raise ValueError(
                f"Snapshots(memory_budget_bytes={budget}): one snapshot of this run takes {needed} bytes. "
                "Give at least that, better twice as much, or None for no limit."
            )
        if not self._held and budget < 2 * needed:
            _log.warning(
                "the memory budget of %d bytes has room for one snapshot of %d bytes: only the newest is "
                "held, proven or not",
                budget,
                needed,
            )

    def _make_room(self, needed: int) -> TreeCopy | None:
        """Drop what must go before one more is held. Returns one of those, whose memory is free."""
        dropped = None
        while surplus := self._surplus(needed):
            victim = surplus[0]
            self._held.remove(victim)
            dropped = victim.copy
        return dropped

    def _surplus(self, needed: int) -> list[_Held]:
        """Those that must give way to one more, the first one first."""
        others = [held for held in self._held if held.step != self.proven]
        older = self._held[: max(0, len(self._held) + 1 - self.keep)]
        surplus = [held for held in others if held in older]
        held_bytes = sum(held.copy.num_bytes for held in self._held)
        if self.memory_budget_bytes is not None and held_bytes + needed > self.memory_budget_bytes:
            return others or self._held
        return surplus


def _check_also(also: Any) -> None:
    if also is not None and not isinstance(also, Mapping):
        raise TypeError(f"Snapshots(also={also!r}): expected a dict, such as {{'scheduler': scheduler}}.")
    for name, thing in (also or {}).items():
        if isinstance(thing, type) or not isinstance(thing, Stateful):
            shown = thing.__name__ if isinstance(thing, type) else type(thing).__name__
            raise TypeError(
                f"Snapshots(also={{{name!r}: ...}}): {shown} has no state_dict and load_state_dict. Wrap a "
                "loader in Batches; give other objects these two methods."
            )
        if hasattr(thing, "__iter__") and not isinstance(thing, (Batches, nn.Module)):
            raise TypeError(
                f"Snapshots(also={{{name!r}: ...}}): a running loop over {type(thing).__name__} would not be "
                "moved by a rewind. Wrap it in Batches, give that here, and loop over that."
            )
