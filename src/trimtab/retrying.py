"""A faulty step run again, and the experiments that tell what to blame."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from trimtab import act, measure
from trimtab.act import rng
from trimtab.stepping import Step, measure_step
from trimtab.types import Blame, Verdict

if TYPE_CHECKING:
    from trimtab.guard import Guard

_AGAIN = "the same batch and random numbers gave the same kind of fault again"


class Rerun:
    """What is needed to run one step again. Made before the step's closure is called.

    Args:
        guard: The guard of the step.
        closure: The step's closure.
    """

    def __init__(self, guard: Guard, closure: Callable[[], Any]) -> None:
        self._guard = guard
        self._closure = closure
        self._rng = rng.capture()

    def __call__(self) -> tuple[Step, Callable[[], Verdict]]:
        """Run the step again, from the same buffers and random numbers."""
        guard = self._guard
        guard._take_back_buffers()
        rng.restore_(self._rng)
        if guard._scaling is not None:
            guard._scaling.forget()
        loss = measure.evaluate(self._closure)
        guard._unscale_()
        return measure_step(guard, loss), self._blame

    def _blame(self) -> Verdict:
        """Try this batch on an older state, and another batch on this state. Both leave nothing behind."""
        guard = self._guard
        now, hidden = rng.capture(), act.hide_gradients_(list(guard._watched.names))
        try:
            older, other = self._on_older_state(), self._on_reference()
        finally:
            act.show_gradients_(hidden)
            rng.restore_(now)
        evidence = [_AGAIN]
        if older is not None:
            evidence.append(f"this batch on the last snapshot came out {'well' if older else 'badly too'}")
        if other is not None:
            evidence.append(f"the reference batch on this state came out {'well' if other else 'badly too'}")
        return Verdict(_blamed(older=older, other=other), tuple(evidence))

    def _on_older_state(self) -> bool | None:
        guard = self._guard
        if guard._rewinding is None or not guard._rewinding.can_rewind():
            return None
        with guard._rewinding.last_parameters():
            return self._comes_out_well(self._closure, from_start=self._rng)

    def _on_reference(self) -> bool | None:
        if self._guard.reference is None:
            return None
        return self._comes_out_well(self._guard.reference, from_start=self._rng)

    def _comes_out_well(self, closure: Callable[[], Any], *, from_start: Any) -> bool:
        """Whether loss and gradients of this closure are finite, from the buffers the step began with."""
        guard = self._guard
        guard._take_back_buffers()
        rng.restore_(from_start)
        for parameter in guard._watched.names:
            parameter.grad = None
        loss = measure.as_loss(measure.evaluate(closure))
        _, gradients = guard._watched.with_gradient()
        stats = measure.step_stats(gradients, loss).read()
        guard._take_back_buffers()
        return bool(torch.tensor([stats.grad_norm, stats.loss or 0.0]).isfinite().all())


def _blamed(*, older: bool | None, other: bool | None) -> Blame:
    """What two experiments say: this batch on an older state, another batch on this state."""
    if older is None and other is None:
        return Blame.DETERMINISTIC
    data = [not older] if older is not None else []
    data += [other] if other is not None else []
    if all(data):
        return Blame.DATA
    # they disagree: it takes both this batch and this state
    return Blame.DETERMINISTIC if any(data) else Blame.STATE
