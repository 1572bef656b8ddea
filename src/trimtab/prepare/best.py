"""The best checkpoints of a run, by a validation number."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, final

from trimtab.checkpoint import save
from trimtab.measure import as_number
from trimtab.prepare.stopping import Goal


class SavedCheckpoint(NamedTuple):
    """One checkpoint in the folder.

    Attributes:
        path: The file; `torch.load` reads it.
        step: The step it is of.
        value: Its validation number.
    """

    path: Path
    step: int
    value: float


_NAME = re.compile(r"step=(\d+),value=(-?[0-9.e+-]+)\.pt")


@final
class BestCheckpoint:
    """Keeps the best `keep` checkpoints of a run in a folder, and never a bad one.

    The names of the files hold step and value, so that a resumed run, or another process, finds what is
    there without a further file. A new checkpoint is complete on disk before the worst one is deleted. A
    value that is NaN or infinite is never among the best, and a state that holds NaN or Inf is refused.

    Args:
        folder: Where they are; made if it is not there.
        keep: How many.
        goal: "min" if lower is better, as for a loss; "max" if higher is, as for an accuracy.
        allow: Names of entries that may hold anything: see `trimtab.save`.

    Raises:
        ValueError: `keep` is not a whole number >= 1.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     best = BestCheckpoint(folder, keep=1)
        ...     for step, loss in enumerate((0.9, 0.5, float("nan"), 0.7)):
        ...         saved = best.offer(loss, {"weight": torch.tensor(loss)}, step)
        ...     best.best.step, best.best.value, float(torch.load(best.best.path)["weight"])
        (1, 0.5, 0.5)
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        keep: int = 1,
        goal: Goal | str = Goal.MIN,
        allow: Sequence[str] = (),
    ) -> None:
        if not (isinstance(keep, int) and keep >= 1):
            raise ValueError(f"BestCheckpoint(keep={keep!r}): expected a whole number >= 1.")
        self.folder = Path(folder)
        self.keep = keep
        self.goal = Goal(goal)
        self.allow = tuple(allow)

    @property
    def saved(self) -> tuple[SavedCheckpoint, ...]:
        """What is in the folder, the best first; of equal ones the earlier."""
        names = sorted(os.listdir(self.folder)) if self.folder.is_dir() else []
        found = [
            SavedCheckpoint(self.folder / name, int(match[1]), float(match[2]))
            for name in names
            if (match := _NAME.fullmatch(name))
        ]
        sign = 1 if self.goal is Goal.MIN else -1
        return tuple(sorted(found, key=lambda c: (sign * c.value, c.step)))

    @property
    def best(self) -> SavedCheckpoint | None:
        """The best one; None if there is none."""
        return next(iter(self.saved), None)

    def offer(self, value: Any, state: Any | Callable[[], Any], step: int) -> SavedCheckpoint | None:
        """Save this state if it is among the best.

        Args:
            value: The validation number; a tensor of one element is read.
            state: What `trimtab.save` takes; or a function that returns it, called only if it is to be saved.
            step: The step it is of. A checkpoint of the same step is replaced.

        Returns:
            What was saved; None if it is not among the best, or the value is not finite.

        Raises:
            TypeError: The value is no number.
            ValueError: It has several elements.
            CheckpointError: The state holds NaN or Inf, or cannot be written; the folder is as before.

        Cost:
            A listing of the folder; `trimtab.save` for one that is saved.
        """
        value = as_number("BestCheckpoint.offer(value)", value)
        if not math.isfinite(value):
            return None
        there = self.saved
        others = [c for c in there if c.step != step]
        if len(others) >= self.keep and not self.goal.is_better(value, others[self.keep - 1].value):
            return None
        self.folder.mkdir(parents=True, exist_ok=True)
        new = SavedCheckpoint(self.folder / f"step={step:08d},value={value!r}.pt", step, value)
        save(state() if callable(state) else state, new.path, allow=self.allow)
        surplus = [*(c for c in there if c.step == step and c.path != new.path), *others[self.keep - 1 :]]
        for old in surplus:
            old.path.unlink(missing_ok=True)
        return new
