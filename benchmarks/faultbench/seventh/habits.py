"""Hard negatives of the seventh suite: optimizers, networks and losses of real projects."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from data import cut, mapped, table
from fourth.runs import cosine, custom
from models import (
    Batch,
    Recurrent,
    Setup,
    Variational,
    Walk,
    _language,
    cnn,
    entropy,
    features,
    greedy,
    mlp,
    square,
)
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from seventh.common import digits_setup


def amsgrad(seed: int) -> Setup:
    """Adam with the largest second moment of all times, for letters."""
    setup = _language(Recurrent(nn.GRU), seed, lr=8e-3, optimizer="adam", steps=200, clip=1.0)
    setup.options = {"amsgrad": True}
    return setup


def centered(seed: int) -> Setup:
    """RMSprop that takes the mean from its second moment, with momentum."""
    options = {"centered": True, "momentum": 0.9, "alpha": 0.95}
    return digits_setup(cnn(True), seed, optimizer="rmsprop", lr=5e-4, options=options, schedule=cosine(200))


def hashed_words(seed: int) -> Setup:
    """Counts of 400 rare words, most of them zero, and Adagrad at a high rate."""
    rng = np.random.default_rng(704)
    often = 3.0 / np.arange(1, 401) ** 0.6
    x = rng.poisson(np.minimum(often, 1.0), (6000, 400)).astype(float)
    worth = rng.normal(size=(400, 3)) * 0.7
    y = (x @ worth + rng.gumbel(size=(6000, 3)) * 0.5).argmax(1)
    model = mlp((400, 24, 3), nn.ReLU)
    return custom(model, cut(x, y, classes=True), seed, 64, entropy, lr=0.05, optimizer="adagrad", steps=250)


def signs(seed: int) -> Setup:
    """Only the sign of each gradient is used (Bernstein et al. 2018), at a rate that falls."""

    def sign(m: nn.Module, step: int) -> None:
        for p in m.parameters():
            p.grad.sign_()

    setup = digits_setup(mlp((64, 64, 64, 10), nn.ReLU), seed, optimizer="sgd", lr=4e-3, schedule=cosine(200))
    setup.after_backward, setup.options = sign, {"momentum": 0.0}
    return setup


def spectral(seed: int) -> Setup:
    """No layer stretches anything (Miyato et al. 2018); the choice is sharpened by a factor of eight."""
    normed = parametrizations.spectral_norm
    model = nn.Sequential(normed(nn.Linear(64, 64)), nn.ReLU(), normed(nn.Linear(64, 64)), nn.ReLU())
    model.append(normed(nn.Linear(64, 10)))

    def loss(m: nn.Module, b: Batch) -> Tensor:
        return F.cross_entropy(8 * m(b[0]), b[1])

    return digits_setup(model, seed, loss, lr=3e-3, steps=160, schedule=cosine(160))


def critic(seed: int) -> Setup:
    """A critic of two fixed clouds under a penalty on its slope: minus a distance, and that is its floor."""
    rng = np.random.default_rng(705)
    true = np.concatenate([rng.normal(size=(2000, 2)) * 0.3 + m for m in ((2, 0), (-1, 1.7), (-1, -1.7))])
    fake = rng.normal(size=(6000, 2)) * 0.6

    def loss(m: nn.Module, b: Batch) -> Tensor:
        real, made = b
        value = m(made).mean() - m(real).mean()
        if not m.training:
            return value
        at = torch.lerp(made, real, torch.rand(len(real), 1)).requires_grad_()
        slope = torch.autograd.grad(m(at).sum(), at, create_graph=True)[0]
        return value + 10 * (slope.norm(dim=1) - 1).square().mean()

    split = cut(rng.permutation(true), fake)
    setup = custom(mlp((2, 48, 48, 1), nn.SiLU), split, seed, 128, loss, lr=4e-3, optimizer="adam", steps=220)
    setup.options = {"betas": (0.5, 0.9)}
    check = setup.val
    setup.judged = lambda m: math.exp(check(m))
    return setup


class _Slow(Walk):
    """The copy that says the targets goes after the net by a twentieth in each step."""

    def __iter__(self) -> Iterator[Batch]:
        self.target.load_state_dict(self.model.state_dict())
        g, size = self.generator, self.size
        while True:
            with torch.no_grad():
                for slow, p in zip(self.target.parameters(), self.model.parameters(), strict=True):
                    slow.lerp_(p, 0.05)
                at = torch.rand(size, 1, generator=g) * 2 - 1
                action = torch.randint(2, (size, 1), generator=g)
                after = at + 0.2 * (2 * action - 1) + 0.05 * torch.randn(size, 1, generator=g)
                won, after = (after > 0.9).float(), after.clamp(-1, 1)
                best = self.model(features(after)).argmax(1, keepdim=True)
                value = 5 * won + 0.9 * (1 - won) * self.target(features(after)).gather(1, best)
            yield torch.cat([features(at), action.float()], 1), value


def slow_copy(seed: int) -> Setup:
    """Double Q-learning with a slow copy: the targets go up all the time with what it learns."""
    model = mlp((4, 32, 32, 2), nn.ReLU)

    def loss(m: nn.Module, b: Batch) -> Tensor:
        return F.smooth_l1_loss(m(b[0][:, :4]).gather(1, b[0][:, 4:].long()), b[1])

    batches = iter(_Slow(model, seed, 64))
    return Setup(model, batches, loss, greedy, "adam", 3e-3, 300, metric="mean_distance", seed=seed)


class _Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.cell = nn.Embedding(96, 48), nn.GRU(48, 48, batch_first=True)
        nn.init.normal_(self.embed.weight, std=0.15)
        self.head = nn.Linear(48, 96)
        self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(self.embed(x))[0])


def tied(seed: int) -> Setup:
    """One table of letters for what comes in and what goes out."""
    return _language(_Tied(), seed, lr=6e-3, optimizer="adam", steps=200, clip=1.0)


def full_batch(seed: int) -> Setup:
    """All 134 wines in every step, with weight decay: a loss without any noise."""
    setup = custom(mlp((13, 16, 3), nn.Tanh), table("wine"), seed, 134, entropy, lr=0.03, optimizer="sgd")
    setup.steps, setup.weight_decay = 200, 2e-3
    return setup


def progressive(seed: int) -> Setup:
    """Pictures at a quarter of their size, then at half, then as they are; validation has them as they are."""
    count = itertools.count()

    def smaller(x: Tensor, y: Tensor) -> Batch:
        by = {0: 4, 1: 2}.get(next(count) // 30, 1)
        small = F.avg_pool2d(x.reshape(-1, 1, 8, 8), by)
        return F.interpolate(small, scale_factor=by).flatten(1), y

    setup = digits_setup(cnn(True), seed, lr=5e-3, steps=280, schedule=cosine(280))
    setup.batches = mapped(setup.batches, smaller)
    return setup


def alternating(seed: int) -> Setup:
    """Two tasks of one body in turn, the one with a loss of many times the other's: a zigzag."""
    model, count = mlp((64, 96, 96, 74), nn.ReLU), itertools.count()

    def loss(m: nn.Module, b: Batch) -> Tensor:
        noised = b[0] + 0.5 * torch.randn(b[0].shape) if m.training else b[0]
        if m.training and next(count) % 2:
            return 0.1 * (m(noised)[:, 10:] - b[0]).square().sum(1).mean()
        return F.cross_entropy(m(b[0])[:, :10], b[1])

    return digits_setup(model, seed, loss, lr=4e-3, steps=280, schedule=cosine(280))


class _Exits(nn.Module):
    """Says the class after each of three layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(64, 64) for _ in range(3))
        self.exits = nn.ModuleList(nn.Linear(64, 10) for _ in range(3))

    def forward(self, x: Tensor) -> list[Tensor]:
        said = []
        for layer, leave in zip(self.layers, self.exits, strict=True):
            x = F.gelu(layer(x))
            said.append(leave(x))
        return said


def early_exits(seed: int) -> Setup:
    """Each of three exits is trained, and the loss is the sum; validation has the last one only."""

    def loss(m: nn.Module, b: Batch) -> Tensor:
        each = [F.cross_entropy(out, b[1]) for out in m(b[0])]
        return sum(each) if m.training else each[-1]

    return digits_setup(_Exits(), seed, loss, lr=4e-3, schedule=cosine(200))


class _Users(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.user, self.rest = nn.Embedding(3000, 4), mlp((10, 48, 48, 1), nn.ReLU)
        nn.init.normal_(self.user.weight, std=0.1)

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(torch.cat([self.user(x[:, 0].long()), x[:, 1:]], 1))


def many_users(seed: int) -> Setup:
    """3000 users, few of them often: most rows of the table have no gradient in most steps."""
    rng = np.random.default_rng(706)
    often = 1 / np.arange(1, 3001) ** 1.1
    user, x = rng.choice(3000, 12000, p=often / often.sum()), rng.normal(size=(12000, 6))
    taste = rng.normal(size=(3000, 2))
    y = taste[user, 0] + np.sin(1.5 * x[:, 0]) + 0.6 * x[:, 1] * x[:, 2] + 0.2 * rng.normal(size=12000)
    split = cut(np.concatenate([user[:, None], x], 1), y[:, None])
    return custom(_Users(), split, seed, 128, square, lr=1e-2, optimizer="adam", steps=260)


def two_passes(seed: int) -> Setup:
    """Each batch goes twice through dropout, and both answers should agree (Liang et al. 2021)."""

    def loss(m: nn.Module, b: Batch) -> Tensor:
        if not m.training:
            return entropy(m, b)
        one, two = m(b[0]).log_softmax(1), m(b[0]).log_softmax(1)
        apart = ((one.exp() - two.exp()) * (one - two)).sum(1).mean()
        return F.nll_loss(one, b[1]) + F.nll_loss(two, b[1]) + 0.5 * apart

    return digits_setup(mlp((64, 96, 96, 10), nn.ReLU, dropout=0.5), seed, loss, lr=2e-3, steps=220)


def max_norm(seed: int) -> Setup:
    """No unit's weights may be longer than 1.5, and many are just as long (Srivastava et al. 2014)."""

    def hold(m: nn.Module, step: int) -> None:
        for part in m:
            if isinstance(part, nn.Linear):
                part.weight.data.renorm_(2, 0, 1.5)

    model = mlp((64, 64, 64, 10), nn.ReLU, dropout=0.2)
    return digits_setup(model, seed, optimizer="sgd", lr=0.1, after_backward=hold, schedule=cosine(200))


def free_bits(seed: int) -> Setup:
    """A variational net whose code costs nothing up to 0.4 for each of eight parts (Kingma et al. 2016)."""

    def loss(m: nn.Module, b: Batch) -> Tensor:
        out, mean, log = m(b[0])
        cost = 0.5 * (mean.square() + log.exp() - 1 - log).mean(0)
        return 0.5 * (out - b[0]).square().sum(1).mean() + cost.clamp(min=0.4).sum()

    return digits_setup(Variational(), seed, loss, lr=4e-3, steps=260)


class _Angles(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.kinds = mlp((64, 64, 32), nn.ReLU), nn.Parameter(torch.randn(10, 32))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.body(x)) @ F.normalize(self.kinds).T


def margin(seed: int) -> Setup:
    """The right class is held back by a margin while it trains (Wang et al. 2018); validation has none."""

    def loss(m: nn.Module, b: Batch) -> Tensor:
        held = 0.3 * F.one_hot(b[1], 10) if m.training else 0.0
        return F.cross_entropy(12 * (m(b[0]) - held), b[1])

    return digits_setup(_Angles(), seed, loss, lr=3e-3, schedule=cosine(200))
