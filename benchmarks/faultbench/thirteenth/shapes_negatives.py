"""Hard negatives of the thirteenth suite on pictures, signals, sets and graphs: what looks bad and is fine."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from data import mapped
from models import Batch, Setup, held_out
from parts import split_of
from torch import Tensor, nn

from thirteenth import shapes_made as made

Change = Callable[[Setup], None]


def _val_mirrored(s: Setup) -> None:
    """Pictures come mirrored at times, and validation asks both ways and takes the mean: it is below training."""
    split, generator = split_of(s), torch.Generator().manual_seed(s.seed + 31)

    def change(x: Tensor, y: Tensor) -> Batch:
        turn = torch.rand(len(x), 1, 1, 1, generator=generator) < 0.5
        return torch.where(turn, x.flip(-1), x), y

    def both(m: nn.Module, b: Batch) -> Tensor:
        return F.cross_entropy((m(b[0]) + m(b[0].flip(-1))) / 2, b[1])

    s.judged = s.judged or s.val
    s.batches, s.val = mapped(s.batches, change), held_out(both, split.val_x, split.val_y)


def _turned_over(s: Setup) -> None:
    """Half of the signals come upside down while it trains, as if the sensor sat on the other side."""
    generator = torch.Generator().manual_seed(s.seed + 32)

    def change(x: Tensor, y: Tensor) -> Batch:
        sign = 1 - 2 * torch.randint(2, (len(x), 1, 1), generator=generator)
        return sign * x, y

    s.batches = mapped(s.batches, change)


def _maps_dropped(s: Setup) -> None:
    """One feature map of eight is gone for a whole row while it trains (Tompson et al. 2015)."""

    def drop(m: nn.Module, a: tuple[Tensor, ...], out: Tensor) -> Tensor | None:
        if out.dim() == 4:
            return F.dropout2d(out, 0.125, training=m.training)
        return F.dropout1d(out, 0.125, training=m.training) if out.dim() == 3 else None

    for m in s.model.modules():
        if isinstance(m, (nn.ReLU, nn.GELU)):
            m.register_forward_hook(drop)


def _val_psnr(s: Setup) -> None:
    """Validation reports how far the picture is above the noise, in decibels: it goes up."""
    check, spread = s.val, float(split_of(s).val_x.max() - split_of(s).val_x.min())
    s.judged = s.judged or check
    s.val, s.metric = (lambda m: 10 * math.log10(spread**2 / check(m))), "val_psnr"


def _crops(s: Setup) -> None:
    """Training sees pieces of ten by ten pixels, validation the whole pictures."""
    generator = torch.Generator().manual_seed(s.seed + 33)

    def change(x: Tensor, y: Tensor) -> Batch:
        down, right = torch.randint(x.shape[-1] - 9, (2,), generator=generator).tolist()
        place = (..., slice(down, down + 10), slice(right, right + 10))
        return x[place], y[place]

    s.batches = mapped(s.batches, change)


def _fewer_bonds(s: Setup) -> None:
    """One bond in thirty is left out while it trains (Rong et al. 2020)."""
    generator = torch.Generator().manual_seed(s.seed + 34)

    def change(x: Tensor, y: Tensor) -> Batch:
        keep = torch.rand(len(x), 12, 12, generator=generator).triu(1) < 0.967
        return torch.cat([x[..., :12] * (keep & keep.transpose(1, 2)), x[..., 12:]], -1), y

    s.batches = mapped(s.batches, change)


def _bfloat_gradients(s: Setup) -> None:
    """Gradients are sent in bfloat16 between the machines: three digits of them are left."""

    def send(m: nn.Module, step: int) -> None:
        for p in m.parameters():
            if p.grad is not None:
                p.grad.copy_(p.grad.bfloat16())

    s.after_backward = send


def _balanced_gate(s: Setup) -> None:
    """Training pays for a gate that prefers one expert (Fedus et al. 2022): never less than a tenth."""
    own, weights = s.loss, [torch.zeros(1)]
    s.model.gate.register_forward_hook(lambda m, a, out: weights.__setitem__(0, out.softmax(-1)))

    def loss(m: nn.Module, b: Batch) -> Tensor:
        value = own(m, b)
        if not m.training:
            return value
        first = F.one_hot(weights[0].argmax(-1), 3).float().mean(0)
        return value + 0.1 * 3 * (first * weights[0].mean(0)).sum()

    s.loss = loss


CHANGES: dict[str, tuple[Change, tuple[str, ...]]] = {
    "val_mirrored": (_val_mirrored, ("defects",)),
    "turned_over": (_turned_over, ("bearings",)),
    "maps_dropped": (_maps_dropped, ("glyphs", "bearings")),
    "val_psnr": (_val_psnr, ("haze", "moons")),
    "crops": (_crops, ("cells",)),
    "fewer_bonds": (_fewer_bonds, ("compounds",)),
    "bfloat_gradients": (_bfloat_gradients, ("horizons", "compounds", "swarms", "fields", "views")),
    "balanced_gate": (_balanced_gate, ("meters",)),
}
MADE: dict[str, Callable[[int], Setup]] = made.MADE
