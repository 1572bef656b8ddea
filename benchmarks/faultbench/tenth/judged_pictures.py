"""Judged runs on pictures: networks as they are used for classes, masks, places and noise."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from eighth.architectures_common import normal, uniform
from fourth.runs import cosine
from models import Batch, Setup, entropy, square
from torch import Tensor, nn

from tenth.judged_data import of_made, one_cycle, shape_masks, shapes


def _norm_block(a: int, b: int, stride: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU()]


def small_vgg(seed: int) -> Setup:
    """Filters, batch norms and poolings on shapes, with momentum, decay and a cosine."""
    body = [*_norm_block(1, 12), *_norm_block(12, 12), nn.MaxPool2d(2), *_norm_block(12, 24)]
    model = nn.Sequential(*body, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(96, 5))
    more: dict[str, Any] = {"optimizer": "sgd", "weight_decay": 5e-4, "schedule": cosine(220, 5)}
    return of_made(model, shapes, seed, entropy, lr=0.06, steps=220, size=32, **more)


class _Residual(nn.Module):
    """Two filters with group norms round a short cut (He et al. 2016; Wu and He 2018)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.GroupNorm(4, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GroupNorm(4, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def group_residual(seed: int) -> Setup:
    """Residual blocks with group norms under one cycle of AdamW."""
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, 2, 1),
        *(_Residual(16) for _ in range(3)),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(64, 5),
    )
    more: dict[str, Any] = {"optimizer": "adamw", "weight_decay": 0.02, "schedule": one_cycle(240)}
    return of_made(model, shapes, seed, entropy, lr=1e-2, steps=240, size=32, **more)


def mobile(seed: int) -> Setup:
    """Depthwise and pointwise filters with a bounded ReLU (Howard et al. 2017), and RMSprop."""

    def block(a: int, b: int, stride: int) -> list[nn.Module]:
        deep = [nn.Conv2d(a, a, 3, stride, 1, groups=a, bias=False), nn.BatchNorm2d(a), nn.ReLU6()]
        return [*deep, nn.Conv2d(a, b, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU6()]

    body = [*_norm_block(1, 8, 2), *block(8, 24, 1), *block(24, 32, 2)]
    model = nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 5))
    more: dict[str, Any] = {"optimizer": "rmsprop", "schedule": lambda k: 0.992**k}
    return of_made(model, shapes, seed, entropy, lr=1e-2, steps=260, size=32, **more)


class UNet(nn.Module):
    """Down twice, up twice, and across (Ronneberger et al. 2015)."""

    def __init__(self, out: int) -> None:
        super().__init__()
        self.first, self.down = nn.Sequential(*_norm_block(1, 8)), nn.Sequential(*_norm_block(8, 16, 2))
        self.deep = nn.Sequential(*_norm_block(16, 24, 2), nn.ConvTranspose2d(24, 16, 2, 2))
        self.up = nn.Sequential(*_norm_block(32, 16), nn.ConvTranspose2d(16, 8, 2, 2))
        self.last = nn.Sequential(*_norm_block(16, 8), nn.Conv2d(8, out, 1))

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x)
        down = self.down(first)
        up = self.up(torch.cat([self.deep(down), down], 1))
        return self.last(torch.cat([up, first], 1))


def _parts(size: int, g: torch.Generator) -> Batch:
    """Ground, round and angular things."""
    mask, kind = shape_masks(size, g, 12)
    x = uniform(g, size, 1, 1, 1, low=0.7, high=1.3) * mask + 0.4 * normal(g, size, 1, 12, 12)
    return x, (mask[:, 0] * torch.where(kind < 2, 1, 2)[:, None, None]).long()


def _each_pixel(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def three_masks(seed: int) -> Setup:
    """A U-Net tells ground, round things and angular ones, pixel by pixel."""
    return of_made(UNet(3), _parts, seed, _each_pixel, lr=6e-3, steps=200, size=16, number=120)


def restorer(seed: int) -> Setup:
    """An autoencoder of filters that takes noise away (Vincent et al. 2008)."""

    def make(size: int, g: torch.Generator) -> Batch:
        mask, _ = shape_masks(size, g, 12)
        return mask + 0.5 * normal(g, *mask.shape), mask

    down = [nn.Conv2d(1, 16, 3, 2, 1), nn.LeakyReLU(0.1), nn.Conv2d(16, 32, 3, 2, 1), nn.LeakyReLU(0.1)]
    up = [nn.ConvTranspose2d(32, 16, 4, 2, 1), nn.LeakyReLU(0.1), nn.ConvTranspose2d(16, 1, 4, 2, 1)]
    return of_made(nn.Sequential(*down, *up), make, seed, square, lr=6e-3, steps=240, size=32)


class _Code(nn.Module):
    """Mean and spread of eight numbers, and pixels from them (Kingma and Welling 2014)."""

    def __init__(self) -> None:
        super().__init__()
        self.into = nn.Sequential(nn.Flatten(), nn.Linear(144, 96), nn.ReLU(), nn.Linear(96, 16))
        self.out = nn.Sequential(nn.Linear(8, 96), nn.ReLU(), nn.Linear(96, 144))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_var = self.into(x).chunk(2, 1)
        noise = torch.randn_like(mean) if self.training else 0.0
        return self.out(mean + noise * (0.5 * log_var).exp()), mean, log_var


def pixel_bound(weight: float = 1.0) -> Any:
    """Likelihood of all pixels and what the code costs, summed: about a hundred at first."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        out, mean, log_var = model(batch[0])
        cost = -0.5 * (1 + log_var - mean.square() - log_var.exp()).sum(1).mean()
        told = F.binary_cross_entropy_with_logits(out, batch[0].flatten(1), reduction="none")
        return told.sum(1).mean() + weight * cost

    return loss


def shape_code(seed: int) -> Setup:
    """A variational net for black and white shapes, at one rate of Adam."""
    make = lambda n, g: shape_masks(n, g, 12)  # noqa: E731
    return of_made(_Code(), make, seed, pixel_bound(), lr=4e-3, steps=500)


RUNS = {
    "small_vgg": {"sgd": small_vgg},
    "group_residual": {"adamw": group_residual},
    "mobile": {"rmsprop": mobile},
    "three_masks": {"adam": three_masks},
    "restorer": {"adam": restorer},
    "shape_code": {"adam": shape_code},
}
