"""What follows a step that is over: states, buffers, scale, snapshots and log, or the end of the run."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from trimtab import act
from trimtab.errors import NonFiniteError, SnapshotError
from trimtab.resuming import restore_progress_
from trimtab.stepping import Decided
from trimtab.types import Action, Back, StepOutcome, StepStats

if TYPE_CHECKING:
    from trimtab.guard import Guard

logger = logging.getLogger(__name__)


def conclude_step(guard: Guard, decided: Decided) -> StepOutcome:
    """Count a step that is over.

    Raises:
        NonFiniteError: The remedy gave up.
    """
    outcome, lr_factor = decided.outcome, guard._lr_factor()
    guard._states = decided.states
    if guard._tracing is not None:
        guard._tracing.forget()
    _settle(guard, decided)
    next_step, failure = guard._step + 1, None
    if outcome.action is Action.REWIND and decided.back is not None:
        try:
            next_step = _rewound(guard, decided.back)
            outcome = replace(outcome, rewound_to=next_step)
        except SnapshotError as error:
            failure = error
            reason = f"{outcome.reason}, but there is no way back: {error}"
            outcome = replace(outcome, action=Action.RAISE, reason=reason)
    elif guard._rewinding is not None:
        guard._rewinding.note(outcome)
    _tell(guard, decided, outcome, lr_factor=lr_factor)
    guard._step = next_step
    if guard._rewinding is not None:
        guard._rewinding.end_step()
    if outcome.action is Action.RAISE:
        raise NonFiniteError(
            f"{outcome.describe()}\n  The model and the optimizer are as before this step; "
            "the gradients are left in place.",
            step=outcome.step,
            outcome=outcome,
        ) from failure
    return outcome


def _settle(guard: Guard, decided: Decided) -> None:
    """Leave buffers and loss scale as they are after such a step."""
    outcome = decided.outcome
    if guard._buffers is not None and outcome.applied:
        if outcome.action is Action.MEND:
            guard._buffers.take_back_bad_()
        guard._buffers.forget()
    else:
        guard._take_back_buffers()
    if guard._scaling is not None:
        looked = guard._scaling.underflow is not None
        underflow = outcome.stats.read().underflow if looked else None
        guard._scaling.conclude(decided.gradients, underflow=underflow)


def _tell(guard: Guard, decided: Decided, outcome: StepOutcome, *, lr_factor: float) -> None:
    """Have the outcome at hand, and in the log."""
    guard.outcome = outcome
    if outcome.faults:
        guard._num_faulty += 1
        # a loss scale that finds its size is no fault of the run
        level = logging.INFO if decided.gradients is act.Gradients.OVERFLOWED else logging.WARNING
        _log_fault(outcome, guard._num_faulty, level)
    if guard._recording is not None and (outcome.faults or guard._recording.writer.wants(guard._step)):
        guard._opened(guard._recording).append(decided.step.parameters, outcome, lr_factor=lr_factor)
    if guard._watch is not None:
        write = None if guard._recording is None else guard._opened(guard._recording).writer.signal
        guard._watch.after_update(outcome, lr_factor=lr_factor, write=write)


def pass_over(guard: Guard) -> StepOutcome:
    """Count a step whose micro-batches were all empty: nothing is applied, and nothing is wrong."""
    stats: StepStats[float] = StepStats(loss=None, grad_norm=0.0)
    outcome = StepOutcome(
        guard._step, stats, applied=False, action=Action.SKIP, reason="every micro-batch was empty"
    )
    guard._take_back_buffers()
    if guard._tracing is not None:
        guard._tracing.forget()
    guard.outcome = outcome
    if guard._recording is not None and guard._recording.writer.wants(guard._step):
        guard._opened(guard._recording).append((), outcome, lr_factor=guard._lr_factor())
    guard._step += 1
    if guard._rewinding is not None:
        guard._rewinding.end_step()
    return outcome


def _rewound(guard: Guard, back: Back) -> int:
    """Put everything back but the remedy's budget and a cool-down; the number of the step made next."""
    assert guard._rewinding is not None
    remedy, cooling = guard._states.remedy, guard._states.cooling
    restored = guard._rewinding.rewind_(back)
    restore_progress_(guard, restored.policies)
    guard._states = guard._states._replace(remedy=remedy, cooling=cooling)
    return restored.step + 1


def _log_fault(outcome: StepOutcome, num_faulty: int, level: int) -> None:
    """Tell about the first five faulty steps, then about the 8th, 16th, 32nd ..."""
    if num_faulty <= 5 or num_faulty & (num_faulty - 1) == 0:
        logger.log(level, "faulty step number %d: %s", num_faulty, outcome.describe())
