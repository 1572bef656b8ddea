"""Steps that the guard does not call itself: the caller's own, and those within an optimizer's search."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from trimtab import act, measure
from trimtab.concluding import conclude_step
from trimtab.stepping import (
    Decided,
    clipped,
    cooled,
    decide_refused,
    decide_step,
    measure_step,
    while_stepping,
)
from trimtab.types import Action, StepOutcome, StepStats

if TYPE_CHECKING:
    from trimtab.guard import Guard


class _RefusedError(Exception):
    """Leaves an optimizer that is still evaluating its closure."""


class Attachment:
    """Guards every `optimizer.step()` of the caller until `detach()`; also a context manager.

    Args:
        guard: The guard.
        loss: Tells the loss of the step about to be made, where no closure does.
    """

    def __init__(self, guard: Guard, loss: Callable[[], Tensor | None] | None = None) -> None:
        self._guard = guard
        self._loss = loss
        self._within = ExitStack()  # what must hold while the optimizer steps
        self._hidden: act.Hidden = ()  # gradients of a refused step, until it is over
        self._pending: Decided | None = None
        self._search: _Search | None = None
        self._hooks = (
            guard.optimizer.register_step_pre_hook(self._before),
            guard.optimizer.register_step_post_hook(self._after),
        )

    def detach(self) -> None:
        """Leave the optimizer as it was found. Safe to call twice."""
        self._let_go()
        for hook in self._hooks:
            hook.remove()
        self._guard._attachment = None

    def follow(self, scaler: torch.amp.GradScaler) -> None:
        """Let the caller's own loss scaler unscale, skip and move; the guard looks on.

        Gradients that are not finite because of its scale are then no fault. `note_refused` tells of the
        steps that it skips.

        Args:
            scaler: The one that steps this optimizer, enabled.
        """
        scaling = self._guard._scaling
        if not (isinstance(scaling, act.FollowedScaling) and scaling.scaler is scaler):
            self._guard._scaling = act.FollowedScaling(scaler)

    def note_refused(self) -> None:
        """Count a step that the caller's loss scaler kept from the optimizer, and put back buffers.

        Raises:
            NonFiniteError: The scale is not to blame, and the remedy gave up.
        """
        guard = self._guard
        if guard._watched.has_gradient():
            loss = None if self._loss is None else self._loss()
            self._conclude(decide_refused(guard, measure_step(guard, loss)))

    def __enter__(self) -> Attachment:
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()

    def _before(self, optimizer: Optimizer, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        guard = self._guard
        # the last step may have ended in somebody else's exception: its gradients are history
        self._within.close()
        self._hidden = ()
        self._pending = None
        self._search = None
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is not None and guard._rewinding is not None:
            guard._rewinding.take_if_due()
        if guard._tracing is not None:
            guard._tracing.begin(closure)
        if guard._needs_closure:
            if closure is None:
                return None  # the optimizer says so itself
            self._search = _Search(guard, closure)
            self._within.enter_context(cooled(guard))
            return (optimizer, self._search.evaluate), {}
        loss = None if closure is None else measure.evaluate(closure)
        if not guard._watched.has_gradient():
            # a step that changes nothing, as frameworks sometimes make: let it pass
            return None if closure is None else ((optimizer, lambda: loss), {})
        if guard._watch is not None:
            guard._watch.before_update(loss)
        guard._unscale_()
        decided = self._decide(loss, is_callers=closure is not None)
        if decided.outcome.action is Action.RAISE:
            conclude_step(guard, decided)
        if decided.outcome.applied:
            self._within.enter_context(while_stepping(guard, decided))
        else:
            self._hidden = act.hide_gradients_(decided.step.parameters)
        self._pending = decided
        if closure is None:
            return None
        return (optimizer, lambda: loss), {}  # the closure has run; the optimizer gets its result

    def _decide(self, loss: Any, *, is_callers: bool) -> Decided:
        guard = self._guard
        if is_callers or self._loss is None:
            return decide_step(guard, measure_step(guard, loss))
        told = self._loss()
        if guard._tracing is not None:
            guard._tracing.begin(None, loss=told)
        found = measure.as_loss(told)
        if found is None or not _has_peers():
            return decide_step(guard, measure_step(guard, found))
        # each rank has a loss of its own, but all must decide alike: it is recorded and decides nothing
        decided = decide_step(guard, measure_step(guard, None))
        recording = guard._recording
        if recording is None or not (decided.outcome.faults or recording.writer.wants(guard._step)):
            return decided
        read = StepStats(loss=found, grad_norm=found).read()
        stats = replace(decided.outcome.stats.read(), loss=read.loss)
        return replace(decided, outcome=replace(decided.outcome, stats=stats))

    def _after(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        del optimizer, args, kwargs
        self._let_go()
        if self._pending is not None:
            decided, self._pending = self._pending, None
            self._conclude(decided)
        if self._search is not None:
            search, self._search = self._search, None
            search.end()

    def _conclude(self, decided: Decided) -> None:
        guard = self._guard
        is_callers_scale = isinstance(guard._scaling, act.FollowedScaling)
        if is_callers_scale and decided.gradients is act.Gradients.OVERFLOWED and guard._buffers is not None:
            # the forward pass was good, and the caller's run keeps what it did to buffers
            guard._buffers.forget()
        conclude_step(guard, decided)

    def _let_go(self) -> None:
        """Take back what was arranged for the step."""
        self._within.close()
        act.show_gradients_(self._hidden)
        self._hidden = ()


class _Search:
    """One step of the caller by an optimizer that evaluates its closure several times, moving in between.

    Once an evaluation is refused, the optimizer is shown no gradients any more, which ends its search, and
    is put back when it has ended.
    """

    def __init__(self, guard: Guard, closure: Callable[[], Any]) -> None:
        self._guard = guard
        self._closure = closure
        self._rollback = act.Rollback(guard.optimizer)
        self._first: Decided | None = None
        self._refused: Decided | None = None
        self._good_loss: Any = None  # a line search goes astray at a NaN
        self._hidden: act.Hidden = ()

    def evaluate(self) -> Any:
        """In place of the closure."""
        guard = self._guard
        if self._refused is not None:
            return self._good_loss
        loss = measure.evaluate(self._closure)
        if not guard._watched.has_gradient():
            return loss
        guard._unscale_()
        decided = decide_step(guard, measure_step(guard, loss))
        if decided.outcome.applied:
            if self._first is None:
                self._first, self._good_loss = decided, loss
            with clipped(guard, decided):
                return loss
        self._refused = decided
        if decided.outcome.action is Action.RAISE:
            self.end()
        self._hidden = act.hide_gradients_(decided.step.parameters)
        if self._first is None:
            self._good_loss = loss  # there is none
        return self._good_loss

    def end(self) -> None:
        """The optimizer has ended its search."""
        act.show_gradients_(self._hidden)
        if self._refused is not None:
            self._rollback.restore_()
        decided = self._refused or self._first
        if decided is not None:
            conclude_step(self._guard, decided)


def _has_peers() -> bool:
    """Whether other processes train the same model."""
    distributed = torch.distributed
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def step_searching(guard: Guard, closure: Callable[[], Any] | None) -> StepOutcome:
    """A step of an optimizer that evaluates its closure several times, moving in between."""
    if closure is None:
        raise RuntimeError(
            f"{type(guard.optimizer).__name__} evaluates the loss several times in one step: pass a "
            "closure that zeroes the gradients, runs forward and backward and returns the loss."
        )
    evaluations: list[Decided] = []

    def evaluate() -> Any:
        if guard._tracing is not None:
            guard._tracing.begin(closure)
        loss = measure.evaluate(closure)
        guard._unscale_()
        decided = decide_step(guard, measure_step(guard, loss))
        evaluations.append(decided)
        if not decided.outcome.applied:
            raise _RefusedError
        with clipped(guard, decided):
            return loss

    rollback = act.Rollback(guard.optimizer)
    try:
        with cooled(guard):
            guard.optimizer.step(evaluate)
    except _RefusedError:
        rollback.restore_()
        return conclude_step(guard, evaluations[-1])
    return conclude_step(guard, evaluations[0])
