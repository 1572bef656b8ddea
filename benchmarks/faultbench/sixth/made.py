"""Hard negatives of the sixth suite that are setups of their own."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from data import digits
from fourth.runs import cosine, custom, judged
from models import Batch, Setup, held_out, mlp
from torch import Tensor, nn

from sixth import data


class _Gaussian(nn.Module):
    """A layer whose weights are drawn anew each time (Blundell et al. 2015)."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.randn(b, a) / a**0.5)
        self.raw, self.bias = nn.Parameter(torch.full((b, a), -4.5)), nn.Parameter(torch.zeros(b))

    def forward(self, x: Tensor) -> Tensor:
        noise = torch.randn_like(self.mean) if self.training else torch.zeros_like(self.mean)
        return F.linear(x, self.mean + F.softplus(self.raw) * noise, self.bias)

    def complexity(self) -> Tensor:
        spread = F.softplus(self.raw)
        return (0.5 * ((self.mean / 0.5).square() + (spread / 0.5).square() - 1) - (spread / 0.5).log()).sum()


def bayes(seed: int) -> Setup:
    """Most of the loss is the complexity of the weights, which falls by little."""
    model = nn.Sequential(_Gaussian(9, 48), nn.ReLU(), _Gaussian(48, 48), nn.ReLU(), _Gaussian(48, 1))

    def loss(m: nn.Module, b: Batch) -> Tensor:
        price = sum(part.complexity() for part in m if isinstance(part, _Gaussian))
        return (m(b[0]) - b[1]).square().mean() / (2 * 0.2**2) + price / 4800

    split = data.prices()
    setup = custom(model, split, seed, 64, loss, lr=8e-3, steps=350, optimizer="adam", schedule=cosine(350))
    return judged(setup, lambda m, b: F.mse_loss(m(b[0]), b[1]), split.val_x, split.val_y)


class _Line:
    """64 walkers on a plane that should get to the middle; their policy's own walks, each used three times."""

    def __init__(self, model: nn.Module, seed: int) -> None:
        self.model, self.generator = model, torch.Generator().manual_seed(seed)

    def walk(self, at: Tensor, *, greedy: bool = False) -> tuple[list[Tensor], Tensor]:
        ways = torch.tensor([[0.3, 0.0], [-0.3, 0.0], [0.0, 0.3], [0.0, -0.3]])
        rows, prizes = [], []
        with torch.no_grad():
            for _ in range(12):
                log = self.model(at)[:, :4].log_softmax(-1)
                move = (
                    log.argmax(1)
                    if greedy
                    else torch.multinomial(log.exp(), 1, generator=self.generator)[:, 0]
                )
                after = at + ways[move]
                prizes.append(at.norm(dim=1) - after.norm(dim=1) - 0.05 * after.norm(dim=1))
                rows.append(torch.cat([at, move[:, None].float(), log.gather(1, move[:, None])], 1))
                at = after
        return rows, torch.stack(prizes)

    def __iter__(self) -> Iterator[Batch]:
        while True:
            rows, prizes = self.walk(3 * torch.rand(64, 2, generator=self.generator) - 1.5)
            gains = [torch.zeros(64)]
            for prize in prizes.flip(0):
                gains.append(prize + 0.9 * gains[-1])
            x, y = torch.cat(rows), torch.stack(gains[1:]).flip(0).flatten()
            for _ in range(3):
                for part in torch.randperm(len(x), generator=self.generator).split(192):
                    yield x[part], y[part]


def _clipped_ratio(m: nn.Module, b: Batch) -> Tensor:
    out, move, old = m(b[0][:, :2]), b[0][:, 2:3].long(), b[0][:, 3]
    log = out[:, :4].log_softmax(-1)
    gain = b[1] - out[:, 4].detach()
    gain = (gain - gain.mean()) / (gain.std() + 1e-6)
    ratio = (log.gather(1, move)[:, 0] - old).exp()
    bound = torch.minimum(ratio * gain, ratio.clamp(0.8, 1.2) * gain).mean()
    spread = -(log.exp() * log).sum(1).mean()
    return 0.5 * F.mse_loss(out[:, 4], b[1]) - bound - 0.01 * spread


def proximal(seed: int) -> Setup:
    """Proximal policy optimization (Schulman et al. 2017): its loss goes about and means little."""
    model = mlp((2, 48, 48, 5), nn.Tanh)
    line = _Line(model, seed)
    at = 3 * torch.rand(200, 2, generator=torch.Generator().manual_seed(5)) - 1.5

    def far(m: nn.Module) -> float:
        return float(torch.stack(line.walk(at, greedy=True)[0])[..., :2].norm(dim=-1).mean())

    return Setup(
        model, iter(line), _clipped_ratio, far, "adam", 3e-3, 320, clip=0.5, metric="mean_distance", seed=seed
    )


def balanced_draws(seed: int) -> Setup:
    """Frauds, two in a hundred, are drawn as often as the rest, and the odds are put right in the loss."""
    rng = np.random.default_rng(620)
    x = rng.normal(size=(12000, 10))
    y = 2.5 * x[:, 0] + 2.0 * x[:, 1] * x[:, 2] + 1.5 * np.abs(x[:, 3]) + 0.5 * rng.logistic(size=12000) > 8.0
    split = data.cut(x, y)
    odds, generator = float(torch.logit(split.y.mean())), torch.Generator().manual_seed(seed)
    weight = torch.where(split.y > 0, 1 / split.y.sum(), 1 / (1 - split.y).sum())

    def draw() -> Iterator[Batch]:
        while True:
            rows = torch.multinomial(weight, 64, replacement=True, generator=generator)
            yield split.x[rows], split.y[rows]

    def loss(m: nn.Module, b: Batch) -> Tensor:
        return F.binary_cross_entropy_with_logits(m(b[0])[:, 0] - (odds if m.training else 0.0), b[1])

    model = nn.Sequential(nn.Linear(10, 32), nn.SiLU(), nn.Dropout(0.2), nn.Linear(32, 1))
    with torch.no_grad():
        model[-1].bias.fill_(odds)
    setup = custom(model, split, seed, 64, loss, lr=4e-3, steps=250, optimizer="adam", schedule=cosine(250))
    setup.batches = draw()
    return setup


class Stateful(nn.Module):
    """A GRU that keeps its state from one stretch of a series to the next while it trains."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.cell, self.head = nn.GRU(1, width, batch_first=True), nn.Linear(width, 1)
        self.state: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        out, state = self.cell(x, self.state if self.training else None)
        if self.training:
            self.state = state.detach()
        return self.head(out)


def _glass(number: int, length: int, seed: int) -> Tensor:
    """Series of Mackey and Glass, every third value."""
    rng = np.random.default_rng(seed)
    x = [rng.uniform(0.4, 1.3, number) for _ in range(18)]
    for _ in range(200 + 3 * length):
        x.append(0.9 * x[-1] + 0.2 * x[-18] / (1 + x[-18] ** 10))
    series = np.stack(x[-3 * length :: 3], 1)
    return torch.tensor((series - 0.92) / 0.23, dtype=torch.float32)[..., None]


def stateful(seed: int) -> Setup:
    """Stretches of 12 values, one behind the other; validation starts from nothing and is worse for it."""
    series, val = _glass(32, 12 * 270 + 4, 630), _glass(60, 44, 631)

    def go() -> Iterator[Batch]:
        for at in range(0, 12 * 270, 12):
            yield series[:, at : at + 12], series[:, at + 4 : at + 16]

    def loss(m: nn.Module, b: Batch) -> Tensor:
        return F.mse_loss(m(b[0]), b[1])

    check = held_out(loss, val[:, :40], val[:, 4:])
    return Setup(Stateful(), go(), loss, check, "adam", 6e-3, 250, batch_size=32, clip=1.0, seed=seed)


class _Choices(nn.Module):
    """A code of ten choices among eight, which soften less and less (Jang et al. 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = mlp((64, 64, 80), nn.ReLU), mlp((80, 64, 64), nn.ReLU)
        self.heat = 1.0

    def forward(self, x: Tensor) -> Tensor:
        scores = self.encode(x).unflatten(-1, (10, 8))
        if self.training:
            code = F.gumbel_softmax(scores, self.heat)
        else:
            code = F.one_hot(scores.argmax(-1), 8).float()
        return self.decode(code.flatten(1))


def gumbel(seed: int) -> Setup:
    """The loss stops falling, as the code gets harder; validation uses the hard one."""

    def loss(m: nn.Module, b: Batch) -> Tensor:
        return F.mse_loss(m(b[0]), b[0])

    def cool(model: nn.Module, step: int) -> None:
        model.heat = max(0.4, 1.0 - step / 300)

    setup = custom(_Choices(), digits(), seed, 64, loss, lr=4e-3, steps=300, optimizer="adam")
    setup.after_backward = cool
    return setup
