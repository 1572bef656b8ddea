"""How a guard finds out where the bad values of a failed step were born."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from torch import Tensor

from trimtab import evidence
from trimtab.act import rng
from trimtab.recall import Call, Recall
from trimtab.trace import loss_origin, optimizer_origin, trace
from trimtab.types import Fault, Kind, Origin, Phase, Place

if TYPE_CHECKING:
    from trimtab.guard import Guard

logger = logging.getLogger(__name__)

# One more trace is allowed for so many steps: at 4 steps a trace, at most 4 % of a run
_STEPS_PER_TRACE = 100
# What looks like nothing before is traced so often, whatever the budget: there are few ways to look
_NOVEL = 2


@final
@dataclass(frozen=True, slots=True)
class TraceFaults:
    """Have a failed step run again under the tracer, which names the operation where its NaN or Inf was born.

    A step is traced before anything is done about it, from the state it began with. With
    `guard.step(closure)` all of it is run again; without a closure the forward and backward passes of the
    model are, from the inputs and output gradients that they had. With a record, the evidence of each
    origin, the first time it is met, is kept in `faults/step-000812` in the run's folder: `trimtab trace`
    runs it again elsewhere.

    Args:
        budget: How many failed steps are traced, 0 for none; besides, one for each 100 steps that were made,
            and the first two of each kind: by what is bad and where, by whether the batch was good, and
            whether the step before failed too.
        keep: How many fault folders stay: the first one and the newest. 0 keeps none.
        max_bytes: Largest size of one fault folder's tensors. What does not fit is left out, the state of the
            optimizer first, then that of the model.
        leave_out: Parts that are never written, such as sensitive data: of "batch", "gradients" (of the
            model's outputs), "model", "optimizer".

    Raises:
        ValueError: A number is negative, or a part is unknown.

    Cost:
        A healthy step: references to its inputs and to the gradients of the model's outputs, and some 10 us.
        A trace: at most 4 times a step.

    Example:
        >>> TraceFaults(budget=3, leave_out=("batch",))
        TraceFaults(budget=3, keep=5, max_bytes=1073741824, leave_out=('batch',))
    """

    budget: int = 10
    keep: int = 5
    max_bytes: int = 1 << 30
    leave_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("budget", "keep", "max_bytes"):
            given = getattr(self, name)
            if not isinstance(given, int) or given < 0:
                raise ValueError(f"TraceFaults({name}={given!r}): expected a whole number >= 0.")
        unknown = [part for part in self.leave_out if part not in evidence.PARTS]
        if unknown or not isinstance(self.leave_out, tuple):
            raise ValueError(
                f"TraceFaults(leave_out={self.leave_out!r}): expected a tuple of {', '.join(evidence.PARTS)}."
            )


class Tracing:
    """The tracer of one guard.

    Args:
        policy: How often, and what is kept.
        guard: The guard.
        folder: Where fault folders go, or None.
    """

    def __init__(self, policy: TraceFaults, guard: Guard, folder: str | os.PathLike[str] | None) -> None:
        self._policy = policy
        self._recall = Recall(guard.model)
        self._folder = None if folder is None else Path(folder)
        self._num_traced = 0
        self._met: Counter[object] = Counter()
        self._last_step = -2
        self._known: dict[object, Path | None] = {}
        self._closure: Callable[[], Any] | None = None
        self._loss: Any = None
        self._batch: Any = None
        self._rng: dict[str, Any] | None = None
        self._lies_outside = False  # of the calls that are seen

    def begin(self, closure: Callable[[], Any] | None, *, loss: Any = None, batch: Any = None) -> None:
        """A step is about to be made.

        Args:
            closure: Runs forward and backward, or None if that is done.
            loss: What the caller gave as loss, with its history.
            batch: What the caller says the batch is.
        """
        self._closure, self._loss, self._batch = closure, loss, batch
        self._rng = None if closure is None else rng.capture_torch()

    def forget(self) -> None:
        """The step is over."""
        if self._lies_outside or not self._recall.num_calls:
            self._recall.look_at_parts()
        self._recall.forget()
        self._lies_outside = False
        self._closure = self._loss = self._batch = self._rng = None

    def close(self) -> None:
        """Remove all hooks. Safe to call twice."""
        self._recall.close()
        self.forget()

    def origin(self, guard: Guard, faults: Sequence[Fault]) -> tuple[Origin | None, Path | None]:
        """Where the bad values of this step were born, and where the evidence is. Changes nothing.

        Args:
            guard: The guard, which has done nothing about the step yet.
            faults: What is wrong with it.
        """
        if not self._wants(guard._step, faults):
            return None, None
        self._num_traced += 1
        with ExitStack() as within:
            within.enter_context(rng.kept())
            within.enter_context(self._recall.paused())
            buffers = guard._buffers
            within.enter_context(nullcontext() if buffers is None else buffers.taken_back())
            found = self._tried(guard, faults)
            is_told = found is not None and found.phase is not Phase.LOSS
            self._lies_outside = self._closure is None and not is_told
            if found is None:
                return None, None
            is_lost = any(f.place is Place.LOSS for f in faults)
            if found.identity not in self._known:
                self._known[found.identity] = self._keep(guard, found, is_lost=is_lost)
        return found, self._known[found.identity]

    def _wants(self, step: int, faults: Sequence[Fault]) -> bool:
        """Whether this step is to be traced: there is budget left, or nothing like it was met before."""
        natures = frozenset((f.kind, f.place) for f in faults if f.kind in (Kind.NAN, Kind.INF))
        if not natures or self._policy.budget == 0:
            return False
        is_next, self._last_step = step == self._last_step + 1, step
        sight = natures, is_next, all(call.has_sound_input for call in self._recall.calls)
        self._met[sight] += 1
        allowed = self._policy.budget + step // _STEPS_PER_TRACE
        return self._num_traced < allowed or self._met[sight] <= _NOVEL

    def _tried(self, guard: Guard, faults: Sequence[Fault]) -> Origin | None:
        """What a replay finds. One that fails must not end a run that the guard is about to save."""
        try:
            return self._find(guard, faults)
        except Exception:
            logger.warning("step %d could not be run again under the tracer", guard._step, exc_info=True)
            return None

    def _find(self, guard: Guard, faults: Sequence[Fault]) -> Origin | None:
        if any(f.place in (Place.PARAMETER, Place.OPTIMIZER_STATE) for f in faults):
            made = optimizer_origin(guard.model, guard.optimizer)
            if made is not None:
                return made
        if self._closure is not None and self._rng is not None:
            rng.restore_(self._rng)
            scaling = guard._scaling
            if scaling is not None:
                scaling.forget()
            return trace(guard.model, self._closure)
        is_lost = any(f.place is Place.LOSS for f in faults)
        found = first_of([(c, c.replayed(guard.model, is_lost=is_lost)) for c in self._recall.calls])
        if (found is None or found.phase is Phase.LOSS) and isinstance(self._loss, Tensor):
            nodes = [node for call in self._recall.calls for node in call.output_nodes]
            found = loss_origin(self._loss, nodes) or found
        return None if found is None else _with_what_was_seen(found, faults)

    def _keep(self, guard: Guard, found: Origin, *, is_lost: bool) -> Path | None:
        """Write the evidence. A disk that is full must not end a run that is about to be saved."""
        if self._folder is None or self._policy.keep == 0:
            return None
        failed = evidence.Failed(
            guard._step, found, guard.model, guard.optimizer, self._recall.calls, self._batch, is_lost=is_lost
        )
        policy = self._policy
        try:
            return evidence.write(
                self._folder, failed, keep=policy.keep, max_bytes=policy.max_bytes, leave_out=policy.leave_out
            )
        except OSError as error:
            logger.warning("the evidence of step %d could not be written: %s", guard._step, error)
            return None


def first_of(replays: Sequence[tuple[Call, Origin | None]]) -> Origin | None:
    """Of what the replays of a step's calls showed, what came first: forward, in order, before backward."""
    found = [(call, origin) for call, origin in replays if origin is not None]
    for call, origin in found:
        # a part that is fed by others tells nothing of what happened in between
        is_passed_on = origin.phase is Phase.INPUT and call.is_fed
        if origin.phase not in (Phase.BACKWARD, Phase.LOSS) and not is_passed_on:
            return origin
    for phase in (Phase.BACKWARD, Phase.LOSS):
        for _, origin in reversed(found):
            if origin.phase is phase:
                return origin
    return None


def _with_what_was_seen(origin: Origin, faults: Sequence[Fault]) -> Origin:
    """What a replay that ends at the model's outputs cannot know: the loss, and all gradients of the step."""
    gradients = [f for f in faults if f.place is Place.GRADIENT]
    names = tuple(dict.fromkeys(c.name for f in gradients for c in f.culprits))
    lost = next((f for f in faults if f.place is Place.LOSS), None)
    if lost is None:
        return replace(origin, poisoned=origin.poisoned or names)
    chain = origin.chain if origin.chain[-1:] == ("the loss",) else (*origin.chain, "the loss")
    return replace(origin, seen=f"the loss became {lost.kind.value}", chain=chain, poisoned=names)
