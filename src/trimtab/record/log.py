"""A run, read back: plain arrays, one entry per step, and the faults."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trimtab.record import columns, export, score
from trimtab.record.columns import BoolArray, FloatArray, Values
from trimtab.record.header import RunHeader
from trimtab.record.signals import Signal
from trimtab.types import OF_THE_STEP, Action, Culprit, Kind, Origin, Place

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True)
class FaultEvent:
    """One fault of one step, as the log keeps it.

    Attributes:
        step: Number of the step.
        kind: What was wrong: NaN, Inf, overflow, spike, ...
        place: Where it was found.
        action: What was done with the step.
        reason: Why, in words.
        threshold: What was exceeded, or None.
        culprits: The tensors concerned.
    """

    step: int
    kind: Kind
    place: Place
    action: Action
    reason: str = ""
    threshold: float | None = None
    culprits: tuple[Culprit, ...] = ()

    @property
    def num_bad(self) -> int:
        """Number of bad elements of this kind, at least 1; 0 for what no single element makes."""
        if self.kind in OF_THE_STEP:
            return 0
        return max(1, sum(culprit.count(self.kind) for culprit in self.culprits))


@dataclass(frozen=True, slots=True)
class OriginEvent:
    """Where the first bad value of one step was born.

    Attributes:
        step: Number of the step.
        origin: The operation.
        evidence: Folder with all that is needed to run the step again; "" if none was kept.
    """

    step: int
    origin: Origin
    evidence: str = ""


@dataclass(frozen=True, eq=False)
class RunLog:
    """The log of a run. All columns have one entry per step, in the order of the steps.

    A number that was not given is nan in its column; `given` tells it from a NaN that was recorded.

    Attributes:
        step: Step numbers.
        time: Seconds since the epoch.
        loss: The loss.
        grad_norm: Global norm of the gradients before clipping.
        clip_factor: What the clip multiplied the gradients by; nan where the norm was not finite.
        lr: Learning rate.
        stability_score: Health of each step, see `StepOutcome.stability_score`.
        applied: Whether the optimizer updated the parameters.
        action: What was done with the step, the value of an `Action` ("apply", "skip", ...).
        faults: What went wrong, in the order of the steps.
        origins: Where the bad values of traced steps were born, in the order of the steps.
        layer_names: Names of the parameters.
        layer_steps: Steps whose per-layer numbers were kept.
        layer_norms: Norm of each gradient, shape (len(layer_steps), len(layer_names)), masked where
            the layer had no gradient in the step.
        metrics: The caller's own numbers: name to (steps, values).
        signals: What was measured for the diagnosis, see `trimtab.measure.signals`.
        header: What the run says about itself; None for a log made of arrays.
        not_given: For the columns with gaps: name to True where no number was given.

    Example:
        >>> log = RunLog.from_arrays(loss=[2.0, None, float("nan")])
        >>> log.given("loss")
        array([ True, False,  True])
        >>> [(fault.step, fault.kind.value) for fault in log.faults]
        [(2, 'NaN')]
    """

    step: NDArray[np.int64]
    time: FloatArray
    loss: FloatArray
    grad_norm: FloatArray
    clip_factor: FloatArray
    lr: FloatArray
    stability_score: FloatArray
    applied: BoolArray
    action: NDArray[np.str_]
    faults: tuple[FaultEvent, ...] = ()
    origins: tuple[OriginEvent, ...] = ()
    layer_names: tuple[str, ...] = ()
    layer_steps: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    layer_norms: np.ma.MaskedArray[Any, Any] = field(
        default_factory=lambda: np.ma.array(np.zeros((0, 0), dtype=np.float32))
    )
    metrics: Mapping[str, tuple[NDArray[np.int64], FloatArray]] = field(default_factory=dict)
    signals: Mapping[str, Signal] = field(default_factory=dict)
    header: RunHeader | None = None
    not_given: Mapping[str, BoolArray] = field(default_factory=dict)

    @property
    def num_steps(self) -> int:
        """Number of steps in the log."""
        return len(self.step)

    def __repr__(self) -> str:
        return f"RunLog({self.num_steps} steps, {len(self.faults)} faults, {len(self.layer_names)} layers)"

    def given(self, column: str) -> BoolArray:
        """Where a number was given, even if it was a NaN.

        Args:
            column: Name of a float column, such as "loss".
        """
        absent = self.not_given.get(column)
        return np.ones(self.num_steps, dtype=bool) if absent is None else ~absent

    def select(self, first: int, last: int) -> RunLog:
        """The part of the log from step `first` to step `last`, both included.

        Args:
            first: First step to keep.
            last: Last step to keep.
        """
        rows = (self.step >= first) & (self.step <= last)
        kept = {name: getattr(self, name)[rows] for name in ("step", *export.FLOATS, "applied", "action")}
        layers = (self.layer_steps >= first) & (self.layer_steps <= last)
        inside = {name: (s >= first) & (s <= last) for name, (s, _) in self.metrics.items()}
        return RunLog(
            **kept,
            faults=tuple(fault for fault in self.faults if first <= fault.step <= last),
            origins=tuple(event for event in self.origins if first <= event.step <= last),
            layer_names=self.layer_names,
            layer_steps=self.layer_steps[layers],
            layer_norms=self.layer_norms[layers],
            metrics={name: (s[inside[name]], v[inside[name]]) for name, (s, v) in self.metrics.items()},
            signals={name: signal.between(first, last) for name, signal in self.signals.items()},
            header=self.header,
            not_given={name: absent[rows] for name, absent in self.not_given.items()},
        )

    @classmethod
    def from_arrays(
        cls,
        *,
        step: Values | None = None,
        time: Values | None = None,
        loss: Values | None = None,
        grad_norm: Values | None = None,
        clip_factor: Values | None = None,
        lr: Values | None = None,
        val_loss: Values | None = None,
        applied: Values | None = None,
        metrics: Mapping[str, Values] | None = None,
        layer_names: Sequence[str] = (),
        layer_steps: Values | None = None,
        layer_norms: NDArray[Any] | None = None,
        signals: Mapping[str, Signal] | None = None,
    ) -> RunLog:
        """Make a log of the numbers that another tool kept.

        Each column is a list, an array or a tensor with one value per step, None where there is
        none. Faults are taken from the numbers: a loss or a norm that is not finite is one.

        Args:
            step: Step numbers; 0, 1, 2, ... if not given.
            time: Seconds since the epoch.
            loss: The loss.
            grad_norm: Global norm of the gradients before clipping.
            clip_factor: What the gradients were multiplied by.
            lr: Learning rate.
            val_loss: Validation loss, None where it was not measured; becomes a metric.
            applied: Whether the parameters were updated; True if not given.
            metrics: More of the kind of `val_loss`.
            layer_names: Names of the layers of `layer_norms`.
            layer_steps: Steps of the rows of `layer_norms`; all steps if not given.
            layer_norms: Shape (num_rows, num_layers); masked, or -1, where there was no gradient.
            signals: What was measured of the layers for the diagnosis.

        Raises:
            ValueError: No column, lengths that differ, or something that is not a number.
        """
        asides = dict(metrics or {}) | ({} if val_loss is None else {"val_loss": val_loss})
        numbers = {"time": time, "loss": loss, "grad_norm": grad_norm, "clip_factor": clip_factor, "lr": lr}
        table = columns.aligned(step, numbers, asides, applied)
        steps, gaps = table.steps, table.gaps
        faults = _faults_of_numbers(steps, table.numbers, gaps, table.applied)
        norms = _layer_matrix(layer_norms, layer_names)
        return cls(
            step=steps,
            time=table.numbers["time"],
            loss=table.numbers["loss"],
            grad_norm=table.numbers["grad_norm"],
            clip_factor=table.numbers["clip_factor"],
            lr=table.numbers["lr"],
            stability_score=score.step_scores(steps, faults, table.numbers["clip_factor"]),
            applied=table.applied,
            action=np.where(table.applied, Action.APPLY.value, Action.SKIP.value),
            faults=faults,
            layer_names=tuple(layer_names),
            layer_steps=_layer_steps(layer_steps, steps, norms),
            layer_norms=norms,
            metrics={name: (steps[there], values[there]) for name, (values, there) in table.asides.items()},
            signals=dict(signals or {}),
            not_given={name: gap for name, gap in gaps.items() if gap.any()},
        )

    def windowed_score(self, window: int = 100) -> score.WindowedScore:
        """Mean stability score over a sliding window, with the parts that it is made of.

        Args:
            window: Number of steps that each mean looks back on.
        """
        return score.windowed_score(self, window)

    def to_json(self, path: str | os.PathLike[str]) -> Path:
        """Write everything as strict JSON, see `trimtab.record.export`.

        Args:
            path: File to write.
        """
        return export.to_json(self, path)

    def to_csv(self, path: str | os.PathLike[str]) -> Path:
        """Write one line per step: the columns, and the faults in words.

        Args:
            path: File to write.
        """
        return export.to_csv(self, path)

    def to_dataframe(self) -> pd.DataFrame:
        """One row per step as a pandas DataFrame; the metrics are joined as further columns."""
        return export.to_dataframe(self)

    def save_histories(self, folder: str | os.PathLike[str]) -> tuple[Path, Path]:
        """Write `gradient_clipping_history.json` and `nan_handling_history.json`.

        Args:
            folder: Where; made if absent.
        """
        return export.save_histories(self, folder)

    def plot_loss(self, *, baseline: RunLog | None = None) -> Figure:
        """Loss and stability score over the steps.

        Args:
            baseline: Another run, drawn behind this one.
        """
        from trimtab.report import figures  # needs matplotlib, an extra

        return figures.plot_loss(self, baseline=baseline)

    def plot_norms(self) -> Figure:
        """Gradient norm before and after clipping."""
        from trimtab.report import figures

        return figures.plot_norms(self)

    def plot_clipping(self) -> Figure:
        """Clip factor over the steps, and how it is distributed."""
        from trimtab.report import figures

        return figures.plot_clipping(self)

    def plot_faults(self) -> Figure:
        """When something went wrong, where, and what was done about it."""
        from trimtab.report import figures

        return figures.plot_faults(self)

    def plot_layers(self) -> Figure:
        """Gradient norm of each layer as a heat map."""
        from trimtab.report import figures

        return figures.plot_layers(self)

    def plot_distributions(self) -> Figure:
        """How losses and gradient norms are distributed, in the three thirds of the run."""
        from trimtab.report import figures

        return figures.plot_distributions(self)

    def plot_score(self, window: int = 100) -> Figure:
        """Stability score over a sliding window, and what lowered it.

        Args:
            window: Number of steps that each mean looks back on.
        """
        from trimtab.report import figures

        return figures.plot_score(self, window)


def _faults_of_numbers(
    steps: NDArray[np.int64],
    numbers: Mapping[str, FloatArray],
    gaps: Mapping[str, BoolArray],
    applied: BoolArray,
) -> tuple[FaultEvent, ...]:
    found = []
    for order, (name, place) in enumerate((("loss", Place.LOSS), ("grad_norm", Place.GRADIENT))):
        values = numbers[name]
        for row in np.flatnonzero(~np.isfinite(values) & ~gaps[name]):
            kind = Kind.NAN if np.isnan(values[row]) else Kind.INF
            action = Action.APPLY if applied[row] else Action.SKIP
            found.append((int(row), order, FaultEvent(int(steps[row]), kind, place, action)))
    return tuple(fault for _, _, fault in sorted(found, key=lambda entry: entry[:2]))


def _layer_matrix(norms: NDArray[Any] | None, names: Sequence[str]) -> np.ma.MaskedArray[Any, Any]:
    if norms is None:
        return np.ma.array(np.zeros((0, len(names)), dtype=np.float32))
    matrix = np.ma.array(norms, dtype=np.float32)
    if matrix.ndim != 2 or matrix.shape[1] != len(names):
        raise ValueError(
            f"layer_norms of shape {matrix.shape}: expected (num_rows, {len(names)}), one column per "
            f"name in layer_names."
        )
    return np.ma.array(matrix.data, mask=np.ma.getmaskarray(matrix) | (matrix.data == -1))


def _layer_steps(
    given: Values | None, steps: NDArray[np.int64], norms: np.ma.MaskedArray[Any, Any]
) -> NDArray[np.int64]:
    if len(norms) == 0:
        return np.zeros(0, dtype=np.int64)
    rows = steps if given is None else columns.step_column(given)
    if len(rows) != len(norms):
        raise ValueError(f"layer_norms has {len(norms)} rows, but there are {len(rows)} steps for them.")
    return rows
