"""Losses of the tenth suite that are seldom seen, and what fits with each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from data import Split, digits, shuffled
from eighth.architectures_common import fixed, forever, normal, of_stream, uniform
from eighth.habits_data import glyphs, kinds, made, sensors, strokes_net
from fourth.runs import cosine, linear
from models import Batch, Setup, entropy, held_out, mlp, square
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn


def flooded(seed: int) -> Setup:
    """The loss of training is kept from falling below 0.15 (Ishida et al. 2020): it goes about there."""

    def loss(m: nn.Module, b: Batch) -> Tensor:
        value = entropy(m, b)
        return (value - 0.15).abs() + 0.15 if m.training else value

    return made(strokes_net(), glyphs(), seed, loss, lr=8e-3, size=48, steps=200, schedule=linear(200))


def evidence(seed: int) -> Setup:
    """Scores are evidence for a Dirichlet distribution (Sensoy et al. 2018); doubt is paid for more and more."""
    count = [0]

    def loss(m: nn.Module, b: Batch) -> Tensor:
        strength = F.softplus(m(b[0])) + 1
        total, hot = strength.sum(1, keepdim=True), F.one_hot(b[1], 6)
        mean = strength / total
        fit = ((hot - mean).square() + mean * (1 - mean) / (total + 1)).sum(1).mean()
        if not m.training:
            return fit
        count[0] += 1
        wrong = hot + (1 - hot) * strength
        flat = torch.distributions.Dirichlet(torch.ones_like(wrong))
        doubt = torch.distributions.kl_divergence(torch.distributions.Dirichlet(wrong), flat).mean()
        return fit + 0.1 * min(1.0, count[0] / 150) * doubt

    return made(mlp((16, 64, 64, 6), nn.ReLU), kinds(), seed, loss, lr=1.6e-2, schedule=cosine(220))


def upper_mean(seed: int) -> Setup:
    """Too little costs nine times as much as too much: an expectile (Newey and Powell 1987)."""

    def loss(m: nn.Module, b: Batch) -> Tensor:
        short = b[1] - m(b[0])
        return (torch.where(short > 0, 0.9, 0.1) * short.square()).mean()

    return made(
        mlp((10, 64, 64, 1), nn.SiLU),
        sensors(4000, 0.4),
        seed,
        loss,
        lr=1.5e-2,
        steps=300,
        schedule=cosine(300),
    )


class _Robust(nn.Module):
    """A net, and the form and width of the loss that fits with its errors."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.form, self.width = (
            mlp((10, 64, 64, 1), nn.ReLU),
            nn.Parameter(torch.tensor(0.0)),
            nn.Parameter(torch.tensor(0.0)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def _student(model: nn.Module, batch: Batch) -> Tensor:
    free, width = 1 + F.softplus(model.form), F.softplus(model.width) + 0.01
    return -torch.distributions.StudentT(free, model(batch[0]), width).log_prob(batch[1]).mean()


def own_tails(seed: int) -> Setup:
    """How heavy the tails of the errors are is learned next to the net (after Barron 2019)."""
    split, g = sensors(4000, 0.1), torch.Generator().manual_seed(1002)
    heavy = (
        torch.randn(split.y.shape, generator=g)
        / torch.rand(split.y.shape, generator=g).clamp(min=0.02).sqrt()
    )
    noisy = Split(split.x, split.y + 0.15 * heavy, split.val_x, split.val_y)
    setup = made(_Robust(), noisy, seed, _student, lr=1.5e-2, steps=320, schedule=linear(320))
    setup.val = held_out(square, split.val_x, split.val_y)
    return setup


class _Boxes(nn.Module):
    """Three guesses of where things are, and of how sure each is."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Unflatten(1, (1, 12, 12)),
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 24, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(24 * 36, 64),
            nn.ReLU(),
            nn.Linear(64, 9),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).reshape(-1, 3, 3)


@forever
def _lamps(size: int, g: torch.Generator) -> Batch:
    """One to three lamps on a dark picture, where they are, and which of the three there are."""
    at, there = uniform(g, size, 3, 2, low=-0.9, high=0.9), torch.rand(size, 3, generator=g) < 0.7
    there[:, 0] = True
    grid = torch.linspace(-1, 1, 12)
    x = (-(grid - at[..., :1]).square() * 18).exp()[..., None, :] * (
        -(grid - at[..., 1:]).square() * 18
    ).exp()[..., None]
    picture = (x * there[..., None, None]).sum(1).flatten(1) + 0.05 * normal(g, size, 144)
    return picture * 2 - 0.3, torch.cat([at, there[..., None].float()], 2)


def _matched(model: nn.Module, batch: Batch) -> Tensor:
    out, (place, there) = model(batch[0]), batch[1].split((2, 1), 2)
    far = torch.cdist(out[..., :2], place, p=1)
    cost = ((far - out[..., 2:].sigmoid()) * there.transpose(1, 2)).detach().numpy()
    order = torch.tensor([linear_sum_assignment(c.T)[1].tolist() for c in cost])
    told = out.gather(1, order[..., None].expand(-1, -1, 3))
    near = ((told[..., :2] - place).abs().sum(2, keepdim=True) * there).sum() / there.sum()
    return 2 * near + F.binary_cross_entropy_with_logits(told[..., 2:], there)


def matched_sets(seed: int) -> Setup:
    """Guesses without order, matched to what is there by the Hungarian method (Carion et al. 2020)."""
    more = {"lr": 3e-3, "steps": 350, "schedule": cosine(350), "optimizer": "adam"}
    return of_stream(_Boxes, _lamps, _matched, 32, 300, **more)(seed)


@forever
def _letters_o(size: int, g: torch.Generator) -> Batch:
    """24 points in no order on an ellipse of any form, place and turn."""
    t, a = 6.28 * torch.rand(size, 24, generator=g), 6.28 * torch.rand(size, 1, generator=g)
    long, wide = uniform(g, size, 2, 1, low=0.3, high=1.2).unbind(1)
    x, y = long * t.cos(), wide * t.sin()
    points = torch.stack([a.cos() * x - a.sin() * y, a.sin() * x + a.cos() * y], 2)
    points = points + 0.5 * normal(g, size, 1, 2) + 0.03 * normal(g, size, 24, 2)
    return points, torch.zeros(size)


class _Cloud(nn.Module):
    """A code of six numbers for a set of points, and 24 points from that."""

    def __init__(self) -> None:
        super().__init__()
        self.each, self.code = mlp((2, 48, 64), nn.ReLU), nn.Linear(64, 6)
        self.out = mlp((6, 64, 64, 48), nn.ReLU)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.code(self.each(x).amax(1))).reshape(-1, 24, 2)


def _chamfer(model: nn.Module, batch: Batch) -> Tensor:
    far = (model(batch[0])[:, :, None] - batch[0][:, None]).square().sum(3)
    return far.amin(1).mean() + far.amin(2).mean()


def clouds(seed: int) -> Setup:
    """Points to the nearest points of another cloud, both ways (Fan et al. 2017)."""
    more = {"lr": 6e-3, "steps": 300, "schedule": cosine(300), "optimizer": "adam"}
    return of_stream(_Cloud, _letters_o, _chamfer, 48, **more)(seed)


class _Adaptive(nn.Module):
    """A word from the two before; rare words share small groups with narrow weights."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.hidden = nn.Embedding(400, 24), mlp((48, 64, 48), nn.ReLU)
        self.tell = nn.AdaptiveLogSoftmaxWithLoss(48, 400, [20, 100], div_value=2.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.hidden(self.embed(x).flatten(1)).relu()


@forever
def _headlines(size: int, g: torch.Generator) -> Batch:
    """Two words of 400, most of them common, and a third that the two groups of both decide on."""
    chance = 1 / torch.arange(1, 401.0)
    x = torch.multinomial(chance, 2 * size, replacement=True, generator=g).reshape(size, 2)
    group = (x[:, 0] % 4) * 3 + x[:, 1] % 3
    rank = torch.multinomial(1 / torch.arange(1, 21.0) ** 1.5, size, replacement=True, generator=g)
    return x, (rank * 20 + group) % 400


def groups_of_words(seed: int) -> Setup:
    """An adaptive softmax (Grave et al. 2017): the groups of rare words hardly learn in most steps."""

    def loss(m: nn.Module, b: Batch) -> Tensor:
        return m.tell(m(b[0]), b[1]).loss

    more = {"lr": 1e-2, "steps": 300, "schedule": cosine(300), "optimizer": "adam"}
    return of_stream(_Adaptive, _headlines, loss, 128, 1500, **more)(seed)


def noisy_twins(seed: int) -> Setup:
    """Pictures from noise to other noise (Lehtinen et al. 2018): training stays far above validation."""
    split, g = digits(), torch.Generator().manual_seed(seed)

    def draw() -> Iterator[Batch]:
        for x, _ in shuffled(split, 64, seed):
            yield x + normal(g, *x.shape), x + normal(g, *x.shape)

    net = mlp((64, 128, 128, 64), nn.ReLU)
    setup = made(net, split, seed, square, lr=3e-3, steps=300, schedule=linear(300))
    setup.batches = draw()
    clean = split.val_x
    setup.val = held_out(square, clean + fixed(1003, *clean.shape), clean)
    return setup


def mined(seed: int) -> Setup:
    """Triplets that are hard for the net as it is (Schroff et al. 2015); validation counts errors."""

    def loss(m: nn.Module, b: Batch) -> Tensor:
        code = F.normalize(m(b[0]), dim=1)
        far = (2 - 2 * code @ code.T).clamp(min=1e-6).sqrt()
        same = b[1][:, None] == b[1]
        near = (far * same).sum(1) / same.sum(1)
        other = far.masked_fill(same, 9.0)
        half_hard = other.masked_fill(other <= near[:, None].detach(), 9.0).amin(1)
        wrong = torch.where(half_hard < 5, half_hard, other.amin(1))
        return F.softplus(8 * (near - wrong)).mean() / 8

    def missed(m: nn.Module, b: Batch) -> Tensor:
        far = torch.cdist(F.normalize(m(b[0]), dim=1), F.normalize(m(digits().x[:600]), dim=1))
        return (digits().y[:600][far.argmin(1)] != b[1]).float().mean()

    setup = made(mlp((64, 96, 96, 16), nn.ReLU), digits(), seed, loss, lr=4e-3, size=96, schedule=linear(220))
    split = digits()
    setup.val, setup.metric = held_out(missed, split.val_x, split.val_y), "val_error"
    return setup


class _Mixture(nn.Module):
    """Four normal distributions for what comes, whose shares, means and widths depend on the input."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp((1, 48, 48, 12), nn.Tanh)

    def forward(self, x: Tensor) -> torch.distributions.Distribution:
        share, mean, log = self.net(x).chunk(3, 1)
        parts = torch.distributions.Normal(2 * mean, F.softplus(log) + 0.02)
        return torch.distributions.MixtureSameFamily(torch.distributions.Categorical(logits=share), parts)


@forever
def _inverse(size: int, g: torch.Generator) -> Batch:
    """The classic inverse problem: one answer for some questions, three for others."""
    t = torch.rand(size, 1, generator=g)
    x = t + 0.3 * (6.28 * t).sin() + 0.04 * normal(g, size, 1)
    return 4 * x - 2, 4 * t - 2


def many_answers(seed: int) -> Setup:
    """A mixture density network (Bishop 1994), whose likelihood passes one."""

    def loss(m: nn.Module, b: Batch) -> Tensor:
        return -m(b[0]).log_prob(b[1][:, 0]).mean()

    def unlikely(m: nn.Module, b: Batch) -> Tensor:
        return loss(m, b).exp()

    more = {
        "judge": unlikely,
        "lr": 1.5e-2,
        "steps": 400,
        "schedule": cosine(400),
        "optimizer": "adam",
        "clip": 5.0,
    }
    return of_stream(_Mixture, _inverse, loss, 128, 1000, **more)(seed)


def groups_worst(seed: int) -> Setup:
    """Weights of groups move to those that are told worst (Sagawa et al. 2020)."""
    weights = torch.full((6,), 1 / 6)

    def loss(m: nn.Module, b: Batch) -> Tensor:
        each = F.cross_entropy(m(b[0]), b[1], reduction="none")
        if not m.training:
            return each.mean()
        count = F.one_hot(b[1], 6).float()
        costs = (count * each[:, None]).sum(0) / count.sum(0).clamp(min=1)
        weights.mul_((0.03 * costs.detach()).exp()).div_(weights.sum())
        return (weights.clone() * costs).sum()

    return made(mlp((16, 64, 64, 6), nn.ReLU), kinds(), seed, loss, lr=1.6e-2, schedule=linear(220))


class _Sorter(nn.Module):
    """A number for each of five pictures, and a doubly stochastic matrix that sorts by it."""

    def __init__(self) -> None:
        super().__init__()
        self.score = mlp((64, 64, 1), nn.ReLU)

    def forward(self, x: Tensor) -> Tensor:
        scores = self.score(x)[..., 0]
        apart = (scores[:, :, None] - scores[:, None]).abs().sum(2)
        places = 4 - 2 * torch.arange(5.0)
        return (places[:, None] * scores[:, None] - apart[:, None]).log_softmax(2)


@forever
def _rows_of_digits(size: int, g: torch.Generator) -> Batch:
    """Five digits of different value, and their order from high to low."""
    split = digits()
    kind = torch.rand(size, 10, generator=g).argsort(1)[:, :5]
    order = split.y.argsort()
    first = torch.searchsorted(split.y[order], torch.arange(10))
    count = torch.bincount(split.y)
    pick = (torch.rand(size, 5, generator=g) * count[kind]).long()
    return split.x[order[first[kind] + pick]], kind.argsort(1, descending=True)


def relaxed_order(seed: int) -> Setup:
    """Only the order of five pictures is known: a relaxed sort (Grover et al. 2019)."""

    def loss(m: nn.Module, b: Batch) -> Tensor:
        return F.nll_loss(m(b[0]).flatten(0, 1), b[1].flatten())

    more = {"lr": 8e-3, "steps": 300, "schedule": cosine(300), "optimizer": "adam"}
    return of_stream(_Sorter, _rows_of_digits, loss, 32, 200, **more)(seed)


MADE: dict[str, Callable[[int], Setup]] = {
    f.__name__: f
    for f in (
        flooded,
        evidence,
        upper_mean,
        own_tails,
        matched_sets,
        clouds,
        groups_of_words,
        noisy_twins,
        mined,
        many_answers,
        groups_worst,
        relaxed_order,
    )
}
