"""Activations of layers over the last batches: where NaN and Inf come up, which units are dead or stuck."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trimtab.diagnose.watching_layers import LayerWatch
from trimtab.types import Evidence, Finding, FindingCause, Severity, wide_dtype

# Where the slope falls below 5 % of its maximum, told by the output: tanh(2.18) and the two ends of a sigmoid
_BOUNDS = {"tanh": (-0.9748, 0.9748), "sigmoid": (0.0126, 0.9874)}
_STUCK_SHARE, _SUSPECT = 0.95, 0.5
_MIN_ROWS = 256


@dataclass(frozen=True, slots=True)
class ActivationStats:
    """One batch of activations of one layer.

    Attributes:
        mean: Mean of the finite elements; nan if there is none.
        std: Their standard deviation.
        zero_ratio: Share of elements that are exactly zero. For a healthy ReLU about a half.
        saturation_ratio: Share of elements on the flat part of tanh or sigmoid; 0 for other activations.
        num_nans: Elements that are NaN.
        num_infs: Elements that are infinite.
    """

    mean: float
    std: float
    zero_ratio: float
    saturation_ratio: float
    num_nans: int = 0
    num_infs: int = 0


class _Batch(NamedTuple):
    """What is kept of one batch of one layer."""

    number: int  # of all batches that were noted, of whatever layer
    num_rows: int
    units: NDArray[np.int64]  # shape (3, num_units): rows in which each is zero, low, high
    num_nans: int
    num_infs: int


class ActivationMonitor:
    """Activations of layers over the last batches: NaN and Inf, dead units, stuck units.

    A unit is dead if it was zero in every row of the window, and stuck if it was at the same end of its
    tanh or sigmoid in 95 % of them. Shares of zeros say little: half of a healthy ReLU layer is zero.
    Of NaN and Inf the layer is told in which they came up first.

    Of a torch model `attach` takes the outputs of all layers by itself; `record` takes those of any
    framework.

    Args:
        window_size: Number of batches of each layer that count.

    Raises:
        ValueError: `window_size` is not a whole number >= 1.

    Example:
        >>> monitor = ActivationMonitor()
        >>> monitor.record("hidden", np.zeros((300, 8)), activation="relu").zero_ratio
        1.0
        >>> [finding.cause.value for finding in monitor.diagnose()]
        ['dead_units']
    """

    def __init__(self, window_size: int = 100) -> None:
        if not isinstance(window_size, int) or window_size < 1:
            raise ValueError(f"ActivationMonitor(window_size={window_size!r}): expected a whole number >= 1.")
        self._window_size = window_size
        self._windows: dict[str, deque[_Batch]] = {}
        self._kinds: dict[str, str] = {}
        self._num_batches = 0

    @torch.no_grad()
    def record(
        self, layer: str, activations: Any, *, activation: str = "relu", unit_dim: int | None = None
    ) -> ActivationStats:
        """Note one batch of outputs of a layer.

        Args:
            layer: Name of the layer.
            activations: Its outputs, after the activation; at least 2 dimensions.
            activation: "relu", "tanh", "sigmoid" or any other name: only for those is a unit dead or stuck.
            unit_dim: The dimension with one slice per unit: 1 for (N, C, H, W) and (N, C, L), -1 for
                (N, ..., units). If it is not given, that is the last one of (rows, units) and of
                (rows, time, units), and for tensors of torch of 4 or 5 dimensions the channels at 1. An
                array of so many dimensions may have its channels at either end: there it must be said.

        Raises:
            ValueError: `activations` has fewer than two dimensions or no element, or their layout is not
                known.
            TypeError: They are no real numbers.

        Cost:
            Some five passes over the activations on their device, and a host read.
        """
        rows = unit_rows(activations, unit_dim)
        low, high = _BOUNDS.get(activation, (-np.inf, np.inf))
        is_nan, is_inf = rows.isnan(), rows.isinf()
        units = torch.stack([test.sum(0) for test in (rows == 0, rows < low, rows > high)]).cpu().numpy()
        num_nans, num_infs = torch.stack([is_nan.sum(), is_inf.sum()]).tolist()
        batch = _Batch(self._num_batches, len(rows), units, num_nans, num_infs)
        self._num_batches += 1
        window = self._windows.setdefault(layer, deque(maxlen=self._window_size))
        if window and window[-1].units.shape != units.shape:
            window.clear()
        window.append(batch)
        self._kinds[layer] = activation
        finite = rows[~(is_nan | is_inf)] if num_nans or num_infs else rows
        variance, mean = torch.var_mean(finite, correction=0) if finite.numel() else (np.nan, np.nan)
        shares = units.sum(1) / rows.numel()
        return ActivationStats(
            mean=float(mean),
            std=float(variance) ** 0.5,
            zero_ratio=float(shares[0]),
            saturation_ratio=float(shares[1] + shares[2]) if activation in _BOUNDS else 0.0,
            num_nans=num_nans,
            num_infs=num_infs,
        )

    @contextmanager
    def attach(self, model: nn.Module) -> Iterator[ActivationMonitor]:
        """Note the outputs of all layers of a torch model in every pass made in this context.

        The hooks are there in the context only, also when it ends with an error. Activations are known by
        their modules, and those written as functions by what they did, if the next layer is given their
        output as it is: they are called "relu after fc1".

        Args:
            model: The model.

        Yields:
            The monitor itself.

        Raises:
            ValueError: The model was compiled: hooks would have to compile it anew.
            TypeError: It is no torch model.

        Cost:
            That of `record` for each layer in each pass.

        Example:
            >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
            >>> torch.nn.init.constant_(model[0].bias, -100.0).mean().item()
            -100.0
            >>> with ActivationMonitor().attach(model) as monitor:
            ...     for batch in torch.randn(20, 16, 4):
            ...         _ = model(batch)
            >>> [(finding.cause.value, finding.layer) for finding in monitor.diagnose()]
            [('dead_units', '1')]
        """
        if not isinstance(model, nn.Module):
            raise TypeError(
                f"ActivationMonitor.attach got {type(model).__name__}: expected a torch.nn.Module. Of other "
                "models note the activations with record()."
            )
        if hasattr(model, "_orig_mod"):
            raise ValueError(
                "ActivationMonitor.attach got a compiled model: give it model._orig_mod, and call that one "
                "while you look."
            )
        with LayerWatch(model, self.record):
            yield self

    def diagnose(self) -> tuple[Finding, ...]:
        """NaN and Inf in the window, and layers more than half of whose units are dead or stuck.

        For the latter 256 rows or more must have been seen.
        """
        found = list(self._nonfinite())
        for layer, window in self._windows.items():
            num_rows = sum(batch.num_rows for batch in window)
            if num_rows < _MIN_ROWS:
                continue
            counts = np.sum([batch.units for batch in window], axis=0)
            dead = float((counts[0] == num_rows).mean()) if self._kinds[layer] == "relu" else 0.0
            stuck = float((counts[1:].max(axis=0) >= _STUCK_SHARE * num_rows).mean())
            for cause, share, what in (
                (FindingCause.DEAD_UNITS, dead, "are always zero"),
                (FindingCause.SATURATION, stuck, f"stay at a bound of {self._kinds[layer]}"),
            ):
                if share > _SUSPECT and (cause is FindingCause.DEAD_UNITS or self._kinds[layer] in _BOUNDS):
                    found.append(_of_units(cause, layer, share, what, num_rows))
        return tuple(found)

    def _nonfinite(self) -> Iterator[Finding]:
        """One finding: of the layer in which the first NaN or Inf came up."""
        bad = {
            layer: [batch for batch in window if batch.num_nans or batch.num_infs]
            for layer, window in self._windows.items()
        }
        bad = {layer: batches for layer, batches in bad.items() if batches}
        if not bad:
            return
        layer = min(bad, key=lambda name: bad[name][0].number)
        num_nans, num_infs = (sum(getattr(b, n) for b in bad[layer]) for n in ("num_nans", "num_infs"))
        others = f"; {len(bad) - 1} more layers had some later" if len(bad) > 1 else ""
        yield Finding(
            FindingCause.NONFINITE_ACTIVATIONS,
            Severity.CRITICAL,
            f"{layer} put out {num_nans} NaN and {num_infs} infinite values{others}.",
            "Find the operation with trimtab.trace(model, closure). Look for NaN in the inputs and the "
            "weights; lower the learning rate, clip gradients.",
            (
                Evidence("NaN", num_nans, "values"),
                Evidence("Inf", num_infs, "values"),
                Evidence("batches with some", len(bad[layer]), f"of {len(self._windows[layer])}"),
            ),
            confidence=1.0,
            layer=layer,
        )


def unit_rows(activations: Any, unit_dim: int | None) -> Tensor:
    """Activations as (rows, units), in the widest type of their device.

    Args:
        activations: An array or tensor of at least two dimensions.
        unit_dim: As in `ActivationMonitor.record`.

    Raises:
        ValueError: Fewer than two dimensions, no element, or a layout that is not known.
        TypeError: They are no real numbers.
    """
    is_tensor = isinstance(activations, Tensor)
    values = activations.detach() if is_tensor else _tensor(activations)
    shape = tuple(values.shape)
    if values.dim() < 2 or values.numel() == 0:
        raise ValueError(
            f"activations of shape {shape}: expected some rows of some units, such as (rows, units)."
        )
    if values.is_complex():
        raise TypeError(f"activations of type {values.dtype}: expected real numbers.")
    if unit_dim is None:
        if values.dim() > 3 and not is_tensor:
            raise ValueError(
                f"activations of shape {shape}: an array does not tell where its channels are. Pass "
                "unit_dim=1 for (N, C, H, W), or unit_dim=-1 for (N, H, W, C)."
            )
        unit_dim = 1 if values.dim() in (4, 5) else -1
    if not -values.dim() <= unit_dim < values.dim():
        raise ValueError(f"unit_dim={unit_dim}: activations of shape {shape} have no such dimension.")
    values = values.movedim(unit_dim, -1)
    return values.reshape(-1, values.shape[-1]).to(wide_dtype(values.device))


def _tensor(values: Any) -> Tensor:
    try:
        array = np.array(values)
        if array.dtype.kind not in "biufc":  # also what is new to NumPy, such as bfloat16 of other frameworks
            array = array.astype(np.float64)
        if array.dtype.kind == "f" and array.dtype.itemsize > 8:
            array = array.astype(np.float64)
        return torch.from_numpy(array.astype(array.dtype.newbyteorder("=")))
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"activations are {type(values).__name__}: expected an array or tensor of numbers ({error})."
        ) from None


def _of_units(cause: FindingCause, layer: str, share: float, what: str, num_rows: int) -> Finding:
    return Finding(
        cause,
        Severity.WARNING,
        f"{share:.0%} of the units of {layer} {what}.",
        "Lower the learning rate, initialize smaller, scale the inputs, or use GELU or LeakyReLU.",
        (Evidence("share of the units", share, limit=_SUSPECT), Evidence("rows seen", num_rows, "rows")),
        confidence=0.9,
        layer=layer,
    )
