"""Hard negatives of the fifth suite: what looks bad and is fine."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from data import mapped
from fourth.runs import custom
from models import Batch, Setup, _classes, entropy, held_out, mlp, square
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from fifth import data
from fifth import models as nets
from fifth.runs import cosine


def _times(s: Setup, by: float) -> None:
    own, check = s.loss, s.val
    s.judged = s.judged or check
    s.loss = lambda m, b: by * own(m, b)
    s.val = lambda m: by * check(m)
    s.clip = None if s.clip is None else s.clip * by


def _shrunk(s: Setup) -> None:
    """A hundredth of the loss, which Adam does not mind."""
    _times(s, 0.01)


def _enlarged(s: Setup) -> None:
    """A hundred times the loss, which Adam does not mind."""
    _times(s, 100.0)


def _logarithm(s: Setup) -> None:
    """Validation reports the logarithm of the loss, in decibels."""
    check = s.val
    s.judged = s.judged or check
    s.val = lambda m: 10 * math.log10(check(m))
    s.metric = "val_db"


def _slow_start(s: Setup) -> None:
    """The rate goes up for a third of the run, then down in a straight line."""
    third = s.steps // 3
    s.lr *= 1.5
    s.schedule = lambda k: min((k + 1) / third, (s.steps - k) / (s.steps - third))


def _irreducible(s: Setup) -> None:
    """Targets have noise of more than twice their variance, new in each batch; the judge knows the truth."""
    generator, split, check = torch.Generator().manual_seed(s.seed + 5), s.train_split, s.val
    noise = 1.5 * split.y.std() * torch.randn(split.val_y.shape, generator=generator)
    s.batches = mapped(
        s.batches, lambda x, y: (x, y + 1.5 * split.y.std() * torch.randn(y.shape, generator=generator))
    )
    s.val, s.judged = held_out(s.loss, split.val_x, split.val_y + noise), check
    s.lr /= 2
    s.schedule = cosine(s.steps, 5)


def _gaps(s: Setup) -> None:
    """Every fifth reading is missing and comes as zero, in training and later."""
    generator, split = torch.Generator().manual_seed(s.seed + 6), s.train_split

    def lose(x: Tensor, y: Tensor) -> Batch:
        return x.masked_fill(torch.rand(x.shape, generator=generator) < 0.2, 0.0), y

    s.val = held_out(s.loss, *lose(split.val_x, split.val_y))
    s.batches = mapped(s.batches, lose)


def _some_tokens(s: Setup) -> None:
    """The loss is the mean over a part of the tokens, from a tenth of them to all."""
    generator = torch.Generator().manual_seed(s.seed + 7)

    def loss(m: nn.Module, b: Batch) -> Tensor:
        if not m.training:
            return entropy(m, b)
        share = 0.1 + 0.9 * torch.rand(1, generator=generator)
        keep = torch.rand(b[1].shape, generator=generator) < share
        keep[0, 0] = True
        return F.cross_entropy(m(b[0])[keep], b[1][keep])

    s.loss, s.steps = loss, s.steps * 4 // 3
    s.schedule = cosine(s.steps, 10)


def _jittered(s: Setup) -> None:
    """A little noise is added to all gradients, less and less of it (Neelakantan et al. 2015)."""
    generator = torch.Generator().manual_seed(s.seed + 8)

    def add(model: nn.Module, step: int) -> None:
        for p in model.parameters():
            if p.grad is not None:
                size = 0.2 * p.grad.square().mean().sqrt() * (1 + step / 20) ** -0.55
                p.grad += size * torch.randn(p.shape, generator=generator)

    s.after_backward = add


def _reparametrized(s: Setup) -> None:
    """Weights are a direction and a length of their own (Salimans and Kingma 2016)."""
    for module in list(s.model.modules()):
        if isinstance(module, nn.Linear):
            parametrizations.weight_norm(module)


def _zero_head(s: Setup) -> None:
    """The last layer starts at zero, so that the first step moves no other."""
    last = [m for m in s.model.modules() if isinstance(m, nn.Linear)][-1]
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)


def _in_turn(s: Setup) -> None:
    """Every third batch is a strongly augmented one, and its loss far higher."""
    generator, count = torch.Generator().manual_seed(s.seed + 9), itertools.count()

    def change(x: Tensor, y: Tensor) -> Batch:
        strong = 0.5 if next(count) % 3 == 2 else 0.0
        return x + strong * torch.randn(x.shape, generator=generator), y

    s.batches = mapped(s.batches, change)


def _lognormal(seed: int) -> Setup:
    """Two of the columns have long tails, by nature, and one of them matters."""
    rng = np.random.default_rng(90)
    x = rng.normal(size=(5000, 10))
    y = np.sin(x[:, :1]) + 0.7 * x[:, 1:2] + 0.4 * x[:, 2:3] * x[:, 3:4] + 0.2 * rng.normal(size=(5000, 1))
    x[:, 1:5:3] = np.exp(x[:, 1:5:3])
    x = (x - x.mean(0)) / x.std(0)
    model = mlp((10, 40, 40, 1), nn.Tanh)
    return _classes(
        model,
        data.cut(x, y),
        seed,
        64,
        square,
        lr=4e-3,
        steps=250,
        optimizer="adam",
        schedule=cosine(250),
    )


def _easy_val(seed: int) -> Setup:
    """Validation has the plain cases only: the loss there is a fraction of that of training."""
    return custom(
        mlp((14, 48, 16), nn.GELU, True),
        data.taxonomy(1.6, 0.8),
        seed,
        64,
        nets.two_levels,
        lr=5e-3,
        steps=180,
        optimizer="adam",
        schedule=cosine(180),
    )


class _Looped(nn.Module):
    """One layer that is run through four times."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.again, self.out = nn.Linear(10, 40), nn.Linear(40, 40), nn.Linear(40, 3)
        self.norm = nn.LayerNorm(40)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.into(x)
        for _ in range(4):
            hidden = hidden + 0.5 * F.gelu(self.again(self.norm(hidden)))
        return self.out(hidden)


def _looped(seed: int) -> Setup:
    return _classes(
        _Looped(),
        data.engines(),
        seed,
        64,
        square,
        lr=3e-3,
        steps=220,
        optimizer="adam",
        schedule=cosine(220),
    )


def _lasso(seed: int) -> Setup:
    """Five of sixty columns matter; a penalty in the loss of training puts the weights of the rest to zero."""
    rng = np.random.default_rng(91)
    x = rng.normal(size=(5000, 60))
    y = x[:, :1] + np.abs(x[:, 1:2]) - x[:, 2:3] + np.tanh(2 * x[:, 3:4] * x[:, 4:5])
    model = mlp((60, 32, 1), nn.SiLU)

    def loss(m: nn.Module, b: Batch) -> Tensor:
        return square(m, b) + (2e-3 * m[0].weight.abs().sum() if m.training else 0.0)

    split = data.cut(x, (y - y.mean()) / y.std() + 0.2 * rng.normal(size=y.shape))
    return custom(model, split, seed, 64, loss, lr=8e-3, steps=250, optimizer="adam")


def _random_features(seed: int) -> Setup:
    """The first layer is drawn once and never trained, on purpose (Rahimi and Recht 2007)."""
    model = mlp((2, 300, 3), nn.Tanh)
    with torch.no_grad():
        model[0].weight.normal_(std=2.5)
        model[0].bias.uniform_(-4, 4)
    model[0].requires_grad_(False)
    setup = custom(model, data.spirals(), seed, 64, entropy, lr=0.02, steps=220, optimizer="adam")
    setup.parameters = lambda m: [p for p in m.parameters() if p.requires_grad]
    setup.schedule = cosine(220)
    return setup


CHANGES: dict[str, tuple[Callable[[Setup], None], tuple[str, ...]]] = {
    "shrunk": (_shrunk, ("tides", "labels", "claims", "captions")),
    "enlarged": (_enlarged, ("hyper", "hazards", "diffused", "skip_gram")),
    "logarithm": (_logarithm, ("arms", "labels", "hyper", "reader")),
    "slow_start": (_slow_start, ("both_ways", "spread", "waves", "captions", "hazards")),
    "irreducible": (_irreducible, ("gated", "hyper")),
    "gaps": (_gaps, ("waves", "gated")),
    "some_tokens": (_some_tokens, ("both_ways", "reader")),
    "jittered": (_jittered, ("arms", "diffused", "taxonomy", "maxout", "skip_gram")),
    "reparametrized": (_reparametrized, ("arms", "labels", "hazards", "claims")),
    "zero_head": (_zero_head, ("arms", "gated", "labels", "taxonomy", "claims")),
    "in_turn": (_in_turn, ("gated", "labels", "taxonomy", "claims")),
}
MADE: dict[str, Callable[[int], Setup]] = {
    "lognormal": _lognormal,
    "easy_val": _easy_val,
    "looped": _looped,
    "lasso": _lasso,
    "random_features": _random_features,
}
