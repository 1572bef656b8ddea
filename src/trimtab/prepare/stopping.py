"""Early stopping: when a validation number has stopped getting better."""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import Enum
from statistics import median
from typing import Any, final

from trimtab.measure import as_number


class Goal(str, Enum):
    """Which way a number gets better. A member equals its text."""

    MIN = "min"
    MAX = "max"

    @classmethod
    def _missing_(cls, value: object) -> Goal:
        raise ValueError(f'goal={value!r}: expected "min", as for a loss, or "max", as for an accuracy.')

    def is_better(self, value: float, than: float, by: float = 0.0) -> bool:
        """Whether a value is better than another one by more than `by`; NaN never is.

        Args:
            value: The new one.
            than: The old one.
            by: How much better it must be.
        """
        return value < than - by if self is Goal.MIN else value > than + by

    @property
    def worst(self) -> float:
        """What everything is better than."""
        return math.inf if self is Goal.MIN else -math.inf


@final
class EarlyStopping:
    """Says when to stop: after `patience` evaluations in a row without an improvement.

    An evaluation is better if the median of the last `window` ones is better by more than `min_delta` than
    the best such median so far. With a window of 3 to 5 a single lucky evaluation neither counts as progress
    nor sets a mark that honest ones cannot reach. NaN and infinite values are worse than everything: they
    count against the patience and enter no median.

    Args:
        patience: Evaluations without an improvement after which to stop.
        min_delta: What an improvement must exceed, in the unit of the number.
        goal: "min" if lower is better, as for a loss; "max" if higher is, as for an accuracy.
        window: Evaluations of which the median is taken; 1 takes each as it is.

    Raises:
        ValueError: An argument is out of its range.

    Attributes:
        best: Best (median) value so far; inf or -inf before the first.
        best_step: Number of the update that reached it, or the step given with it; None before.
        num_waiting: Updates since then.

    Example:
        >>> stopping = EarlyStopping(patience=2)
        >>> [stopping.update(loss) for loss in (1.0, 0.8, float("nan"), 0.9)]
        [False, False, False, True]
        >>> stopping.best, stopping.best_step
        (0.8, 1)
        >>> by_accuracy = EarlyStopping(patience=1, goal="max")
        >>> [by_accuracy.update(accuracy) for accuracy in (0.5, 0.7, 0.6)]
        [False, False, True]

    References:
        L. Prechelt, "Early stopping - but when?", 1998: criterion UP.
    """

    def __init__(
        self, patience: int = 10, min_delta: float = 0.0, *, goal: Goal | str = Goal.MIN, window: int = 1
    ) -> None:
        given = f"EarlyStopping(patience={patience!r}, min_delta={min_delta!r}, window={window!r})"
        if not (isinstance(patience, int) and patience >= 1 and isinstance(window, int) and window >= 1):
            raise ValueError(f"{given}: expected whole numbers >= 1 for patience and window.")
        if not (isinstance(min_delta, (int, float)) and 0 <= min_delta < math.inf):
            raise ValueError(f"{given}: expected a finite min_delta >= 0.")
        self.patience = patience
        self.min_delta = float(min_delta)
        self.goal = Goal(goal)
        self.window = window
        self.best = self.goal.worst
        self.best_step: int | None = None
        self.num_waiting = 0
        self._num_updates = 0
        self._recent: list[float] = []

    @property
    def should_stop(self) -> bool:
        """Whether the patience is used up."""
        return self.num_waiting >= self.patience

    def update(self, value: Any, step: int | None = None) -> bool:
        """Take one evaluation.

        Args:
            value: The number; a tensor of one element is read.
            step: Where it was taken; counted from 0 if not given.

        Returns:
            Whether to stop.

        Raises:
            TypeError: It is no number.
            ValueError: It has several elements.
        """
        value = as_number("EarlyStopping.update(value)", value)
        here = self._num_updates if step is None else step
        self._num_updates += 1
        if math.isfinite(value):
            self._recent = [*self._recent, value][-self.window :]
            # until the window is full there is no median worth the name, save of what there is
            if self.goal.is_better(median(self._recent), self.best, self.min_delta):
                self.best = median(self._recent)
                self.best_step = here
                self.num_waiting = 0
                return False
        self.num_waiting += 1
        return self.should_stop

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs to decide as the uninterrupted one."""
        return {
            "best": self.best,
            "best_step": self.best_step,
            "num_waiting": self.num_waiting,
            "num_updates": self._num_updates,
            "recent": list(self._recent),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        self.best = float(state_dict["best"])
        self.best_step = state_dict["best_step"]
        self.num_waiting = int(state_dict["num_waiting"])
        self._num_updates = int(state_dict["num_updates"])
        self._recent = [float(value) for value in state_dict["recent"]]
