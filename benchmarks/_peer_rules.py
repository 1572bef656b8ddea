"""Published rules of other projects, written anew from their formulas, hazards and all.

Each is what its source does on its own defaults, on one device. Nothing of trimtab is used here. Where
a rule says nothing about a non-finite gradient, nothing is done about it here either.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from statistics import fmean, stdev
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer


class Did(NamedTuple):
    """What a rule did in one step.

    Attributes:
        clipped: Share of the gradients it made smaller, by whatever it looks at.
        skipped: Whether the parameters were left alone.
    """

    clipped: float = 0.0
    skipped: bool = False


class Clipping(Protocol):
    """A rule that changes gradients and leaves the rest to the optimizer."""

    def clip_(self, parameters: list[nn.Parameter]) -> float:
        """Change the gradients in place; the share that was clipped."""
        ...


def gradients(parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    """Those there are."""
    return [p.grad for p in parameters if p.grad is not None]


def global_norm(parameters: Iterable[nn.Parameter]) -> float:
    """2-norm of all gradients, as torch computes it."""
    return float(nn.utils.get_total_norm(gradients(parameters)))


def scale_to_(parameters: Iterable[nn.Parameter], norm: float, threshold: float) -> float:
    """Multiply all gradients by min(1, threshold / (norm + 1e-6))."""
    factor = min(1.0, threshold / (norm + 1e-6)) if not math.isnan(norm + threshold) else math.nan
    for gradient in gradients(parameters):
        gradient.mul_(factor)
    return float(factor < 1.0)


class NoClipping:
    """Gradients as they are."""

    def clip_(self, parameters: list[nn.Parameter]) -> float:
        """Nothing."""
        del parameters
        return 0.0


class GlobalNorm:
    """`torch.nn.utils.clip_grad_norm_`."""

    def __init__(self, max_norm: float = 1.0) -> None:
        self.max_norm = max_norm

    def clip_(self, parameters: list[nn.Parameter]) -> float:
        """Call it."""
        return float(nn.utils.clip_grad_norm_(parameters, self.max_norm) > self.max_norm)


class Value:
    """`torch.nn.utils.clip_grad_value_`."""

    def __init__(self, limit: float = 1.0) -> None:
        self.limit = limit

    def clip_(self, parameters: list[nn.Parameter]) -> float:
        """Call it."""
        own = gradients(parameters)
        num = sum(int((g.abs() > self.limit).sum()) for g in own)
        nn.utils.clip_grad_value_(parameters, self.limit)
        return num / sum(g.numel() for g in own)


class AutoClip:
    """To a percentile of all norms so far, this one included. The authors' example uses 10."""

    def __init__(self, percentile: float = 10.0) -> None:
        self.percentile = percentile
        self.history: list[float] = []

    def threshold(self, norm: float) -> float:
        """Threshold for the next norm, which enters the history first."""
        self.history.append(norm)
        return float(np.percentile(self.history, self.percentile))

    def clip_(self, parameters: list[nn.Parameter]) -> float:
        """Clip to it."""
        norm = global_norm(parameters)
        return scale_to_(parameters, norm, self.threshold(norm))


class ZClip:
    """ZClip with adaptive scaling: outliers by z-score, and a cap on every norm."""

    alpha, z, warmup, eps, factor, cap = 0.97, 2.5, 25, 1e-6, 1.0, 1.0

    def __init__(self) -> None:
        self.first: list[float] = []
        self.mean = self.variance = 0.0

    def threshold(self, norm: float) -> float:
        """Threshold for the next norm; during the warm-up the cap alone."""
        if len(self.first) < self.warmup:
            self.first.append(norm)
            if len(self.first) == self.warmup:
                self.mean, self.variance = float(np.mean(self.first)), float(np.var(self.first))
            return min(norm, self.cap)
        std = math.sqrt(self.variance)
        z = (norm - self.mean) / (std + self.eps)
        entering = self.factor * (self.mean + self.z**2 / z * std) if z > self.z else norm
        self.mean = self.alpha * self.mean + (1 - self.alpha) * entering
        self.variance = self.alpha * self.variance + (1 - self.alpha) * (entering - self.mean) ** 2
        return min(entering, self.cap)

    def clip_(self, parameters: list[nn.Parameter]) -> float:
        """Clip to it."""
        norm = global_norm(parameters)
        return scale_to_(parameters, norm, self.threshold(norm))


class AdaptiveGradientClipping:
    """AGC of NFNets: each unit's gradient to a share of its weight. Not for the last layer.

    Args:
        exempt: Parameters that are left alone.
    """

    ratio, eps = 0.01, 1e-3

    def __init__(self, exempt: Iterable[nn.Parameter] = ()) -> None:
        self.exempt = {id(p) for p in exempt}

    @torch.no_grad()
    def clip_(self, parameters: list[nn.Parameter]) -> float:
        """Clip unit by unit."""
        num_clipped = num = 0
        for p in parameters:
            if p.grad is None or id(p) in self.exempt:
                continue
            dims = tuple(range(1, p.dim())) if p.dim() > 1 else None
            weight = torch.linalg.vector_norm(p, dim=dims, keepdim=True)
            gradient = torch.linalg.vector_norm(p.grad, dim=dims, keepdim=True)
            most = self.ratio * weight.clamp(min=self.eps)
            is_above = gradient > most
            p.grad.copy_(torch.where(is_above, p.grad * (most / gradient.clamp(min=1e-6)), p.grad))
            num_clipped, num = num_clipped + int(is_above.sum()), num + is_above.numel()
        return num_clipped / num


class AdaGC:
    """Each tensor to just above its own usual norm; the global norm to 1 during the warm-up."""

    absolute, relative, beta, warmup, eps = 1.0, 1.05, 0.98, 100, 1e-8

    def __init__(self) -> None:
        self.step = 0
        self.levels: dict[int, float] = {}

    def factor(self, key: int, norm: float, total: float) -> float:
        """The factor of one tensor in step `self.step`, counted from 1, and its level after it."""
        if self.step < self.warmup:
            h = min(self.absolute / (total + self.eps), 1.0)
            self.levels[key] = min(self.levels.get(key, math.inf), h * norm)
            return h
        # 0 / 0 is NaN in the published code, where Python would raise
        h = min(self.relative * self.levels[key] / norm, 1.0) if norm else math.nan
        self.levels[key] = self.beta * self.levels[key] + (1 - self.beta) * h * norm
        return h

    def clip_(self, parameters: list[nn.Parameter]) -> float:
        """Clip tensor by tensor."""
        self.step += 1
        total = global_norm(parameters)
        factors = []
        for key, p in enumerate(parameters):
            if p.grad is not None:
                factors.append(self.factor(key, float(p.grad.norm()), total))
                p.grad.mul_(factors[-1])
        return sum(h < 1 for h in factors) / len(factors)


class PercentileClipping:
    """What bitsandbytes had: each tensor to the p-th smallest of its last 100 norms, this one included."""

    def __init__(self, percentile: int = 5) -> None:
        self.percentile = percentile
        self.step = 0
        self.rings: dict[int, list[float]] = {}

    def factor(self, key: int, norm: float) -> float:
        """The factor of one tensor in step `self.step`, counted from 1."""
        ring = self.rings.setdefault(key, [norm**2] * 100)
        ring[self.step % 100] = norm**2
        threshold = math.sqrt(sorted(ring)[self.percentile])
        return threshold / norm if norm > threshold else 1.0

    def clip_(self, parameters: list[nn.Parameter]) -> float:
        """Clip tensor by tensor."""
        self.step += 1
        factors = []
        for key, p in enumerate(parameters):
            if p.grad is not None:
                factors.append(self.factor(key, float(p.grad.norm())))
                p.grad.mul_(factors[-1])
        return sum(h < 1 for h in factors) / len(factors)


class StableSpam:
    """StableSPAM's two clips: elements to a moving maximum, then each tensor to a normalised norm.

    Its moments are set to zero every 1,000 steps, which runs of this length never reach: left out.
    """

    theta, gamma1, gamma2, eps = 0.999, 0.7, 0.9, 1e-8

    def __init__(self) -> None:
        self.step = 0
        self.states: dict[int, tuple[float, float, float]] = {}

    def clip_(self, parameters: list[nn.Parameter]) -> float:
        """Clip elements, then rescale every tensor."""
        self.step += 1
        num_clipped = num = 0
        for key, p in enumerate(parameters):
            if p.grad is not None:
                num_clipped, num = num_clipped + self.clip_one_(key, p.grad), num + p.grad.numel()
        return num_clipped / num

    def clip_one_(self, key: int, gradient: Tensor) -> int:
        """One tensor; how many of its elements were above the moving maximum."""
        largest, first, second = self.states.get(key, (0.0, 0.0, 0.0))
        peak = float(gradient.abs().max())
        largest = self.theta * largest + (1 - self.theta) * peak
        limit = largest / (1 - self.theta**self.step)
        is_above = gradient.abs() > limit
        gradient.copy_(torch.where(is_above, gradient / peak * limit, gradient))
        norm = float(gradient.norm())
        first = self.gamma1 * first + (1 - self.gamma1) * norm
        second = self.gamma2 * second + (1 - self.gamma2) * norm**2
        unbiased = first / (1 - self.gamma1**self.step)
        spread = math.sqrt(second / (1 - self.gamma2**self.step))
        if norm > 0:
            gradient.mul_(unbiased / (spread + self.eps) / norm)
        self.states[key] = largest, first, second
        return int(is_above.sum())


class Clipped:
    """AdamW with a clipping rule before it.

    Args:
        parameters: What to train.
        rule: The rule.
    """

    def __init__(self, parameters: list[nn.Parameter], rule: Clipping) -> None:
        self.parameters, self.rule = parameters, rule
        self.optimizer: Optimizer = AdamW(parameters, fused=True)

    def step(self, loss: Tensor) -> Did:
        """Clip and step."""
        del loss
        clipped = self.rule.clip_(self.parameters)
        self.optimizer.step()
        return Did(clipped)


class Spam:
    """SPAM: Adam whose gradient elements are limited by its own second moment, with momentum resets."""

    theta, every, num_warmup, grace = 5000.0, 500, 150, 20

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.parameters = parameters
        self.optimizer: Optimizer = AdamW(parameters, eps=1e-6, fused=True)
        self.t = 0
        self.since_reset = math.inf

    def step(self, loss: Tensor) -> Did:
        """Clip spikes and step, at a lowered rate after a reset."""
        del loss
        self.t += 1
        if self.t % self.every == 0:
            self.since_reset = 0
            for state in self.optimizer.state.values():
                state["exp_avg"].zero_()
                state["exp_avg_sq"].zero_()
        clips = self.t >= self.grace and self.t % self.every >= self.grace
        clipped = self.clip_() if clips else 0.0
        if self.since_reset <= self.num_warmup:
            rest = 0.99 * (1 + math.cos(math.pi * self.since_reset / (self.num_warmup + 1))) / 2
            for group in self.optimizer.param_groups:
                group["lr"] *= 1 - rest
        self.since_reset += 1
        self.optimizer.step()
        return Did(clipped)

    def clip_(self) -> float:
        """Elements whose square is over theta times their second moment; the share of these."""
        num_clipped = num = 0
        for p in self.parameters:
            if p.grad is None:
                continue
            limit = (self.theta * self.optimizer.state[p]["exp_avg_sq"]).sqrt()
            is_above = p.grad.abs() > limit
            p.grad.copy_(torch.where(is_above, p.grad.sign() * limit, p.grad))
            num_clipped, num = num_clipped + int(is_above.sum()), num + p.grad.numel()
        return num_clipped / num


class StableAdamW:
    """AdamW whose learning rate is divided, tensor by tensor, by max(1, rms(g / sqrt(v)))."""

    beta2, eps = 0.999, 1e-8

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.optimizer: Optimizer = AdamW([{"params": [p]} for p in parameters], fused=True)
        self.t = 0

    @torch.no_grad()
    def step(self, loss: Tensor) -> Did:
        """Lower the rates and step."""
        del loss
        self.t += 1
        ratios = []
        for group in self.optimizer.param_groups:
            (p,) = group["params"]
            past = self.optimizer.state[p].get("exp_avg_sq", torch.zeros_like(p))
            square = p.grad.square()
            moment = (self.beta2 * past + (1 - self.beta2) * square) / (1 - self.beta2**self.t)
            ratios.append(float((square / moment.clamp(min=self.eps**2)).mean().sqrt()))
            group["lr"] /= ratios[-1] if ratios[-1] > 1 else 1.0
        self.optimizer.step()
        return Did(sum(r > 1 for r in ratios) / len(ratios))


class SkipStep:
    """OLMo-core's AdamW: a step whose loss or norm is six deviations above the last 128 is multiplied by 0.

    Args:
        parameters: What to train.
        max_norm: Clip on the global norm, as OLMo's own recipes have it besides, or None.
    """

    window, k, betas, eps, decay = 128, 6.0, (0.9, 0.999), 1e-8, 1e-2

    def __init__(self, parameters: list[nn.Parameter], max_norm: float | None = None) -> None:
        self.parameters, self.max_norm = parameters, max_norm
        # holds the learning rate and the parameters; the update is made here
        self.optimizer: Optimizer = AdamW(parameters)
        self.moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in parameters]
        self.losses: list[float] = []
        self.norms: list[float] = []
        self.num_applied = 0.0

    def factor(self, loss: float, norm: float) -> float:
        """1 to apply a step, 0 not to."""
        past = self.losses[-self.window :], self.norms[-self.window :]
        self.losses.append(loss)
        self.norms.append(norm)
        if len(past[0]) < max(2, self.window // 2):
            return 1.0
        return float(
            all(x - fmean(xs) <= self.k * _std(xs) for x, xs in zip((loss, norm), past, strict=True))
        )

    @torch.no_grad()
    def step(self, loss: Tensor) -> Did:
        """Step, multiplied by 1 or 0."""
        norm = global_norm(self.parameters)
        s = self.factor(float(loss), norm)
        clipped = 0.0 if self.max_norm is None else scale_to_(self.parameters, norm, self.max_norm)
        self.num_applied += s
        lr = self.optimizer.param_groups[0]["lr"]
        for p, (first, second) in zip(self.parameters, self.moments, strict=True):
            assert p.grad is not None
            self.update_(p, p.grad, first, second, s, lr)
        return Did(clipped, skipped=s == 0)

    def update_(self, p: Tensor, g: Tensor, first: Tensor, second: Tensor, s: float, lr: float) -> None:
        """AdamW with everything new multiplied by s."""
        beta1, beta2 = self.betas
        p.mul_(1 - s * lr * self.decay)
        first.lerp_(g, s * (1 - beta1))
        second.mul_(1 - s * (1 - beta2)).add_(s * (1 - beta2) * g * g)
        unbiased = second / (1 - beta2**self.num_applied)
        p.sub_(s * lr * (first / (1 - beta1**self.num_applied)) / (unbiased.sqrt() + self.eps))


class LossRatioRate:
    """metaseq (OPT): the learning rate of a step times (loss / average)^-4 where the loss is above it.

    The average leaves out losses over `limit` times its value. metaseq's own default, -1, never
    updates the average, and then nothing ever happens: the limit here is ours.
    """

    alpha, limit = 0.2, 2.0

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.optimizer: Optimizer = AdamW(parameters, fused=True)
        self.average: float | None = None

    def factor(self, loss: float) -> float:
        """Factor on the learning rate."""
        average = loss if self.average is None else self.average
        ratio = loss / average
        if not ratio > self.limit:
            average = (1 - self.alpha) * average + self.alpha * loss
        self.average = average
        return ratio**-4 if ratio > 1 else 1.0

    def step(self, loss: Tensor) -> Did:
        """Step at the lowered rate."""
        factor = self.factor(float(loss))
        for group in self.optimizer.param_groups:
            group["lr"] *= factor
        self.optimizer.step()
        return Did(float(factor < 1))


def _std(values: list[float]) -> float:
    """Sample standard deviation; one value that is not finite makes it NaN."""
    return stdev(values) if all(map(math.isfinite, values)) else math.nan
