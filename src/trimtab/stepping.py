"""What a step is on its way through the guard, and the steps in which the guard is not the one who calls."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.optim import Optimizer

from trimtab import act, measure
from trimtab.types import Action, Scale, StepOutcome, StepStats

if TYPE_CHECKING:
    from trimtab.guard import Guard


@dataclass(frozen=True, slots=True)
class Step:
    """One step, measured but not yet decided."""

    parameters: list[Tensor]
    gradients: list[Tensor]
    stats: StepStats[Tensor]
    scale: Scale | None
    clip_state: Any


@dataclass(frozen=True, slots=True)
class Verdict:
    """One step, decided but not yet counted: an optimizer may ask again within the same step."""

    outcome: StepOutcome
    clip_state: Any
    detector_states: tuple[Any, ...]
    remedy_state: Any


class _RefusedError(Exception):
    """Leaves an optimizer that is still evaluating its closure."""


class Attachment:
    """Guards every `optimizer.step()` of the caller until `detach()`; also a context manager."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._within = ExitStack()  # what must hold while the optimizer steps
        self._hidden: act.Hidden = ()  # gradients of a refused step, until it is over
        self._pending: tuple[Step, Verdict] | None = None
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
        loss = None if closure is None else measure.evaluate(closure)
        if not guard._watched.has_gradient():
            # a step that changes nothing, as frameworks sometimes make: let it pass
            return None if closure is None else ((optimizer, lambda: loss), {})
        act.check_unscaled(optimizer)
        step = guard._measure(loss)
        verdict = guard._decide(step)
        if verdict.outcome.action is Action.RAISE:
            guard._conclude(step, verdict)
        if verdict.outcome.applied:
            self._within.enter_context(guard._clipped(step, verdict.outcome))
        else:
            self._hidden = act.hide_gradients_(step.parameters)
        self._pending = step, verdict
        if closure is None:
            return None
        return (optimizer, lambda: loss), {}  # the closure has run; the optimizer gets its result

    def _after(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        del optimizer, args, kwargs
        self._let_go()
        if self._pending is not None:
            step, verdict = self._pending
            self._pending = None
            self._guard._conclude(step, verdict)

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
    evaluations: list[tuple[Step, Verdict]] = []

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
