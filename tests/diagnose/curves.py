"""Curves as runs make them, healthy and not, drawn from a seed."""

from __future__ import annotations

from typing import Any

import numpy as np

Columns = dict[str, Any]


class Draw:
    """One length and one source of noise for all curves of a seed."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.num = int(self.rng.choice([60, 100, 300, 1000]))
        self.u = np.arange(self.num) / self.num

    def noise(self, sigma: float) -> np.ndarray:
        return np.exp(sigma * self.rng.normal(size=self.num))

    def fall(self, start: float, floor: float, rate: float) -> np.ndarray:
        return floor + (start - floor) * np.exp(-self.u * rate)

    def evals(self, curve: np.ndarray) -> list[float | None]:
        every = max(self.num // 20, 1)
        return [float(v) if i % every == every - 1 else None for i, v in enumerate(curve)]

    def walk(self) -> np.ndarray:
        steps = np.zeros(self.num)
        for i in range(1, self.num):
            steps[i] = 0.95 * steps[i - 1] + 0.1 * self.rng.normal()
        return steps


def healthy(seed: int) -> dict[str, Columns]:
    """Name to the columns of a run in which nothing is wrong."""
    d = Draw(seed)
    u, n, fall = d.u, d.noise, d.fall
    period = max(d.num // 4, 1)
    restarts = 0.05 * (1 + np.cos(np.pi * (np.arange(d.num) % period) / period)) + 1e-4
    triangle = np.abs((u * 5) % 2 - 1)
    decay = 0.1 * 0.1 ** (3 * np.arange(d.num) // d.num)
    bad_batch = fall(2.3, 0.1, 8) * n(0.1)
    bad_batch[d.num // 2] *= 20
    train = fall(2.3, 0.02, 9) * n(0.1)
    val = (0.25 + 2 * np.exp(-u * 9)) * n(0.05)
    return {
        "plain": dict(loss=fall(2.3, 0.1, 8) * n(0.1)),
        "noisy": dict(loss=fall(2.3, 0.3, 6) * n(0.5)),
        "power law": dict(loss=(1 + 4 * (1 + np.arange(d.num)) ** -0.4) * n(0.03)),
        "tiny": dict(loss=np.exp(-u * 18) * n(0.5)),
        "tiny with a floor": dict(loss=(np.exp(-u * 40) + 1e-9) * n(0.8)),
        "warm restarts": dict(loss=fall(2.3, 0.1, 8) * (1 + 10 * restarts) * n(0.1), lr=restarts),
        "warm restarts, rate unknown": dict(loss=fall(2.3, 0.1, 8) * (1 + 10 * restarts) * n(0.1)),
        "cyclic": dict(loss=fall(2.3, 0.1, 8) * (0.4 + 1.5 * triangle) * n(0.1), lr=1e-3 + 0.1 * triangle),
        "step decay": dict(loss=fall(2.3, 0.4, 8) * (0.3 + 0.7 * (decay / 0.1) ** 0.5) * n(0.1), lr=decay),
        "late": dict(loss=(0.1 + 2.2 / (1 + np.exp((u - 0.6) * 25))) * n(0.03)),
        "small batches": dict(loss=fall(2.3, 0.2, 6) * d.rng.gamma(2, 0.5, size=d.num)),
        "wandering": dict(loss=fall(2.3, 0.3, 6) * np.exp(d.walk())),
        "as in reinforcement": dict(loss=np.exp(0.9 * d.rng.normal(size=d.num)) * (1 + 0.5 * np.exp(-u * 3))),
        "value function": dict(loss=0.1 * np.exp(0.6 * d.rng.normal(size=d.num) + d.walk())),
        "fine-tuning": dict(loss=(0.45 + 0.25 * np.exp(-u * 10)) * n(0.25)),
        "slow fine-tuning": dict(loss=(0.45 - 0.1 * u**0.5) * n(0.2)),
        "negative": dict(loss=-100 * (1 - np.exp(-u * 6)) + 20 + 5 * d.rng.normal(size=d.num)),
        "negative, noisy": dict(loss=fall(1, -3, 5) + d.rng.normal(size=d.num)),
        "converged": dict(loss=fall(2.3, 0.5, 40) * n(0.05)),
        "one bad batch": dict(loss=bad_batch),
        "validated": dict(loss=train, val_loss=d.evals(val)),
        "slightly overfitted": dict(loss=train, val_loss=d.evals(val * (1 + 0.06 * u))),
        "growing gradients": dict(loss=fall(2.3, 0.05, 7) * n(0.2), grad_norm=n(0.6) * (1 + 2 * u)),
        "falling gradients": dict(loss=np.exp(-u * 15) * n(0.3), grad_norm=np.exp(-u * 12) * n(0.3)),
        "generator": dict(loss=(0.7 + 1.2 * (1 - np.exp(-u * 10))) * n(0.25)),
    }


def faulty(seed: int) -> dict[str, tuple[Columns, set[str]]]:
    """Name to the columns of a run with a fault, and the causes that are right."""
    d = Draw(seed)
    u, n, fall, rate = d.u, d.noise, d.fall, np.full(d.num, 0.1)
    blown = np.minimum(2.3 * np.exp(u * 600), 1e30)
    blown[d.num // 8 :] = np.nan
    lost = fall(2.3, 0.3, 8) * n(0.1)
    lost[d.num // 2 :] = np.nan
    collapsed = fall(2.3, 0.1, 10) * n(0.1)
    collapsed[int(0.6 * d.num) :] = 2.35 * n(0.02)[int(0.6 * d.num) :]
    thrown = (2.31 + 40 * np.exp(-u * 40)) * n(0.02)
    thrown[0] = 2.3
    val = (0.5 + 1.8 * np.exp(-u * 14) + 0.9 * np.maximum(u - 0.2, 0)) * n(0.02)
    diverging = {"loss_explosion", "slow_divergence", "lr_too_high"}
    return {
        "explodes late": (
            dict(loss=np.where(u < 0.5, fall(2.3, 0.3, 8), 0.35 * np.exp((u - 0.5) * 14)) * n(0.1)),
            diverging,
        ),
        "explodes at once": (
            dict(loss=2.3 * np.exp(np.minimum(u * 60, 30)) * n(0.1), lr=rate),
            {"lr_too_high"},
        ),
        "blows up to NaN": (dict(loss=blown, lr=rate), {"lr_too_high"}),
        "NaN out of the blue": (dict(loss=lost), {"loss_nan"}),
        "drifts": (
            dict(loss=fall(2.3, 0.3, 10) * np.exp(np.maximum(u - 0.4, 0) / 0.6 * np.log(3)) * n(0.1)),
            diverging,
        ),
        "collapses": (dict(loss=collapsed), diverging),
        "rises, negative": (
            dict(loss=fall(5, -3, 8) + np.where(u > 0.6, (u - 0.6) * 60, 0) + 0.3 * d.rng.normal(size=d.num)),
            diverging,
        ),
        "at chance": (dict(loss=2.303 * n(0.01)), {"at_chance"}),
        "thrown out": (dict(loss=thrown, lr=rate), {"lr_too_high"}),
        "overfitted": (dict(loss=fall(2.3, 0.01, 9) * n(0.1), val_loss=d.evals(val)), {"overfitting"}),
        "gradients vanish": (
            dict(loss=2.303 * n(0.01), grad_norm=np.where(u < 0.05, 1.0, 1e-7) * n(0.2)),
            {"vanishing_gradients"},
        ),
        "decayed too early": (
            dict(loss=(1.2 + 1.1 * np.exp(-np.minimum(u, 0.1) * 10)) * n(0.03), lr=0.1 * np.exp(-u * 60)),
            {"lr_decayed_too_early"},
        ),
        "rate zero": (dict(loss=2.3 * n(0.02), lr=np.zeros(d.num)), {"lr_zero"}),
        "constant": (dict(loss=np.full(d.num, 1.234)), {"step_changes_nothing"}),
    }
