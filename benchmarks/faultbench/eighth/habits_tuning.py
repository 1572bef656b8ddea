"""Habits of the eighth suite: runs that start from a trained net, and nets that are held in some way."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from data import Split, cut, digits
from fourth.runs import cosine, linear
from models import Batch, Setup, entropy, mlp, square
from torch import Tensor, nn
from torch.nn.utils import parametrize

from eighth.habits_data import glyphs, kinds, made, sensors, sites, strokes_net, trained


def _moved(seed: int) -> nn.Sequential:
    """A net that knows the first site well."""
    model = mlp((12, 64, 64, 4), nn.ReLU)
    trained(model, sites()[0], entropy, seed, 250)
    return model


def probe(seed: int) -> Setup:
    """The body of a net for the digits below six is frozen; a linear layer on it learns all ten."""
    split, model = digits(), mlp((64, 96, 48, 10), nn.ReLU)
    few = split.y < 6
    trained(model, Split(split.x[few], split.y[few], split.val_x, split.val_y), entropy, seed, 150)
    model[-1] = nn.Linear(48, 10)
    model[:-1].requires_grad_(False)
    more = {"parameters": lambda m: list(m[-1].parameters()), "schedule": linear(220)}
    return made(model, split, seed, lr=0.02, **more)


class _Coded(nn.Module):
    """A net for many tasks; four learned numbers say which one is meant."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body, self.code = body, nn.Parameter(torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(torch.cat([x, self.code.expand(len(x), 4)], 1))


def code_only(seed: int) -> Setup:
    """A net for many tasks is fixed; for a new one only the four numbers that name the task are learned."""
    rng = np.random.default_rng(807)

    def draw(codes: np.ndarray) -> np.ndarray:
        x = rng.normal(size=(len(codes), 6))
        y = np.sin(x[:, 0] + codes[:, 0]) + codes[:, 1] * x[:, 1] + codes[:, 2] * x[:, 2] * x[:, 3]
        y = y + 0.5 * codes[:, 3] * x[:, 4] + 0.1 * rng.normal(size=len(codes))
        return x, y[:, None]

    codes = rng.normal(size=(12000, 4))
    x, y = draw(codes)
    body = mlp((10, 96, 96, 1), nn.SiLU)
    trained(body, cut(np.concatenate([x, codes], 1), y), square, seed, 900, 5e-3)
    x, y = draw(np.tile([[0.7, -1.1, 0.9, 1.3]], (2500, 1)))
    model = _Coded(body.requires_grad_(False))
    more = {"parameters": lambda m: [m.code], "schedule": linear(160)}
    return made(model, cut(x, y), seed, square, lr=0.04, steps=160, **more)


def biases_only(seed: int) -> Setup:
    """On a second site only biases and the last layer are tuned (Ben Zaken et al. 2022)."""
    model = _moved(seed)
    for part in model[:-1]:
        if isinstance(part, nn.Linear):
            part.weight.requires_grad_(False)
    tuned = [p for p in model.parameters() if p.requires_grad]
    return made(model, sites()[1], seed, lr=2e-2, parameters=lambda m: tuned, schedule=cosine(220))


class _Adapter(nn.Module):
    """A narrow detour that does nothing at first (Houlsby et al. 2019)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, 12), nn.Linear(12, width)
        nn.init.normal_(self.up.weight, std=1e-3)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.up(F.gelu(self.down(x)))


def adapters(seed: int) -> Setup:
    """Small detours after the frozen layers of a net learn a second site."""
    old = _moved(seed).requires_grad_(False)
    model = nn.Sequential(*old[:2], _Adapter(64), *old[2:4], _Adapter(64), old[4].requires_grad_(True))
    tuned = [p for p in model.parameters() if p.requires_grad]
    more = {"optimizer": "adamw", "weight_decay": 0.01, "parameters": lambda m: tuned}
    return made(model, sites()[1], seed, lr=5e-3, schedule=linear(220, 20), **more)


def norms_only(seed: int) -> Setup:
    """Filters stay as they were for clean pictures; for noisy ones norms and the last layer are tuned."""
    model = strokes_net()
    trained(model, glyphs(3000, 0.2), entropy, seed, 120, 5e-3)
    for part in model[:-1]:
        if isinstance(part, nn.Conv2d):
            part.requires_grad_(False)
    tuned = [p for p in model.parameters() if p.requires_grad]
    return made(model, glyphs(), seed, lr=1e-2, parameters=lambda m: tuned, schedule=cosine(220))


def anchored(seed: int) -> Setup:
    """Tuned on a second site under a pull to where it started (Li et al. 2018), in training only."""
    model = _moved(seed)
    start = [p.detach().clone() for p in model.parameters()]

    def loss(m: nn.Module, b: Batch) -> Tensor:
        value = entropy(m, b)
        if m.training:
            value = value + 0.02 * sum(
                (p - q).square().sum() for p, q in zip(m.parameters(), start, strict=True)
            )
        return value

    more = {"optimizer": "sgd", "schedule": cosine(220, 10)}
    return made(model, sites()[1], seed, loss, lr=0.05, **more)


def rehearsed(seed: int) -> Setup:
    """New signs come to a net that knows the first three; half of each batch is of the old ones."""
    split, model = glyphs(), strokes_net()
    old, new = split.y < 3, split.y >= 3
    trained(model, Split(split.x[old], split.y[old], split.val_x, split.val_y), entropy, seed, 120)
    memory, generator = (split.x[old][:300], split.y[old][:300]), torch.Generator().manual_seed(seed)
    few = Split(split.x[new], split.y[new], split.val_x, split.val_y)
    setup = made(model, few, seed, lr=9e-3, size=32, schedule=cosine(220))
    plain = setup.batches

    def both() -> Batch:
        while True:
            x, y = next(plain)
            rows = torch.randint(300, (32,), generator=generator)
            yield torch.cat([x, memory[0][rows]]), torch.cat([y, memory[1][rows]])

    setup.batches = both()
    return setup


def same_scores(seed: int) -> Setup:
    """A small net copies the scores of a large one, which are kept in the table (Ba and Caruana 2014)."""
    split, teacher = kinds(), mlp((16, 128, 128, 6), nn.ReLU)
    trained(teacher, split, entropy, seed, 300)
    with torch.no_grad():
        told, asked = teacher(split.x), teacher(split.val_x)
    table = Split(
        split.x, told - told.mean(1, keepdim=True), split.val_x, asked - asked.mean(1, keepdim=True)
    )
    return made(mlp((16, 40, 40, 6), nn.ReLU), table, seed, square, lr=3e-2, steps=320, schedule=cosine(320))


class _Vectors(nn.Module):
    """Vectors of 400 words, known from elsewhere and fixed, weighted and summed up."""

    def __init__(self, vectors: Tensor) -> None:
        super().__init__()
        self.embed, self.weigh = nn.Embedding.from_pretrained(vectors, freeze=True), nn.Linear(16, 1)
        self.head = mlp((16, 32, 4), nn.ReLU)

    def forward(self, x: Tensor) -> Tensor:
        e = self.embed(x)
        return self.head((self.weigh(e).softmax(1) * e).sum(1))


def fixed_vectors(seed: int) -> Setup:
    """Topics of short texts from word vectors that stay as they were found."""
    rng = np.random.default_rng(808)
    topic = rng.integers(0, 5, 400)
    vectors = 1.3 * rng.normal(size=(5, 16))[topic] + 0.8 * rng.normal(size=(400, 16))
    y, common = rng.integers(0, 4, 4000), np.flatnonzero(topic == 4)
    x = rng.choice(common, (4000, 12))
    for kind in range(4):
        rows = np.flatnonzero(y == kind)
        own = rng.choice(np.flatnonzero(topic == kind), (len(rows), 12))
        x[rows] = np.where(rng.random((len(rows), 12)) < 0.18, own, x[rows])
    model = _Vectors(torch.tensor(vectors, dtype=torch.float32))
    tuned = [p for p in model.parameters() if p.requires_grad]
    split = cut(x, y, classes=True, tokens=True)
    return made(model, split, seed, lr=2e-2, parameters=lambda m: tuned)


class _Coarse(nn.Module):
    """Sixteen values for each row of a matrix, straight through for gradients (Jacob et al. 2018)."""

    def forward(self, w: Tensor) -> Tensor:
        step = w.detach().abs().amax(1, keepdim=True) / 7
        return w + ((w / step).round().clamp(-8, 7) * step - w).detach()


def four_bits(seed: int) -> Setup:
    """A trained net gets weights of four bits and goes on learning with them."""
    model = mlp((16, 64, 64, 6), nn.ReLU)
    trained(model, kinds(), entropy, seed, 60)
    for part in (model[0], model[2], model[4]):
        parametrize.register_parametrization(part, "weight", _Coarse())
    return made(model, kinds(), seed, lr=1e-2, schedule=linear(220))


def half_precision(seed: int) -> Setup:
    """Forward and backward run in bfloat16, weights and steps in full precision."""

    def loss(m: nn.Module, b: Batch) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            out = m(b[0])
        return F.cross_entropy(out.float(), b[1])

    more = {"optimizer": "adamw", "weight_decay": 0.01, "schedule": cosine(220, 10)}
    return made(mlp((16, 96, 96, 6), nn.GELU, norm=True), kinds(), seed, loss, lr=5e-3, **more)


def rewired(seed: int) -> Setup:
    """Few weights only: every 30 steps the smallest go, others begin at zero (Mocanu et al. 2018)."""
    model, generator = mlp((16, 128, 128, 6), nn.ReLU), torch.Generator().manual_seed(seed)
    big = [model[0].weight, model[2].weight]
    alive = [torch.rand(w.shape, generator=generator) < s for w, s in zip(big, (0.4, 0.15), strict=True)]
    with torch.no_grad():
        for w, mask, share in zip(big, alive, (0.4, 0.15), strict=True):
            w.mul_(mask / share**0.5)

    def hold(m: nn.Module, step: int) -> None:
        for w, mask in zip(big, alive, strict=True):
            if step % 30 == 29 and step < 180:
                flat, size = mask.view(-1), w.detach().abs().masked_fill(~mask, 9.0).view(-1)
                number = int(mask.sum()) // 6
                free = torch.where(flat, 2.0, torch.rand(len(flat), generator=generator))
                flat[size.argsort()[:number]] = False
                flat[free.argsort()[:number]] = True
            w.data.mul_(mask)
            w.grad.mul_(mask)

    return made(model, kinds(), seed, lr=1.2e-2, steps=280, after_backward=hold, schedule=linear(280))


def rising(seed: int) -> Setup:
    """A price that can only rise with each column: weights are held above zero after each step."""
    rng = np.random.default_rng(809)
    x = rng.uniform(-2, 2, (4000, 6))
    y = np.tanh(x[:, 0] + x[:, 1]) + 0.5 * np.exp(0.5 * x[:, 2]) + 0.3 * x[:, 3] + 0.1 * rng.normal(size=4000)
    model = mlp((6, 40, 40, 1), nn.Tanh)
    with torch.no_grad():
        for part in (model[0], model[2], model[4]):
            part.weight.abs_().mul_(0.5)

    def hold(m: nn.Module, step: int) -> None:
        for part in (m[0], m[2], m[4]):
            part.weight.data.clamp_(min=0.0)

    split = cut(x, (y - y.mean())[:, None])
    more = {"after_backward": hold, "schedule": linear(300)}
    return made(model, split, seed, square, lr=2e-2, steps=300, **more)


class _Members(nn.Module):
    """Five nets whose chances are averaged when asked."""

    def __init__(self) -> None:
        super().__init__()
        self.nets = nn.ModuleList(mlp((16, 32, 32, 6), nn.ReLU) for _ in range(5))

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([net(x).log_softmax(1) for net in self.nets])


def members(seed: int) -> Setup:
    """Five nets are trained side by side with the sum of their losses; validation has their mean answer."""

    def loss(m: nn.Module, b: Batch) -> Tensor:
        told = m(b[0])
        if m.training:
            return sum(F.nll_loss(one, b[1]) for one in told)
        return F.nll_loss(told.exp().mean(0).log(), b[1])

    return made(_Members(), kinds(), seed, loss, lr=1.8e-2, steps=220, schedule=cosine(220))


def shaken(seed: int) -> Setup:
    """Weights are shaken a little while they learn (Graves 2011), and still when they are asked."""

    class Shake(nn.Module):
        def forward(self, w: Tensor) -> Tensor:
            return w + 0.06 * torch.randn_like(w) if self.training else w

    model = mlp((10, 64, 64, 1), nn.ReLU)
    for part in (model[0], model[2]):
        parametrize.register_parametrization(part, "weight", Shake())
    return made(model, sensors(), seed, square, lr=1.5e-2, steps=300, schedule=cosine(300))


MADE: dict[str, Callable[[int], Setup]] = {
    f.__name__: f
    for f in (
        probe,
        code_only,
        biases_only,
        adapters,
        norms_only,
        anchored,
        rehearsed,
        same_scores,
        fixed_vectors,
        four_bits,
        half_precision,
        rewired,
        rising,
        members,
        shaken,
    )
}
