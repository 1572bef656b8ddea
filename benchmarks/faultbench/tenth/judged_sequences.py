"""Judged runs on sequences: text, series and sets of steps, with the networks that are used for them."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from eighth.architectures_common import normal, uniform
from fourth.runs import linear
from models import Batch, Setup, entropy, square
from torch import Tensor, nn

from tenth.judged_data import of_made, one_cycle, series


def _ahead(size: int, g: torch.Generator) -> Batch:
    values = series(size, g, 32)
    return values[:, :24], values[:, 24:]


class _Outlook(nn.Module):
    """Reads a series and says the next eight values at once."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.LSTM(1, 40, batch_first=True), nn.Linear(40, 8)

    def forward(self, x: Tensor) -> Tensor:
        last = x[:, -1:]
        return last + self.head(self.cell((x - last)[..., None])[0][:, -1])


def outlook(seed: int) -> Setup:
    """An LSTM forecasts from what came last, with RMSprop and a clip that bites now and then."""
    more: dict[str, Any] = {"optimizer": "rmsprop", "clip": 1.0, "schedule": linear(300)}
    return of_made(_Outlook(), _ahead, seed, square, lr=4e-3, steps=300, size=48, **more)


class _Cut(nn.Module):
    """Attention over pieces of a series that was brought to mean zero (Nie et al. 2023)."""

    def __init__(self) -> None:
        super().__init__()
        kind: dict[str, Any] = {"batch_first": True, "dropout": 0.0, "norm_first": True}
        self.piece, self.place = nn.Linear(4, 32), nn.Parameter(0.02 * torch.randn(6, 32))
        self.block, self.head = nn.TransformerEncoderLayer(32, 4, 64, **kind), nn.Linear(192, 8)

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(1, keepdim=True)
        pieces = self.piece((x - mean).unflatten(1, (6, 4))) + self.place
        return mean + self.head(self.block(pieces).flatten(1))


def _huber(model: nn.Module, batch: Batch) -> Tensor:
    return F.huber_loss(model(batch[0]), batch[1])


def pieces(seed: int) -> Setup:
    """A transformer over pieces of a series under a Huber loss and AdamW."""
    more: dict[str, Any] = {"optimizer": "adamw", "weight_decay": 0.01, "schedule": linear(320)}
    return of_made(_Cut(), _ahead, seed, _huber, lr=3e-3, steps=320, size=48, **more)


class _Bags(nn.Module):
    """The mean of word vectors and one linear layer (Joulin et al. 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.EmbeddingBag(800, 12), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.embed(x))


def _topics(size: int, g: torch.Generator) -> Batch:
    """Thirty words with a long-tailed law, a part of which belongs to one of four topics."""
    kind = torch.randint(4, (size,), generator=g)
    word = (400 * uniform(g, size, 30) ** 3).long()
    own = 400 + 100 * kind[:, None] + (100 * uniform(g, size, 30) ** 2).long()
    return torch.where(uniform(g, size, 30) < 0.12, own, word), kind


def bags(seed: int) -> Setup:
    """Topics from the mean of word vectors, by plain descent at a rate that falls in a line."""
    more: dict[str, Any] = {"optimizer": "sgd", "options": {"momentum": 0.9}, "schedule": linear(350)}
    return of_made(_Bags(), _topics, seed, entropy, lr=5.0, steps=350, size=64, number=1000, **more)


def _beats(size: int, g: torch.Generator) -> Batch:
    """Two leads of a heart: regular, early beat, missing wave, broad wave."""
    kind, at = torch.randint(4, (size,), generator=g), torch.arange(64) + 0.0
    start = uniform(g, size, 1, low=8, high=14)
    out = torch.zeros(size, 64)
    for beat in range(3):
        early = torch.where(kind == 1, -6.0 * (beat == 1), 0.0)[:, None]
        centre = start + 18 * beat + early
        width = torch.where(kind == 3, 2.4, 1.1)[:, None]
        out += (-((at - centre) / width).square()).exp()
        out += torch.where(kind == 2, 0.0, 0.35)[:, None] * (-((at - centre + 5) / 2).square()).exp()
    leads = torch.stack([out, -0.6 * out], 1)
    return leads * uniform(g, size, 1, 1, low=0.7, high=1.3) + 0.35 * normal(g, size, 2, 64), kind


def beats(seed: int) -> Setup:
    """Filters over time with batch norms and dropout tell four kinds of heart beats."""

    def block(a: int, b: int) -> list[nn.Module]:
        return [nn.Conv1d(a, b, 7, 2, 3), nn.BatchNorm1d(b), nn.ReLU()]

    body = [*block(2, 16), *block(16, 24), *block(24, 32), nn.AdaptiveMaxPool1d(2), nn.Flatten()]
    model = nn.Sequential(*body, nn.Dropout(0.2), nn.Linear(64, 4))
    return of_made(model, _beats, seed, entropy, lr=8e-3, steps=240, size=32, schedule=one_cycle(240))


RUNS = {
    "outlook": {"rmsprop": outlook},
    "pieces": {"adamw": pieces},
    "bags": {"sgd": bags},
    "beats": {"adam": beats},
}
