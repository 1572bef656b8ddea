"""What a diagnosis looked at, what it would have caught, and what it could not see."""

from __future__ import annotations

import math
from dataclasses import dataclass

from trimtab.diagnose.course import MIN_STEPS
from trimtab.diagnose.rules import RULES
from trimtab.diagnose.view import WORDS, Need, View
from trimtab.record import RunLog
from trimtab.types import Finding


@dataclass(frozen=True, slots=True)
class Certificate:
    """What silence of the diagnosis means for one run.

    Attributes:
        num_steps: Steps in the log.
        checked: Causes that the log has the signals for.
        unseen: Causes that it has not, so that nothing can be said of them.
        missing: The signals that would show those.
        smallest_drift: A lasting rise of the loss by this factor would have been told; None if none would.
        steps_to_notice: After so many steps of such a rise.
    """

    num_steps: int
    checked: tuple[str, ...]
    unseen: tuple[str, ...]
    missing: tuple[str, ...]
    smallest_drift: float | None
    steps_to_notice: int | None

    @property
    def text(self) -> str:
        """The certificate in words."""
        lines = [f"{self.num_steps} steps, looked at for: {', '.join(self.checked) or 'nothing'}."]
        if self.smallest_drift is not None:
            lines.append(
                "A lasting rise of the loss by a factor of "
                f"{self.smallest_drift:.2g} would have shown within "
                f"{self.steps_to_notice} steps."
            )
        if self.unseen:
            lines.append(f"Not visible without {'; '.join(self.missing)}: {', '.join(self.unseen)}.")
        return "\n".join(lines)


def certificate(log: RunLog) -> Certificate:
    """Tell what was checked and what could not be seen.

    Args:
        log: The run.

    Raises:
        TypeError: It is not a run log.

    Example:
        >>> certificate(RunLog.from_arrays(loss=[1.0] * 100)).missing[0]
        'the learning rate'
    """
    if not isinstance(log, RunLog):
        raise TypeError(
            f"certificate() got {type(log).__name__}: expected a RunLog, as trimtab.load(path) gives it."
        )
    if log.num_steps == 0:
        everything = tuple(dict.fromkeys(c.value for rule in RULES for c in rule.causes))
        return Certificate(0, (), everything, ("any step",), None, None)
    view = View(log)
    asked = [rule for rule in RULES if rule.needs in view.has]
    checked = dict.fromkeys(cause.value for rule in asked for cause in rule.causes)
    unseen = dict.fromkeys(c.value for rule in RULES for c in rule.causes if c.value not in checked)
    absent = Need.NOTHING
    for rule in RULES:
        absent |= rule.needs & ~view.has
    missing = tuple(words for need, words in WORDS.items() if need in absent)
    drift, steps = _power(view)
    return Certificate(log.num_steps, tuple(checked), tuple(unseen), missing, drift, steps)


def _power(view: View) -> tuple[float | None, int | None]:
    """The smallest lasting rise that the test of divergence sees, and how long it takes."""
    course = view.loss
    if len(course) < MIN_STEPS or not course.is_positive:
        return None, None
    medians, edges, noise = course.blocks
    # five standard errors for the test, and two more so that it is seen with 95 % probability
    size = max(math.log(1.5), 7 * noise)
    width = int(edges[1] - edges[0])
    per_step = int(max(1, (course.steps[-1] - course.steps[0]) / max(len(course) - 1, 1)))
    return math.exp(size), per_step * width * max(2, len(medians) // 10)


def as_facts(finding: Finding) -> dict[str, object]:
    """A finding as JSON takes it."""
    return {
        "cause": finding.cause.value,
        "severity": finding.severity.value,
        "confidence": finding.confidence,
        "summary": finding.summary,
        "advice": finding.advice,
        "steps": list(finding.steps),
        "layer": finding.layer,
        "symptoms": [cause.value for cause in finding.symptoms],
        "runners_up": [cause.value for cause in finding.runners_up],
        "evidence": [
            {
                "name": e.name,
                "value": e.value if math.isfinite(e.value) else repr(e.value),
                "unit": e.unit,
                "limit": e.limit if e.limit is None or math.isfinite(e.limit) else repr(e.limit),
            }
            for e in finding.evidence
        ],
    }
