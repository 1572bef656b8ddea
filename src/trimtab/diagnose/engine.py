"""From a run log to findings: ask every rule whose signals are there, then explain away."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from trimtab.diagnose.clues import Clue, Rule
from trimtab.diagnose.explain import KEEPS_FROM_LEARNING, NEVER_MEANT, findings
from trimtab.diagnose.importing import load
from trimtab.diagnose.rules import RULES
from trimtab.diagnose.view import View
from trimtab.record import RunLog
from trimtab.types import Finding


def diagnose(log: RunLog | str | os.PathLike[str], *, rules: Sequence[Rule] = RULES) -> tuple[Finding, ...]:
    """Say what is wrong with a run, one finding per root cause, the worst first; () when nothing is.

    A log of a guard with `diagnose=Diagnose()` says most. Plain arrays, `RunLog.from_arrays(loss=...)`,
    are enough for what shows in the loss; `certificate` tells what could not be seen.

    Args:
        log: The run, finished or not; or where it is, as `load` reads it.
        rules: Rules to ask.

    Returns:
        Findings with cause, severity, evidence, confidence and advice.

    Raises:
        TypeError: It is neither a run log nor a path.
        RunLogError: There is no log at that path.

    Cost:
        Some 10 ms for a thousand steps, a second for a million.

    Example:
        >>> diagnose(RunLog.from_arrays(loss=[2.0 * 0.98**k + 0.1 for k in range(200)]))
        ()
        >>> exploding = RunLog.from_arrays(loss=[1.0] * 30 + [1.5**k for k in range(30)], lr=[0.5] * 60)
        >>> [finding.severity.value for finding in diagnose(exploding)]
        ['critical']
    """
    run = load(log) if isinstance(log, (str, os.PathLike)) else log
    return findings(clues(run, rules=rules))


def clues(log: RunLog, *, rules: Sequence[Rule] = RULES) -> tuple[Clue, ...]:
    """Everything that the rules saw, before it is explained away.

    Args:
        log: The run.
        rules: Rules to ask.

    Raises:
        TypeError: It is not a run log.
    """
    if not isinstance(log, RunLog):
        raise TypeError(
            f"diagnose() got {type(log).__name__}: expected a RunLog, as trimtab.load(path) or "
            "RunLog.from_arrays(loss=...) give it, or a path."
        )
    if log.num_steps == 0:
        return ()
    view = View(log)
    # losses near the end of the range are what this is about
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        return tuple(_asked(view, rules))


def _asked(view: View, rules: Sequence[Rule]) -> Iterator[Clue]:
    for rule in rules:
        if rule.needs not in view.has:
            continue
        for clue in rule.look(view):
            has_learned = view.loss_is_gone if clue.cause in NEVER_MEANT else view.has_learned
            is_beside = clue.cause in KEEPS_FROM_LEARNING and has_learned
            yield replace(clue, stands_alone=False) if is_beside else clue
