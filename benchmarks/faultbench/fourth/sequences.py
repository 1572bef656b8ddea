"""Networks of the fourth suite for sequences, sets, graphs, pairs and rankings, and their losses."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from models import Batch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence


class Packed(nn.Module):
    """Reads sentences of any length both ways, without their padding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(41, 16, padding_idx=0)
        self.cell = nn.GRU(16, 24, batch_first=True, bidirectional=True)
        self.head = nn.Linear(48, 4)

    def forward(self, x: Tensor) -> Tensor:
        lengths = (x != 0).sum(1).clamp(min=1).cpu()
        packed = pack_padded_sequence(self.embed(x), lengths, batch_first=True, enforce_sorted=False)
        last = self.cell(packed)[1]
        return self.head(last.transpose(0, 1).flatten(1))


class Listener(nn.Module):
    """Gives each frame a distribution over sounds and silence."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.cell = nn.Conv1d(10, 32, 3, padding=1), nn.LSTM(32, 32, batch_first=True)
        self.head = nn.Linear(32, 7)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.conv(x.transpose(1, 2))).transpose(1, 2)
        return self.head(self.cell(h)[0]).log_softmax(-1)


def heard(model: nn.Module, batch: Batch) -> Tensor:
    frames, sounds = batch
    out = model(frames).transpose(0, 1)
    lengths = torch.full((len(sounds),), len(out))
    return F.ctc_loss(out, sounds, lengths, (sounds != 0).sum(1), blank=0, zero_infinity=True)


class RootNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt()


class Gated(nn.Module):
    """Causal attention with rotated queries and keys, then a gated network."""

    def __init__(self, width: int, length: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = RootNorm(width), RootNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.gate, self.up = nn.Linear(width, 64, bias=False), nn.Linear(width, 64, bias=False)
        self.down = nn.Linear(64, width, bias=False)
        angle = torch.arange(length)[:, None] / 100 ** (torch.arange(width // 4) / (width // 4))
        self.register_buffer("cos", angle.cos())
        self.register_buffer("sin", angle.sin())
        self.peeks = False

    def _turned(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, dim=-1)
        cos, sin = self.cos[: x.shape[2]], self.sin[: x.shape[2]]
        return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        b, t, c = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(b, t, 3, 2, c // 2).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(
            self._turned(q), self._turned(k), v, is_causal=not (self.peeks and self.training)
        )
        x = x + self.out(mixed.transpose(1, 2).reshape(b, t, c))
        h = self.norm2(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class Tied(nn.Module):
    """A language model whose output weights are its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(31, 32)
        nn.init.normal_(self.embed.weight, std=0.05)
        self.blocks, self.norm = nn.Sequential(Gated(32, 20), Gated(32, 20)), RootNorm(32)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.norm(self.blocks(self.embed(x))), self.embed.weight)


class Towers(nn.Module):
    """What a visitor looked at in one tower, all things in the other; cosines with a learned scale."""

    def __init__(self) -> None:
        super().__init__()
        self.seen, self.things = nn.Embedding(120, 16), nn.Embedding(120, 16)
        self.visitor = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16))
        self.thing = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16))
        self.scale = nn.Parameter(torch.tensor(1.6))

    def forward(self, x: Tensor) -> Tensor:
        visitor = F.normalize(self.visitor(self.seen(x).mean(1)), dim=-1)
        things = F.normalize(self.thing(self.things.weight), dim=-1)
        return self.scale.exp() * visitor @ things.T


class Diagonal(nn.Module):
    """A linear state per channel that forgets at its own pace, then a gate (after Gu et al. 2022)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.into, self.out = (
            nn.LayerNorm(width),
            nn.Linear(width, 2 * width),
            nn.Linear(width, width),
        )
        self.pace = nn.Parameter(torch.linspace(1.0, 5.0, width))

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.into(self.norm(x)).chunk(2, dim=-1)
        keep = torch.sigmoid(self.pace)
        lag = torch.arange(x.shape[1])
        power = (lag[:, None] - lag).clamp(min=0)
        kernel = keep ** power[..., None] * (lag[:, None] >= lag)[..., None]
        state = torch.einsum("tsc,bsc->btc", kernel, value * (1 - keep).sqrt())
        return x + self.out(state * F.silu(gate))


class StateSpace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.layers = nn.Linear(2, 24), nn.Sequential(Diagonal(24), Diagonal(24))
        self.head = nn.Linear(24, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(self.embed(x))[:, -1])


class Isomorphism(nn.Module):
    """Sums over neighbours, then a small network; the graph is the mean over its nodes (Xu et al. 2019)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(2, 24), nn.ReLU(), nn.Linear(24, 24))
        self.second = nn.Sequential(nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 24))
        self.norm, self.head = nn.LayerNorm(24), nn.Linear(48, 4)

    def forward(self, x: Tensor) -> Tensor:
        degree = x.sum(-1, keepdim=True) / 3
        closed = (torch.linalg.matrix_power(x, 3).diagonal(dim1=1, dim2=2) / 6)[..., None]
        nodes = torch.cat([degree, closed], dim=-1)
        h1 = F.relu(self.first(nodes + x @ nodes / 3))
        h2 = F.relu(self.second(self.norm(h1 + x @ h1 / 3)))
        return self.head(torch.cat([h1.mean(1), h2.mean(1)], dim=-1))


class Process(nn.Module):
    """Points that are told become one vector; a distribution for each point that is asked (Garnelo 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(
            nn.Linear(2, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 32)
        )
        self.decode = nn.Sequential(
            nn.Linear(33, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 2)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        told, asked = x[:, :8], x[:, 8:, :1]
        code = self.encode(told).mean(1, keepdim=True).expand(-1, asked.shape[1], -1)
        mean, spread = self.decode(torch.cat([code, asked], dim=-1)).chunk(2, dim=-1)
        return mean[..., 0], 0.02 + 0.98 * F.softplus(spread[..., 0])


def told_points(model: nn.Module, batch: Batch) -> Tensor:
    """Negative log-likelihood of a Gaussian, which may well get below zero."""
    mean, spread = model(batch[0])
    return (0.5 * ((batch[1] - mean) / spread).square() + spread.log()).mean()


def points_error(model: nn.Module, batch: Batch) -> Tensor:
    return F.mse_loss(model(batch[0])[0], batch[1])


class Siamese(nn.Module):
    """The distance of two numerals."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(96, 64), nn.ReLU(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 16)
        )

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.net(x[:, 0]), self.net(x[:, 1])
        return ((a - b).square().sum(-1) + 1e-6).sqrt()


def margin(model: nn.Module, batch: Batch) -> Tensor:
    """Like ones near, others at least one apart (Hadsell et al. 2006)."""
    far, same = model(batch[0]), batch[1]
    return (same * far.square() + (1 - same) * F.relu(1 - far).square()).mean()


def risk_net() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(10, 32),
        nn.SELU(),
        nn.Dropout(0.1),
        nn.Linear(32, 32),
        nn.SELU(),
        nn.Linear(32, 1, bias=False),
    )


def cox(model: nn.Module, batch: Batch) -> Tensor:
    """Partial likelihood, of 128 patients at a time as the sum over those at risk grows with their number."""
    parts = []
    for x, y in zip(batch[0].split(128), batch[1].split(128), strict=True):
        order = y[:, 0].argsort(descending=True)
        risk, seen = model(x)[order, 0], y[order, 1]
        parts.append(-((risk - risk.logcumsumexp(0)) * seen).sum() / seen.sum().clamp(min=1))
    return torch.stack(parts).mean()


def ranker() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(8, 48), nn.Mish(), nn.LayerNorm(48), nn.Linear(48, 32), nn.Mish(), nn.Linear(32, 1)
    )


def listed(model: nn.Module, batch: Batch) -> Tensor:
    """The distribution of the scores against that of the grades (Cao et al. 2007)."""
    score = model(batch[0])[..., 0].log_softmax(-1)
    return -(batch[1].softmax(-1) * score).sum(-1).mean()


def lost_gain(model: nn.Module, batch: Batch) -> Tensor:
    """What is missing of the gain of the best order (1 - NDCG)."""
    gain, weight = 2 ** batch[1] - 1, 1 / torch.arange(2.0, 2 + batch[1].shape[1]).log2()
    order = model(batch[0])[..., 0].argsort(dim=-1, descending=True)
    best = (gain.sort(dim=-1, descending=True).values * weight).sum(-1)
    return 1 - ((gain.gather(1, order) * weight).sum(-1) / best).mean()
