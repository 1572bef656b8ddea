"""Rules in common use, and published ones re-implemented with their default thresholds, on our logs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

import trimtab as tt


def _loss(log: tt.RunLog) -> np.ndarray:
    return log.loss[np.isfinite(log.loss)]


def _val(log: tt.RunLog) -> np.ndarray:
    return log.metrics["val_loss"][1] if "val_loss" in log.metrics else np.zeros(0)


def hundred_times_mean(log: tt.RunLog) -> bool:
    """`loss > 100 * mean(last 10, this one included)`."""
    x = _loss(log)
    return any(x[i] > 100 * x[max(0, i - 9) : i + 1].mean() for i in range(len(x)))


def flat_range(log: tt.RunLog) -> bool:
    """Plateau: (max - min) / mean of the last 20 below 1e-3."""
    x = _loss(log)
    return any(np.ptp(x[i - 20 : i]) < 1e-3 * abs(x[i - 20 : i].mean()) for i in range(20, len(x)))


def loss_not_decreasing(log: tt.RunLog) -> bool:
    """SageMaker Debugger LossNotDecreasing: less than 0.1 % within 10 steps."""
    x = _loss(log)
    return any(x[i] > x[i - 10] * (1 - 1e-3) for i in range(10, len(x), 10))


def overfit_ratio(log: tt.RunLog) -> bool:
    """SageMaker Debugger Overfit: (val - train) / train above 0.1."""
    val, x = _val(log), _loss(log)
    return bool(len(val) and len(x)) and any(
        (v - x[min(25 * i + 24, len(x) - 1)]) > 0.1 * x[min(25 * i + 24, len(x) - 1)]
        for i, v in enumerate(val)
    )


def one_step_overfit(log: tt.RunLog) -> bool:
    """UMLAUT: one validation up while the training loss went down."""
    val, x = _val(log), _loss(log)
    pairs = range(1, len(val))
    return bool(len(x)) and any(
        val[i] > val[i - 1] and x[min(25 * i + 24, len(x) - 1)] < x[min(25 * i - 1, len(x) - 1)]
        for i in pairs
    )


def raw_mad_spike(log: tt.RunLog) -> bool:
    """Spike: z above 6 by median and MAD of the raw loss."""
    x = _loss(log)
    for i in range(25, len(x)):
        w = x[i - 25 : i]
        if x[i] - np.median(w) > 6 * 1.4826 * np.median(np.abs(w - np.median(w))):
            return True
    return False


def losslint_divergence(log: tt.RunLog) -> bool:
    """losslint: median of the last tenth above 1.25 times that of the first."""
    x = _loss(log)
    n = max(1, len(x) // 10)
    return len(x) > 10 and np.median(x[-n:]) > 1.25 * np.median(x[:n])


def vanishing_mean(log: tt.RunLog) -> bool:
    """DeepDiagnosis, SageMaker Debugger: some tensor's mean gradient below 1e-7."""
    signal = log.signals.get("gradient_rms")
    return signal is not None and bool(np.any(signal.values < 1e-7))


def zero_gradient_share(log: tt.RunLog) -> bool:
    """AutoTrainer: 70 % of all gradient elements exactly zero."""
    signal = log.signals.get("gradient_zero_share")
    return signal is not None and bool(np.any(np.nanmean(signal.values, axis=1) >= 0.7))


def lr_times_gradient(log: tt.RunLog) -> bool:
    """DeepDiagnosis: lr * gradient / weight outside [1e-5, 1e-1]."""
    gradient, weight = log.signals.get("gradient_rms"), log.signals.get("weight_rms")
    if gradient is None or weight is None:
        return False
    lr = log.lr[np.searchsorted(log.step, gradient.steps)][:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = lr * gradient.values / weight.values
    seen = ratio[np.isfinite(ratio)]
    return bool(np.any((seen < 1e-5) | (seen > 1e-1)))


def lr_range(log: tt.RunLog) -> bool:
    """UMLAUT: learning rate outside [1e-7, 1e-2]."""
    return bool(np.nanmax(log.lr) > 1e-2 or np.nanmax(log.lr) < 1e-7)


def any_nonfinite(log: tt.RunLog) -> bool:
    """Any NaN or Inf in the loss."""
    return bool(np.any(~np.isfinite(log.loss)))


NAIVE: dict[str, Callable[[tt.RunLog], bool]] = {
    f.__name__: f
    for f in (
        hundred_times_mean,
        flat_range,
        loss_not_decreasing,
        overfit_ratio,
        one_step_overfit,
        raw_mad_spike,
        losslint_divergence,
        vanishing_mean,
        zero_gradient_share,
        lr_times_gradient,
        lr_range,
        any_nonfinite,
    )
}
