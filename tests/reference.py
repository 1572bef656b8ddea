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


# Published clip rules for units, tensors and updates, as their authors wrote them


def agc(weight: np.ndarray, gradient: np.ndarray, dim: int | None, ratio: float, eps: float) -> np.ndarray:
    """AGC: each unit's gradient to at most `ratio` times its weight's norm; a vector is one unit."""
    clipped = gradient.copy()
    units = [()] if dim is None else [(slice(None),) * dim + (i,) for i in range(weight.shape[dim])]
    for unit in units:
        w, g = float(np.sqrt((weight[unit] ** 2).sum())), float(np.sqrt((gradient[unit] ** 2).sum()))
        most = ratio * max(w, eps)
        if g > most:
            clipped[unit] = gradient[unit] * most / max(g, 1e-6)
    return clipped


def adagc(
    norms: Sequence[Sequence[float]],
    *,
    absolute: float = 1.0,
    relative: float = 1.05,
    beta: float = 0.98,
    warmup: int = 100,
    eps: float = 1e-8,
) -> list[list[float]]:
    """AdaGC: for each step the norm of each tensor after clipping, from the norms before."""
    gammas = [0.0] * len(norms[0])
    clipped = []
    for t, of_step in enumerate(norms, start=1):
        joint = math.sqrt(sum(n * n for n in of_step))
        left = []
        for i, n in enumerate(of_step):
            if t < warmup:
                kept = n * min(absolute / (joint + eps), 1.0)
                gammas[i] = kept if t == 1 else min(gammas[i], kept)
            else:
                with np.errstate(invalid="ignore", divide="ignore"):
                    kept = n * float(np.minimum(np.float64(relative * gammas[i]) / np.float64(n), 1.0))
                gammas[i] = beta * gammas[i] + (1 - beta) * kept
            left.append(kept)
        clipped.append(left)
    return clipped


def percentile_clipping(norms: Sequence[float], percentile: int) -> list[float]:
    """bitsandbytes: threshold of each step, from a ring of 100 squared norms that has the current one."""
    ring = [norms[0] ** 2] * 100
    thresholds = []
    for t, n in enumerate(norms, start=1):
        ring[t % 100] = n**2
        thresholds.append(math.sqrt(sorted(ring)[percentile]))
    return thresholds


def stable_adamw(
    parameter: np.ndarray,
    gradients: Sequence[np.ndarray],
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    decay: float = 0.0,
) -> list[np.ndarray]:
    """StableAdamW: the parameter after each step; the rate is divided by max(1, rms(g / sqrt(v)))."""
    p, m, v = parameter.copy(), np.zeros_like(parameter), np.zeros_like(parameter)
    after = []
    for t, g in enumerate(gradients, start=1):
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g * g
        m_hat, v_hat = m / (1 - betas[0] ** t), v / (1 - betas[1] ** t)
        rms = math.sqrt(float((g * g / np.maximum(v_hat, eps**2)).mean()))
        rate = lr / max(1.0, rms)
        p = p - rate * decay * p - rate * m_hat / (np.sqrt(v_hat) + eps)
        after.append(p)
    return after


def clip_update(before: np.ndarray, after: np.ndarray, most: float) -> np.ndarray:
    """Block RMS of optax: an update with a root mean square above `most` is scaled down to it."""
    update = after - before
    return before + update / max(1.0, math.sqrt(float((np.abs(update) ** 2).mean())) / most)
