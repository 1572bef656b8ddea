"""Diagnosis for loops of any framework, by hand: a history of numbers, activations, and both together."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from trimtab.diagnose.certificate import certificate
from trimtab.diagnose.engine import diagnose
from trimtab.measure import GradientStats
from trimtab.record import RunLog
from trimtab.types import Evidence, Finding, FindingCause, Severity

# Where the slope falls below 5 % of its maximum, told by the output: tanh(2.18) and the two ends of a sigmoid
_BOUNDS = {"tanh": (-0.9748, 0.9748), "sigmoid": (0.0126, 0.9874)}
_STUCK_SHARE, _SUSPECT = 0.95, 0.5
_MIN_ROWS = 256


def _array(values: Any) -> NDArray[np.float64]:
    if isinstance(values, Tensor):
        values = values.detach().double().cpu().numpy()
    return np.asarray(values, dtype=np.float64)


class TrainingHistory:
    """The numbers of a run, noted step by step, and their diagnosis.

    Example:
        >>> history = TrainingHistory()
        >>> for step in range(100):
        ...     history.record(step, loss=2.0 * 0.95**step + 0.1, grad_norm=1.0, lr=0.1)
        >>> history.diagnose()
        ()
    """

    def __init__(self) -> None:
        self._rows: list[tuple[int, float, float | None, float | None, float | None]] = []

    def record(
        self,
        step: int,
        loss: Any,
        grad_norm: Any = None,
        lr: float | None = None,
        val_loss: Any = None,
    ) -> None:
        """Note one step.

        Args:
            step: Its number, larger than the last one.
            loss: The loss: a number, or a tensor or array of one element.
            grad_norm: Norm of the gradients, or None.
            lr: Learning rate, or None.
            val_loss: Validation loss, or None when it was not measured in this step.

        Raises:
            ValueError: The step does not follow the last one.
        """
        if self._rows and step <= self._rows[-1][0]:
            raise ValueError(f"record(step={step}) after step {self._rows[-1][0]}: steps must grow.")
        others = [None if x is None else float(x) for x in (grad_norm, lr, val_loss)]
        self._rows.append((int(step), float(loss), others[0], others[1], others[2]))

    def log(self) -> RunLog:
        """The history as a run log.

        Raises:
            ValueError: Nothing was recorded.
        """
        names = ("step", "loss", "grad_norm", "lr", "val_loss")
        columns = dict(zip(names, map(list, zip(*self._rows, strict=True)), strict=True))
        given: dict[str, Any] = {n: c for n, c in columns.items() if any(x is not None for x in c)}
        return RunLog.from_arrays(**given)

    def diagnose(self) -> tuple[Finding, ...]:
        """What is wrong, as `trimtab.diagnose` says it."""
        return diagnose(self.log()) if self._rows else ()


@dataclass(frozen=True, slots=True)
class ActivationStats:
    """One batch of activations of one layer.

    Attributes:
        mean: Mean.
        std: Standard deviation.
        zero_ratio: Share of elements that are exactly zero. For a healthy ReLU about a half.
        saturation_ratio: Share of elements on the flat part of tanh or sigmoid; 0 for other activations.
    """

    mean: float
    std: float
    zero_ratio: float
    saturation_ratio: float


class ActivationMonitor:
    """Activations of layers over the last batches: which units are dead, which are stuck.

    A unit is dead if it was zero in every row of the window, and stuck if it was at the same end of its
    tanh or sigmoid in 95 % of them. Shares of zeros say little: half of a healthy ReLU layer is zero.

    Args:
        window_size: Number of batches that count.

    Raises:
        ValueError: `window_size` is not at least 1.

    Example:
        >>> monitor = ActivationMonitor()
        >>> monitor.record("hidden", np.zeros((300, 8)), activation="relu").zero_ratio
        1.0
        >>> [finding.cause.value for finding in monitor.diagnose()]
        ['dead_units']
    """

    def __init__(self, window_size: int = 100) -> None:
        if window_size < 1:
            raise ValueError(f"ActivationMonitor(window_size={window_size}): expected a whole number >= 1.")
        self._window_size = window_size
        # per layer and batch: rows, and per unit rows that are zero, low, high
        self._counts: dict[str, deque[tuple[int, NDArray[np.int64]]]] = {}
        self._kinds: dict[str, str] = {}

    def record(self, layer: str, activations: Any, *, activation: str = "relu") -> ActivationStats:
        """Note one batch of outputs of a layer.

        Args:
            layer: Name of the layer.
            activations: Shape (rows, ..., units), after the activation.
            activation: "relu", "tanh", "sigmoid" or any other name: only for those is a unit dead or stuck.

        Raises:
            ValueError: `activations` has fewer than two dimensions or no element.
        """
        values = _array(activations)
        if values.ndim < 2 or values.size == 0:
            raise ValueError(f"activations of shape {values.shape}: expected (rows, ..., units).")
        rows = values.reshape(-1, values.shape[-1])
        low, high = _BOUNDS.get(activation, (-np.inf, np.inf))
        zeros, under, over = rows == 0, rows < low, rows > high
        counts = np.stack([zeros.sum(0), under.sum(0), over.sum(0)])
        window = self._counts.setdefault(layer, deque(maxlen=self._window_size))
        if window and window[-1][1].shape != counts.shape:
            window.clear()
        window.append((len(rows), counts))
        self._kinds[layer] = activation
        finite = rows[np.isfinite(rows)]
        return ActivationStats(
            mean=float(finite.mean()) if finite.size else float("nan"),
            std=float(finite.std()) if finite.size else float("nan"),
            zero_ratio=float(zeros.mean()),
            saturation_ratio=float((under | over).mean()),
        )

    def diagnose(self) -> tuple[Finding, ...]:
        """Layers more than half of whose units are dead or stuck, seen in 256 rows or more."""
        found = []
        for layer, window in self._counts.items():
            num_rows = sum(rows for rows, _ in window)
            if num_rows < _MIN_ROWS:
                continue
            counts = np.sum([c for _, c in window], axis=0)
            dead = float((counts[0] == num_rows).mean()) if self._kinds[layer] == "relu" else 0.0
            stuck = float((counts[1:].max(axis=0) >= _STUCK_SHARE * num_rows).mean())
            for cause, share, what in (
                (FindingCause.DEAD_UNITS, dead, "are always zero"),
                (FindingCause.SATURATION, stuck, f"stay at a bound of {self._kinds[layer]}"),
            ):
                if share > _SUSPECT:
                    found.append(_layer_finding(cause, layer, share, what, num_rows))
        return tuple(found)


def _layer_finding(cause: FindingCause, layer: str, share: float, what: str, num_rows: int) -> Finding:
    return Finding(
        cause,
        Severity.WARNING,
        f"{share:.0%} of the units of {layer} {what}.",
        "Lower the learning rate, initialize smaller, scale the inputs, or use GELU or LeakyReLU.",
        (Evidence("share of the units", share, limit=_SUSPECT), Evidence("rows seen", num_rows, "rows")),
        confidence=0.9,
        layer=layer,
    )


class TrainingDebugger:
    """A history, gradients and activations of one run in one object.

    Example:
        >>> debugger = TrainingDebugger()
        >>> debugger.step(0, 2.3, [np.ones(4)], 0.1).norm
        2.0
        >>> debugger.quick_check()
        'healthy so far (1 steps)'
    """

    def __init__(self) -> None:
        self.history = TrainingHistory()
        self.activations = ActivationMonitor()
        self._last: GradientStats | None = None

    def step(
        self,
        step: int,
        loss: Any,
        gradients: Sequence[Any],
        learning_rate: float,
        activations: Mapping[str, Any] | None = None,
        val_loss: Any = None,
    ) -> GradientStats:
        """Note one step.

        Args:
            step: Its number.
            loss: The loss.
            gradients: All gradients, tensors or arrays.
            learning_rate: The learning rate.
            activations: Layer to its outputs after ReLU, or None.
            val_loss: Validation loss, or None.

        Returns:
            Statistics of the gradients.
        """
        stats = GradientStats.from_gradients(gradients)
        bad = stats.num_nans + stats.num_infs
        self.history.record(step, loss, float("nan") if bad else stats.norm, learning_rate, val_loss)
        for layer, values in (activations or {}).items():
            self.activations.record(layer, values)
        self._last = stats
        return stats

    def findings(self) -> tuple[Finding, ...]:
        """What is wrong with the run and its layers."""
        return self.history.diagnose() + self.activations.diagnose()

    def quick_check(self) -> str:
        """The run in one line."""
        if self._last is None:
            return "no step yet"
        if self._last.num_nans or self._last.num_infs:
            return f"the last gradients are bad: {self._last.problem}"
        found = self.findings()
        return str(found[0]) if found else f"healthy so far ({self.history.log().num_steps} steps)"

    def report(self) -> str:
        """Findings with evidence and advice, and what was looked at."""
        if self._last is None:
            return "no step yet"
        lines = []
        for finding in self.findings():
            lines += [
                str(finding),
                *(f"    {e}" for e in finding.evidence),
                f"    What to try: {finding.advice}",
            ]
        return "\n".join([*lines, certificate(self.history.log()).text])


def clip_gradients(gradients: Sequence[Any], max_norm: float = 1.0) -> list[Any]:
    """Scale gradients down together, so that their norm over all is at most a bound.

    For tensors with an optimizer see `NormClip`, which costs less and also says what it did.

    Args:
        gradients: Tensors or arrays of floating types, of any shapes. They are left as they are.
        max_norm: The bound, above 0.

    Returns:
        The gradients, of the same types: the very ones if they are within the bound, else scaled copies.

    Raises:
        ValueError: `max_norm` is not above 0, or a gradient holds NaN or Inf: no factor mends that.

    Cost:
        One pass, and one more to scale; see `GradientStats`.

    Example:
        >>> clip_gradients([np.array([3.0, 0.0]), np.array([4.0])], max_norm=1.0)
        [array([0.6, 0. ]), array([0.8])]

    References:
        Pascanu et al. 2013, arXiv:1211.5063.
    """
    if not max_norm > 0:
        raise ValueError(f"clip_gradients(max_norm={max_norm!r}): expected a number above 0.")
    stats = GradientStats.from_gradients(gradients)
    if stats.num_nans or stats.num_infs:
        raise ValueError(
            f"clip_gradients: {stats.problem}. Leave the step out, or find where they were born."
        )
    if stats.norm <= max_norm:
        return list(gradients)
    return [gradient * (max_norm / stats.norm) for gradient in gradients]


def detect_dead_neurons(activations: Any, threshold: float = 0.01) -> NDArray[np.bool_]:
    """Which units fire in less than a share of the rows.

    Args:
        activations: Shape (rows, ..., units), after the activation: arrays or tensors.
        threshold: A unit that is not zero in this share of the rows or more is alive.

    Returns:
        Shape (units,): True where the unit is dead.

    Raises:
        ValueError: `activations` has fewer than two dimensions or no element.

    Example:
        >>> detect_dead_neurons(np.array([[1.0, 0.0], [2.0, 0.0]])).tolist()
        [False, True]
    """
    values = _array(activations)
    if values.ndim < 2 or values.size == 0:
        raise ValueError(f"activations of shape {values.shape}: expected (rows, ..., units).")
    rows = values.reshape(-1, values.shape[-1])
    return np.asarray((rows != 0).mean(axis=0) < threshold)


@dataclass(frozen=True, slots=True)
class WeightScale:
    """How a weight's size compares with what its initialization would be.

    Attributes:
        expected_std: Standard deviation of the scheme for this shape.
        actual_std: Standard deviation of the elements.
        verdict: "too_small", "too_large" or "ok".
    """

    expected_std: float
    actual_std: float
    verdict: str


def check_initialization(
    weights: Mapping[str, Any] | Sequence[Any],
    *,
    scheme: str = "he",
    layout: str = "out_in",
    factor: float = 2.5,
) -> dict[str, WeightScale]:
    """Compare the size of weights with an initialization scheme.

    Args:
        weights: Name to weight, or a list, of arrays or tensors; those with one dimension are left out.
        scheme: "he" (variance 2 / inputs), "glorot" (2 / (inputs + outputs)) or "lecun" (1 / inputs).
        layout: "out_in" as in torch, kernels last: (out, in, ...); "in_out": kernels first, (..., in, out).
        factor: Deviations beyond this factor are too small or too large; torch's own layers begin at 0.41 of
            "he".

    Raises:
        ValueError: An argument is none of those.

    Example:
        >>> weights = {"fc": np.random.default_rng(0).normal(0.0, 0.1, (200, 200))}
        >>> check_initialization(weights)["fc"].verdict
        'ok'

    References:
        He et al. 2015, arXiv:1502.01852; Glorot and Bengio 2010; LeCun et al. 1998.
    """
    if scheme not in ("he", "glorot", "lecun"):
        raise ValueError(f'check_initialization(scheme={scheme!r}): expected "he", "glorot" or "lecun".')
    if layout not in ("out_in", "in_out"):
        raise ValueError(f'check_initialization(layout={layout!r}): expected "out_in" or "in_out".')
    named = weights if isinstance(weights, Mapping) else {str(i): w for i, w in enumerate(weights)}
    found = {}
    for name, weight in named.items():
        values = _array(weight)
        if values.ndim < 2:
            continue
        outs, ins = values.shape[:2] if layout == "out_in" else values.shape[:-3:-1]
        area = values.size // max(outs * ins, 1)
        variance = {"he": 2 / (ins * area), "glorot": 2 / ((ins + outs) * area), "lecun": 1 / (ins * area)}[
            scheme
        ]
        expected, actual = float(np.sqrt(variance)), float(values.std())
        verdict = "ok" if expected / factor <= actual <= expected * factor else "too_large"
        found[name] = WeightScale(expected, actual, "too_small" if actual < expected / factor else verdict)
    return found
