"""Diagnosis while a run goes on: a look every so many steps, within a budget of time."""

from __future__ import annotations

import logging
import math
import time
from array import array
from dataclasses import dataclass
from statistics import median
from typing import Any, final

from torch import Tensor, nn
from torch.optim import Optimizer

from trimtab.diagnose.engine import diagnose
from trimtab.measure import StepProbe
from trimtab.record import RunLog, Sample, joined
from trimtab.types import Finding, FindingCause, StepOutcome, WriteSignals

logger = logging.getLogger(__name__)

# What is wrong from the start shows in the first steps
_EARLY_STEPS = frozenset({0, 1, 2, 5, 10, 20})
# The run is judged anew when it is so much longer
_GROWTH = 0.1
# A run that has only begun may be slow: what only slows a run is told from so many steps on
_PATIENCE = 500
C = FindingCause  # only a shorter name for the tables
_PATIENT = frozenset(
    {C.LR_TOO_LOW, C.PLATEAU, C.AT_CHANCE, C.LR_DECAYED_TOO_EARLY, C.LABEL_TROUBLE, C.FROZEN, C.UNDERFITTING}
    | {C.CLIPPING_TOO_TIGHT, C.ADAM_EPSILON, C.SECOND_MOMENT, C.INPUT_SCALE, C.CLASS_COLLAPSE}
    | {C.OVER_REGULARIZED, C.NO_WARMUP, C.OVERFITTING, C.LEAK}
)
# unless it brings about one of these
_URGENT = frozenset(
    {C.LOSS_NAN, C.LOSS_EXPLOSION, C.SLOW_DIVERGENCE, C.EXPLODING_GRADIENTS, C.STEP_CHANGES_NOTHING}
    | {C.VANISHING_GRADIENTS}
)
# What may pass, as after a change of the task or a slow begin, is told when so many verdicts in a row say it
_IN_A_ROW = {
    **dict.fromkeys(_PATIENT, 3),
    **{C.SLOW_DIVERGENCE: 4, C.LR_TOO_HIGH: 2, C.OSCILLATION: 2, C.LOSS_SPIKE: 2, C.WEIGHT_GROWTH: 2},
    # the share of a run that its first steps cost shrinks while it goes on
    C.NO_WARMUP: 8,
}
# More looks than this are thinned out: every other one of the older half goes
_MAX_SAMPLES = 256
_COLUMNS = ("step", "loss", "grad_norm", "clip_factor", "lr", "applied")


@final
@dataclass(frozen=True, slots=True)
class Diagnose:
    """Look at a run every so many steps while it goes on, and warn of what is wrong.

    Besides the first steps, one step in `every` is measured: update ratios, activations and gradients
    of the layers, wiring of the optimizer. What was measured goes into the run log, if there is one,
    and every tenth of the run the rules are asked. New findings are logged as warnings, and
    `guard.findings` has them all. What may pass by itself is told when several verdicts in a row say it,
    and what only slows a run from step 500 on.

    Args:
        every: A step is looked at every so many steps.
        budget: Largest share of the run's time. When looking has cost more, looks are left out.

    Raises:
        ValueError: An argument is out of its range.

    Cost:
        See `trimtab.measure.StepProbe`; timed against the steps in between, and held to the budget.

    Example:
        >>> model = torch.nn.Linear(2, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> with Guard(model, optimizer, diagnose=Diagnose(every=10)) as guard:
        ...     for _ in range(30):
        ...         optimizer.zero_grad()
        ...         loss = model(torch.randn(8, 2)).square().mean()
        ...         loss.backward()
        ...         _ = guard.step(loss)
        ...     guard.findings
        ()
    """

    every: int = 50
    budget: float = 0.05

    def __post_init__(self) -> None:
        if not isinstance(self.every, int) or self.every < 1:
            raise ValueError(f"Diagnose(every={self.every!r}): expected a whole number >= 1.")
        if not 0 < self.budget <= 1:
            raise ValueError(f"Diagnose(budget={self.budget}): expected a share of the time in (0, 1].")

    def watch(self, model: nn.Module, optimizer: Optimizer) -> LiveDiagnosis:
        """Begin to watch; a guard calls this.

        Args:
            model: The model.
            optimizer: Its optimizer.
        """
        return LiveDiagnosis(self, model, optimizer)


class LiveDiagnosis:
    """What `Diagnose` knows of one run.

    Args:
        policy: How often to look.
        model: The model.
        optimizer: Its optimizer.
    """

    def __init__(self, policy: Diagnose, model: nn.Module, optimizer: Optimizer) -> None:
        self._policy, self._optimizer = policy, optimizer
        self._probe = StepProbe(model, optimizer)
        self._rows = {name: array("d") for name in _COLUMNS}
        self._samples: dict[int, Sample] = {}
        self._findings: tuple[Finding, ...] = ()
        self._patience = Patience()
        self._clock = _Clock()
        self._is_looking = True
        self._next_verdict = policy.every
        self._probe.open()

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What is wrong, as of the last look."""
        return self._findings

    def log(self) -> RunLog:
        """The run as far as it was seen."""
        columns: dict[str, Any] = dict(self._rows)
        return RunLog.from_arrays(**columns, signals=joined(self._samples))

    def before_update(self, loss: object) -> None:
        """Look at the step before its update, if it is one to be looked at.

        Args:
            loss: The loss with its graph.
        """
        if self._is_looking:
            self._probe.before_update(loss)

    def after_update(self, outcome: StepOutcome, *, lr_factor: float, write: WriteSignals | None) -> None:
        """Note the step, and look at what it changed.

        Args:
            outcome: What happened.
            lr_factor: What a cool-down multiplied the learning rate by.
            write: Writes signals into the run log; None without one.
        """
        if self._is_looking or not isinstance(outcome.stats.grad_norm, Tensor):
            self._note(outcome, lr_factor)
        if self._is_looking:
            sample = self._probe.after_update()
            self._samples[outcome.step] = sample
            self._thin_out()
            if write is not None:
                write(outcome.step, sample)
            if outcome.step >= self._next_verdict:
                self._judge(outcome.step)
        self._clock.tick(was_looking=self._is_looking)
        step = outcome.step + 1 if outcome.rewound_to is None else outcome.rewound_to
        self._is_looking = self._is_due(step)
        if not self._is_looking or outcome.rewound_to is not None:
            self._probe.rest()
        if self._is_looking:
            self._probe.open()

    def close(self) -> None:
        """Remove all hooks."""
        self._probe.close()
        self._is_looking = False

    def _is_due(self, step: int) -> bool:
        if step in _EARLY_STEPS:
            return True
        return step % self._policy.every == 0 and self._clock.share() <= self._policy.budget

    def _note(self, outcome: StepOutcome, lr_factor: float) -> None:
        steps = self._rows["step"]
        while steps and steps[-1] >= outcome.step:  # a rewind: what comes now counts
            for column in self._rows.values():
                column.pop()
        lr = self._optimizer.param_groups[0].get("lr", math.nan)
        rate = math.nan if isinstance(lr, Tensor) else float(lr) * lr_factor
        numbers = (outcome.step, outcome.loss, outcome.grad_norm, outcome.clip_factor, rate, outcome.applied)
        for name, number in zip(_COLUMNS, numbers, strict=True):
            self._rows[name].append(math.nan if number is None else float(number))

    def _thin_out(self) -> None:
        if len(self._samples) > _MAX_SAMPLES:
            steps = sorted(self._samples)
            for step in steps[10 : len(steps) // 2 : 2]:
                del self._samples[step]

    def _judge(self, step: int) -> None:
        self._next_verdict = step + max(self._policy.every, int(_GROWTH * step))
        found = self._patience.sift(step, diagnose(self.log()))
        known = {finding.cause for finding in self._findings}
        for finding in found:
            if finding.cause not in known:
                logger.warning("%s\n  What to try: %s", finding, finding.advice)
        self._findings = found


class Patience:
    """Holds back what is no matter of a run that has only begun, and what may pass by itself."""

    def __init__(self) -> None:
        self._in_a_row: dict[FindingCause, int] = {}

    def sift(self, step: int, found: tuple[Finding, ...]) -> tuple[Finding, ...]:
        """Those findings of a verdict that are to be told.

        Args:
            step: Steps made so far.
            found: What the rules say now; called once for each verdict, in order.
        """
        ripe = [f for f in found if step >= _PATIENCE or is_urgent(f)]
        self._in_a_row = {f.cause: self._in_a_row.get(f.cause, 0) + 1 for f in ripe}
        return tuple(f for f in ripe if is_lost(f) or self._in_a_row[f.cause] >= _needed(f))


def _needed(finding: Finding) -> int:
    if not _URGENT.isdisjoint(finding.symptoms):
        return min(_IN_A_ROW.get(finding.cause, 1), 2)
    return _IN_A_ROW.get(finding.cause, 1)


def is_urgent(finding: Finding) -> bool:
    """Whether a finding is to be told of a run that has only begun.

    Args:
        finding: What was found.
    """
    return finding.cause not in _PATIENT or not _URGENT.isdisjoint(finding.symptoms)


def is_lost(finding: Finding) -> bool:
    """Whether a run does not come back by itself from what was found.

    Args:
        finding: What was found.
    """
    return bool({FindingCause.LOSS_EXPLOSION, FindingCause.LOSS_NAN} & {finding.cause, *finding.symptoms})


class _Clock:
    """Finds out what looking costs by the steps in between."""

    def __init__(self) -> None:
        self._last = time.perf_counter()
        self._plain: list[float] = []
        self._spent = self._elapsed = 0.0

    def tick(self, *, was_looking: bool) -> None:
        now = time.perf_counter()
        took, self._last = now - self._last, now
        self._elapsed += took
        if not was_looking:
            self._plain = [*self._plain[-30:], took]
        elif self._plain:
            self._spent += max(0.0, took - median(self._plain))

    def share(self) -> float:
        # until some step was made without looking nobody knows what looking costs
        return self._spent / self._elapsed if self._plain else 1.0
