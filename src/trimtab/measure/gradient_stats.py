"""Statistics of all gradients together, exact about NaN, Inf and zeros, in one pass over memory."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# A block that stays in the cache is read from memory once, however many numbers are taken from it
_BLOCK = 1 << 16
# Beyond it float64 has hardly room for the sum of squares
_HUGE = 1e150
# The usual bounds of a healthy global norm
_LARGE, _SMALL = 1000.0, 1e-8


@dataclass(frozen=True, slots=True)
class GradientStats:
    """Statistics over all elements of some gradients. NaN and Inf are counted and left out of the rest.

    Attributes:
        norm: 2-norm of the finite elements.
        max_val: Largest magnitude; 0 if there is none.
        min_val: Smallest magnitude above zero; 0 if there is none.
        mean: Mean.
        std: Standard deviation (of the population).
        num_zeros: Elements that are exactly 0.
        num_nans: Elements that are NaN.
        num_infs: Elements that are infinite.
        total_elements: All elements.

    Example:
        >>> stats = GradientStats.from_gradients([np.array([3.0, 0.0]), np.array([4.0, np.nan])])
        >>> stats.norm, stats.num_zeros, stats.num_nans, stats.is_healthy()
        (5.0, 1, 1, False)
    """

    norm: float = 0.0
    max_val: float = 0.0
    min_val: float = 0.0
    mean: float = 0.0
    std: float = 0.0
    num_zeros: int = 0
    num_nans: int = 0
    num_infs: int = 0
    total_elements: int = 0

    @classmethod
    @torch.no_grad()
    def from_gradients(cls, gradients: Iterable[Tensor | NDArray[Any] | None]) -> GradientStats:
        """Measure gradients of any shapes.

        Args:
            gradients: Tensors or arrays of numbers; None, for a parameter without one, is passed over.

        Raises:
            TypeError: Something is neither a tensor nor an array of numbers.

        Cost:
            One pass over memory, in blocks; a second one over blocks with NaN or Inf. On an accelerator a
            few host reads per tensor.
        """
        if isinstance(gradients, np.ndarray) or not hasattr(gradients, "__iter__"):
            raise TypeError(
                f"GradientStats.from_gradients got {type(gradients).__name__}: expected several gradients, "
                "as in [p.grad for p in model.parameters()]."
            )
        sums = _Sums()
        for gradient in gradients:
            if gradient is None:
                continue
            flat = _flat(gradient)
            # an accelerator has no use for small blocks
            step = _BLOCK if flat.device.type == "cpu" else max(flat.numel(), 1)
            for start in range(0, flat.numel(), step):
                sums.add(flat[start : start + step])
        return sums.stats()

    @property
    def problem(self) -> str | None:
        """What is wrong, in words, or None."""
        if self.num_nans or self.num_infs:
            return f"{self.num_nans} NaN and {self.num_infs} infinite elements of {self.total_elements}"
        if self.total_elements and self.norm > _LARGE:
            return f"norm {self.norm:.3g} is above {_LARGE:g}"
        if self.total_elements and self.norm < _SMALL:
            return f"norm {self.norm:.3g} is below {_SMALL:g}"
        return None

    def is_healthy(self) -> bool:
        """Whether all elements are finite and the norm is in [1e-8, 1000]."""
        return self.problem is None


class _Sums:
    """What adds up over blocks; means and variances by the formulas of Chan, Golub and LeVeque (1979)."""

    def __init__(self) -> None:
        self.num = self.zeros = self.nans = self.infs = 0
        self.mean = self.spread = 0.0
        self.unit = 1.0  # of mean and spread; float64 beyond 1e154 has no square
        self.largest, self.smallest = 0.0, math.inf

    def add(self, block: Tensor) -> None:
        block = block.double()  # within the cache: exact squares of all of float32
        numbers = self._moments(block)
        if not all(map(math.isfinite, numbers)):
            is_nan, is_inf = block.isnan(), block.isinf()
            self.nans += int(is_nan.sum())
            self.infs += int(is_inf.sum())
            block = block[~(is_nan | is_inf)]
            if not block.numel():
                return
            numbers = self._moments(block)
        if not (numbers[0] < _HUGE**2 and abs(numbers[1]) < _HUGE):
            self._change_unit(float(block.abs().max()))
            numbers = self._moments(block)
        self._combine(block.numel(), *numbers)
        magnitude = block.abs()
        zeros = block.numel() - int(torch.count_nonzero(block))
        self.zeros += zeros
        if zeros < block.numel():
            low, high = torch.aminmax(magnitude[magnitude > 0] if zeros else magnitude)
            self.largest, self.smallest = max(self.largest, float(high)), min(self.smallest, float(low))

    def _moments(self, block: Tensor) -> list[float]:
        """Variance and mean of a block, in the unit of the sums."""
        variance, mean = torch.var_mean(block if self.unit == 1.0 else block / self.unit, correction=0)
        numbers: list[float] = torch.stack([variance, mean]).tolist()
        return numbers

    def _change_unit(self, unit: float) -> None:
        ratio = self.unit / unit
        self.mean, self.spread, self.unit = self.mean * ratio, self.spread * ratio * ratio, unit

    def _combine(self, num: int, variance: float, mean: float) -> None:
        total = self.num + num
        apart = mean - self.mean
        self.spread += variance * num + apart * apart * self.num * num / total
        self.mean += apart * num / total
        self.num = total

    def stats(self) -> GradientStats:
        squares = self.spread + self.num * self.mean * self.mean
        return GradientStats(
            norm=self.unit * math.sqrt(squares),
            max_val=self.largest,
            min_val=0.0 if math.isinf(self.smallest) else self.smallest,
            mean=self.unit * self.mean,
            std=self.unit * math.sqrt(self.spread / self.num) if self.num else 0.0,
            num_zeros=self.zeros,
            num_nans=self.nans,
            num_infs=self.infs,
            total_elements=self.num + self.nans + self.infs,
        )


def _flat(gradient: Tensor | NDArray[Any]) -> Tensor:
    if isinstance(gradient, (np.ndarray, np.generic)):
        if gradient.dtype.kind in "OSUMm":
            raise TypeError(
                f"GradientStats.from_gradients got an array of {gradient.dtype}: expected one of numbers."
            )
        if gradient.dtype.kind == "c":
            gradient = np.stack([gradient.real, gradient.imag])
        gradient = torch.from_numpy(np.ascontiguousarray(gradient, dtype=_plain(gradient.dtype)))
    if not isinstance(gradient, Tensor):
        raise TypeError(
            f"GradientStats.from_gradients got {type(gradient).__name__}: expected tensors or NumPy arrays."
        )
    if gradient.layout is not torch.strided:
        gradient = gradient.coalesce().values()
    if gradient.is_complex():
        gradient = torch.view_as_real(gradient.resolve_conj())
    return gradient.detach().reshape(-1)


def _plain(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """A type that torch knows, in native byte order."""
    return np.dtype(np.float64) if dtype.kind != "f" or dtype.itemsize > 8 else dtype.newbyteorder("=")
