"""How the steps of a guard get into its run log."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from torch import Tensor
from torch.optim import Optimizer

from trimtab.measure import Watched
from trimtab.record import RunHeader, RunWriter
from trimtab.types import StepOutcome


class Recording:
    """The run log of one guard, opened at the first row: only then is it known whether the run is resumed.

    Args:
        record: A writer, or a folder for one.
        watched: The guard's model and optimizer.
        optimizer: The same optimizer.

    Raises:
        RunLogError: The log cannot be written. A folder that cannot be shows now, not at the first step.
    """

    def __init__(
        self, record: RunWriter | str | os.PathLike[str], watched: Watched, optimizer: Optimizer
    ) -> None:
        self.writer = record if isinstance(record, RunWriter) else RunWriter(os.fspath(record))
        self.writer.check()
        self._watched = watched
        self._optimizer = optimizer
        self._layers: tuple[Tensor, ...] = ()  # in the order of the log's header, once that is written

    @property
    def is_open(self) -> bool:
        """Whether the header is written."""
        return bool(self._layers)

    def open(self, *, run_id: str, policies: Mapping[str, str], first_step: int) -> None:
        """Write the header, if it is not written yet."""
        if self._layers:
            return
        names = self._watched.names
        header = RunHeader.create(
            run_id=run_id,
            policies=dict(policies),
            layer_names=list(names.values()),
            layer_shapes=[tuple(p.shape) for p in names],
            layer_dtypes=[str(p.dtype) for p in names],
            first_step=first_step,
        )
        self.writer.open(header)
        self._layers = tuple(names)

    def append(self, parameters: Sequence[Tensor], outcome: StepOutcome, *, lr_factor: float) -> None:
        """Write one row of a step in which these parameters had a gradient. The log must be open."""
        stats = outcome.stats.read()
        if stats.tensor_norms is not None:
            norms = self._watched.in_order(parameters, np.asarray(stats.tensor_norms), self._layers)
            outcome = replace(outcome, stats=replace(stats, tensor_norms=norms))
        lr = self._optimizer.param_groups[0]["lr"]
        # a tensor would have to be read from its device
        self.writer.append(outcome, lr=None if isinstance(lr, Tensor) else float(lr) * lr_factor)
        if outcome.num_dropped:
            self.writer.log(outcome.step, num_dropped=outcome.num_dropped)
