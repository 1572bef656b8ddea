"""The stages of one guarded step, for whoever calls the optimizer: a guard, its caller, or the optimizer."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from trimtab import act, measure
from trimtab.decide import NonFinite, Refusal
from trimtab.types import (
    Action,
    Back,
    Blame,
    Decision,
    Fault,
    Kind,
    Mend,
    Needs,
    Origin,
    Place,
    RescaleTensors,
    Rescaling,
    Scale,
    StepOutcome,
    StepStats,
    Verdict,
)

if TYPE_CHECKING:
    from trimtab.guard import Guard

logger = logging.getLogger(__name__)

# A pass over all gradients that no healthy step needs is made in one step of so many
_UNDERFLOW_EVERY = 20

# Runs a step once more: the step as it came out, and what its fault is to be blamed on if it is bad again
Again = Callable[[], tuple["Step", Callable[[], Verdict]]]


class States(NamedTuple):
    """What the policies of a guard remember from step to step.

    Attributes:
        clip: State of the clip.
        detect: State of each detector.
        remedy: State of the remedy.
        cooling: Steps for which the learning rate is still lowered.
    """

    clip: Any
    detect: tuple[Any, ...]
    remedy: Any
    cooling: int = 0


class Dropped(NamedTuple):
    """Micro-batches that were left out of a step: 0-dim counts on the device.

    Attributes:
        num: All of them.
        num_overflowed: Those whose loss was finite: a loss scale may have been too large for them.
    """

    num: Tensor
    num_overflowed: Tensor


@dataclass(frozen=True, slots=True)
class Step:
    """One step, measured but not yet decided."""

    parameters: list[Tensor]
    gradients: list[Tensor]
    stats: StepStats[Tensor]
    rescaling: Rescaling
    clip_state: Any


@dataclass(frozen=True, slots=True)
class Decided:
    """One step, decided but not yet counted: an optimizer may ask again within the same step."""

    step: Step
    outcome: StepOutcome
    states: States
    back: Back | None = None
    gradients: act.Gradients = act.Gradients.FINITE


def measure_step(guard: Guard, loss: Any, *, dropped: Dropped | None = None) -> Step:
    """Measure the gradients as they are now, and let the clip judge them."""
    watched, clip = guard._watched, guard.clip
    watched.refresh()
    if clip is not None and clip.needs != Needs.NOTHING and watched.has_outgrown_layout():
        logger.warning("parameters were added to the optimizer: %r begins to learn anew", clip)
        guard._states = guard._states._replace(clip=clip.init(watched.layout()))
    parameters, gradients = watched.with_gradient()
    norm_type = 2.0 if clip is None else clip.norm_type
    needs = Needs.NOTHING if clip is None else clip.needs
    stats = watched.step_stats(needs, gradients, measure.as_loss(loss), norm_type)
    if dropped is not None:
        stats = replace(stats, num_dropped=dropped.num, num_overflowed=dropped.num_overflowed)
    if guard._scaling is not None and guard._scaling.underflow is not None:
        stats = replace(stats, underflow=guard._scaling.underflow)
    elif guard._looks_at_underflow and guard._step % _UNDERFLOW_EVERY == 0:
        stats = replace(stats, underflow=measure.underflow_share(gradients))
    if clip is None:
        return Step(parameters, gradients, stats, None, None)
    seen = watched.seen_by(needs, stats, parameters)
    rescaling, clip_state = clip.rescale(seen, guard._states.clip)
    rescaling = watched.picked(rescaling, parameters)
    units = None if seen.units is None else [norms for norms in seen.units.gradients if norms is not None]
    stats = replace(stats, units=None)  # nobody looks at them again
    stats = measure.with_clipping(stats, rescaling, gradients, norm_type=norm_type, unit_norms=units)
    return Step(parameters, gradients, stats, rescaling, clip_state)


def decide_step(guard: Guard, step: Step, again: Again | None = None) -> Decided:
    """Read the step, look for faults, ask the remedy, and prepare what it wants.

    Args:
        guard: The guard.
        step: The step as measured.
        again: Runs the step once more, if that is possible.
    """
    if not guard._reads_now():
        unread = replace(step.stats, tensor_norms=None)
        outcome = StepOutcome(guard._step, unread, applied=True, action=Action.APPLY)
        return Decided(step, outcome, guard._states._replace(clip=step.clip_state))
    look = _look(guard, step)
    gradients = _gradients(guard, look)
    decision, states = _ask(guard, look, gradients)
    verdict = None
    if decision.action is Action.RETRY and again is not None:
        first = look
        step, blame = again()
        look = _look(guard, step)
        gradients = _gradients(guard, look)
        if not look.serious:
            decision = Decision(Action.APPLY, "came out well when run again")
            look = look._replace(faults=first.faults)
            verdict = Verdict(Blame.TRANSIENT, ("the same batch and random numbers gave a good step",))
        else:
            decision, states = _ask(guard, look, gradients)
            verdict = blame() if _signature(look) == _signature(first) else _NOT_REPEATABLE
    decision = _possible(guard, decision)
    origin, evidence = _traced(guard, look, gradients, verdict)
    stats = look.stats
    if decision.action is Action.MEND:
        step, stats, decision = _mended(guard, step, look.serious, decision)
    decided = _concluded(guard, step, stats, look.faults, decision, states._replace(detect=look.detected))
    outcome = replace(decided.outcome, verdict=verdict, origin=origin, evidence=evidence)
    return replace(decided, outcome=outcome, gradients=gradients)


def decide_refused(guard: Guard, step: Step) -> Decided:
    """Look at a step that a loss scaler of the caller has refused: the remedy can only go further."""
    look = _look(guard, step)
    gradients = _gradients(guard, look)
    decision, states = _ask(guard, look, gradients)
    if decision.action in (Action.APPLY, Action.MEND, Action.RETRY):
        decision = Decision(Action.SKIP, "the loss scaler refused the step")
    origin, evidence = _traced(guard, look, gradients, None)
    states = states._replace(detect=look.detected)
    decided = _concluded(guard, step, look.stats, look.faults, decision, states)
    outcome = replace(decided.outcome, origin=origin, evidence=evidence)
    return replace(decided, outcome=outcome, gradients=gradients)


def _traced(
    guard: Guard, look: Look, gradients: act.Gradients, verdict: Verdict | None
) -> tuple[Origin | None, Path | None]:
    """Where the bad values were born, before anything is done about them."""
    is_over = verdict is not None and verdict.blame is Blame.TRANSIENT
    # gradients that only the loss scale made too large have nothing to be traced
    if guard._tracing is None or not look.faults or is_over or gradients is act.Gradients.OVERFLOWED:
        return None, None
    return guard._tracing.origin(guard, look.faults)


_NOT_REPEATABLE = Verdict(
    Blame.TRANSIENT, ("the same batch and random numbers came out badly again, but in another way",)
)


def _signature(look: Look) -> set[tuple[Kind, Place, tuple[str, ...]]]:
    """What two runs of one step must have in common for their fault to be the same."""
    return {(f.kind, f.place, tuple(c.name for c in f.culprits)) for f in look.serious}


def _possible(guard: Guard, decision: Decision) -> Decision:
    """The decision, or what is to be done where that cannot be: no second try, no snapshot."""
    while decision.action is Action.RETRY:
        decision = decision.otherwise or Decision(Action.RAISE, "the step was run again to no avail")
    if decision.action is not Action.REWIND or guard._can_rewind():
        return decision
    why = f"{decision.reason}: there is no snapshot yet"
    if decision.otherwise is None:
        return Decision(Action.RAISE, why)
    instead = _possible(guard, decision.otherwise)
    return replace(instead, reason=f"{why}; {instead.reason}")


class Look(NamedTuple):
    """What the host saw of a step.

    Attributes:
        stats: The step as numbers.
        faults: What is wrong in it.
        serious: Those that a remedy is asked about: no advice, nor buffers that this step's own
            forward pass made bad, which are taken back with it.
        detected: What the detectors remember of it.
    """

    stats: StepStats[float]
    faults: tuple[Fault, ...]
    serious: tuple[Fault, ...]
    detected: tuple[Any, ...]


def _look(guard: Guard, step: Step) -> Look:
    """Read the step and look for faults."""
    recording = guard._recording
    wants_layers = recording is not None and recording.writer.wants_layers(guard._step)
    stats = (step.stats if wants_layers else replace(step.stats, tensor_norms=None)).read()
    suspected: list[Fault] = []
    states = []
    for detector, state in zip(guard.detectors, guard._states.detect, strict=True):
        found, new_state = detector.detect(stats, state)
        suspected += found
        states.append(new_state)
    if not suspected:
        return Look(stats, (), (), tuple(states))
    suspects = guard._watched.suspects(step.parameters)
    faults = measure.examine(suspected, suspects, loss=stats.loss)
    if faults and recording is not None:
        stats = step.stats.read()  # of a faulty step the log wants every layer
    return Look(stats, faults, _serious(guard, faults, suspects), tuple(states))


def _serious(guard: Guard, faults: Sequence[Fault], suspects: measure.Suspects) -> tuple[Fault, ...]:
    serious = tuple(fault for fault in faults if not fault.is_advisory)
    if guard._buffers is None or all(fault.place is not Place.BUFFER for fault in serious):
        return serious
    before = measure.census(guard._buffers.as_before(suspects.buffers), Place.BUFFER)
    were_bad = {culprit.name for culprit in before}
    lasting = [
        replace(fault, culprits=tuple(c for c in fault.culprits if c.name in were_bad))
        if fault.place is Place.BUFFER
        else fault
        for fault in serious
    ]
    return tuple(fault for fault in lasting if fault.culprits or fault.place is not Place.BUFFER)


def _ask(guard: Guard, look: Look, gradients: act.Gradients) -> tuple[Decision, States]:
    """What the loss scale, or else the remedy, wants done."""
    states, serious = guard._states, look.serious
    are_bad = guard._scaling is not None and Place.GRADIENT in _non_finite(serious)
    if are_bad and gradients is act.Gradients.OVERFLOWED:
        return Decision(Action.SKIP, "loss scale too large for these gradients"), states
    decision = Decision(Action.APPLY)
    if guard.remedy is not None:
        decision, remedy_state = guard.remedy.decide(serious, look.stats, states.remedy)
        states = states._replace(remedy=remedy_state)
    if are_bad and decision.action is Action.APPLY:
        # as with every loss scaler: what is not finite is never applied
        decision = Decision(Action.SKIP, "the gradients are not finite, and the loss scale is not to blame")
    return decision, states


def _non_finite(faults: Sequence[Fault]) -> set[Place]:
    return {fault.place for fault in faults if fault.kind in (Kind.NAN, Kind.INF)}


def _gradients(guard: Guard, look: Look) -> act.Gradients:
    """What came of the gradients, as far as a loss scale is concerned."""
    bad, stats = _non_finite(look.serious), look.stats
    if guard._scaling is None:
        return act.Gradients.FINITE
    if Place.GRADIENT not in bad:
        return act.Gradients.OVERFLOWED if stats.num_overflowed else act.Gradients.FINITE
    is_deeper = bool(bad - {Place.GRADIENT, Place.LOSS})
    if is_deeper or not guard._scaling.is_to_blame(loss=stats.loss):
        return act.Gradients.BAD
    return act.Gradients.OVERFLOWED


def _mended(
    guard: Guard, step: Step, faults: Sequence[Fault], decision: Decision
) -> tuple[Step, StepStats[float], Decision]:
    """The step after its bad numbers are written over, measured again."""
    suspects = guard._watched.suspects(step.parameters)
    for place, mend in decision.mends:
        _mend_place(suspects.at(place), mend, [f for f in faults if f.place is place])
    spikes = [f for f in faults if f.kind is Kind.SPIKE and f.place is Place.GRADIENT and f.threshold]
    if spikes and any(isinstance(mend, RescaleTensors) for _, mend in decision.mends):
        bound = min(f.threshold for f in spikes if f.threshold)
        act.scale_grads_(step.gradients, Scale((bound / step.stats.grad_norm).clamp(max=1.0)))
    before = step.stats
    step = measure_step(guard, before.loss)
    num, num_overflowed = before.num_dropped, before.num_overflowed
    step = replace(step, stats=replace(step.stats, num_dropped=num, num_overflowed=num_overflowed))
    stats = step.stats.read()
    still_bad, _ = NonFinite().detect(replace(stats, loss=None), None)
    if still_bad:
        decision = Decision(Action.RAISE, f"{decision.reason}; the gradients are still bad afterwards")
    return step, stats, decision


def _mend_place(named: measure.Named, mend: Mend, faults: Sequence[Fault]) -> None:
    culprits = {culprit.name for fault in faults for culprit in fault.culprits}
    limits = [f.threshold for f in faults if f.kind is Kind.OVERFLOW and f.threshold is not None]
    tensors = [tensor for name, tensor in named if name in culprits]
    act.mend_(tensors, mend, limit=min(limits, default=float("inf")))


def _concluded(
    guard: Guard,
    step: Step,
    stats: StepStats[float],
    faults: tuple[Fault, ...],
    decision: Decision,
    states: States,
) -> Decided:
    """What has been decided, and the states that follow from it."""
    applied = decision.action in (Action.APPLY, Action.MEND)
    if applied:
        states = states._replace(clip=step.clip_state, cooling=max(states.cooling - 1, 0))
    else:
        stats = replace(stats, clip_factor=None, clip_share=None)
    starts_cooling = decision.action is Action.REWIND or any(f.kind is Kind.CLIPPING for f in faults)
    if guard.cooldown is not None and starts_cooling:
        states = states._replace(cooling=guard.cooldown.steps)
    outcome = StepOutcome(guard._step, stats, applied, decision.action, faults, decision.reason)
    return Decided(step, outcome, states, decision.back)


def can_run_ahead(guard: Guard, step: Step) -> bool:
    """Whether the device alone can decide this step while the host still waits for the numbers."""
    is_one = step.rescaling is None or (
        isinstance(step.rescaling, Scale) and step.rescaling.factor.dim() == 0
    )
    return (
        is_one
        and guard.remedy is not None
        and guard.remedy.refusal is Refusal.ALWAYS
        and guard.detectors == (NonFinite(),)
        and guard._scaling is None
        and act.gates_on_device(guard.optimizer, step.gradients)
    )


def step_ahead(guard: Guard, step: Step) -> Decided:
    """Queue the optimizer's step, with a flag on the device that stops it, then read and decide."""
    refuse = ~step.stats.grad_norm.isfinite()
    if step.stats.loss is not None:
        refuse = refuse | ~step.stats.loss.isfinite().to(refuse.device)
    factor = step.rescaling.factor if isinstance(step.rescaling, Scale) else None
    if factor is not None:
        refuse = refuse | (factor < act.SMALLEST_IN_KERNEL)
    with act.fused_inputs(guard.optimizer, factor=factor, refuse=refuse), cooled(guard):
        guard.optimizer.step()
    decided = decide_step(guard, step)
    if decided.outcome.applied and decided.outcome.clip_factor < act.SMALLEST_IN_KERNEL:
        with while_stepping(guard, decided):
            guard.optimizer.step()  # the kernel was told to leave this one to the host
    return decided


@contextmanager
def while_stepping(guard: Guard, decided: Decided) -> Iterator[None]:
    """What must hold while the optimizer steps: it sees clipped gradients, and a lowered rate if need be."""
    with ExitStack() as within:
        within.enter_context(clipped(guard, decided))
        within.enter_context(cooled(guard))
        yield


def clipped(guard: Guard, decided: Decided) -> AbstractContextManager[None]:
    """Clipped gradients, in place or inside the optimizer's kernel."""
    step, outcome = decided.step, decided.outcome
    is_read = not isinstance(outcome.stats.grad_norm, Tensor)
    if step.rescaling is None or (is_read and outcome.clip_share == 0.0):
        return nullcontext()  # a pass over all gradients saved
    known = outcome.clip_factor if is_read else None
    return act.clipped(guard.optimizer, step.gradients, step.rescaling, known=known)


def cooled(guard: Guard) -> AbstractContextManager[None]:
    """The learning rate as a cool-down has it in this step."""
    factor = guard._lr_factor()
    return nullcontext() if factor == 1.0 else act.scaled_lr(guard.optimizer, factor)
