"""Networks of the thirteenth suite's records, and the losses that are their own."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from models import Batch, Block, Decoder, mlp
from torch import Tensor, nn

from thirteenth.records_data import NUM_WORDS


def crop_net() -> nn.Sequential:
    """Two layers with batch norms."""
    return nn.Sequential(
        nn.Linear(18, 72),
        nn.BatchNorm1d(72),
        nn.ReLU(),
        nn.Linear(72, 44),
        nn.BatchNorm1d(44),
        nn.ReLU(),
        nn.Linear(44, 6),
    )


def kiln_net() -> nn.Sequential:
    return mlp((7, 56, 56, 1), nn.SiLU)


def joint_net() -> nn.Sequential:
    return mlp((7, 72, 64, 2), nn.GELU, norm=True)


def kiosk_net() -> nn.Sequential:
    return mlp((35, 64, 40, 7), nn.ReLU)


def depot_net() -> nn.Sequential:
    return mlp((9, 60, 40, 4), nn.ReLU)


class Step(nn.Module):
    """A norm, two layers with dropout between, and a way around them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.drop = nn.LayerNorm(width), nn.Dropout(0.1)
        self.up, self.act, self.down = nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.drop(self.act(self.up(self.norm(x)))))


def comet_net() -> nn.Sequential:
    """A residual network for rows of a table (Gorishniy et al. 2021)."""
    return nn.Sequential(nn.Linear(22, 36), Step(36), Step(36), nn.LayerNorm(36), nn.ReLU(), nn.Linear(36, 4))


class Parcels(nn.Module):
    """Learned vectors for codes beside numbers, and two layers with norms on all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.carrier, self.kind = nn.Embedding(9, 4), nn.Embedding(14, 5)
        self.start, self.goal = nn.Embedding(22, 6), nn.Embedding(22, 6)
        self.body = nn.Sequential(
            nn.Linear(23, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 40), nn.ReLU()
        )
        self.head = nn.Linear(40, 1)

    def forward(self, x: Tensor) -> Tensor:
        tables = (self.carrier, self.kind, self.start, self.goal)
        codes = [table(x[:, i].long()) for i, table in enumerate(tables)]
        return self.head(self.body(torch.cat([*codes, x[:, 4:]], 1)))


class Vineyards(nn.Module):
    """One trunk with norms, and a layer for each of three tasks."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Linear(16, 64), nn.LayerNorm(64), nn.ReLU(), nn.Linear(64, 48), nn.LayerNorm(48), nn.ReLU()
        )
        self.grade, self.blight, self.sweet = nn.Linear(48, 3), nn.Linear(48, 1), nn.Linear(48, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hidden = self.trunk(x)
        return self.grade(hidden), self.blight(hidden)[:, 0], self.sweet(hidden)[:, 0]


def harvest(model: nn.Module, batch: Batch) -> Tensor:
    """Entropy of the grade and of blight, and half of the squared error of how sweet they are."""
    grade, blight, sweet = model(batch[0])
    y = batch[1]
    ill = F.binary_cross_entropy_with_logits(blight, y[:, 1])
    return F.cross_entropy(grade, y[:, 0].long()) + ill + 0.5 * F.mse_loss(sweet, y[:, 2])


def weighted_actions(model: nn.Module, batch: Batch) -> Tensor:
    """What was done is made likely, the more so the better it went (Peng et al. 2019)."""
    each = F.cross_entropy(model(batch[0]), batch[1][:, 0].long(), reduction="none")
    return (batch[1][:, 1] * each).mean()


class Presses(nn.Module):
    """An LSTM reads four gauges; the mean of its states says the class."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.LSTM(4, 36, batch_first=True), nn.Linear(36, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x)[0].mean(1))


class Tanks(nn.Module):
    """A GRU reads flow and valve; its last state says a number."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.GRU(3, 30, batch_first=True), nn.Linear(30, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x)[0][:, -1])


class Queries(nn.Module):
    """Attention over a question and words; the place of the question answers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.blocks = nn.Embedding(32, 32), nn.Sequential(Block(32, False), Block(32, False))
        nn.init.normal_(self.embed.weight, std=0.5)
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.embed(x))[:, 0]))


class Dialect(Decoder):
    """The decoder of the first suite for 40 words."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(NUM_WORDS, 28), nn.Parameter(0.1 * torch.randn(18, 28))
        nn.init.normal_(self.embed.weight, std=0.4)
        self.blocks = nn.Sequential(Block(28, True), Block(28, True))
        self.norm, self.head = nn.LayerNorm(28), nn.Linear(28, NUM_WORDS)


class Playlists(nn.Module):
    """The mean of what was heard, a layer, and products with all songs; one table for both sides."""

    def __init__(self) -> None:
        super().__init__()
        self.song, self.alone = nn.Embedding(80, 24), nn.Parameter(torch.zeros(80))
        nn.init.normal_(self.song.weight, std=0.3)
        self.body = mlp((24, 48, 24), nn.ReLU)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.song(x).mean(1)) @ self.song.weight.T + self.alone
