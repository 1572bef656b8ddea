"""Finding NaN, Inf and overflow and clipping, against the way that tutorials and documents show.

Budget: the documented way is at least 30 times slower. It walks over parameters and gradients, counts
isnan, isinf and abs() > threshold of each tensor, waits for each count with item(), joins all gradients
with cat for the norm, and scales them. Ours is measure.step_stats, NormClip, one read.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from _compare import header, line, ratio
from step_against_clip_grad_norm import many_small, transformer
from torch import Tensor, nn

import trimtab as tt
from trimtab import act, measure

MAX_NORM = 1e3
THRESHOLD = 1e6


def naive(model: nn.Module) -> None:
    """Detection and clipping as documented."""
    num_nan = num_inf = num_overflow = 0
    for parameter in model.parameters():
        for tensor in (parameter.data, parameter.grad):
            if tensor is None:
                continue
            num_nan += torch.isnan(tensor).sum().item()
            num_inf += torch.isinf(tensor).sum().item()
            num_overflow += (torch.abs(tensor) > THRESHOLD).sum().item()
    if num_nan + num_inf + num_overflow:
        raise RuntimeError("the gradients of this benchmark are healthy")
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    norm = torch.cat([g.flatten() for g in gradients]).norm().item()
    ratio_ = min(1.0, MAX_NORM / (norm + 1e-6))
    for gradient in gradients:
        gradient.mul_(ratio_)


def ours(gradients: list[Tensor], loss: Tensor) -> None:
    """The same questions answered from the norm."""
    clip = tt.NormClip(MAX_NORM)
    stats = measure.step_stats(gradients, loss)
    scale, _ = clip.rescale(stats, None)
    read = types_with(stats, scale.factor).read()
    faults = [*tt.NonFinite().detect(read, None)[0], *tt.Overflow(THRESHOLD).detect(read, None)[0]]
    if faults:
        raise RuntimeError("the gradients of this benchmark are healthy")
    if read.clip_factor is not None and read.clip_factor < 1.0:
        act.scale_grads_(gradients, scale)


def types_with(stats: tt.types.StepStats[Tensor], factor: Tensor) -> tt.types.StepStats[Tensor]:
    """The statistics with the clip factor in them, as a guard reads them."""
    return tt.types.StepStats(loss=stats.loss, grad_norm=stats.grad_norm, clip_factor=factor)


def works(model: nn.Module) -> tuple[Callable[[], object], Callable[[], object]]:
    """Our work and the naive one on the same healthy gradients."""
    for p in model.parameters():
        p.grad = torch.randn_like(p) * 1e-3
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    loss = torch.tensor(1.0)
    return (lambda: ours(gradients, loss)), (lambda: naive(model))


def main() -> None:
    """Print the table; the ratio is the naive way's time over ours."""
    print(header("documented detection + clipping against ours"))
    for name, model in (("50M transformer", transformer()), ("5,000 tensors of 64", many_small())):
        ours_sec, naive_sec, value = ratio(*works(model), rounds=8)
        print(line(name, ours_sec, naive_sec, 1 / value, ">= 30"), flush=True)


if __name__ == "__main__":
    main()
