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


# Published clip rules on a sequence of norms, as their authors wrote them: threshold of each step


def autoclip(norms: Sequence[float], percentile: float) -> list[float]:
    """AutoClip: the percentile of all norms so far, the current one included."""
    return [float(np.percentile(np.array(norms[: t + 1]), percentile)) for t in range(len(norms))]


def zclip(
    norms: Sequence[float],
    *,
    z: float,
    alpha: float,
    warmup: int,
    mode: str,
    factor: float,
    cap: float | None,
) -> list[float]:
    """ZClip: thresholds after its warm-up; during it only the cap."""
    limit = math.inf if cap is None else cap
    thresholds, mean, variance = [], 0.0, 0.0
    for t, n in enumerate(norms):
        if t < warmup:
            thresholds.append(min(n, limit))
            if t + 1 == warmup:
                mean, variance = float(np.mean(norms[:warmup])), float(np.var(norms[:warmup]))
            continue
        std = math.sqrt(variance)
        score = (n - mean) / (std + 1e-6)
        threshold = n
        if score > z:
            threshold = {
                "adaptive": factor * (mean + z**2 / score * std),
                "mean": mean,
                "percentile": mean + z * std,
            }[mode]
        thresholds.append(min(threshold, limit))
        mean = alpha * mean + (1 - alpha) * threshold
        variance = alpha * variance + (1 - alpha) * (threshold - mean) ** 2
    return thresholds
