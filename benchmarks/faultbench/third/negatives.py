"""Hard negatives of the third suite: what looks bad and is fine, none of them in the two earlier ones."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from data import Split, _split, mapped, shuffled
from models import Batch, Setup, entropy, held_out, mlp, square
from torch import Tensor, nn

from third import models as nets
from third.data import digits_and_ink, reversals, waveforms


def _ema_val(s: Setup) -> None:
    """Validation looks at a running mean of the weights, which is behind: far above training at first."""
    mean, own = copy.deepcopy(s.model), s.val

    def gather(model: nn.Module, step: int) -> None:
        with torch.no_grad():
            for p, q in zip(mean.parameters(), model.parameters(), strict=True):
                p.lerp_(q, 0.04)

    s.after_backward = gather
    s.val = lambda m: own(mean)


def _by_length(s: Setup) -> None:
    """Short words first; the loss goes up when the long ones come."""
    short, all_ = reversals(s.batch_size, s.seed, 3, 4), reversals(s.batch_size, s.seed + 1)
    few = int(0.3 * s.steps)
    s.batches = itertools.chain(itertools.islice(short, few), all_)


def _hard_val(s: Setup) -> None:
    """The validation set that is logged was taken under worse conditions; the run is judged by a clean one."""
    s.judged, split = s.val, s.train_split
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(split.val_x.shape, generator=generator)
    s.val = held_out(s.loss, split.val_x + 0.5 * noise, split.val_y)


def _batch_growth(s: Setup) -> None:
    """Batches grow fourfold in two leaps instead of a falling rate (Smith et al. 2018)."""
    own, steps = s.batches, s.steps

    def grown() -> Iterator[Batch]:
        for k in itertools.count():
            parts = [next(own) for _ in range(2 ** min(3 * k // steps, 2))]
            yield torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])

    s.batches = grown()


def _sharpness(s: Setup) -> None:
    """The gradient is taken a little uphill, and the weights are put back (Foret et al. 2021)."""
    own, moves = s.loss, []

    def loss(m: nn.Module, b: Batch) -> Tensor:
        parameters = list(m.parameters())
        grads = torch.autograd.grad(own(m, b), parameters)
        norm = torch.stack([g.norm() for g in grads]).norm() + 1e-12
        with torch.no_grad():
            for p, g in zip(parameters, grads, strict=True):
                moves.append(0.02 * g / norm)
                p.add_(moves[-1])
        return own(m, b)

    def back(model: nn.Module, step: int) -> None:
        with torch.no_grad():
            for p, move in zip(model.parameters(), moves, strict=True):
                p.sub_(move)
        moves.clear()

    s.loss, s.after_backward = loss, back


def _decay_groups(s: Setup) -> None:
    """Weight decay, and a strong one, on matrices only: biases and norms are in a group without."""
    value = 0.2 if s.optimizer == "adamw" else 1e-3

    def groups(m: nn.Module) -> list[dict]:
        matrices = [p for p in m.parameters() if p.dim() >= 2]
        others = [p for p in m.parameters() if p.dim() < 2]
        return [{"params": matrices, "weight_decay": value}, {"params": others, "weight_decay": 0.0}]

    s.parameters = groups


def _stochastic_depth(s: Setup) -> None:
    """Whole blocks are left out at random: their gradients come and go."""
    for i, block in enumerate(m for m in s.model.modules() if isinstance(m, nets.Next)):
        block.skipped = 0.15 * (i + 1)


def _cutout(s: Setup) -> None:
    """An eighth of each row is blanked: training stays above validation."""

    def blank(x: Tensor, y: Tensor) -> Batch:
        width = x.shape[1]
        start = torch.randint(width, (len(x), 1))
        return x * (((torch.arange(width) - start) % width) >= width // 8), y

    s.batches = mapped(s.batches, blank)


def _cooldown(s: Setup) -> None:
    """The rate stays high until the last quarter: a long flat stretch, and then the loss falls."""
    s.schedule = lambda k: min(1.0, (k + 1) / 10, max(0.01, 4 * (1 - k / s.steps)))


def _large_unit(s: Setup) -> None:
    """Targets in their own unit; the output is brought into it, and with Adam the loss's size does not matter."""
    unit, shift, split = 250.0, 1000.0, s.train_split
    s.model.register_forward_hook(lambda m, a, out: out * unit + shift)
    s.batches = mapped(s.batches, lambda x, y: (x, y * unit + shift))
    s.val = held_out(square, split.val_x, split.val_y * unit + shift)
    s.judged = lambda m: s.val(m) / unit**2


def _table(split: Split, model: nn.Module, loss: Callable, seed: int, **more) -> Setup:
    check = held_out(loss, split.val_x, split.val_y)
    return Setup(model, shuffled(split, 64, seed), loss, check, seed=seed, **more)


def _faint(seed: int) -> Setup:
    """An eighth of the variance can be told, the rest is chance: the loss hardly moves."""
    rng = np.random.default_rng(21)
    x = rng.normal(size=(4000, 8))
    y = 0.36 * (x[:, 0] + np.abs(x[:, 1]) - 0.8) / 1.17 + 0.93 * rng.normal(size=4000)
    split = _split(x, y[:, None], classes=False)
    model = mlp((8, 16, 1), nn.Tanh)
    return _table(split, model, square, seed, optimizer="adamw", lr=3e-3, steps=250, weight_decay=0.05)


def _heavy_tails(seed: int) -> Setup:
    """Noise without a variance under a loss that can live with it: single batches stand out."""
    rng = np.random.default_rng(22)
    x = rng.normal(size=(4000, 6))
    clean = (np.sin(1.5 * x[:, 0]) + x[:, 1] * x[:, 2] + 0.5 * x[:, 3])[:, None]
    split = _split(x, clean + 0.4 * rng.standard_t(1.3, (4000, 1)), classes=False)
    truth = _split(x, clean, classes=False)

    def loss(m: nn.Module, b: Batch) -> Tensor:
        return F.smooth_l1_loss(m(b[0]), b[1])

    setup = _table(split, mlp((6, 48, 48, 1), nn.SiLU), loss, seed, optimizer="adam", lr=3e-3, steps=350)
    setup.judged = held_out(square, truth.val_x, truth.val_y)
    return setup


class Uncertain(nets.TwoHeads):
    """Each task's weight is learned as well (Kendall et al. 2018): the loss falls below zero."""

    def __init__(self) -> None:
        super().__init__()
        self.spread = nn.Parameter(torch.zeros(2))


def _uncertainty(seed: int) -> Setup:
    def loss(m: nn.Module, b: Batch) -> Tensor:
        both = torch.stack([nets.class_part(m, b), nets.ink_part(m, b)])
        return ((-m.spread).exp() * both + m.spread).sum()

    split = digits_and_ink()
    setup = _table(split, Uncertain(), loss, seed, optimizer="adam", lr=3e-3, steps=350)
    setup.val = held_out(nets.two_tasks, split.val_x, split.val_y)
    return setup


def _converged(seed: int) -> Setup:
    """Three heaps far apart: all is learned in the first tenth, and then nothing happens."""
    rng = np.random.default_rng(23)
    y = rng.integers(0, 3, 1500)
    x = rng.normal(size=(1500, 12)) * 0.6 + 2.0 * np.eye(12)[y]
    model = mlp((12, 24, 3), nn.ReLU)
    return _table(_split(x, y, classes=True), model, entropy, seed, optimizer="adam", lr=5e-3, steps=350)


def _class_weights(seed: int) -> Setup:
    """Two of six classes are rare and weigh more; validation has all classes alike."""
    split = waveforms()
    keep = (split.y >= 2) | (torch.arange(len(split.y)) % 5 == 0)
    few = Split(split.x[keep], split.y[keep], split.val_x, split.val_y)
    number = torch.bincount(few.y, minlength=6)
    weight = len(few.y) / (6.0 * number)

    def loss(m: nn.Module, b: Batch) -> Tensor:
        return F.cross_entropy(m(b[0]), b[1], weight=weight)

    setup = _table(few, nets.series(), loss, seed, optimizer="adam", lr=3e-3, steps=240)
    setup.val = held_out(entropy, few.val_x, few.val_y)
    return setup


# name -> (changes a setup, architectures it is done to)
CHANGES: dict[str, tuple[Callable[[Setup], None], tuple[str, ...]]] = {
    "ema_val": (_ema_val, ("sets", "convnext", "denoiser", "two_heads")),
    "by_length": (_by_length, ("attend",)),
    "hard_val": (_hard_val, ("series", "orbit", "sets")),
    "batch_growth": (_batch_growth, ("series", "orbit", "two_heads")),
    "sharpness": (_sharpness, ("convnext", "two_heads", "ordinal")),
    "decay_groups": (_decay_groups, ("convnext", "masked_lm", "two_heads", "series")),
    "stochastic_depth": (_stochastic_depth, ("convnext",)),
    "cutout": (_cutout, ("distill", "series")),
    "cooldown": (_cooldown, ("masked_lm", "convnext", "orbit", "wide_deep")),
    "large_unit": (_large_unit, ("sets", "fourier")),
}
MADE: dict[str, Callable[[int], Setup]] = {
    "faint": _faint,
    "heavy_tails": _heavy_tails,
    "uncertainty": _uncertainty,
    "converged": _converged,
    "class_weights": _class_weights,
}
