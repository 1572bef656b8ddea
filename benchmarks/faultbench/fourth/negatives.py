"""Hard negatives of the fourth suite: what looks bad and is fine."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from data import Split, mapped, shuffled
from models import Batch, Setup, entropy, mlp, square
from torch import Tensor, nn

from fourth import data
from fourth import models as nets
from fourth.runs import cosine, custom, linear


def _snapshots(s: Setup) -> None:
    """Two cosines, the second twice as long: the loss goes up when the rate does."""
    third = s.steps // 3

    def schedule(k: int) -> float:
        share = k / third if k < third else (k - third) / (s.steps - third)
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))

    s.schedule = schedule


def _stages(s: Setup) -> None:
    """The last layers only, then more of them, then all, and a rise of the rate at each stage."""
    ready = [p for p in s.model.parameters()]
    own, count, stage = s.loss, itertools.count(), max(s.steps // 8, 1)

    def loss(m: nn.Module, b: Batch) -> Tensor:
        if m.training:
            step = next(count)
            first = 0 if step >= 2 * stage else len(ready) // (3 if step >= stage else 2)
            for index, p in enumerate(ready):
                p.requires_grad_(index >= first)
        return own(m, b)

    s.loss = loss


def _big_batch(s: Setup) -> None:
    """Eight times the rows, and the rate up with the root of that."""
    s.batch_size *= 8
    s.lr *= 2 if s.optimizer.startswith("adam") else 4
    s.batches = shuffled(s.train_split, s.batch_size, s.seed)
    s.steps = s.steps // 2
    s.schedule = cosine(s.steps, 10)


def _offset(s: Setup) -> None:
    """The constant of a likelihood stays in the loss, where it hides how much it falls."""
    own, check = s.loss, s.val
    s.judged = s.judged or check
    s.loss = lambda m, b: own(m, b) + 40.0
    s.val = lambda m: check(m) + 40.0


def _summed(s: Setup) -> None:
    """The loss is summed over the batch, and the rate is set for that."""
    own, size = s.loss, s.batch_size
    s.loss = lambda m, b: own(m, b) * size
    s.clip = None if s.clip is None else s.clip * size
    if s.optimizer == "sgd":  # Adam does not mind
        s.lr /= size
        s.weight_decay *= size


def _reweighted(s: Setup) -> None:
    """From the middle on the loss weighs four times as much, as a part of it is turned up."""
    own, count = s.loss, itertools.count()

    def loss(m: nn.Module, b: Batch) -> Tensor:
        return own(m, b) * (4.0 if next(count) >= s.steps // 2 else 1.0)

    s.loss = loss


def _widened(s: Setup) -> None:
    """The first third sees one half of the world only, the rest all of it."""
    split = s.train_split
    flat = split.x.flatten(1)[:, 0]
    rows = flat < flat.median()
    part = Split(split.x[rows], split.y[rows], split.val_x, split.val_y)
    narrow, wide = shuffled(part, s.batch_size, s.seed), s.batches
    s.batches = itertools.chain(itertools.islice(narrow, s.steps // 3), wide)


def _noised(s: Setup) -> None:
    """Inputs are noised in training and clean in validation, which is the better one throughout."""
    generator = torch.Generator().manual_seed(s.seed + 5)
    s.batches = mapped(s.batches, lambda x, y: (x + 0.4 * torch.randn(x.shape, generator=generator), y))


def _focal(s: Setup) -> None:
    """What is told well hardly counts (Lin et al. 2017); validation has the plain loss."""

    def loss(m: nn.Module, b: Batch) -> Tensor:
        each = F.cross_entropy(m(b[0]), b[1], reduction="none")
        return ((1 - (-each).exp()) ** 2 * each).mean()

    s.loss = loss


def _clipped(s: Setup) -> None:
    """A clip that always bites, which Adam does not mind."""
    s.clip = 0.05


def _rolled(s: Setup) -> None:
    """Pictures are moved about, channels dimmed and rows lost."""
    generator = torch.Generator().manual_seed(s.seed + 6)

    def change(x: Tensor, y: Tensor) -> Batch:
        down, right = torch.randint(0, 12, (2,), generator=generator).tolist()
        dim = 0.5 + torch.rand(len(x), 3, 1, 1, generator=generator)
        lost = torch.rand(len(x), 1, 12, 1, generator=generator) < 0.15
        return (x.roll((down, right), (2, 3)) * dim).masked_fill(lost, 0.0), y

    s.batches = mapped(s.batches, change)


def _rows(
    model: nn.Module, x: np.ndarray, y: np.ndarray, seed: int, loss: Any, classes: bool, **more: Any
) -> Setup:
    return custom(model, data._cut(x, y, classes=classes), seed, 64, loss, **more)


def _noisy(seed: int) -> Setup:
    """Two classes of which a third are labeled wrong: no loss below 0.64 can be had."""
    rng = np.random.default_rng(60)
    x = rng.normal(size=(12000, 12))
    y = (x[:, 0] + x[:, 1] * x[:, 2] > 0) ^ (rng.random(12000) < 0.3)
    return _rows(mlp((12, 32, 2), nn.ReLU), x, y, seed, entropy, True, lr=3e-3, steps=220, optimizer="adam")


def _bce(model: nn.Module, batch: Batch) -> Tensor:
    return F.binary_cross_entropy_with_logits(model(batch[0])[:, 0], batch[1])


def _rare(seed: int) -> Setup:
    """Three in a hundred are positive, and hardly any batch has more than a few."""
    rng = np.random.default_rng(61)
    x = rng.normal(size=(9000, 10))
    y = 2.2 * x[:, 0] + 1.5 * np.abs(x[:, 1]) + rng.normal(size=9000) > 6.0
    model = mlp((10, 32, 1), nn.SiLU)
    return _rows(model, x, y, seed, _bce, False, lr=3e-3, steps=250, optimizer="adam")


class _Adder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.GRU(2, 32, batch_first=True), nn.Linear(32, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x)[0][:, -1])


def _adding(seed: int) -> Setup:
    """The adding problem for a recurrent net: nothing for long, then all at once."""
    return custom(
        _Adder(), data.additions(), seed, 64, square, lr=6e-3, steps=300, optimizer="adam", clip=1.0
    )


def _turned(split: Split, by: float) -> Split:
    """All inputs turned in one plane after the other."""
    turn = torch.eye(20)
    c, s = math.cos(by), math.sin(by)
    for i in range(0, 20, 2):
        turn[i : i + 2, i : i + 2] = torch.tensor([[c, -s], [s, c]])
    return split._replace(x=split.x @ turn, val_x=split.val_x @ turn)


def _adapted(seed: int) -> Setup:
    """A net trained on one site is tuned on a second one, with a low rate."""
    split, model = data.clusters(), nets.table_norm()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for x, y in itertools.islice(shuffled(split, 64, seed + 1), 150):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return custom(
        model,
        _turned(split, 0.3),
        seed,
        64,
        entropy,
        lr=1e-3,
        steps=200,
        optimizer="adam",
        schedule=linear(200),
    )


def _sparse(seed: int) -> Setup:
    """600 words of which a document has a dozen: most inputs and most gradients are zero."""
    rng = np.random.default_rng(62)
    y = rng.integers(0, 5, 4000)
    odds = rng.gamma(0.3, size=(5, 600)) + 0.15
    odds /= odds.sum(1, keepdims=True)
    x = np.stack([np.minimum(rng.multinomial(12, odds[k]), 1) for k in y])
    model = nn.Sequential(nn.Linear(600, 24), nn.ReLU(), nn.Linear(24, 5))
    return _rows(model, x, y, seed, entropy, True, lr=2e-3, steps=160, optimizer="adam", weight_decay=1e-3)


class _ReZero(nn.Module):
    """Ten residual layers whose gates start at zero (Bachlechner et al. 2021)."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.head = nn.Linear(96, 40), nn.Linear(40, 10)
        self.layers = nn.ModuleList(nn.Linear(40, 40) for _ in range(10))
        self.gates = nn.Parameter(torch.zeros(10))

    def forward(self, x: Tensor) -> Tensor:
        x = self.into(x)
        for gate, layer in zip(self.gates, self.layers, strict=True):
            x = x + gate * F.relu(layer(x))
        return self.head(x)


def _rezero(seed: int) -> Setup:
    return custom(_ReZero(), data.segments(), seed, 64, entropy, lr=1e-3, steps=200, optimizer="adam")


def _seen_only(model: nn.Module, batch: Batch) -> Tensor:
    gap = torch.where(batch[1].isnan(), 0.0, model(batch[0]) - batch[1].nan_to_num())
    return gap.square().sum() / (~batch[1].isnan()).sum()


def _unseen_targets(seed: int) -> Setup:
    """Six targets of which two thirds are missing, coded as NaN and left out of the loss."""
    rng = np.random.default_rng(63)
    x = rng.normal(size=(3600, 8))
    y = np.tanh(x @ rng.normal(size=(8, 6)) / 2) + 0.1 * rng.normal(size=(3600, 6))
    y[rng.random(y.shape) < 0.66] = np.nan
    return _rows(
        mlp((8, 48, 48, 6), nn.SiLU), x, y, seed, _seen_only, False, lr=3e-3, steps=220, optimizer="adam"
    )


def _hinge(seed: int) -> Setup:
    """Rows that are told with a margin give no gradient at all, in the end most of them."""

    def loss(m: nn.Module, b: Batch) -> Tensor:
        return F.multi_margin_loss(m(b[0]), b[1])

    model = mlp((96, 48, 10), nn.ReLU)
    return custom(
        model, data.segments(), seed, 64, loss, lr=0.05, steps=220, optimizer="sgd", weight_decay=1e-3
    )


class _Bootstrap(nn.Module):
    """Tells the slow copy's view of a picture from another view (Grill et al. 2020)."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(96, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 24))
        self.guess = nn.Sequential(nn.Linear(24, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Linear(48, 24))
        self.slow = copy.deepcopy(self.net).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        a, b = x + 0.5 * torch.randn_like(x), x + 0.5 * torch.randn_like(x)
        with torch.no_grad():
            goal = F.normalize(self.slow(b), dim=-1)
        return 2 - 2 * (F.normalize(self.guess(self.net(a)), dim=-1) * goal).sum(-1)


def _bootstrap(seed: int) -> Setup:
    """A target that moves along with the net: the loss may well go up while the net gets better."""
    setup = custom(
        _Bootstrap(),
        data.segments(),
        seed,
        128,
        lambda m, b: m(b[0]).mean(),
        lr=3e-3,
        steps=200,
        optimizer="adam",
    )
    setup.parameters = lambda m: [p for p in m.parameters() if p.requires_grad]

    def follow(model: nn.Module, step: int) -> None:
        with torch.no_grad():
            for slow, fast in zip(model.slow.parameters(), model.net.parameters(), strict=True):
                slow.lerp_(fast, 0.05)

    setup.after_backward = follow
    return setup


CHANGES: dict[str, tuple[Callable[[Setup], None], tuple[str, ...]]] = {
    "snapshots": (_snapshots, ("table_norm", "smooth", "kan", "graphs", "detector")),
    "stages": (_stages, ("packed", "table_norm", "smooth", "detector", "made")),
    "big_batch": (_big_batch, ("table_norm", "operator", "smooth")),
    "offset": (_offset, ("made", "smooth", "operator", "detector", "process")),
    "summed": (_summed, ("table_norm", "smooth", "spiking", "detector", "graphs")),
    "reweighted": (_reweighted, ("made", "kan", "listener", "routed", "quantized")),
    "widened": (_widened, ("table_norm", "smooth", "operator", "kan")),
    "noised": (_noised, ("table_norm", "smooth", "spiking", "binary")),
    "focal": (_focal, ("table_norm", "packed", "tokens", "graphs")),
    "clipped": (_clipped, ("operator", "kan", "made", "routed")),
    "rolled": (_rolled, ("squeeze",)),
}
MADE: dict[str, Callable[[int], Setup]] = {
    "noisy": _noisy,
    "rare": _rare,
    "adding": _adding,
    "adapted": _adapted,
    "sparse": _sparse,
    "rezero": _rezero,
    "unseen_targets": _unseen_targets,
    "hinge": _hinge,
    "bootstrap": _bootstrap,
}
