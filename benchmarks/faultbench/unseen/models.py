"""The networks of the held-out suite, and their losses."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from data import digits, graph
from models import Batch
from torch import Tensor, nn


def selu() -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in ((13, 24), (24, 24), (24, 24)):
        layers += [nn.Linear(a, b), nn.SELU(), nn.AlphaDropout(0.05)]
        nn.init.normal_(layers[-3].weight, std=a**-0.5)
        nn.init.zeros_(layers[-3].bias)
    return nn.Sequential(*layers, nn.Linear(24, 3))


class Highway(nn.Module):
    """A gate between what a layer gives and what it was given; closed at first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body, self.gate = nn.Linear(width, width), nn.Linear(width, width)
        nn.init.constant_(self.gate.bias, -1.0)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.gate(x).sigmoid()
        return gate * F.elu(self.body(x)) + (1 - gate) * x


def highway() -> nn.Sequential:
    return nn.Sequential(nn.Linear(64, 32), *(Highway(32) for _ in range(4)), nn.Linear(32, 10))


class Mixing(nn.Module):
    def __init__(self, places: int, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.across = nn.Sequential(nn.Linear(places, 32), nn.GELU(), nn.Linear(32, places))
        self.along = nn.Sequential(nn.Linear(width, 64), nn.GELU(), nn.Linear(64, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.across(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.along(self.norm2(x))


class Mixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch, self.norm, self.head = nn.Linear(4, 32), nn.LayerNorm(32), nn.Linear(32, 10)
        self.blocks = nn.Sequential(Mixing(16, 32), Mixing(16, 32))

    def forward(self, x: Tensor) -> Tensor:
        patches = x.reshape(-1, 4, 2, 4, 2).transpose(2, 3).reshape(-1, 16, 4)
        return self.head(self.norm(self.blocks(self.patch(patches))).mean(1))


def depthwise() -> nn.Sequential:
    def block(a: int, b: int) -> list[nn.Module]:
        return [
            nn.Conv2d(a, a, 3, padding=1, groups=a, bias=False),
            nn.Conv2d(a, b, 1, bias=False),
            nn.GroupNorm(4, b),
            nn.SiLU(),
        ]

    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 16, 3, stride=2, padding=1),
        *block(16, 24),
        *block(24, 32),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 10),
    )


class PointNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm1 = nn.Conv1d(2, 24, 1), nn.BatchNorm1d(24)
        self.second, self.norm2 = nn.Conv1d(24, 48, 1), nn.BatchNorm1d(48)
        self.hidden, self.head = nn.Linear(48, 24), nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(self.norm1(self.first(x.transpose(1, 2))), 0.1)
        x = F.leaky_relu(self.norm2(self.second(x)), 0.1).amax(-1)
        return self.head(F.leaky_relu(self.hidden(x), 0.1))


class Dilated(nn.Module):
    """Causal convolutions over ever longer distances with weight normalization."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(96, 32), nn.Linear(32, 96)
        self.layers = nn.ModuleList(
            nn.utils.parametrizations.weight_norm(nn.Conv1d(32, 32, 2, dilation=2**i)) for i in range(4)
        )

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x).transpose(1, 2)
        for i, layer in enumerate(self.layers):
            h = h + F.relu(layer(F.pad(h, (2**i, 0))))
        return self.head(h.transpose(1, 2))


class Retention(nn.Module):
    """Attention without softmax whose weights fall with the distance, in bfloat16, with RMS norms."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(96, 32), nn.Linear(32, 96)
        self.mixes = nn.ModuleList(nn.Linear(32, 128, bias=False) for _ in range(2))
        self.outs = nn.ModuleList(nn.Linear(32, 32, bias=False) for _ in range(2))
        self.norms = nn.ModuleList(nn.RMSNorm(32) for _ in range(5))
        apart = torch.arange(24)[:, None] - torch.arange(24)[None, :]
        self.register_buffer("fall", torch.where(apart >= 0, 0.8 ** apart.clamp(min=0), 0.0))

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            h = self.embed(x)
            for i, (mix, out) in enumerate(zip(self.mixes, self.outs, strict=True)):
                q, k, v, gate = mix(self.norms[2 * i](h)).chunk(4, -1)
                read = (q @ k.transpose(1, 2) / 32**0.5 * self.fall) @ v
                h = h + out(self.norms[2 * i + 1](read) * F.silu(gate))
            return self.head(self.norms[4](h)).float()


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.drop = nn.Embedding(96, 16), nn.Dropout(0.1)
        self.cell, self.head = nn.LSTM(16, 20, bidirectional=True, batch_first=True), nn.Linear(40, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.cell(self.embed(x))[0]))


class PostNorm(nn.Module):
    """The transformer of 2017: norms after the sum; the head shares its weights with the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(96, 32), nn.Parameter(0.02 * torch.randn(24, 32))
        nn.init.normal_(self.embed.weight, std=32**-0.5)
        self.mixes = nn.ModuleList(nn.MultiheadAttention(32, 4, batch_first=True) for _ in range(2))
        self.feeds = nn.ModuleList(
            nn.Sequential(nn.Linear(32, 96), nn.ReLU(), nn.Linear(96, 32)) for _ in range(2)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(32) for _ in range(4))
        self.head = nn.Linear(32, 96)
        self.head.weight = self.embed.weight
        self.register_buffer("later", torch.ones(24, 24, dtype=torch.bool).triu(1))

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x) * 32**0.5 + self.place
        for i, (mix, feed) in enumerate(zip(self.mixes, self.feeds, strict=True)):
            h = self.norms[2 * i](h + mix(h, h, h, attn_mask=self.later, need_weights=False)[0])
            h = self.norms[2 * i + 1](h + feed(h))
        return self.head(h)


class Sorter(nn.Module):
    """Reads with one GRU and writes with another that is told the right last answer while it learns."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.told = nn.Embedding(10, 16), nn.Embedding(11, 16)
        self.reader = nn.GRU(16, 48, batch_first=True)
        self.writer, self.head = nn.GRU(16, 48, batch_first=True), nn.Linear(48, 10)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        _, state = self.reader(self.embed(x))
        last = torch.cat([torch.full_like(y[:, :1], 10), y[:, :-1]], 1)
        return self.head(self.writer(self.told(last), state)[0])


def teacher_forced(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(*batch).reshape(-1, 10), batch[1].reshape(-1))


class Skips(nn.Module):
    """Down, up and across again: a small U-Net that gives the noise to take away."""

    def __init__(self) -> None:
        super().__init__()
        self.inward, self.norm1 = nn.Conv2d(1, 12, 3, padding=1), nn.BatchNorm2d(12)
        self.down, self.norm2 = nn.Conv2d(12, 24, 3, stride=2, padding=1), nn.BatchNorm2d(24)
        self.up, self.outward = nn.ConvTranspose2d(24, 12, 2, stride=2), nn.Conv2d(24, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        image = x.reshape(-1, 1, 8, 8)
        near = F.silu(self.norm1(self.inward(image)))
        far = F.silu(self.norm2(self.down(near)))
        return (image - self.outward(torch.cat([near, F.silu(self.up(far))], 1))).reshape(x.shape)


class Coupling(nn.Module):
    """Six affine couplings; gives the density's logarithm (Dinh et al. 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.nets = nn.ModuleList(
            nn.Sequential(nn.Linear(1, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 2))
            for _ in range(6)
        )

    def forward(self, x: Tensor) -> Tensor:
        volume = x.new_zeros(len(x))
        for net in self.nets:
            scale, shift = net(x[:, :1]).chunk(2, -1)
            scale = 2 * torch.tanh(scale)
            x = torch.cat([x[:, 1:] * scale.exp() + shift, x[:, :1]], 1)
            volume = volume + scale[:, 0]
        return volume - 0.5 * x.square().sum(-1) - math.log(2 * math.pi)


def density(model: nn.Module, batch: Batch) -> Tensor:
    return -model(batch[0]).mean()


class Mixture(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh())
        self.head = nn.Linear(32, 15)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


def mixture(model: nn.Module, batch: Batch) -> Tensor:
    weight, mean, spread = model(batch[0]).chunk(3, -1)
    spread = F.softplus(spread) + 1e-2
    each = -0.5 * ((batch[1] - mean) / spread).square() - spread.log() - 0.5 * math.log(2 * math.pi)
    return -(weight.log_softmax(-1) + each).logsumexp(-1).mean()


def quantiles() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(10, 24), nn.Softplus(), nn.Dropout(0.1), nn.Linear(24, 24), nn.Softplus(), nn.Linear(24, 3)
    )


def pinball(model: nn.Module, batch: Batch) -> Tensor:
    level = torch.tensor([0.1, 0.5, 0.9])
    off = batch[1] - model(batch[0])
    return torch.maximum(level * off, (level - 1) * off).mean()


def rates() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(10, 32), nn.Hardswish(), nn.Linear(32, 32), nn.Hardswish(), nn.Linear(32, 1)
    )


def poisson(model: nn.Module, batch: Batch) -> Tensor:
    return F.poisson_nll_loss(model(batch[0]), batch[1], full=True)


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(64, 48), nn.Mish(), nn.Linear(48, 48), nn.Mish(), nn.Linear(48, 16)
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.body(x), dim=-1)


def contrast(model: nn.Module, batch: Batch) -> Tensor:
    alike = model(batch[0]) @ model(batch[1]).T / 0.2
    own = torch.arange(len(alike))
    return 0.5 * (F.cross_entropy(alike, own) + F.cross_entropy(alike.T, own))


class GraphAttention(nn.Module):
    """Two heads weigh the neighbors, one layer more adds them up (Velickovic et al. 2018)."""

    def __init__(self) -> None:
        super().__init__()
        everything, _ = graph()
        self.register_buffer("apart", everything[:, :400] == 0)
        self.register_buffer("nodes", everything[:, 400:])
        self.first, self.second = nn.Linear(16, 24, bias=False), nn.Linear(24, 4, bias=False)
        self.ask, self.answer = nn.Parameter(0.3 * torch.randn(2, 12)), nn.Parameter(0.3 * torch.randn(2, 12))
        self.drop = nn.Dropout(0.2)

    def forward(self, rows: Tensor) -> Tensor:
        h = self.first(self.nodes).reshape(400, 2, 12)
        score = (h * self.ask).sum(-1)[:, None] + (h * self.answer).sum(-1)[None]
        weight = F.leaky_relu(score, 0.2).masked_fill(self.apart[..., None], -torch.inf).softmax(1)
        h = F.elu(torch.einsum("ijh,jhc->ihc", self.drop(weight), h).reshape(400, 24))
        return (weight.mean(-1) @ self.second(h))[rows.long()]


class Sine(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(x)


def siren() -> nn.Sequential:
    """Sines all the way; the first layer's weights are larger (Sitzmann et al. 2020)."""
    layers = [nn.Linear(2, 32), Sine(), nn.Linear(32, 32), Sine(), nn.Linear(32, 1)]
    nn.init.uniform_(layers[0].weight, -6.0, 6.0)
    for layer in layers[2::2]:
        nn.init.uniform_(layer.weight, -((6 / 32) ** 0.5), (6 / 32) ** 0.5)
    return nn.Sequential(*layers)


class Factors(nn.Module):
    """Users and items as sparse embeddings, biases of both, and weights of what they share."""

    def __init__(self) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(60, 8, sparse=True), nn.Embedding(80, 8, sparse=True)
        for table in (self.user, self.item):
            nn.init.normal_(table.weight, std=0.3)
        self.head = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.user(x[:, 0]) * self.item(x[:, 1]))


class Beam(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(1, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * (1 - x) * self.body(2 * x - 1)


def residual(model: nn.Module, batch: Batch) -> Tensor:
    """Mean square of what is left of -u'' = f; a term of 0 keeps x in the graph when a fault cuts it."""
    x = batch[0].requires_grad_()
    with torch.enable_grad():
        u = model(x) + 0 * x**3
        slope = torch.autograd.grad(u.sum(), x, create_graph=True)[0]
        bend = torch.autograd.grad(slope.sum(), x, create_graph=True)[0]
    return (bend + batch[1]).square().mean() / 100


def solution_error(model: nn.Module) -> float:
    x = torch.linspace(0, 1, 101)[:, None]
    with torch.no_grad():
        u = torch.sin(math.pi * x) + torch.sin(3 * math.pi * x) / 3
        return float((model(x) - u).square().mean())


def many_labels(model: nn.Module, batch: Batch) -> Tensor:
    return F.binary_cross_entropy_with_logits(model(batch[0]), batch[1], pos_weight=torch.full((10,), 3.0))


def labeler() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(30, 32), nn.PReLU(), nn.Dropout(0.2), nn.Linear(32, 32), nn.PReLU(), nn.Linear(32, 10)
    )


def digit_views() -> Batch:
    """A held-out batch for the contrast, always the same."""
    generator = torch.Generator().manual_seed(0)
    x = digits().val_x[:128]
    return tuple(x + 0.3 * torch.randn(x.shape, generator=generator) for _ in range(2))
