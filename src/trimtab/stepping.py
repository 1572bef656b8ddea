"""Steps in which the guard is not the one who calls: `attach()`, and optimizers that search."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any

from torch.optim import Optimizer

from trimtab import act, measure
from trimtab.types import Action, StepOutcome

if TYPE_CHECKING:
    from trimtab.guard import Guard, _Step, _Verdict


class _RefusedError(Exception):
    """Leaves an optimizer that is still evaluating its closure."""


class Attachment:
    """Guards every `optimizer.step()` of the caller until `detach()`; also a context manager."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._within = ExitStack()  # what must hold while the optimizer steps
        self._pending: tuple[_Step, _Verdict] | None = None
        self._hooks = (
            guard.optimizer.register_step_pre_hook(self._before),
            guard.optimizer.register_step_post_hook(self._after),
        )

    def detach(self) -> None:
        """Leave the optimizer as it was found. Safe to call twice."""
        self._within.close()
        for hook in self._hooks:
            hook.remove()
        self._guard._attachment = None

    def __enter__(self) -> Attachment:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()

    def _before(self, optimizer: Optimizer, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        guard = self._guard
        self._within.close()  # the last step may have ended in somebody else's exception
        self._pending = None
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        loss = None if closure is None else measure.evaluate(closure)
        if not guard._watched.has_gradient():
            # a step that changes nothing, as frameworks sometimes make: let it pass
            return None if closure is None else ((optimizer, lambda: loss), {})
        step = guard._measure(loss)
        verdict = guard._decide(step)
        if verdict.outcome.action is Action.RAISE:
            guard._conclude(step, verdict)
        if verdict.outcome.applied:
            self._within.enter_context(guard._clipped(step, verdict.outcome))
        else:
            self._within.enter_context(act.without_gradients(step.parameters))
        self._pending = step, verdict
        if closure is None:
            return None
        return (optimizer, lambda: loss), {}  # the closure has run; the optimizer gets its result

    def _after(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        del optimizer, args, kwargs
        self._within.close()
        if self._pending is not None:
            step, verdict = self._pending
            self._pending = None
            self._guard._conclude(step, verdict)


def step_searching(guard: Guard, closure: Callable[[], Any] | None) -> StepOutcome:
    """A step of an optimizer that evaluates its closure several times, moving in between."""
    if closure is None:
        raise RuntimeError(
            f"{type(guard.optimizer).__name__} evaluates the loss several times in one step: pass a "
            "closure that zeroes the gradients, runs forward and backward and returns the loss."
        )
    evaluations: list[tuple[_Step, _Verdict]] = []

    def evaluate() -> Any:
        loss = measure.evaluate(closure)
        step = guard._measure(loss)
        verdict = guard._decide(step)
        evaluations.append((step, verdict))
        if not verdict.outcome.applied:
            raise _RefusedError
        with guard._clipped(step, verdict.outcome):
            return loss

    rollback = act.Rollback(guard.optimizer)
    try:
        guard.optimizer.step(evaluate)
    except _RefusedError:
        rollback.restore_()
        return guard._conclude(*evaluations[-1])
    return guard._conclude(*evaluations[0])
