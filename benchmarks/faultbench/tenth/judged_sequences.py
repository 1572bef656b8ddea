"""Judged runs on sequences: text, series and sets of steps, with the networks that are used for them."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from eighth.architectures_common import normal, uniform
from fourth.runs import cosine, linear, root
from models import Batch, Setup, entropy, square
from torch import Tensor, nn

from tenth.judged_data import of_made, one_cycle, phrases, series


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


class _Rms(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.gain * x * (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt()


def _turned(x: Tensor) -> Tensor:
    """Pairs of channels are turned by the place (Su et al. 2021)."""
    half = x.shape[-1] // 2
    angle = torch.arange(x.shape[-2])[:, None] / 50.0 ** (torch.arange(half) / half)
    a, b = x.chunk(2, -1)
    return torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], -1)


class RotaryBlock(nn.Module):
    """Attention with turned keys, and a gated layer (Touvron et al. 2023)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(_Rms(width) for _ in range(2))
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(2 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norms[0](x)).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(_turned(q), _turned(k), v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        gate, value = self.up(self.norms[1](x)).chunk(2, -1)
        return x + self.down(F.silu(gate) * value)


class Llama(nn.Module):
    """A small decoder with rotary places and gates."""

    def __init__(self, words: int = 16, width: int = 32, depth: int = 2) -> None:
        super().__init__()
        self.embed = nn.Embedding(words, width)
        self.blocks = nn.ModuleList(RotaryBlock(width) for _ in range(depth))
        self.norm, self.head = _Rms(width), nn.Linear(width, words, bias=False)
        for p in self.parameters():
            if p.ndim > 1:
                nn.init.normal_(p, std=0.08)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def next_words(size: int, g: torch.Generator) -> Batch:
    words = phrases(size, g)
    return words[:, :-1], words[:, 1:]


def llama(seed: int) -> Setup:
    """The next word by a decoder, trained as large ones are: AdamW, warm-up, cosine to a tenth, clip."""
    more: dict[str, Any] = {
        "optimizer": "adamw",
        "weight_decay": 0.1,
        "clip": 1.0,
        "schedule": cosine(260, 25, 0.1),
        "options": {"betas": (0.9, 0.95)},
    }
    return of_made(Llama(), next_words, seed, entropy, lr=6e-3, steps=260, size=32, number=300, **more)


class _Filler(nn.Module):
    """A transformer encoder that fills in hidden words."""

    def __init__(self) -> None:
        super().__init__()
        kind: dict[str, Any] = {"batch_first": True, "dropout": 0.0, "norm_first": True, "activation": "gelu"}
        self.embed, self.place = nn.Embedding(17, 32), nn.Parameter(0.1 * torch.randn(20, 32))
        self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(32, 2, 64, **kind) for _ in range(2))
        self.head = nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 16))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x) + self.place
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def _hidden(size: int, g: torch.Generator) -> Batch:
    """A fifth of the words is hidden; only those count."""
    words = phrases(size, g)
    hide = uniform(g, *words.shape) < 0.2
    return torch.where(hide, 16, words), torch.where(hide, words, -100)


def filler(seed: int) -> Setup:
    """Hidden words from those around (Devlin et al. 2019): slow at first, with a root schedule."""
    more: dict[str, Any] = {"schedule": root(60), "clip": 1.0}
    return of_made(_Filler(), _hidden, seed, entropy, lr=5e-3, steps=400, size=48, number=500, **more)


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


class _Events(nn.Module):
    """Both ways over events, and attention that says which of them matter."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.cell = nn.Embedding(20, 12), nn.GRU(12, 20, batch_first=True, bidirectional=True)
        self.weigh, self.head = nn.Linear(40, 1), nn.Linear(40, 3)

    def forward(self, x: Tensor) -> Tensor:
        states = self.cell(self.embed(x))[0]
        return self.head((self.weigh(states).softmax(1) * states).sum(1))


def _logs(size: int, g: torch.Generator) -> Batch:
    """Sixteen events of twenty kinds; what counts is whether 1 is followed by 2, by 3, or not at all."""
    x = torch.randint(4, 20, (size, 16), generator=g)
    kind, at = torch.randint(3, (size,), generator=g), torch.randint(14, (size,), generator=g)
    rows = torch.arange(size)
    x[rows, at] = 1
    x[rows, at + 1] = torch.where(kind == 2, x[rows, at + 1], kind + 2)
    extra = torch.randint(1, 4, (size,), generator=g)
    x[rows, (at + 8) % 16] = torch.where(uniform(g, size) < 0.7, extra, x[rows, (at + 8) % 16])
    return x, kind


def events(seed: int) -> Setup:
    """A gated net reads logs both ways; Adam with a clip, and the rate halved twice."""
    more: dict[str, Any] = {"clip": 5.0, "schedule": lambda k: 0.5 ** (k // 110)}
    return of_made(_Events(), _logs, seed, entropy, lr=1e-2, steps=300, size=48, **more)


class _Reverser(nn.Module):
    """A decoder attends to what an encoder read; it is told the true answer before."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.told = nn.Embedding(12, 24), nn.Embedding(13, 24)
        self.read, self.write = nn.LSTM(24, 32, batch_first=True), nn.LSTM(24, 32, batch_first=True)
        self.key, self.head = nn.Linear(32, 32), nn.Linear(64, 12)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        read, state = self.read(self.embed(x))
        before = torch.cat([torch.full_like(y[:, :1], 12), y[:, :-1]], 1)
        wrote, _ = self.write(self.told(before), state)
        seen = (wrote @ self.key(read).transpose(1, 2) / 32**0.5).softmax(-1) @ read
        return self.head(torch.cat([wrote, seen], -1))


def _spelled(size: int, g: torch.Generator) -> Batch:
    """A row of letters, and the same with each letter moved on by the one before it."""
    x = torch.randint(12, (size, 7), generator=g)
    return x, torch.cat([x[:, :1], (x[:, 1:] + (x[:, :-1] > 5)) % 12], 1)


def _written(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(*batch).flatten(0, 1), batch[1].flatten())


def speller(seed: int) -> Setup:
    """Encoder and decoder with attention between them: all at chance for a while, then it falls."""
    more: dict[str, Any] = {"clip": 1.0, "schedule": cosine(420, 10)}
    return of_made(_Reverser(), _spelled, seed, _written, lr=1.5e-2, steps=420, size=48, number=300, **more)


RUNS = {
    "outlook": {"rmsprop": outlook},
    "pieces": {"adamw": pieces},
    "llama": {"adamw": llama},
    "filler": {"adam": filler},
    "bags": {"sgd": bags},
    "beats": {"adam": beats},
    "events": {"adam": events},
    "speller": {"adam": speller},
}
