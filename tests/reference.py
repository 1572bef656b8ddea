"""Slow float64 versions of what the library measures, written to be read."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def as_array(tensor: Tensor) -> np.ndarray:
    """Any tensor as a dense float64 or complex128 array."""
    dense = tensor.detach().to_dense() if tensor.is_sparse else tensor.detach()
    return dense.to(torch.complex128 if dense.is_complex() else torch.float64).numpy()


def norm(tensors: Sequence[Tensor], p: float = 2.0) -> float:
    """The p-norm of all elements together, scaled so that nothing leaves the range of float64."""
    magnitudes = np.concatenate([np.abs(as_array(t)).reshape(-1) for t in tensors] or [np.zeros(0)])
    largest = float(magnitudes.max(initial=0.0))
    if largest == 0.0 or not math.isfinite(largest) or math.isinf(p):
        return largest
    return largest * float(((magnitudes / largest) ** p).sum()) ** (1.0 / p)


def counts(tensor: Tensor, threshold: float = math.inf) -> tuple[int, int, int]:
    """Number of NaN, infinite, and finite but too large elements."""
    values = as_array(tensor)
    is_nan = np.isnan(values)
    is_inf = np.isinf(values) & ~is_nan
    with np.errstate(invalid="ignore"):
        is_large = (np.abs(values) > threshold) & ~is_nan & ~is_inf
    return int(is_nan.sum()), int(is_inf.sum()), int(is_large.sum())
