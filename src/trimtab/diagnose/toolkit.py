"""Diagnosis for loops of any framework, by hand: a history of numbers, activations, and both together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from trimtab.diagnose.activations import ActivationMonitor, unit_rows
from trimtab.diagnose.certificate import certificate
from trimtab.diagnose.engine import diagnose
from trimtab.measure import GradientStats, as_number
from trimtab.record import RunLog
from trimtab.types import Finding


def _array(what: str, values: Any) -> NDArray[np.float64]:
    if isinstance(values, Tensor):
        values = values.detach().double().cpu().numpy()
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{what} is {type(values).__name__}: expected an array or tensor ({error})."
        ) from None


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
        lr: Any = None,
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
            ValueError: The step is no whole number, or does not follow the last one; or something has
                several elements.
            TypeError: Something is no number.
        """
        number = as_number("record(step)", step)
        if not number.is_integer():
            raise ValueError(f"record(step={step}): expected a whole number.")
        if self._rows and number <= self._rows[-1][0]:
            raise ValueError(f"record(step={step}) after step {self._rows[-1][0]}: steps must grow.")
        given = {"grad_norm": grad_norm, "lr": lr, "val_loss": val_loss}
        others = [None if x is None else as_number(f"record({name})", x) for name, x in given.items()]
        row = (int(number), as_number("record(loss)", loss), others[0], others[1], others[2])
        self._rows.append(row)

    def log(self) -> RunLog:
        """The history as a run log.

        Raises:
            ValueError: Nothing was recorded.
        """
        if not self._rows:
            raise ValueError("TrainingHistory.log(): nothing was recorded. Call record() in each step.")
        names = ("step", "loss", "grad_norm", "lr", "val_loss")
        columns = dict(zip(names, map(list, zip(*self._rows, strict=True)), strict=True))
        given: dict[str, Any] = {n: c for n, c in columns.items() if any(x is not None for x in c)}
        return RunLog.from_arrays(**given)

    def diagnose(self) -> tuple[Finding, ...]:
        """What is wrong, as `trimtab.diagnose` says it."""
        return diagnose(self.log()) if self._rows else ()


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
        *,
        unit_dim: int | None = None,
    ) -> GradientStats:
        """Note one step.

        Args:
            step: Its number.
            loss: The loss.
            gradients: All gradients, tensors or arrays.
            learning_rate: The learning rate.
            activations: Layer to its outputs after ReLU, or None. Outputs of others are noted with
                `debugger.activations.record`, all of a torch model with `debugger.activations.attach`.
            val_loss: Validation loss, or None.
            unit_dim: Where the units of the activations are: see `ActivationMonitor.record`.

        Returns:
            Statistics of the gradients.

        Raises:
            ValueError: As `TrainingHistory.record` and `ActivationMonitor.record` raise it.
            TypeError: The same; or the gradients are no tensors or arrays.
        """
        if not (activations is None or isinstance(activations, Mapping)):
            raise TypeError(
                f"TrainingDebugger.step(activations) got {type(activations).__name__}: expected a mapping of "
                "layers to their outputs."
            )
        stats = GradientStats.from_gradients(gradients)
        bad = stats.num_nans + stats.num_infs
        self.history.record(step, loss, float("nan") if bad else stats.norm, learning_rate, val_loss)
        for layer, values in (activations or {}).items():
            self.activations.record(layer, values, unit_dim=unit_dim)
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
        gradients: Tensors or arrays of floating types, of any shapes, or None for a parameter without one.
            They are left as they are.
        max_norm: The bound, above 0.

    Returns:
        The gradients, of the same types: the very ones if they are within the bound, else scaled copies.

    Raises:
        ValueError: `max_norm` is not above 0, or a gradient holds NaN or Inf: no factor mends that.
        TypeError: `gradients` is a single one, or holds something else than tensors and arrays.

    Cost:
        One pass, and one more to scale; see `GradientStats`.

    Example:
        >>> clip_gradients([np.array([3.0, 0.0]), np.array([4.0])], max_norm=1.0)
        [array([0.6, 0. ]), array([0.8])]

    References:
        Pascanu et al. 2013, arXiv:1211.5063.
    """
    if hasattr(gradients, "shape"):
        raise TypeError("clip_gradients got one array: expected a list of gradients, as in [gradient].")
    if not max_norm > 0:
        raise ValueError(f"clip_gradients(max_norm={max_norm!r}): expected a number above 0.")
    stats = GradientStats.from_gradients(gradients)
    if stats.num_nans or stats.num_infs:
        raise ValueError(
            f"clip_gradients: {stats.problem}. Leave the step out, or find where they were born."
        )
    if stats.norm <= max_norm:
        return list(gradients)
    return [None if gradient is None else gradient * (max_norm / stats.norm) for gradient in gradients]


def detect_dead_neurons(
    activations: Any, threshold: float = 0.01, *, unit_dim: int | None = None
) -> NDArray[np.bool_]:
    """Which units fire in less than a share of the rows. A NaN is not zero: such a unit is not dead.

    Args:
        activations: Arrays or tensors of two or more dimensions, after the activation.
        threshold: A unit that is not zero in this share of the rows or more is alive.
        unit_dim: The dimension with one slice per unit: 1 for (N, C, H, W), -1 for (N, ..., units); see
            `ActivationMonitor.record` for what holds if it is not given.

    Returns:
        Shape (units,): True where the unit is dead.

    Raises:
        ValueError: `activations` has fewer than two dimensions or no element, their layout is not known,
            or `threshold` is not in (0, 1].
        TypeError: They are no numbers.

    Example:
        >>> detect_dead_neurons(np.array([[1.0, 0.0], [2.0, 0.0]])).tolist()
        [False, True]
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"detect_dead_neurons(threshold={threshold!r}): expected a share in (0, 1].")
    rows = unit_rows(activations, unit_dim)
    share = (rows != 0).sum(0).cpu().numpy() / len(rows)
    return np.asarray(share < threshold)


@dataclass(frozen=True, slots=True)
class WeightScale:
    """How a weight's size compares with what its initialization would be.

    Attributes:
        expected_std: Standard deviation of the scheme for this shape.
        actual_std: Standard deviation of the elements.
        verdict: "too_small", "too_large" or "ok"; "not_finite" if there is NaN or Inf among them.
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
        weights: Name to weight, or a list, of arrays or tensors; those with one dimension, and those
            without an element, are left out.
        scheme: "he" (variance 2 / inputs), "glorot" (2 / (inputs + outputs)) or "lecun" (1 / inputs).
        layout: "out_in" as in torch, kernels last: (out, in, ...); "in_out": kernels first, (..., in, out).
        factor: Deviations beyond this factor are too small or too large; torch's own layers begin at 0.41 of
            "he".

    Raises:
        ValueError: An argument is none of those.
        TypeError: `weights` is a single one or a model, or one of them is no array.

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
    if not factor > 1:
        raise ValueError(f"check_initialization(factor={factor!r}): expected a number above 1.")
    found = {}
    for name, weight in _named(weights).items():
        values = _array(f"weight {name!r}", weight)
        if values.ndim < 2 or not values.size:
            continue
        outs, ins = values.shape[:2] if layout == "out_in" else values.shape[:-3:-1]
        area = values.size // max(outs * ins, 1)
        by_scheme = {"he": 2 / ins, "glorot": 2 / (ins + outs), "lecun": 1 / ins}
        expected, actual = float(np.sqrt(by_scheme[scheme] / area)), float(values.std())
        found[name] = WeightScale(expected, actual, _verdict(actual, expected, factor))
    return found


def _named(weights: Any) -> Mapping[str, Any]:
    if isinstance(weights, Mapping):
        return weights
    if not isinstance(weights, (list, tuple)):
        raise TypeError(
            f"check_initialization got {type(weights).__name__}: expected names with weights, such as "
            "dict(model.named_parameters()), or a list of weights."
        )
    return {str(index): weight for index, weight in enumerate(weights)}


def _verdict(actual: float, expected: float, factor: float) -> str:
    if not np.isfinite(actual):
        return "not_finite"
    if actual < expected / factor:
        return "too_small"
    return "too_large" if actual > expected * factor else "ok"
