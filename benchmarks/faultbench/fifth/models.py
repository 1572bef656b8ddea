"""Networks of the fifth suite and the losses that are their own."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from models import Batch, mlp
from torch import Tensor, nn


def arms() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(2, 40),
        nn.SiLU(),
        nn.Linear(40, 40),
        nn.SiLU(),
        nn.Linear(40, 40),
        nn.SiLU(),
        nn.Linear(40, 3),
    )


def wave_net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv1d(1, 12, 7, padding=3),
        nn.BatchNorm1d(12),
        nn.ReLU(),
        nn.MaxPool1d(2),
        nn.Conv1d(12, 16, 5, padding=2),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool1d(4),
        nn.Flatten(),
        nn.Linear(64, 4),
    )


class Tide(nn.Module):
    """Tells the next level from all before."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.LSTM(1, 24, batch_first=True), nn.Linear(24, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x)[0])


class BothWays(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 12)
        self.cell, self.head = nn.GRU(12, 20, batch_first=True, bidirectional=True), nn.Linear(40, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(self.embed(x))[0])


class Reader(nn.Module):
    """A plain recurrent net over letters."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.cell = nn.Embedding(13, 16), nn.RNN(16, 40, batch_first=True)
        self.head = nn.Linear(40, 13)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(self.embed(x))[0])


class Maxout(nn.Module):
    """The largest of three linear maps, for each unit (Goodfellow et al. 2013)."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.maps = nn.Linear(a, 3 * b)

    def forward(self, x: Tensor) -> Tensor:
        return self.maps(x).unflatten(-1, (-1, 3)).amax(-1)


def maxout() -> nn.Sequential:
    return nn.Sequential(Maxout(6, 24), Maxout(24, 24), nn.Linear(24, 1))


class Gate(nn.Module):
    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.both = nn.Linear(a, 2 * b)

    def forward(self, x: Tensor) -> Tensor:
        return F.glu(self.both(x))


def gated() -> nn.Sequential:
    return nn.Sequential(Gate(10, 48), nn.LayerNorm(48), Gate(48, 48), nn.LayerNorm(48), nn.Linear(48, 3))


class Hyper(nn.Module):
    """Four inputs make the weights of the net that the other three go through (Ha et al. 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.make = mlp((4, 32, 3 * 8 + 8 + 8 + 1), nn.Tanh)

    def forward(self, x: Tensor) -> Tensor:
        first, bias, last, shift = self.make(x[:, :4]).split((24, 8, 8, 1), dim=-1)
        hidden = torch.tanh(torch.einsum("bi,bio->bo", x[:, 4:], first.unflatten(-1, (3, 8))) + bias)
        return (hidden * last).sum(-1, keepdim=True) + shift


class Noise(nn.Module):
    """Tells the noise of a point, given how much there is."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.when = nn.Linear(2, 48), nn.Linear(8, 48)
        self.middle, self.out = nn.Linear(48, 48), nn.Linear(48, 2)

    def forward(self, x: Tensor) -> Tensor:
        turns = x[:, 2:] * torch.tensor([1.0, 2.0, 4.0, 8.0])
        hidden = F.silu(self.into(x[:, :2]) + self.when(torch.cat([turns.sin(), turns.cos()], 1)))
        return self.out(F.silu(self.middle(hidden)) + hidden)


class SkipGram(nn.Module):
    """Scores of a word against others (Mikolov et al. 2013)."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Embedding(120, 12), nn.Embedding(120, 12)
        nn.init.normal_(self.inner.weight, std=0.3)
        nn.init.normal_(self.outer.weight, std=0.3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bd,bnd->bn", self.inner(x[:, 0]), self.outer(x[:, 1:]))


def near(model: nn.Module, batch: Batch) -> Tensor:
    scores = model(batch[0])
    return -(F.logsigmoid(scores[:, 0]) + F.logsigmoid(-scores[:, 1:]).sum(1)).mean()


class Pair(nn.Module):
    """Two encoders with a shared space and a learned temperature (Radford et al. 2021)."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = mlp((24, 48, 12), nn.GELU), mlp((16, 48, 12), nn.GELU)
        self.sharp = nn.Parameter(torch.tensor(1.5))

    def forward(self, x: Tensor) -> Tensor:
        a, b = F.normalize(self.left(x[:, :24]), dim=-1), F.normalize(self.right(x[:, 24:]), dim=-1)
        return self.sharp.exp() * a @ b.T


def matched(model: nn.Module, batch: Batch) -> Tensor:
    """Over sets of 128, as the loss depends on their size."""
    losses = []
    for part in batch[0].split(128):
        scores, right = model(part), torch.arange(len(part))
        losses.append((F.cross_entropy(scores, right) + F.cross_entropy(scores.T, right)) / 2)
    return torch.stack(losses).mean()


def each_label(model: nn.Module, batch: Batch) -> Tensor:
    return F.binary_cross_entropy_with_logits(model(batch[0]), batch[1])


def likelihood(model: nn.Module, batch: Batch) -> Tensor:
    mean, raw = model(batch[0]).chunk(2, dim=-1)
    return F.gaussian_nll_loss(mean, batch[1], F.softplus(raw) + 1e-3)


def mean_error(model: nn.Module, batch: Batch) -> Tensor:
    return F.mse_loss(model(batch[0])[:, :1], batch[1])


def two_levels(model: nn.Module, batch: Batch) -> Tensor:
    fine, coarse = model(batch[0]).split((12, 4), dim=-1)
    return F.cross_entropy(fine, batch[1]) + 0.5 * F.cross_entropy(coarse, batch[1] // 3)


def gamma(model: nn.Module, batch: Batch) -> Tensor:
    """Likelihood of a gamma distribution up to constants, with the logarithm as link."""
    log_mean = model(batch[0])
    return (batch[1] * (-log_mean).exp() + log_mean).mean()


def survived(model: nn.Module, batch: Batch) -> Tensor:
    """Likelihood of the hazards of eight intervals, as far as each row was watched."""
    scores, (last, seen) = model(batch[0]), batch[1].unbind(1)
    at = torch.arange(8)
    happened = ((at == last[:, None]) & (seen[:, None] > 0)).float()
    each = F.binary_cross_entropy_with_logits(scores, happened, reduction="none")
    return (each * (at <= last[:, None])).sum(1).mean()


def robust(model: nn.Module, batch: Batch) -> Tensor:
    return F.huber_loss(model(batch[0]), batch[1], delta=0.5)
