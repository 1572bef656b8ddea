"""Hard negatives of the seventh suite: loops in the styles of real projects, odd and sound."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from data import Split, cut, digits, mapped, table
from fourth.runs import cosine, custom, judged
from models import (
    Batch,
    Setup,
    cnn,
    entropy,
    mlp,
    square,
)
from torch import Tensor, nn

from seventh import habits
from seventh.common import digits_setup, first_steps, houses


def rate_finder(seed: int) -> Setup:
    """The rate goes from a ten-thousandth up to a high one; then the weights are put back and it begins."""
    model = mlp((64, 64, 64, 10), nn.ReLU)
    kept = [p.detach().clone() for p in model.parameters()]

    def back(m: nn.Module, step: int) -> None:
        if step == 50:
            with torch.no_grad():
                for p, was in zip(m.parameters(), kept, strict=True):
                    p.copy_(was)
                    p.grad.zero_()

    def rate(k: int) -> float:
        return 10 ** (-4 + 4.5 * k / 49) if k < 50 else cosine(220)(k - 50)

    setup = digits_setup(model, seed, steps=270, optimizer="sgd", lr=0.4, schedule=rate, after_backward=back)
    setup.options = {"momentum": 0.0}
    return setup


def high_peak(seed: int) -> Setup:
    """One cycle of the rate up to eight times what is usual, and to nothing (Smith and Topin 2018)."""
    steps = 240

    def rate(k: int) -> float:
        return 0.05 + 0.95 * k / 80 if k < 80 else max(0.001, (steps - k) / (steps - 80))

    return digits_setup(cnn(True), seed, size=48, steps=steps, optimizer="sgd", lr=0.4, schedule=rate)


def by_layer(seed: int) -> Setup:
    """A net of the first seven digits goes on with all; each layer has two fifths of the next one's rate."""
    split, model = digits(), mlp((64, 64, 64, 10), nn.GELU)
    few = split.y < 7
    first_steps(model, Split(split.x[few], split.y[few], split.val_x, split.val_y), seed, 100)

    def scale(m: nn.Module, step: int) -> None:
        for depth, part in enumerate((m[4], m[2], m[0])):
            for p in part.parameters():
                p.grad *= 0.4**depth

    return digits_setup(model, seed, optimizer="sgd", lr=0.12, after_backward=scale, schedule=cosine(200))


def pseudo_labels(seed: int) -> Setup:
    """200 labels are known; from step 100 on, what the net is sure of among the rest counts as labeled."""
    split, model = digits(), mlp((64, 96, 10), nn.ReLU, dropout=0.2)
    known, rest = split.x[:200], split.x[200:]
    generator, count = torch.Generator().manual_seed(seed), itertools.count()

    def draw(x: Tensor, y: Tensor) -> Batch:
        if next(count) < 100:
            return x, y
        rows = rest[torch.randint(len(rest), (64,), generator=generator)]
        with torch.no_grad():
            sure, told = model.eval()(rows).softmax(1).max(1)
        model.train()
        keep = sure > 0.9
        return torch.cat([x, rows[keep]]), torch.cat([y, told[keep]])

    few = Split(known, split.y[:200], split.val_x, split.val_y)
    setup = custom(model, few, seed, 32, entropy, lr=2e-3, optimizer="adam", steps=250, weight_decay=1e-3)
    setup.batches = mapped(setup.batches, draw)
    return setup


class _Forecast(nn.Module):
    """Says twelve values after eight; while it trains, it gets the true one before or its own."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.cell, self.head = nn.GRUCell(1, 40), nn.Linear(40, 1)
        self.forced, self.generator = 1.0, generator

    def forward(self, x: Tensor, truth: Tensor) -> Tensor:
        state, said = x.new_zeros(len(x), 40), []
        for at in range(8):
            state = self.cell(x[:, at : at + 1], state)
        for at in range(12):
            said.append(self.head(state))
            told = torch.rand(len(x), 1, generator=self.generator) < self.forced
            state = self.cell(torch.where(told & self.training, truth[:, at : at + 1], said[-1]), state)
        return torch.cat(said, 1)


def own_words(seed: int) -> Setup:
    """Less and less is told of what came before (Bengio et al. 2015): the loss rises, validation falls."""
    rng = np.random.default_rng(701)
    t, phase, speed = np.arange(20), rng.uniform(0, 6.28, (3000, 1)), rng.uniform(0.3, 0.6, (3000, 1))
    z = np.sin(phase + speed * t) + 0.3 * np.cos(2 * (phase + speed * t)) + 0.05 * rng.normal(size=(3000, 20))
    model = _Forecast(torch.Generator().manual_seed(seed))

    def loss(m: nn.Module, b: Batch) -> Tensor:
        return F.mse_loss(m(*b), b[1])

    def less(m: nn.Module, step: int) -> None:
        m.forced = max(0.0, 1 - step / 120)

    split = cut(z[:, :8], z[:, 8:])
    setup = custom(model, split, seed, 64, loss, lr=1.2e-2, optimizer="adam", steps=240, clip=1.0)
    setup.after_backward, setup.schedule = less, cosine(240)
    return setup


def cutmix(seed: int) -> Setup:
    """A part of each picture is another's, and so is that part of its label (Yun et al. 2019)."""
    generator = torch.Generator().manual_seed(seed)

    def loss(m: nn.Module, b: Batch) -> Tensor:
        x, y = b
        if not m.training:
            return entropy(m, b)
        other = torch.randperm(len(x), generator=generator)
        top, left = torch.randint(5, (2,), generator=generator).tolist()
        side = int(torch.randint(2, 5, (1,), generator=generator))
        mixed = x.reshape(-1, 8, 8).clone()
        mixed[:, top : top + side, left : left + side] = mixed[other, top : top + side, left : left + side]
        share, out = side**2 / 64, m(mixed.flatten(1))
        return (1 - share) * F.cross_entropy(out, y) + share * F.cross_entropy(out, y[other])

    return digits_setup(cnn(True), seed, loss, lr=4e-3, schedule=cosine(200))


def fading_auxiliary(seed: int) -> Setup:
    """At first most of the loss is that of putting the picture together again; this part fades to nothing."""
    model = nn.ModuleDict({"body": mlp((64, 64, 48), nn.ReLU), "tell": nn.Linear(48, 10)})
    model["paint"], weight = nn.Linear(48, 64), [5.0]

    def loss(m: nn.Module, b: Batch) -> Tensor:
        hidden = F.relu(m["body"](b[0]))
        value = F.cross_entropy(m["tell"](hidden), b[1])
        return value + weight[0] * F.mse_loss(m["paint"](hidden), b[0]) if m.training else value

    def fade(m: nn.Module, step: int) -> None:
        weight[0] = 5.0 * max(0.0, 1 - step / 120)

    return digits_setup(model, seed, loss, lr=4e-3, steps=280, after_backward=fade, schedule=cosine(280))


def soft_bins(seed: int) -> Setup:
    """A number is told as a smeared choice among 40 bins: the loss has a high floor (Imani and White 2018)."""
    x, y = houses()
    y = np.log(y)
    edges = torch.linspace(-3.2, 3.2, 41)

    def loss(m: nn.Module, b: Batch) -> Tensor:
        below = torch.special.ndtr((edges - b[1].clamp(-3, 3)) / 0.25)
        share = below.diff(dim=1)
        return F.cross_entropy(m(b[0]), share / share.sum(1, keepdim=True))

    split = cut(x, (y - y.mean()) / y.std())
    model = mlp((8, 64, 64, 40), nn.ReLU)
    return custom(model, split, seed, 64, loss, lr=1.5e-2, optimizer="adam", steps=250, schedule=cosine(250))


def raw_prices(seed: int) -> Setup:
    """Prices in thousands as they are, a loss of thousands, and a rate that fits with it."""
    split = cut(*houses())
    model = mlp((8, 64, 64, 1), nn.ReLU)
    with torch.no_grad():
        model[-1].bias.fill_(float(split.y.mean()))
        model[-1].weight.mul_(50)
    return custom(model, split, seed, 64, square, lr=4e-2, optimizer="adam", steps=250, schedule=cosine(250))


def percent(seed: int) -> Setup:
    """The loss is the mean error in percent of a price, from a logarithm."""
    x, y = houses()

    def loss(m: nn.Module, b: Batch) -> Tensor:
        return 100 * ((m(b[0]) + 5.4).exp() / b[1] - 1).abs().mean()

    model = mlp((8, 48, 48, 1), nn.SiLU)
    return custom(
        model, cut(x, y), seed, 64, loss, lr=1.5e-2, optimizer="adam", steps=280, schedule=cosine(280)
    )


def bytes_normed(seed: int) -> Setup:
    """Pixels from 0 to 255 as a camera gives them; the net's first layer norms them."""
    s = digits()
    low, top = s.x.min(), s.x.max()
    split = Split(255 * (s.x - low) / (top - low), s.y, 255 * (s.val_x - low) / (top - low), s.val_y)
    model = nn.Sequential(nn.BatchNorm1d(64), *mlp((64, 64, 10), nn.ReLU))
    return custom(model, split, seed, 64, entropy, lr=3e-3, optimizer="adam", steps=200)


def indicators(seed: int) -> Setup:
    """A third of the readings is missing: zeros, and a column beside each that says so."""
    s, generator = table("breast_cancer"), torch.Generator().manual_seed(702)

    def lose(x: Tensor) -> Tensor:
        gone = torch.rand(x.shape, generator=generator) < torch.linspace(0.02, 0.65, x.shape[1])
        return torch.cat([x.masked_fill(gone, 0.0), gone.float()], 1)

    split = Split(lose(s.x), s.y, lose(s.val_x), s.val_y)
    model = mlp((60, 24, 2), nn.ReLU, dropout=0.3)
    setup = custom(model, split, seed, 64, entropy, lr=2e-3, optimizer="adamw", steps=150, weight_decay=0.05)
    setup.schedule = cosine(150)
    return setup


def resumed(seed: int) -> Setup:
    """Goes on at its floor, from weights that were trained for as long as it helps."""
    model = mlp((64, 48, 10), nn.ReLU, dropout=0.3)
    first_steps(model, digits(), seed, 500)
    return digits_setup(model, seed, lr=3e-4, steps=180, weight_decay=1e-4)


def student(seed: int) -> Setup:
    """A likelihood with tails whose density is above one in the end: the loss falls below zero."""
    rng = np.random.default_rng(703)
    x = rng.normal(size=(5000, 6))
    y = np.tanh(x[:, :1] + x[:, 1:2] * x[:, 2:3]) + 0.08 * rng.standard_t(4, size=(5000, 1))

    def loss(m: nn.Module, b: Batch) -> Tensor:
        mean, log = m(b[0]).split(1, 1)
        law = torch.distributions.StudentT(4.0, mean, F.softplus(log) + 1e-3)
        return -law.log_prob(b[1]).mean()

    model = mlp((6, 64, 64, 2), nn.SiLU)
    split = cut(x, y)
    setup = custom(model, split, seed, 64, loss, lr=8e-3, optimizer="adam", steps=280, schedule=cosine(280))
    return judged(setup, lambda m, b: F.mse_loss(m(b[0])[:, :1], b[1]), split.val_x, split.val_y)


def confidence_penalty(seed: int) -> Setup:
    """Entropy is rewarded (Pereyra et al. 2017): the loss of training goes below zero."""

    def loss(m: nn.Module, b: Batch) -> Tensor:
        log = m(b[0]).log_softmax(1)
        value = F.nll_loss(log, b[1])
        return value + 0.4 * (log.exp() * log).sum(1).mean() if m.training else value

    return digits_setup(mlp((64, 64, 10), nn.ReLU), seed, loss, lr=3e-3, steps=280, schedule=cosine(280))


MADE: dict[str, Callable[[int], Setup]] = {
    "rate_finder": rate_finder,
    "high_peak": high_peak,
    "by_layer": by_layer,
    "pseudo_labels": pseudo_labels,
    "own_words": own_words,
    "cutmix": cutmix,
    "fading_auxiliary": fading_auxiliary,
    "soft_bins": soft_bins,
    "raw_prices": raw_prices,
    "percent": percent,
    "bytes_normed": bytes_normed,
    "indicators": indicators,
    "resumed": resumed,
    "student": student,
    "confidence_penalty": confidence_penalty,
    "amsgrad": habits.amsgrad,
    "centered": habits.centered,
    "hashed_words": habits.hashed_words,
    "signs": habits.signs,
    "spectral": habits.spectral,
    "critic": habits.critic,
    "slow_copy": habits.slow_copy,
    "tied": habits.tied,
    "full_batch": habits.full_batch,
    "progressive": habits.progressive,
    "alternating": habits.alternating,
    "early_exits": habits.early_exits,
    "many_users": habits.many_users,
    "two_passes": habits.two_passes,
    "max_norm": habits.max_norm,
    "free_bits": habits.free_bits,
    "margin": habits.margin,
}
