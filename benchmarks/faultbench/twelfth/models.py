"""Networks of the twelfth suite, and the losses that are their own."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from fourth.sequences import Siamese
from models import Block, Decoder, GraphNet, Recurrent, mlp
from sixth.models import Counts, Pooling, Segmenter
from third.models import Forecaster
from torch import Tensor, nn

from twelfth import data


def soil_net() -> nn.Sequential:
    return mlp((16, 60, 36, 5), nn.ReLU, dropout=0.1)


def alloy_net() -> nn.Sequential:
    return mlp((9, 52, 52, 1), nn.GELU)


def donor_net() -> nn.Sequential:
    return mlp((20, 48, 32, 2), nn.ReLU, norm=True)


def gene_net() -> nn.Sequential:
    return mlp((60, 40, 6, 40, 60), nn.LeakyReLU)


def drone_net() -> nn.Sequential:
    return mlp((6, 40, 40, 2), nn.Tanh)


def knot_net() -> nn.Sequential:
    """Convolutions without norms, and two linear layers."""
    return nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(12, 20, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(180, 36),
        nn.ReLU(),
        nn.Linear(36, 4),
    )


class Beside(nn.Module):
    """Two filters with norms beside a way around them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.one, self.other = (nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2))
        self.norm1, self.norm2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norm2(self.other(F.relu(self.norm1(self.one(x))))))


def stone_net() -> nn.Sequential:
    """A strided filter, two blocks with a way around, and the mean over all places."""
    return nn.Sequential(
        nn.Conv2d(3, 14, 3, padding=1, stride=2, bias=False),
        nn.BatchNorm2d(14),
        nn.ReLU(),
        Beside(14),
        Beside(14),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(56, 5),
    )


def gauge_net() -> nn.Sequential:
    """Strided filters with norms, and a number."""
    return nn.Sequential(
        nn.Conv2d(1, 12, 4, stride=2, padding=1),
        nn.BatchNorm2d(12),
        nn.SiLU(),
        nn.Conv2d(12, 20, 3, padding=1),
        nn.BatchNorm2d(20),
        nn.SiLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(180, 40),
        nn.SiLU(),
        nn.Linear(40, 1),
    )


class Lakes(Segmenter):
    """Filters that are further and further apart, at full size, with group norms."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for a, b, apart in ((3, 14, 1), (14, 14, 2), (14, 14, 4), (14, 14, 1)):
            layers += [nn.Conv2d(a, b, 3, padding=apart, dilation=apart), nn.GroupNorm(2, b), nn.ReLU()]
        self.net = nn.Sequential(*layers, nn.Conv2d(14, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Reviews(nn.Module):
    """A GRU reads words; the mean of its states says the class."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.cell = nn.Embedding(50, 16), nn.GRU(16, 32, batch_first=True)
        self.head = nn.Linear(32, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(self.embed(x))[0].mean(1))


class Gestures(nn.Module):
    """An LSTM both ways; the last state of each side."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTM(2, 20, batch_first=True, bidirectional=True)
        self.head = nn.Linear(40, 5)

    def forward(self, x: Tensor) -> Tensor:
        out = self.cell(x)[0]
        return self.head(torch.cat([out[:, -1, :20], out[:, 0, 20:]], 1))


class Rivers(Forecaster):
    """A GRU reads height and rain; its last state tells three days."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.GRU(2, 26, batch_first=True), nn.Linear(26, 3)


class Recipes(nn.Module):
    """Attention over things without places, and over one more that gathers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.gather = nn.Embedding(40, 28), nn.Parameter(0.3 * torch.randn(1, 1, 28))
        nn.init.normal_(self.embed.weight, std=0.4)
        layer = {"dim_feedforward": 64, "dropout": 0.0, "batch_first": True, "norm_first": True}
        self.layer = nn.TransformerEncoderLayer(28, 4, **layer)
        self.norm, self.head = nn.LayerNorm(28), nn.Linear(28, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.cat([self.gather.expand(len(x), -1, -1), self.embed(x)], 1)
        return self.head(self.norm(self.layer(h)[:, 0]))


class Verses(Decoder):
    """The decoder of the first suite for 32 signs."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(32, 32), nn.Parameter(0.1 * torch.randn(22, 32))
        nn.init.normal_(self.embed.weight, std=0.5)
        self.blocks = nn.Sequential(Block(32, True), Block(32, True))
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 32)


class Chants(Recurrent):
    """The language model of the first suite for 14 signs."""

    def __init__(self) -> None:
        super().__init__(nn.LSTM)
        self.embed, self.head = nn.Embedding(14, 16), nn.Linear(40, 14)
        self.cell = nn.LSTM(16, 40, batch_first=True)


class Stamps(nn.Module):
    """A variational autoencoder with a code of six numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = mlp((81, 60, 12), nn.SiLU), mlp((6, 60, 81), nn.SiLU)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_var = self.encode(x).chunk(2, -1)
        noise = torch.randn_like(mean) if self.training else torch.zeros_like(mean)
        return self.decode(mean + noise * (0.5 * log_var).exp()), mean, log_var


class Papers(GraphNet):
    """Two rounds over the links, with much dropout between."""

    def __init__(self) -> None:
        super().__init__()
        matrix, words, _ = data.papers()
        self.register_buffer("matrix", matrix)
        self.register_buffer("nodes", words)
        self.first, self.second, self.drop = nn.Linear(20, 30), nn.Linear(30, 6), nn.Dropout(0.5)

    def forward(self, rows: Tensor) -> Tensor:
        hidden = self.drop(F.relu(self.first(self.matrix @ self.nodes)))
        return (self.matrix @ self.second(hidden))[rows.long()]


class Shops(nn.Module):
    """A tower for the buyer and the hour, one for the thing and its numbers, and their product."""

    def __init__(self) -> None:
        super().__init__()
        self.buyer, self.thing, self.hour = nn.Embedding(120, 6), nn.Embedding(70, 6), nn.Embedding(24, 4)
        for table in (self.buyer, self.thing, self.hour):
            nn.init.normal_(table.weight, std=0.3)
        self.left, self.right = mlp((10, 32, 8), nn.ReLU), mlp((8, 32, 8), nn.ReLU)
        self.alone = nn.Linear(18, 1)

    def forward(self, x: Tensor) -> Tensor:
        who = torch.cat([self.buyer(x[:, 0].long()), self.hour(x[:, 2].long())], 1)
        what = torch.cat([self.thing(x[:, 1].long()), x[:, 3:]], 1)
        both = (self.left(who) * self.right(what)).sum(1, keepdim=True)
        return both + self.alone(torch.cat([who, what], 1))


class Visits(Counts):
    """The counts of the sixth suite with other layers."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(7, 40), nn.ELU(), nn.Linear(40, 32), nn.ELU())
        self.rate, self.closed = nn.Linear(32, 1), nn.Linear(32, 1)


class Ferries(nn.Module):
    """One trunk; a small network for the berth and one for the delay."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(14, 64), nn.SiLU(), nn.Linear(64, 48), nn.SiLU())
        self.berth, self.late = mlp((48, 20, 4), nn.SiLU), mlp((48, 20, 1), nn.SiLU)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.trunk(x)
        return self.berth(hidden), self.late(hidden)


class Rooms(nn.Module):
    """Four experts, the two that a gate likes best of which answer."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(12, 4)
        self.experts = nn.ModuleList(mlp((12, 24, 1), nn.ReLU) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        scores = self.gate(x)
        best = scores.topk(2, -1)
        weight = torch.zeros_like(scores).scatter(1, best.indices, best.values.softmax(-1))
        answers = torch.cat([expert(x) for expert in self.experts], 1)
        return (answers * weight).sum(1, keepdim=True)


class Clouds(Pooling):
    """The pooling of the sixth suite over points in space."""

    def __init__(self) -> None:
        super().__init__()
        self.piece = nn.Sequential(nn.Linear(3, 48), nn.ReLU(), nn.Linear(48, 32), nn.ReLU())
        self.look, self.gate, self.weigh = nn.Linear(32, 16), nn.Linear(32, 16), nn.Linear(16, 4)
        self.head = mlp((128, 40, 5), nn.ReLU)


class Signatures(Siamese):
    """The distance of two samples of 30 readings."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp((30, 64, 40, 10), nn.ReLU)


class Voices(nn.Module):
    """Filters along time and their mean, on the sphere; three sounds at once."""

    def __init__(self) -> None:
        super().__init__()
        self.filters = nn.Sequential(
            nn.Conv1d(1, 16, 7, padding=3), nn.ReLU(), nn.Conv1d(16, 24, 5, stride=2, padding=2), nn.ReLU()
        )
        self.head = nn.Linear(24, 12)

    def forward(self, x: Tensor) -> Tensor:
        heard = self.filters(x.flatten(0, 1)[:, None]).mean(-1)
        return F.normalize(self.head(heard), dim=-1).unflatten(0, x.shape[:2])
