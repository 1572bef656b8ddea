"""Networks of the fourth suite for pictures, tables and formulas, and the losses that go with them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from models import Batch
from torch import Tensor, nn


def table_norm() -> nn.Sequential:
    """A network for tables with batch normalization and dropout."""
    return nn.Sequential(
        nn.Linear(20, 64),
        nn.BatchNorm1d(64),
        nn.SiLU(),
        nn.Dropout(0.1),
        nn.Linear(64, 64),
        nn.BatchNorm1d(64),
        nn.SiLU(),
        nn.Linear(64, 4),
    )


def smooth() -> nn.Sequential:
    """Plain and smooth, for one number."""
    return nn.Sequential(
        nn.Linear(10, 48),
        nn.ELU(),
        nn.Linear(48, 48),
        nn.ELU(),
        nn.Linear(48, 24),
        nn.ELU(),
        nn.Linear(24, 1),
    )


class _Sign(torch.autograd.Function):
    """The sign, whose gradient is passed straight through where the input is small."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.where(x >= 0, 1.0, -1.0)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad * (x.abs() <= 1)


class Binary(nn.Module):
    """Layers whose weights and activations are signs, with real weights behind them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm1 = nn.Linear(96, 96), nn.BatchNorm1d(96)
        self.second, self.norm2 = nn.Linear(96, 96, bias=False), nn.BatchNorm1d(96)
        self.head = nn.Linear(96, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = _Sign.apply(self.norm1(self.first(x)))
        h = self.norm2(F.linear(h, _Sign.apply(self.second.weight)) / 96**0.5)
        return self.head(F.hardtanh(h))


class _Spike(torch.autograd.Function):
    """A step whose gradient is a smooth bump."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return (x > 0).float()

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad / (1 + 4 * x.abs()) ** 2


class Spiking(nn.Module):
    """Leaky neurons that fire, over eight moments; the output is a leaky sum."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(64, 64), nn.Linear(64, 48), nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        current = self.first(x)
        v1, v2 = torch.zeros_like(current), x.new_zeros(len(x), 48)
        out = x.new_zeros(len(x), 10)
        for _ in range(8):
            v1 = 0.8 * v1 + current
            s1 = _Spike.apply(v1 - 1)
            v1 = v1 - s1
            v2 = 0.8 * v2 + self.second(s1)
            s2 = _Spike.apply(v2 - 1)
            v2 = v2 - s2
            out = out + self.head(s2)
        return out / 4


class Squeeze(nn.Module):
    """A convolution whose channels are weighed by what the whole picture says."""

    def __init__(self, a: int, b: int, stride: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b)
        self.down, self.up = nn.Linear(b, b // 4), nn.Linear(b // 4, b)
        self.short = nn.Identity() if a == b and stride == 1 else nn.Conv2d(a, b, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.conv(x))
        weight = torch.sigmoid(self.up(F.silu(self.down(h.mean((2, 3))))))
        return F.silu(self.short(x) + h * weight[:, :, None, None])


def squeeze_net() -> nn.Sequential:
    return nn.Sequential(
        Squeeze(3, 8, 2),
        Squeeze(8, 16, 1),
        Squeeze(16, 24, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(24, 8),
    )


class Quantized(nn.Module):
    """An autoencoder whose code is the nearest of 48 learned vectors in each of six places."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(
            nn.Linear(96, 96), nn.GELU(), nn.Linear(96, 48), nn.Unflatten(1, (6, 8)), nn.LayerNorm(8)
        )
        self.decode = nn.Sequential(nn.Linear(48, 96), nn.GELU(), nn.Linear(96, 96))
        self.book = nn.Embedding(48, 8)
        nn.init.normal_(self.book.weight)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        code = self.encode(x)
        nearest = torch.cdist(code, self.book.weight[None]).argmin(-1)
        word = self.book(nearest)
        straight = code + (word - code).detach()
        return self.decode(straight.flatten(1)), code, word


def quantized(model: nn.Module, batch: Batch) -> Tensor:
    out, code, word = model(batch[0])
    book = F.mse_loss(word, code.detach()) + 0.25 * F.mse_loss(code, word.detach())
    return F.mse_loss(out, batch[0]) + book


def rebuilt(model: nn.Module, batch: Batch) -> Tensor:
    return F.mse_loss(model(batch[0])[0], batch[0])


class Masked(nn.Linear):
    """A linear layer of which some weights are absent."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__(mask.shape[1], mask.shape[0])
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.mask, self.bias)


class Autoregressive(nn.Module):
    """Each of 64 pixels told from the ones before (Germain et al. 2015)."""

    def __init__(self) -> None:
        super().__init__()
        place, unit = torch.arange(64), torch.arange(128) % 63
        self.first = Masked((unit[:, None] >= place).float())
        self.second = Masked((unit[:, None] >= unit).float())
        self.head = Masked((place[:, None] > unit).float())

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.second(F.relu(self.first(x)))))


def pixel_bits(model: nn.Module, batch: Batch) -> Tensor:
    ink = (batch[0] > 0).float()
    return F.binary_cross_entropy_with_logits(model(2 * ink - 1), ink)


class Splines(nn.Module):
    """Each edge has a function of its own: a few bumps and a smooth gate (Liu et al. 2024)."""

    def __init__(self, a: int, b: int, bumps: int = 8) -> None:
        super().__init__()
        self.register_buffer("grid", torch.linspace(-1.5, 1.5, bumps))
        self.bumps = nn.Linear(a * bumps, b, bias=False)
        self.base = nn.Linear(a, b)
        nn.init.normal_(self.bumps.weight, std=0.1)

    def forward(self, x: Tensor) -> Tensor:
        bumps = torch.exp(-((x[..., None] - self.grid) * 2.3).square())
        return self.base(F.silu(x)) + self.bumps(bumps.flatten(1))


def kan() -> nn.Sequential:
    return nn.Sequential(Splines(4, 8), Splines(8, 1))


class Operator(nn.Module):
    """A branch for the function, a trunk for the point; the answer is their product (Lu et al. 2021)."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Linear(20, 48), nn.Tanh(), nn.Linear(48, 32))
        self.trunk = nn.Sequential(nn.Linear(1, 48), nn.Tanh(), nn.Linear(48, 32), nn.Tanh())
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return (self.branch(x[:, :20]) * self.trunk(x[:, 20:])).sum(1, keepdim=True) / 32**0.5 + self.bias


class Routed(nn.Module):
    """A gate that gives each row to the two best of four experts."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 4))
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(6, 24), nn.GELU(), nn.Linear(24, 24), nn.GELU(), nn.Linear(24, 1))
            for _ in range(4)
        )
        self.shares: Tensor = torch.full((4,), 0.25)

    def forward(self, x: Tensor) -> Tensor:
        score = self.gate(x)
        best = score.topk(2, dim=-1)
        weight = torch.zeros_like(score).scatter(1, best.indices, best.values.softmax(-1))
        self.shares = score.softmax(-1).mean(0)
        answers = torch.cat([expert(x) for expert in self.experts], dim=1)
        return (weight * answers).sum(1, keepdim=True)


def balanced(model: nn.Module, batch: Batch) -> Tensor:
    """The error, and a small price for gates that forget an expert."""
    error = F.mse_loss(model(batch[0]), batch[1])
    return error + 0.02 * 4 * model.shares.square().sum()


class Tokens(nn.Module):
    """Each feature is a token of its own; attention over them (Gorishniy et al. 2021)."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.shift = (
            nn.Parameter(torch.randn(9, 24) / 24**0.5),
            nn.Parameter(0.1 * torch.randn(9, 24)),
        )
        self.layers = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(24, 3, 48, 0.0, "gelu", batch_first=True, norm_first=True),
            2,
            enable_nested_tensor=False,
        )
        self.norm, self.head = nn.LayerNorm(24), nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([torch.ones_like(x[:, :1]), x], dim=1)
        return self.head(self.norm(self.layers(x[..., None] * self.scale + self.shift)[:, 0]))


class Detector(nn.Module):
    """Finds the one thing in a picture: what it is, where and how large."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 12, 3, padding=1),
            nn.LeakyReLU(0.1),
            nn.MaxPool2d(2),
            nn.Conv2d(12, 24, 3, padding=1),
            nn.LeakyReLU(0.1),
            nn.Flatten(),
            nn.Linear(24 * 49, 64),
            nn.LeakyReLU(0.1),
        )
        self.kind, self.box = nn.Linear(64, 3), nn.Linear(64, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.body(x[:, None])
        return self.kind(h), self.box(h)


def detected(model: nn.Module, batch: Batch) -> Tensor:
    kind, box = model(batch[0])
    return F.cross_entropy(kind, batch[1][:, 0].long()) + 5 * F.smooth_l1_loss(box, batch[1][:, 1:], beta=0.2)
