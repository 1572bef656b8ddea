"""What happened in a run, as plain facts: faulty steps, bursts of clipping, learning rates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from trimtab.record.log import FaultEvent, RunLog
from trimtab.report.bursts import ClippingEpisode as ClippingEpisode
from trimtab.report.bursts import clipping_episodes
from trimtab.report.rates import LearningRateEpisode as LearningRateEpisode
from trimtab.report.rates import learning_rate_episodes
from trimtab.types import Action, Culprit, Kind, Place

# Runs of faulty steps up to this long count as scattered when there are at least so many of them.
_SHORT_STEPS, _MIN_SCATTERED = 3, 3
_NUM_NAMED = 3


@dataclass(frozen=True, slots=True)
class FaultEpisode:
    """Faulty steps of the same nature: in a row, or scattered one by one over a stretch of the run.

    Attributes:
        first: First faulty step.
        last: Last faulty step.
        num_steps: Number of faulty steps; fewer than `last - first + 1` when they are scattered.
        is_scattered: Whether healthy steps lie between them.
        natures: What was wrong and where, in the order of the step: loss, gradient, ...
        action: What was done with these steps.
        reason: Why, of the first of them.
        named: The first few culprits of the first step, as counted then.
        num_culprits: Number of different tensors concerned, per place, aligned to `natures`.
        num_layers: Number of parameters the optimizer has, 0 if unknown.
        worst: The culprit with the largest share of bad elements, if any was counted.
        thresholds: What counted as overflow or as a spike, the lowest of the steps, or None; aligned to
            `natures`.
    """

    first: int
    last: int
    num_steps: int
    is_scattered: bool
    natures: tuple[tuple[Place, Kind], ...]
    action: Action
    reason: str
    named: tuple[Culprit, ...]
    num_culprits: tuple[int, ...]
    num_layers: int
    worst: Culprit | None
    thresholds: tuple[float | None, ...]


Episode = FaultEpisode | ClippingEpisode | LearningRateEpisode


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Neighboring steps with the same faults: `events` holds those of each step."""

    nature: tuple[tuple[Place, Kind], ...]
    action: Action
    steps: tuple[int, ...]
    events: tuple[tuple[FaultEvent, ...], ...]


def episodes(log: RunLog) -> tuple[Episode, ...]:
    """What happened in the run, in the order of the steps.

    Neighboring faulty steps of the same nature (same kinds, same places, same action) are one
    episode. At least three short ones of the same nature that are scattered over the run are one
    episode as well. Steps that were clipped far more strongly than those before are another kind,
    and so is a short stretch with a far larger learning rate, unless such clipping overlaps it and
    tells that rate.

    Args:
        log: The run.

    Cost:
        About a second for a million steps.

    Example:
        >>> log = RunLog.from_arrays(loss=[1.0, float("nan"), float("nan"), 1.0])
        >>> [sentence(episode) for episode in episodes(log)]
        ['Steps 1-2: the loss was NaN; the updates were applied all the same.']
    """
    stretches = list(_stretches(log))
    short: dict[object, list[_Stretch]] = {}
    for stretch in stretches:
        if len(stretch.steps) <= _SHORT_STEPS:
            short.setdefault((stretch.nature, stretch.action), []).append(stretch)
    scattered = {key: group for key, group in short.items() if len(group) >= _MIN_SCATTERED}
    found: list[Episode] = [_fault_episode(group, len(log.layer_names)) for group in scattered.values()]
    for stretch in stretches:
        key = (stretch.nature, stretch.action)
        if len(stretch.steps) > _SHORT_STEPS or key not in scattered:
            found.append(_fault_episode([stretch], len(log.layer_names)))
    clipped = clipping_episodes(log)
    found += clipped
    found += [rate for rate in learning_rate_episodes(log) if not _is_told(rate, clipped)]
    return tuple(sorted(found, key=lambda episode: (episode.first, episode.last)))


def sentence(episode: Episode) -> str:
    """An episode in plain words.

    Args:
        episode: One of `episodes(log)`.
    """
    if isinstance(episode, ClippingEpisode | LearningRateEpisode):
        return episode.sentence
    clauses = [
        _clause(episode, place, kind, num, limit)
        for (place, kind), num, limit in zip(
            episode.natures, episode.num_culprits, episode.thresholds, strict=True
        )
    ]
    if len(clauses) > 1 and episode.natures[-1][0] is Place.LOSS:
        clauses[-1] += " as well"
    update = "update was" if episode.num_steps == 1 else "updates were"
    done = {
        Action.SKIP: f"the {update} skipped",
        Action.APPLY: f"the {update} applied all the same",
        Action.MEND: f"the bad numbers were written over and the {update} applied",
        Action.REWIND: "the run went back to a snapshot",
        Action.RAISE: "the training was stopped",
    }
    clauses.append(done.get(episode.action, f"action taken: {episode.action.value}"))
    return f"{_when(episode)}: {'; '.join(clauses)}."


def _is_told(rate: LearningRateEpisode, clipped: Sequence[ClippingEpisode]) -> bool:
    return any(c.names_lr and c.first <= rate.last and rate.first <= c.last for c in clipped)


def _stretches(log: RunLog) -> Iterator[_Stretch]:
    """Faulty steps whose rows follow each other and whose faults have the same nature."""
    # members are the same objects everywhere, and hashing one runs Python code: ids are ten times faster
    known: dict[tuple[int, ...], tuple[tuple[Place, Kind], ...]] = {}
    faulty = []
    for step, group in groupby(log.faults, key=lambda fault: fault.step):
        events = tuple(group)
        key = tuple(id(part) for event in events for part in (event.place, event.kind))
        nature = known.get(key) or known.setdefault(key, _nature(events))
        faulty.append((step, nature, events[-1].action, events))
    rows = np.searchsorted(log.step, [step for step, *_ in faulty])
    start = 0
    for end in range(1, len(faulty) + 1):
        if end < len(faulty) and rows[end] == rows[end - 1] + 1 and faulty[end][1:3] == faulty[start][1:3]:
            continue
        part = faulty[start:end]
        steps = tuple(step for step, *_ in part)
        yield _Stretch(part[0][1], part[0][2], steps, tuple(events for *_, events in part))
        start = end


def _nature(events: Sequence[FaultEvent]) -> tuple[tuple[Place, Kind], ...]:
    order = {place: i for i, place in enumerate(Place)}
    # the loss goes last in a sentence: the gradient names the culprits
    order[Place.LOSS] = len(order)
    return tuple(sorted({(f.place, f.kind) for f in events}, key=lambda n: (order[n[0]], n[1].value)))


def _fault_episode(group: Sequence[_Stretch], num_layers: int) -> FaultEpisode:
    head = group[0]
    names: dict[tuple[Place, Kind], set[str]] = {nature: set() for nature in head.nature}
    limits: dict[tuple[Place, Kind], float] = {}
    seen: set[int] = set()
    worst: Culprit | None = None
    for stretch in group:
        for event in (event for events in stretch.events for event in events):
            if event.threshold is not None:  # that of a spike moves from step to step
                nature = event.place, event.kind
                limits[nature] = min(event.threshold, limits.get(nature, event.threshold))
            if id(event.culprits) in seen:  # the reader shares what is the same from step to step
                continue
            seen.add(id(event.culprits))
            for culprit in event.culprits:
                names[event.place, event.kind].add(culprit.name)
                if worst is None or _share(culprit) > _share(worst):
                    worst = culprit
    opening = head.events[0]
    tensors = [c for event in opening if event.place is not Place.LOSS for c in event.culprits]
    return FaultEpisode(
        first=head.steps[0],
        last=group[-1].steps[-1],
        num_steps=sum(len(stretch.steps) for stretch in group),
        is_scattered=len(group) > 1,
        natures=head.nature,
        action=head.action,
        reason=opening[-1].reason,
        named=tuple({(c.place, c.name): c for c in tensors}.values())[:_NUM_NAMED],
        num_culprits=tuple(len(names[nature]) for nature in head.nature),
        num_layers=num_layers,
        worst=worst,
        thresholds=tuple(limits.get(nature) for nature in head.nature),
    )


def _share(culprit: Culprit) -> float:
    bad = culprit.num_nan + culprit.num_inf + culprit.num_overflow
    return bad / max(culprit.num_elements, 1)


def _when(episode: FaultEpisode) -> str:
    if episode.is_scattered:
        return f"{episode.num_steps} steps between {episode.first} and {episode.last}"
    return f"Step {episode.first}" if episode.num_steps == 1 else f"Steps {episode.first}-{episode.last}"


def _clause(episode: FaultEpisode, place: Place, kind: Kind, num_culprits: int, limit: float | None) -> str:
    became = {
        Kind.NAN: "became NaN",
        Kind.INF: "became infinite",
        Kind.OVERFLOW: "grew beyond " + ("the threshold" if limit is None else f"{limit:g}"),
        Kind.SPIKE: "spiked above " + ("the usual" if limit is None else f"{limit:.3g}"),
        Kind.CLIPPING: "was clipped hard in nearly every step",
        Kind.UNDERFLOW: "lost many of its elements to underflow",
    }[kind]
    if kind in (Kind.CLIPPING, Kind.UNDERFLOW):
        return f"the gradient {became}"
    if kind is Kind.SPIKE:
        return f"the {'loss' if place is Place.LOSS else 'norm of the gradients'} {became}"
    if place is Place.LOSS:
        return "the loss " + {Kind.NAN: "was NaN", Kind.INF: "was infinite"}.get(kind, became)
    nouns = {
        Place.GRADIENT: ("the gradient of", "gradients of {} parameters"),
        Place.PARAMETER: ("the parameter", "{} parameters"),
        Place.BUFFER: ("the buffer", "{} buffers"),
        Place.OPTIMIZER_STATE: ("the optimizer state", "{} tensors of the optimizer state"),
    }
    one, many = nouns.get(place, (f"the {place.value} of", "{} tensors"))
    first = next((c for c in episode.named if c.place is place and c.count(kind)), None)
    if first is None:
        what = f"the {place.value}" if num_culprits == 0 else many.format(num_culprits)
        return f"{what} {became}"
    elements = f"{first.count(kind)} of {first.num_elements} element{'s' if first.num_elements > 1 else ''}"
    count = f"all {num_culprits}" if num_culprits == episode.num_layers else str(num_culprits)
    if num_culprits == 1:
        return f"{one} {first.name} {became} ({elements})"
    return f"{many.format(count)} {became} (first: {first.name}, {elements})"
