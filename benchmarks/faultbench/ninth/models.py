"""Networks of the ninth suite, and the losses that are their own."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from models import Batch, mlp
from sixth.models import Segmenter
from third.models import Forecaster
from torch import Tensor, nn

from ninth import data


def loan_net() -> nn.Sequential:
    return mlp((13, 56, 40, 3), nn.ReLU)


def heat_net() -> nn.Sequential:
    return mlp((11, 48, 48, 1), nn.SiLU)


def pilot_net() -> nn.Sequential:
    return mlp((4, 44, 44, 3), nn.Tanh)


def wine_net() -> nn.Sequential:
    """A norm after each layer and dropout, for few rows."""
    return nn.Sequential(
        nn.Linear(13, 36),
        nn.BatchNorm1d(36),
        nn.LeakyReLU(0.05),
        nn.Dropout(0.2),
        nn.Linear(36, 20),
        nn.BatchNorm1d(20),
        nn.LeakyReLU(0.05),
        nn.Linear(20, 3),
    )


def spectrum_net() -> nn.Sequential:
    return mlp((48, 36, 7, 36, 48), nn.GELU)


def arrow_net() -> nn.Sequential:
    """Convolutions with norms, then the mean over all places of a small map."""

    def block(a: int, b: int, stride: int) -> list[nn.Module]:
        return [nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU()]

    return nn.Sequential(
        *block(3, 12, 1),
        *block(12, 20, 2),
        *block(20, 28, 2),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(112, 5),
    )


def bottle_net() -> nn.Sequential:
    """Convolutions without norms, and a number."""
    return nn.Sequential(
        nn.Conv2d(1, 10, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(10, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(144, 32),
        nn.ReLU(),
        nn.Linear(32, 1),
    )


def beat_net() -> nn.Sequential:
    """Filters along time with group norms."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 40)),
        nn.Conv1d(1, 12, 7, stride=2, padding=3),
        nn.GroupNorm(3, 12),
        nn.ReLU(),
        nn.Conv1d(12, 20, 5, stride=2, padding=2),
        nn.GroupNorm(4, 20),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(200, 4),
    )


class Loads(Forecaster):
    """The LSTM of the third suite for three readings and six hours, with one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.LSTM(3, 28, batch_first=True), nn.Linear(28, 6)


class Roads(Segmenter):
    """Down and up again with batch norms; what is fine goes around the middle."""

    def __init__(self) -> None:
        super().__init__()
        del self.net
        self.fine = self._block(2, 10, 1)
        self.down, self.middle = self._block(10, 18, 2), self._block(18, 18, 1)
        self.up, self.head = nn.ConvTranspose2d(18, 10, 2, stride=2), nn.Conv2d(20, 1, 3, padding=1)

    @staticmethod
    def _block(a: int, b: int, stride: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(a, b, 3, stride, 1), nn.BatchNorm2d(b), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        fine = self.fine(x)
        return self.head(torch.cat([fine, F.relu(self.up(self.middle(self.down(fine))))], 1))


class Surnames(nn.Module):
    """A GRU reads letters; the class comes from its largest values; padding is left out."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.cell = nn.Embedding(19, 14, padding_idx=0), nn.GRU(14, 40, batch_first=True)
        self.head = nn.Linear(40, 5)

    def forward(self, x: Tensor) -> Tensor:
        out = self.cell(self.embed(x))[0].masked_fill((x == 0)[..., None], -2.0)
        return self.head(out.amax(1))


class Layer(nn.Module):
    """Attention with norms before, by plain functions."""

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.ask, self.answer = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.net = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        parts = self.ask(self.before(x)).unflatten(-1, (3, self.heads, -1))
        q, k, v = (part.transpose(1, 2) for part in parts.unbind(2))
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        x = x + self.answer(seen.transpose(1, 2).flatten(2))
        return x + self.net(self.between(x))


class Tokens(nn.Module):
    """Two layers of attention over words and their places; an answer for each place."""

    def __init__(self, words: int, long: int, width: int, answers: int, causal: bool) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(words, width), nn.Embedding(long, width)
        nn.init.normal_(self.embed.weight, std=0.3)
        nn.init.normal_(self.place.weight, std=0.3)
        self.layers = nn.Sequential(Layer(width, 4, causal), Layer(width, 4, causal))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, answers)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.layers(self.embed(x) + self.place.weight[: x.shape[1]])))


def tagger() -> Tokens:
    return Tokens(60, 14, 36, 6, causal=False)


def composer() -> Tokens:
    return Tokens(24, 20, 40, 24, causal=True)


class Films(nn.Module):
    """Vectors of people and films, what each adds alone, and a mean."""

    def __init__(self) -> None:
        super().__init__()
        self.who, self.what = nn.Embedding(150, 8), nn.Embedding(90, 8)
        self.kind, self.good = nn.Embedding(150, 1), nn.Embedding(90, 1)
        for table in (self.who, self.what, self.kind, self.good):
            nn.init.normal_(table.weight, std=0.15)
        self.mean = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        who, what = x[:, 0].long(), x[:, 1].long()
        both = (self.who(who) * self.what(what)).sum(1, keepdim=True)
        return both + self.kind(who) + self.good(what) + self.mean


class Adverts(nn.Module):
    """Embeddings of three codes next to two numbers, and a network on all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(n, 5) for n in (40, 24, 5))
        self.body = mlp((17, 40, 24, 1), nn.ReLU)

    def forward(self, x: Tensor) -> Tensor:
        codes = [table(x[:, i].long()) for i, table in enumerate(self.tables)]
        return self.body(torch.cat([*codes, x[:, 3:]], 1))


class Icons(nn.Module):
    """A variational autoencoder with a code of five numbers; its outputs are logits."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = mlp((100, 56, 10), nn.ELU), mlp((5, 56, 100), nn.ELU)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_var = self.encode(x).chunk(2, -1)
        noise = torch.randn_like(mean) if self.training else torch.zeros_like(mean)
        return self.decode(mean + noise * (0.5 * log_var).exp()), mean, log_var


def evidence(model: nn.Module, batch: Batch) -> Tensor:
    """Cross entropy of the pixels and the divergence of the code, per picture."""
    out, mean, log_var = model(batch[0])
    pixels = F.binary_cross_entropy_with_logits(out, batch[0], reduction="sum") / len(out)
    return pixels + 0.5 * (mean.square() + log_var.exp() - 1 - log_var).sum(-1).mean()


class Engines(nn.Module):
    """One trunk; a head for the kind of wear and a head for the time that is left."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(12, 52), nn.ReLU(), nn.Linear(52, 40), nn.ReLU())
        self.kind, self.life = nn.Linear(40, 3), nn.Linear(40, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.trunk(x)
        return self.kind(hidden), self.life(hidden)


class Climates(nn.Module):
    """Five experts, all of which answer; a gate says how much each counts."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = mlp((10, 24, 5), nn.ReLU)
        self.experts = nn.ModuleList(mlp((10, 16, 1), nn.ReLU) for _ in range(5))

    def forward(self, x: Tensor) -> Tensor:
        answers = torch.cat([expert(x) for expert in self.experts], 1)
        return (answers * self.gate(x).softmax(-1)).sum(1, keepdim=True)


class Baskets(nn.Module):
    """Each thing by itself, then sum and maximum of those that are there."""

    def __init__(self) -> None:
        super().__init__()
        self.each, self.all = mlp((4, 32, 24), nn.ReLU), mlp((48, 32, 1), nn.ReLU)

    def forward(self, x: Tensor) -> Tensor:
        there = x[..., 3:]
        things = self.each(x)
        most = things.masked_fill(there < 0.5, -5.0).amax(1)
        return self.all(torch.cat([(things * there).sum(1) / 6, most], 1))


class Writers(nn.Module):
    """Puts samples of one hand near to each other."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(24, 64), nn.ReLU(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 12)
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.body(x), dim=-1)


class Villages(nn.Module):
    """A person and the mean of whom it knows, twice (Hamilton et al. 2017)."""

    def __init__(self) -> None:
        super().__init__()
        mean, people, _ = data.villages()
        self.register_buffer("mean", mean)
        self.register_buffer("people", people)
        self.first, self.second = nn.Linear(28, 28), nn.Linear(56, 5)
        self.drop = nn.Dropout(0.3)

    def forward(self, rows: Tensor) -> Tensor:
        own = self.drop(self.people)
        hidden = self.drop(F.relu(self.first(torch.cat([own, self.mean @ own], 1))))
        return self.second(torch.cat([hidden, self.mean @ hidden], 1))[rows.long()]


class Crops(nn.Module):
    """Both views by the same network, on the sphere."""

    def __init__(self) -> None:
        super().__init__()
        self.ears = nn.ModuleList(mlp((20, 56, 16), nn.ReLU) for _ in range(2))

    def forward(self, one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        return F.normalize(self.ears[0](one), dim=-1), F.normalize(self.ears[1](other), dim=-1)


def found(model: nn.Module, batch: Batch) -> Tensor:
    """Each row of one view should find its own in the other (van den Oord et al. 2018)."""
    one, other = model(*batch)
    alike, own = one @ other.T / 0.15, torch.arange(len(one))
    return 0.5 * (F.cross_entropy(alike, own) + F.cross_entropy(alike.T, own))
