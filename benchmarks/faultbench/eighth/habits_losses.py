"""Habits of the eighth suite: data and losses as people have them, odd and sound."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from data import Split, cut, mapped
from fourth.runs import cosine, judged, linear
from models import Batch, Setup, entropy, held_out, mlp, square
from torch import Tensor, nn

from eighth.habits_data import glyphs, kinds, made, sensors, strokes_net, surface


def empty_columns(seed: int) -> Setup:
    """One-hot columns of three groups, ten columns that are always zero, and five numbers."""
    rng = np.random.default_rng(811)
    groups = rng.integers(0, (6, 9, 12), (5000, 3))
    hot = np.concatenate([np.eye(n)[g] for n, g in zip((6, 9, 12), groups.T, strict=True)], 1)
    x, worth = rng.normal(size=(5000, 5)), rng.normal(size=27)
    y = 0.7 * hot @ worth + surface(x) + 0.2 * rng.normal(size=5000)
    columns = np.concatenate([hot, np.zeros((5000, 10)), x], 1)
    return made(mlp((42, 64, 64, 1), nn.ReLU), cut(columns, y[:, None]), seed, square, lr=5e-3, steps=260)


def yes_and_no(seed: int) -> Setup:
    """Logistic regression on twenty answers of yes or no: it cannot do more, and need not."""
    rng = np.random.default_rng(812)
    x = (rng.random((6000, 20)) < rng.uniform(0.15, 0.85, 20)).astype(float)
    score = (x - 0.5) @ rng.normal(size=20) * 1.2
    y = rng.random(6000) < 1 / (1 + np.exp(-score))
    return made(nn.Linear(20, 2), cut(x, y, classes=True), seed, lr=0.05, steps=220, schedule=linear(220))


def buffered(seed: int) -> Setup:
    """Rows lie by season and are drawn from a buffer of 800 of them: batches lean to one season."""
    split = sensors(5000)
    order = (
        split.x[:, 5] + 0.7 * split.x[:, 6] + torch.randn(4000, generator=torch.Generator().manual_seed(813))
    ).argsort()
    setup = made(
        mlp((10, 64, 64, 1), nn.ReLU), split, seed, square, lr=1.2e-2, steps=400, schedule=cosine(400)
    )
    generator = torch.Generator().manual_seed(seed)

    def draw() -> Iterator[Batch]:
        rows = itertools.cycle(order.tolist())
        buffer = list(itertools.islice(rows, 800))
        while True:
            picked = []
            for at in torch.randint(800, (64,), generator=generator).tolist():
                picked.append(buffer[at])
                buffer[at] = next(rows)
            yield split.x[picked], split.y[picked]

    setup.batches = draw()
    return setup


def drifting(seed: int) -> Setup:
    """A stream that is seen once and turns slowly; validation is on rows of the present moment."""
    count, generator = itertools.count(), torch.Generator().manual_seed(seed)
    asked = torch.randn(1500, 8, generator=torch.Generator().manual_seed(814))
    now = [0.0]

    def truth(x: Tensor, at: float) -> Tensor:
        a, c = math.cos(at), math.sin(at)
        y = torch.sin(1.3 * (a * x[:, 0] + c * x[:, 1])) + 0.5 * (a * x[:, 2] - c * x[:, 3]) * x[:, 4]
        return y[:, None]

    def draw() -> Iterator[Batch]:
        for k in count:
            now[0] = 0.5 * k / 400
            x = torch.randn(128, 8, generator=generator)
            yield x, truth(x, now[0]) + 0.2 * torch.randn(128, 1, generator=generator)

    def val(m: nn.Module) -> float:
        return held_out(square, asked, truth(asked, now[0]))(m)

    model = mlp((8, 64, 64, 1), nn.ReLU)
    return Setup(model, draw(), square, val, "adam", 4e-3, steps=400, batch_size=128, seed=seed)


def few_rows(seed: int) -> Setup:
    """120 rows, seen a hundred times with dropout and decay; validation is far larger."""
    rng = np.random.default_rng(815)
    y = rng.integers(0, 3, 1500)
    x = 0.9 * rng.normal(size=(3, 12))[y] + rng.normal(size=(1500, 12))
    t, labels = torch.tensor(x, dtype=torch.float32), torch.tensor(y)
    split = Split(t[:120], labels[:120], t[120:], labels[120:])
    more = {"optimizer": "adamw", "weight_decay": 0.3, "schedule": linear(260)}
    return made(mlp((12, 32, 3), nn.ReLU, dropout=0.5), split, seed, size=40, lr=3e-3, steps=260, **more)


def exact_rule(seed: int) -> Setup:
    """A linear rule without noise: the loss falls by many powers of ten and goes on."""
    rng = np.random.default_rng(816)
    x = rng.normal(size=(2000, 12))
    split = cut(x, x @ rng.normal(size=(12, 3)))
    return made(nn.Linear(12, 3), split, seed, square, lr=0.02, steps=260, optimizer="sgd")


def goals(seed: int) -> Setup:
    """Goals of a match from the teams' strength: counts of one or two, whose full likelihood hardly falls."""
    rng = np.random.default_rng(817)
    x = rng.normal(size=(8000, 6))
    rate = np.exp(0.3 + 0.35 * x[:, 0] - 0.3 * x[:, 1] + 0.15 * x[:, 2] * x[:, 3])

    def loss(m: nn.Module, b: Batch) -> Tensor:
        return F.poisson_nll_loss(m(b[0]), b[1], full=True)

    split = cut(x, rng.poisson(rate)[:, None])
    return made(mlp((6, 24, 1), nn.SiLU), split, seed, loss, lr=1e-2, size=128, schedule=linear(220))


def correlation(seed: int) -> Setup:
    """The loss is minus the correlation with what is so: from zero to nearly minus one."""

    def loss(m: nn.Module, b: Batch) -> Tensor:
        a, c = m(b[0]) - m(b[0]).mean(), b[1] - b[1].mean()
        return -(a * c).sum() / (a.norm() * c.norm() + 1e-8)

    split = sensors()
    setup = made(mlp((10, 64, 64, 1), nn.SiLU), split, seed, loss, lr=1.8e-2, size=128, schedule=cosine(220))
    return judged(setup, lambda m, b: 1 + loss(m, b), split.val_x, split.val_y)


def groups_lost(seed: int) -> Setup:
    """One of three groups of instruments is silent in most rows of training, and none is in validation."""
    generator = torch.Generator().manual_seed(seed)
    rng = np.random.default_rng(818)
    hidden, y = rng.normal(size=(5, 6)), rng.integers(0, 5, 5000)
    base = hidden[y] + 0.6 * rng.normal(size=(5000, 6))
    x = np.tanh(base @ rng.normal(size=(6, 24)) / 2) + 0.35 * rng.normal(size=(5000, 24))

    def loss(m: nn.Module, b: Batch) -> Tensor:
        if not m.training:
            return entropy(m, b)
        lost = torch.randint(4, (len(b[0]), 1), generator=generator)
        return entropy(m, (b[0] * (torch.arange(24) // 8 != lost), b[1]))

    return made(
        mlp((24, 64, 64, 5), nn.ReLU), cut(x, y, classes=True), seed, loss, lr=4e-3, schedule=cosine(220)
    )


def voters(seed: int) -> Setup:
    """The targets are the shares of seven people's votes; where they disagree the loss cannot fall."""
    rng = np.random.default_rng(819)
    x = rng.normal(size=(4000, 8))
    scores = np.stack([surface(x), surface(x[:, ::-1]), 0.7 * x[:, 1] + 0.4 * x[:, 6] ** 2], 1)
    votes = (1.5 * scores[:, None] + rng.gumbel(size=(4000, 7, 3))).argmax(2)
    share = np.eye(3)[votes].mean(1)

    def loss(m: nn.Module, b: Batch) -> Tensor:
        return F.cross_entropy(m(b[0]), b[1])

    return made(
        mlp((8, 48, 48, 3), nn.ReLU), cut(x, share), seed, loss, lr=5e-3, steps=260, schedule=cosine(260)
    )


def long_tail(seed: int) -> Setup:
    """Kinds from common to rare; their shares are added to the scores in training (Menon et al. 2021)."""
    split, generator = kinds(12000), torch.Generator().manual_seed(820)
    keep = torch.rand(len(split.y), generator=generator) < 0.6**split.y
    x, y = split.x[keep], split.y[keep]
    log = (torch.bincount(y) / len(y)).log()

    def loss(m: nn.Module, b: Batch) -> Tensor:
        return F.cross_entropy(m(b[0]) + (log if m.training else 0.0), b[1])

    model = mlp((16, 64, 6), nn.ReLU)
    return made(
        model, Split(x, y, split.val_x, split.val_y), seed, loss, lr=1e-2, steps=260, schedule=cosine(260)
    )


def own_pace(seed: int) -> Setup:
    """Rows count once their loss is below a limit that grows (Kumar et al. 2010); validation counts all."""
    limit = [0.6]

    def loss(m: nn.Module, b: Batch) -> Tensor:
        each = (m(b[0]) - b[1]).square().squeeze(1)
        if not m.training:
            return each.mean()
        easy = (each.detach() < limit[0]).float()
        return (easy * each).sum() / easy.sum().clamp(min=1.0)

    def grow(m: nn.Module, step: int) -> None:
        limit[0] = 0.6 + 4 * step / 150

    more = {"after_backward": grow, "schedule": linear(280)}
    return made(mlp((10, 64, 64, 1), nn.SiLU), sensors(), seed, loss, lr=1.2e-2, steps=280, **more)


def some_known(seed: int) -> Setup:
    """Some of the good ones are marked, all else is unknown: a risk that is put right (Kiryo et al. 2017)."""
    rng = np.random.default_rng(821)
    good = rng.random(8000) < 0.4
    x = rng.normal(size=(8000, 8)) + good[:, None] * np.array([1.4, -1, 0.8, 0, 0, 0, 0.5, 0])
    x[:, 3] += np.where(good, 1.0, -0.3) * x[:, 4]
    marked = good & (rng.random(8000) < 0.35)

    def loss(m: nn.Module, b: Batch) -> Tensor:
        score = m(b[0]).squeeze(1)
        if not m.training:
            return F.binary_cross_entropy_with_logits(score, b[1])
        own, rest = score[b[1] > 0], score[b[1] == 0]
        bad = F.softplus(rest).mean() - 0.30 * F.softplus(own).mean()
        return 0.4 * F.softplus(-own).mean() + (1 - 0.14) * bad.clamp(min=0.0)

    split = cut(x, marked)
    split = Split(split.x, split.y, split.val_x, torch.tensor(good[6400:], dtype=torch.float32))
    return made(
        mlp((8, 32, 1), nn.Tanh), split, seed, loss, size=256, lr=1e-2, steps=200, schedule=cosine(200)
    )


def wrong_fifth(seed: int) -> Setup:
    """A fifth of the labels is wrong; a loss between cross entropy and error (Zhang and Sabuncu 2018)."""
    split, generator = glyphs(4000), torch.Generator().manual_seed(822)
    wrong = torch.rand(len(split.y), generator=generator) < 0.24
    y = torch.where(wrong, torch.randint(6, split.y.shape, generator=generator), split.y)

    def loss(m: nn.Module, b: Batch) -> Tensor:
        share = m(b[0]).softmax(1).gather(1, b[1][:, None])
        return ((1 - share.clamp(min=1e-6) ** 0.4) / 0.4).mean()

    return made(strokes_net(), split._replace(y=y), seed, loss, lr=1.2e-2, steps=200, schedule=cosine(200))


def several_guesses(seed: int) -> Setup:
    """Four guesses, the nearest learns most (Guzman-Rivera et al. 2012); the truth has two branches."""
    rng = np.random.default_rng(823)
    x = rng.normal(size=(5000, 6))
    side = np.where(rng.random(5000) < 0.5, 1.0, -1.0)
    y = np.stack([side * (1 + 0.5 * np.tanh(x[:, 0])) + 0.4 * x[:, 1], surface(x)], 1)

    def loss(m: nn.Module, b: Batch) -> Tensor:
        away = (m(b[0]).reshape(-1, 4, 2) - b[1][:, None]).square().sum(2)
        return 0.9 * away.amin(1).mean() + 0.1 * away.mean()

    split = cut(x, y + 0.1 * rng.normal(size=y.shape))
    return made(mlp((6, 64, 64, 8), nn.ReLU), split, seed, loss, lr=1.5e-2, steps=300, schedule=cosine(300))


def three_numbers(seed: int) -> Setup:
    """Twenty columns through three numbers and back, by matrices alone: much is lost, as it must be."""
    rng = np.random.default_rng(824)
    z = rng.normal(size=(4000, 8)) * np.array([3, 2.4, 1.8, 0.9, 0.8, 0.7, 0.6, 0.5])
    x = z @ np.linalg.qr(rng.normal(size=(20, 8)))[0].T + 0.3 * rng.normal(size=(4000, 20))
    model = nn.Sequential(nn.Linear(20, 3), nn.Linear(3, 20))
    return made(model, cut(x, x), seed, square, lr=1e-2, steps=260, schedule=linear(260))


def small_unit(seed: int) -> Setup:
    """Lengths of a few thousandths in metres: losses of millionths, and an output that is in the unit."""

    class Thousandth(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 1e-3 * x

    s = sensors()
    split = Split(s.x, 1e-3 * s.y, s.val_x, 1e-3 * s.val_y)
    model = nn.Sequential(*mlp((10, 64, 64, 1), nn.Tanh), Thousandth())
    more = {"optimizer": "adamw", "weight_decay": 0.01, "options": {"eps": 1e-12}, "schedule": cosine(300)}
    return made(model, split, seed, square, lr=1.8e-2, steps=300, **more)


def error_bars(seed: int) -> Setup:
    """Each reading has a known error; the loss is in squares of it, from hundreds down to about one."""
    rng = np.random.default_rng(825)
    x = rng.normal(size=(4000, 5))
    bar = rng.uniform(0.1, 0.25, 4000)
    y = np.stack([surface(x) + bar * rng.normal(size=4000), bar], 1)

    def loss(m: nn.Module, b: Batch) -> Tensor:
        return ((m(b[0]) - b[1][:, :1]) / b[1][:, 1:]).square().mean()

    return made(mlp((5, 64, 64, 1), nn.SiLU), cut(x, y), seed, loss, lr=1e-2, steps=400, schedule=cosine(400))


def four_views(seed: int) -> Setup:
    """Each sign is in its batch four times, moved, dimmed and noised in another way (Hoffer et al. 2020)."""
    generator = torch.Generator().manual_seed(seed)

    def change(x: Tensor, y: Tensor) -> Batch:
        x, y = x.repeat(4, 1), y.repeat(4)
        by = 0.6 + 0.8 * torch.rand(len(x), 1, generator=generator)
        x = by * x + 0.3 * torch.randn(x.shape, generator=generator)
        return x, y

    setup = made(strokes_net(), glyphs(), seed, size=16, lr=1.5e-2, steps=260, schedule=cosine(260))
    setup.batches = mapped(setup.batches, change)
    return setup


def motifs(seed: int) -> Setup:
    """Letters of a genome as one-hot rows; which of two words of six is in it, or neither?"""
    rng = np.random.default_rng(826)
    y, bases = rng.integers(0, 3, 4000), rng.integers(0, 4, (4000, 30))
    words, at = rng.integers(0, 4, (2, 6)), rng.integers(0, 25, 4000)
    for row in np.flatnonzero(y < 2):
        bases[row, at[row] : at[row] + 6] = words[y[row]]
    x = np.eye(4)[bases].transpose(0, 2, 1).reshape(4000, 120)
    net = [nn.Unflatten(1, (4, 30)), nn.Conv1d(4, 24, 6), nn.ReLU(), nn.AdaptiveMaxPool1d(1), nn.Flatten()]
    model = nn.Sequential(*net, nn.Dropout(0.2), nn.Linear(24, 3))
    return made(model, cut(x, y, classes=True), seed, lr=2.5e-2, steps=260, schedule=linear(260))


MADE: dict[str, Callable[[int], Setup]] = {
    f.__name__: f
    for f in (
        empty_columns,
        yes_and_no,
        buffered,
        drifting,
        few_rows,
        exact_rule,
        goals,
        correlation,
        groups_lost,
        voters,
        long_tail,
        own_pace,
        some_known,
        wrong_fifth,
        several_guesses,
        three_numbers,
        small_unit,
        error_bars,
        four_views,
        motifs,
    )
}
