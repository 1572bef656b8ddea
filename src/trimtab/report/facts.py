"""The facts of a run that both the page and the terminal tell, as (label, text) pairs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from trimtab.record.columns import FloatArray
from trimtab.record.log import FaultEvent, RunLog
from trimtab.types import Place


@dataclass(frozen=True, slots=True)
class Fact:
    """One line of a table of facts.

    Attributes:
        label: What it is.
        text: The value, ready to read.
    """

    label: str
    text: str


def run_facts(log: RunLog) -> tuple[Fact, ...]:
    """What happened, in numbers: steps, updates, loss, norm, score.

    Args:
        log: The run.
    """
    if log.num_steps == 0:
        return (Fact("Steps", "none"),)
    num_applied = int(log.applied.sum())
    num_faulty = len({fault.step for fault in log.faults})
    facts = [
        Fact("Steps", f"{log.num_steps:,} ({log.step[0]} to {log.step[-1]})"),
        Fact("Updates", f"{num_applied:,} applied, {log.num_steps - num_applied:,} not"),
        Fact("Faulty steps", f"{num_faulty:,} ({_percent(num_faulty / log.num_steps)})"),
    ]
    if log.given("loss").any():
        facts.append(Fact("Loss", _from_to(log.loss)))
    if log.given("grad_norm").any():
        facts.append(Fact("Gradient norm", _median_max(log.grad_norm)))
    if log.given("clip_factor").any():
        there = log.clip_factor[np.isfinite(log.clip_factor)]
        clipped = float(np.mean(there < 1.0)) if len(there) else 0.0
        facts.append(Fact("Clipped", f"{_percent(clipped)} of the steps"))
    facts.append(Fact("Stability score", f"{log.stability_score.mean():.3f} on average"))
    if log.given("time").any():
        facts.append(Fact("Duration", _duration(float(np.nanmax(log.time) - np.nanmin(log.time)))))
    for name, (steps, values) in log.metrics.items():
        if len(steps):
            facts.append(Fact(name, f"{values[-1]:.4g} at step {steps[-1]}"))
    return tuple(facts)


def setup_facts(log: RunLog) -> tuple[Fact, ...]:
    """How the run was set up: start, policies, layers, versions, notes.

    Args:
        log: The run.
    """
    header = log.header
    if header is None:
        return ()
    facts = [Fact("Started", header.created.replace("T", " ").replace("+00:00", " UTC"))]
    facts += [Fact(role.capitalize(), policy) for role, policy in header.policies.items()]
    if header.layer_names:
        num = sum(math.prod(shape) for shape in header.layer_shapes)
        facts.append(Fact("Parameters", f"{num:,} in {len(header.layer_names):,} tensors"))
    if header.versions:
        facts.append(Fact("Versions", ", ".join(f"{name} {v}" for name, v in header.versions.items())))
    facts += [Fact(name, text) for name, text in header.notes.items()]
    facts.append(Fact("Run", header.run_id))
    return tuple(facts)


def culprits_in_words(fault: FaultEvent, num_named: int = 3) -> str:
    """Which tensors, and how many of their elements: "embed.weight (512 of 8192), 25 more".

    Args:
        fault: The fault.
        num_named: How many tensors to name.
    """
    if fault.place is Place.LOSS:
        return "loss"
    words = [f"{c.name} ({c.count(fault.kind):,} of {c.num_elements:,})" for c in fault.culprits[:num_named]]
    if len(fault.culprits) > num_named:
        words.append(f"{len(fault.culprits) - num_named:,} more")
    return ", ".join(words)


def _percent(share: float) -> str:
    if 0 < share < 0.0005:
        return "< 0.1%"
    if 0.9995 < share < 1:
        return "> 99.9%"
    return f"{100 * share:.3g}%"


def _from_to(values: FloatArray) -> str:
    there = values[np.isfinite(values)]
    if len(there) == 0:
        return "never finite"
    text = f"{there[0]:.4g} at first, {there[-1]:.4g} at last, lowest {there.min():.4g}"
    return text if math.isfinite(values[-1]) else text + "; not finite at the end"


def _median_max(values: FloatArray) -> str:
    there = values[np.isfinite(values)]
    if len(there) == 0:
        return "never finite"
    with np.errstate(over="ignore"):  # the mean of the two middle ones may be beyond the largest float
        middle = float(np.median(there))
    return f"median {middle:.3g}, largest {there.max():.3g}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.3g} s"
    minutes, hours = seconds / 60, seconds / 3600
    return f"{minutes:.3g} min" if minutes < 120 else f"{hours:.3g} h"
