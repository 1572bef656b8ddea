"""The detectors of a guard, for loops that have no guard: numbers in, faults out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, final

from trimtab.decide import LossSpike, NonFinite, NormSpike
from trimtab.decide.checks import check_role
from trimtab.measure import as_number
from trimtab.types import Fault, StepStats


class Anomaly(NamedTuple):
    """What is suspicious about one step.

    Attributes:
        step: The step.
        faults: Why.
    """

    step: int
    faults: tuple[Fault, ...]


@final
class AnomalyDetection:
    """Watches loss and gradient norm of any loop, in any framework, with the detectors of `trimtab.Guard`.

    Args:
        detect: Detectors [default: NaN and Inf, spikes of the loss, spikes of the norm].

    Raises:
        TypeError: Something else was given.

    Attributes:
        found: All anomalies so far.

    Cost:
        Some microseconds per step; nothing is read from a device other than the numbers given.

    Example:
        >>> anomalies = AnomalyDetection()
        >>> for step in range(100):
        ...     found = anomalies.update(loss=1.0 if step != 80 else 50.0)
        >>> [(each.step, each.faults[0].kind.value) for each in anomalies.found]
        [(80, 'spike')]
    """

    def __init__(self, detect: Sequence[Any] | None = None) -> None:
        default: list[Any] = [NonFinite(), LossSpike(), NormSpike()]
        self._detectors: list[Any] = default if detect is None else list(detect)
        for detector in self._detectors:
            check_role("AnomalyDetection(detect", detector, "detect", "detectors such as LossSpike()")
        self._states = [detector.init() for detector in self._detectors]
        self._num_steps = 0
        self.found: list[Anomaly] = []

    def update(
        self, *, loss: Any = None, grad_norm: Any = None, step: int | None = None
    ) -> tuple[Fault, ...]:
        """Look at one step.

        Args:
            loss: The loss, if it is known.
            grad_norm: The global norm of the gradients, if it is known.
            step: Its number; counted from 0 if not given.

        Returns:
            What is suspicious; empty for a healthy step.

        Raises:
            TypeError: Something is no number.
            ValueError: It has several elements.
        """
        here = self._num_steps if step is None else step
        self._num_steps = here + 1
        # a norm of 0 enters no history and breaks no bound
        stats = StepStats(
            None if loss is None else as_number("AnomalyDetection.update(loss)", loss),
            0.0 if grad_norm is None else as_number("AnomalyDetection.update(grad_norm)", grad_norm),
        )
        faults: list[Fault] = []
        for i, detector in enumerate(self._detectors):
            found, self._states[i] = detector.detect(stats, self._states[i])
            faults += found
        if faults:
            self.found.append(Anomaly(here, tuple(faults)))
        return tuple(faults)

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs to decide as the uninterrupted one; `found` is not part of it."""
        return {"num_steps": self._num_steps, "states": list(self._states)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take back what `state_dict` returned.

        Raises:
            ValueError: It is of another number of detectors.
        """
        if len(state_dict["states"]) != len(self._detectors):
            raise ValueError(
                f"the state is of {len(state_dict['states'])} detectors, and here are "
                f"{len(self._detectors)}: give the same ones."
            )
        self._num_steps = int(state_dict["num_steps"])
        self._states = list(state_dict["states"])
