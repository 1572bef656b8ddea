"""Steps that the guard does not call itself: the caller's own, and those within an optimizer's search."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from torch.optim import Optimizer

from trimtab import act, measure
from trimtab.concluding import conclude_step
from trimtab.stepping import Decided, clipped, cooled, decide_step, measure_step, while_stepping
from trimtab.types import Action, StepOutcome

if TYPE_CHECKING:
    from trimtab.guard import Guard


class _RefusedError(Exception):
    """Leaves an optimizer that is still evaluating its closure."""


class Attachment:
    """Guards every `optimizer.step()` of the caller until `detach()`; also a context manager."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._within = ExitStack()  # what must hold while the optimizer steps
        self._hidden: act.Hidden = ()  # gradients of a refused step, until it is over
        self._pending: Decided | None = None
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
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is not None and guard._rewinding is not None:
            guard._rewinding.take_if_due()
        if guard._tracing is not None:
            guard._tracing.begin(closure)
        loss = None if closure is None else measure.evaluate(closure)
        if not guard._watched.has_gradient():
            # a step that changes nothing, as frameworks sometimes make: let it pass
            return None if closure is None else ((optimizer, lambda: loss), {})
        guard._unscale_()
        decided = decide_step(guard, measure_step(guard, loss))
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

    def _after(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        del optimizer, args, kwargs
        self._let_go()
        if self._pending is not None:
            decided, self._pending = self._pending, None
            conclude_step(self._guard, decided)

    def _let_go(self) -> None:
        """Take back what was arranged for the step."""
        self._within.close()
        act.show_gradients_(self._hidden)
        self._hidden = ()


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
