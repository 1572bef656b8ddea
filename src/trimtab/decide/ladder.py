"""Remedies made of remedies: by place, by severity, and after a second try."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, final

from trimtab.decide.checks import check_budget, check_role
from trimtab.decide.mending import ZeroBad
from trimtab.decide.protocols import Refusal, Remedy
from trimtab.decide.remedies import Raise, Skip
from trimtab.types import Action, Back, Decision, Fault, Kind, Place, StepStats

# Policies are frozen values: one can be shared as a default
_SKIP, _RAISE = Skip(), Raise()

# From here on a fault is more than a few stray elements
_MILD_SHARE = 0.01


class Rewinds(NamedTuple):
    """Rewinds since the last calm stretch, and healthy steps since the last fault."""

    num: int = 0
    calm: int = 0


@final
@dataclass(frozen=True, slots=True)
class Rewind:
    """Go back to a snapshot when a step is faulty, up to `budget` times, then raise `NonFiniteError`.

    Everything goes back: parameters, buffers, optimizer, scheduler, random numbers, the states of clip
    and detectors. Each further rewind before `calm_steps` healthy steps goes one snapshot further back.
    Needs a guard with `snapshots`.

    Args:
        snapshots: How many snapshots the first rewind goes back; 1 is the newest.
        skip_batches: 1 goes on with the batch after the faulty one. 0 takes the data back too, so that
            every batch is seen again: the exact replay, for faults of the machine. n leaves out n - 1
            batches more, as for PaLM, where 200 to 500 were left out. 0 and n > 1 need `Batches`.
        budget: Rewinds without a calm stretch between them. At least 1.
        calm_steps: So many healthy steps refill the budget.

    Raises:
        ValueError: An argument is out of its range.

    Cost:
        The step's one host read; a rewind copies all of the state back.

    Example:
        >>> fault, stats = Fault(Kind.NAN, Place.PARAMETER), StepStats(loss=2.0, grad_norm=1.0)
        >>> Rewind().decide((fault,), stats, Rewinds())[0].back
        Back(snapshots=1, skip_batches=1)

    References:
        Chowdhery et al., "PaLM: Scaling Language Modeling with Pathways", 2022, arXiv:2204.02311,
        section 5.1.
    """

    refusal: ClassVar[Refusal] = Refusal.SOMETIMES

    snapshots: int = 1
    skip_batches: int = 1
    budget: int = 3
    calm_steps: int = 100

    def __post_init__(self) -> None:
        check_budget("Rewind", self.skip_batches, name="skip_batches")
        for name in ("snapshots", "budget", "calm_steps"):
            check_budget("Rewind", getattr(self, name), name=name, least=1)

    def init(self) -> Rewinds:
        """None yet."""
        return Rewinds()

    def decide(
        self, faults: Sequence[Fault], stats: StepStats[float], state: Rewinds
    ) -> tuple[Decision, Rewinds]:
        """Rewind while the budget lasts."""
        del stats
        if not faults:
            calm = state.calm + 1
            return Decision(Action.APPLY), Rewinds(0 if calm >= self.calm_steps else state.num, calm)
        num = state.num + 1
        if num > self.budget:
            reason = f"rewound {self.budget} times within {self.calm_steps} healthy steps"
            return Decision(Action.RAISE, reason), Rewinds(num, 0)
        # the snapshot of the last rewind is the newest now: one further is the second
        back = Back(self.snapshots if num == 1 else 2, self.skip_batches)
        return Decision(Action.REWIND, f"rewind {num} of {self.budget}", back=back), Rewinds(num, 0)


@final
@dataclass(frozen=True, slots=True)
class Retry:
    """Run a faulty step once more, with the same batch and random numbers, before anything else is done.

    If it comes out well the second time the fault was transient, and the good result is applied.
    Otherwise `then` decides, and the outcome carries a verdict: the same batch is tried on the last
    snapshot, and the guard's `reference` batch on this state, where there are such. Needs
    `guard.step(closure)`; without a closure `then` decides at once.

    Args:
        then: What to do about a fault that stays.

    Raises:
        TypeError: `then` is no remedy.

    Cost:
        The step's one host read; up to three more forward and backward passes in a faulty step.
    """

    refusal: ClassVar[Refusal] = Refusal.SOMETIMES

    then: Remedy[Any] = _SKIP

    def __post_init__(self) -> None:
        check_role("Retry(then", self.then, "decide", "a remedy such as Skip()")

    def init(self) -> Any:
        """The state of `then`."""
        return self.then.init()

    def decide(self, faults: Sequence[Fault], stats: StepStats[float], state: Any) -> tuple[Decision, Any]:
        """Ask for a second try, and say what to do if that fails."""
        decision, state = self.then.decide(faults, stats, state)
        if not faults:
            return decision, state
        return Decision(Action.RETRY, otherwise=decision), state


# What wins when places disagree
_SEVEREST = (Action.RAISE, Action.REWIND, Action.RETRY, Action.SKIP, Action.MEND, Action.APPLY)


@final
@dataclass(frozen=True, slots=True)
class PerPlace:
    """A remedy for each kind of tensor in which a fault may be. The severest decision wins.

    A mending remedy writes to the tensors of its place: `PerPlace(parameter=ZeroBad())` zeroes bad
    weights. A loss cannot be mended; a mending remedy lets it pass.

    Args:
        loss: For faults in the loss.
        gradient: For faults in gradients.
        parameter: For faults in parameters.
        buffer: For faults in buffers.
        optimizer_state: For faults in the optimizer's state.

    Raises:
        TypeError: One of them is no remedy.

    Cost:
        That of the remedies asked.

    Example:
        >>> remedy = PerPlace(gradient=ZeroBad(), parameter=Raise())
        >>> fault, stats = Fault(Kind.NAN, Place.GRADIENT), StepStats(loss=2.0, grad_norm=1.0)
        >>> remedy.decide((fault,), stats, remedy.init())[0].action
        <Action.MEND: 'mend'>
    """

    refusal: ClassVar[Refusal] = Refusal.SOMETIMES

    loss: Remedy[Any] = _SKIP
    gradient: Remedy[Any] = _SKIP
    parameter: Remedy[Any] = _RAISE
    buffer: Remedy[Any] = _RAISE
    optimizer_state: Remedy[Any] = _RAISE

    def __post_init__(self) -> None:
        for place, remedy in self._remedies():
            check_role(f"PerPlace({_field(place)}", remedy, "decide", "a remedy such as Skip()")

    def _remedies(self) -> list[tuple[Place, Remedy[Any]]]:
        return [(place, getattr(self, _field(place))) for place in Place]

    def init(self) -> tuple[Any, ...]:
        """A state for each place."""
        return tuple(remedy.init() for _, remedy in self._remedies())

    def decide(
        self, faults: Sequence[Fault], stats: StepStats[float], state: tuple[Any, ...]
    ) -> tuple[Decision, tuple[Any, ...]]:
        """Ask the remedy of each place about the faults there."""
        decisions, states = [], []
        for (place, remedy), own in zip(self._remedies(), state, strict=True):
            here = [f for f in faults if f.place is place]
            # a remedy that mends knows gradients only: what it says of them is meant for this place
            as_gradients = [replace(f, place=Place.GRADIENT) for f in here]
            decision, new = remedy.decide(as_gradients, stats, own)
            if here:
                decisions.append(_at(place, decision))
            states.append(new)
        return _severest(decisions), tuple(states)


def _field(place: Place) -> str:
    return place.value.replace(" ", "_")


def _at(place: Place, decision: Decision) -> Decision:
    """A decision about the tensors of this place."""
    return replace(
        decision,
        mends=() if place is Place.LOSS else tuple((place, mend) for _, mend in decision.mends),
        reason=f"{place.value}: {decision.reason}" if decision.reason else "",
        otherwise=None if decision.otherwise is None else _at(place, decision.otherwise),
    )


def _severest(decisions: Sequence[Decision]) -> Decision:
    """The severest of the decisions; mends of all places together."""
    if not decisions:
        return Decision(Action.APPLY)
    worst = min(decisions, key=lambda d: _SEVEREST.index(d.action))
    if worst.action is Action.RETRY:
        # a second try is for all places; if it fails, each has its own say
        return replace(worst, otherwise=_severest([d.otherwise or d for d in decisions]))
    if worst.action is not Action.MEND:
        return worst
    mends = tuple(mend for d in decisions for mend in d.mends)
    reason = "; ".join(d.reason for d in decisions if d.reason)
    return Decision(Action.MEND if mends else Action.APPLY, reason, mends=mends)


class Ladder(NamedTuple):
    """The states of the rungs, and healthy steps since the last fault."""

    states: tuple[Any, ...]
    calm: int = 0


@final
@dataclass(frozen=True, slots=True)
class Escalate:
    """Remedies as a ladder: the gravest faults start higher, and a rung that is used up passes on.

    A rung is used up when it raises by itself, as `Skip(budget=5)` does at the sixth fault. So many
    healthy steps in a row as `calm_steps` refill all of them. After the last rung `NonFiniteError` is
    raised with the whole report.

    The first rung is for mild faults: a spike, or up to 1 % bad elements in the gradients concerned. The
    last rung is the first one asked when parameters, buffers or optimizer state are bad; the one in
    the middle (of two, the second) when the loss is bad or more of a gradient is. A rung that rewinds passes
    on while there is no snapshot to go back to.

    Args:
        rungs: Remedies, from the mildest to the strongest.
        calm_steps: Healthy steps in a row that refill all rungs.

    Raises:
        ValueError: There is no rung, or `calm_steps` is less than 1.
        TypeError: A rung is no remedy.

    Cost:
        That of the rungs asked.

    Example:
        >>> remedy = Escalate((ZeroBad(), Skip(budget=2)))
        >>> fault, stats = Fault(Kind.NAN, Place.PARAMETER), StepStats(loss=2.0, grad_norm=1.0)
        >>> state = remedy.init()
        >>> for _ in range(3):
        ...     decision, state = remedy.decide((fault,), stats, state)
        ...     print(decision.action.value)
        skip
        skip
        raise
    """

    refusal: ClassVar[Refusal] = Refusal.SOMETIMES

    rungs: tuple[Remedy[Any], ...] = (ZeroBad(budget=3), Skip(budget=10))
    calm_steps: int = 100

    def __post_init__(self) -> None:
        if not isinstance(self.rungs, tuple) or not self.rungs:
            raise ValueError(
                f"Escalate(rungs={self.rungs!r}): expected a tuple of remedies, such as (ZeroBad(), Skip())."
            )
        for rung in self.rungs:
            check_role("Escalate(rungs", rung, "decide", "remedies such as (ZeroBad(), Skip())")
        check_budget("Escalate", self.calm_steps, name="calm_steps", least=1)

    def init(self) -> Ladder:
        """All rungs unused."""
        return Ladder(tuple(rung.init() for rung in self.rungs))

    def decide(
        self, faults: Sequence[Fault], stats: StepStats[float], state: Ladder
    ) -> tuple[Decision, Ladder]:
        """Ask the rungs from the one this severity starts with."""
        if not faults:
            calm = state.calm + 1
            return Decision(Action.APPLY), self.init() if calm >= self.calm_steps else Ladder(
                state.states, calm
            )
        states = list(state.states)
        start = (severity(faults) * (len(self.rungs) - 1) + 1) // 2
        return self._asked(start, faults, stats, states), Ladder(tuple(states))

    def _asked(
        self, start: int, faults: Sequence[Fault], stats: StepStats[float], states: list[Any]
    ) -> Decision:
        """What the first rung from this one on that is not used up wants. `states` are brought up to date."""
        used_up = []
        is_retried = False
        for index in range(start, len(self.rungs)):
            decision, states[index] = self.rungs[index].decide(faults, stats, states[index])
            if decision.action is Action.RETRY and decision.otherwise is not None:
                is_retried, decision = True, decision.otherwise
            if decision.action is not Action.RAISE:
                decision = replace(
                    decision, reason=f"rung {index + 1} of {len(self.rungs)}: {decision.reason}"
                )
                break
            used_up.append(f"{type(self.rungs[index]).__name__}: {decision.reason}")
        else:
            decision = Decision(Action.RAISE, "every rung is used up; " + "; ".join(used_up))
        if decision.action is Action.REWIND and index + 1 < len(self.rungs):
            # only for want of a snapshot: the budgets of these rungs are not drawn on
            decision = replace(decision, otherwise=self._asked(index + 1, faults, stats, list(states)))
        return Decision(Action.RETRY, otherwise=decision) if is_retried else decision


def severity(faults: Sequence[Fault]) -> int:
    """How grave faults are: 0 mild, 1 moderate, 2 severe. See `Escalate`.

    Example:
        >>> severity([Fault(Kind.SPIKE, Place.LOSS)]), severity([Fault(Kind.NAN, Place.LOSS)])
        (0, 1)
    """
    if any(f.place in (Place.PARAMETER, Place.BUFFER, Place.OPTIMIZER_STATE) for f in faults):
        return 2
    if any(f.place is Place.LOSS and f.kind is not Kind.SPIKE for f in faults):
        return 1
    num_bad = sum(c.num_nan + c.num_inf + c.num_overflow for c in _once(faults))
    num = sum(c.num_elements for c in _once(faults))
    return int(num_bad > _MILD_SHARE * num)


def _once(faults: Sequence[Fault]) -> list[Any]:
    return list({c.name: c for f in faults for c in f.culprits if f.place is Place.GRADIENT}.values())
