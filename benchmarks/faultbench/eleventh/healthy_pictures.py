"""Sound runs on pictures: classes, masks, colours, depth and counts."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from eighth.architectures_common import normal, uniform
from fourth.runs import cosine, linear
from models import Batch, Setup, entropy, square
from tenth.judged_data import of_made, one_cycle
from torch import Tensor, nn

_KINDS = torch.tensor([[1, 0], [0, 1], [1, 1], [1, -1], [2, 1], [1, 2]]) / 2.0


def _cloth(size: int, g: torch.Generator) -> Batch:
    """Six weaves of cloth: two stripes of any phase and colour, with stains and noise; a few are mistold."""
    kind = torch.randint(6, (size,), generator=g)
    at = torch.arange(16) + 0.0
    pace = _KINDS[kind] * uniform(g, size, 1, low=2.4, high=3.2)
    phase = uniform(g, size, 1, 1, high=6.28)
    stripe = torch.sin(pace[:, :1, None] * at[:, None] + pace[:, 1:, None] * at + phase)
    stain = 0.8 * F.interpolate(normal(g, size, 3, 4, 4), scale_factor=4.0, mode="bilinear")
    colour = uniform(g, size, 3, 1, 1, low=0.4, high=1.2)
    told = torch.where(uniform(g, size) < 0.08, torch.randint(6, (size,), generator=g), kind)
    return colour * stripe[:, None] + stain + 1.2 * normal(g, size, 3, 16, 16), told


class _Across(nn.Module):
    """Adds what comes in to what a part makes of it."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, x: Tensor) -> Tensor:
        return x + self.part(x)


def patch_filters(seed: int) -> Setup:
    """Patches, then wide filters per channel and small ones across (Trockman and Kolter 2022)."""
    layers: list[nn.Module] = [nn.Conv2d(3, 24, 2, 2), nn.GELU(), nn.BatchNorm2d(24)]
    for _ in range(2):
        deep = nn.Sequential(nn.Conv2d(24, 24, 5, padding=2, groups=24), nn.GELU(), nn.BatchNorm2d(24))
        layers += [_Across(deep), nn.Conv2d(24, 24, 1), nn.GELU(), nn.BatchNorm2d(24)]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 6))
    more: dict[str, Any] = {"optimizer": "adamw", "weight_decay": 0.02, "schedule": one_cycle(180)}
    return of_made(model, _cloth, seed, entropy, lr=8e-3, steps=180, size=24, number=100, clip=1.0, **more)


def _vessels(size: int, g: torch.Generator) -> Batch:
    """Two thin bent vessels on an uneven ground, and where they are."""
    at = torch.linspace(-1, 1, 20)
    start, bend = uniform(g, size, 2, 1, low=-0.7, high=0.7), 0.3 * normal(g, size, 2, 2)
    middle = start + bend[..., :1] * at + bend[..., 1:] * (3 * at).sin()
    far = (at[None, None, :, None] - middle[:, :, None, :]).abs()
    mask = (far[:, 0] < 0.09) | (far[:, 1] < 0.09).transpose(1, 2)
    ground = 0.6 * F.interpolate(normal(g, size, 1, 4, 4), size=20, mode="bilinear")
    return ground + 0.8 * mask[:, None] + 0.35 * normal(g, size, 1, 20, 20), mask[:, None].float()


def _overlap(model: nn.Module, batch: Batch) -> Tensor:
    """Entropy of the pixels, and how little of both areas is shared (Milletari et al. 2016)."""
    out = model(batch[0])
    share, mask = out.sigmoid(), batch[1]
    both = (share * mask).sum((1, 2, 3))
    overlap = (2 * both + 1) / (share.sum((1, 2, 3)) + mask.sum((1, 2, 3)) + 1)
    return F.binary_cross_entropy_with_logits(out, mask) + (1 - overlap).mean()


def vessels(seed: int) -> Setup:
    """Thin vessels by dilated filters under two losses, with AdamW and a rate that falls in a power."""
    layers: list[nn.Module] = []
    for a, wide in ((1, 1), (16, 2), (16, 4), (16, 1)):
        layers += [
            nn.Conv2d(a, 16, 3, padding=wide, dilation=wide),
            nn.InstanceNorm2d(16, affine=True),
            nn.ReLU(),
        ]
    more: dict[str, Any] = {"optimizer": "adamw", "weight_decay": 0.01}
    fall = lambda k: (1 - k / 180) ** 0.9  # noqa: E731
    model = nn.Sequential(*layers, nn.Conv2d(16, 1, 1))
    return of_made(
        model, _vessels, seed, _overlap, lr=8e-3, steps=180, size=12, number=60, schedule=fall, **more
    )


def _gardens(size: int, g: torch.Generator) -> Batch:
    """Pictures in grey, and their two colours, which hang on texture and height."""
    rough = (uniform(g, size, 1, 4, 4) < 0.5).float()
    rough = F.interpolate(rough, scale_factor=4.0)
    board = ((torch.arange(16)[:, None] + torch.arange(16)) % 2) * 2.0 - 1
    light = F.interpolate(normal(g, size, 1, 3, 3), size=16, mode="bilinear")
    grey = 0.6 * light + 0.5 * rough * board + 0.15 * normal(g, size, 1, 16, 16)
    height = torch.linspace(1, -1, 16)[:, None].expand(size, 1, 16, 16)
    colour = torch.cat([2 * rough - 1 + 0.3 * light, height * (1 - rough) + 0.5 * light * rough], 1)
    return torch.cat([grey, height], 1), colour + 0.2 * normal(g, size, 2, 16, 16)


def colours(seed: int) -> Setup:
    """Colours from grey (Zhang et al. 2016), by an hourglass of filters under a smooth L1 loss and Adam."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return F.smooth_l1_loss(model(batch[0]), batch[1], beta=0.5)

    down = [nn.Conv2d(2, 16, 3, padding=1), nn.LeakyReLU(0.1), nn.Conv2d(16, 32, 3, 2, 1), nn.LeakyReLU(0.1)]
    up = [
        nn.Conv2d(32, 32, 3, padding=1),
        nn.LeakyReLU(0.1),
        nn.Upsample(scale_factor=2.0),
        nn.Conv2d(32, 2, 3, padding=1),
    ]
    model = nn.Sequential(*down, *up)
    return of_made(model, _gardens, seed, loss, lr=4e-3, steps=220, size=16, number=80, schedule=linear(220))


class _Stereo(nn.Module):
    """Compares what both eyes see at each of six shifts, and takes their mean (Kendall et al. 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.eye = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1))
        cost = [nn.Conv2d(6, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, 24, 3, padding=1), nn.ReLU()]
        self.cost = nn.Sequential(*cost, nn.Conv2d(24, 6, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.eye(x[:, :1]), self.eye(x[:, 1:])
        match = torch.stack([(left * right.roll(d, 3)).mean(1) for d in range(6)], 1)
        chance = (match + self.cost(match)).softmax(1)
        return (chance * torch.arange(6.0)[:, None, None]).sum(1)


def _two_eyes(size: int, g: torch.Generator) -> Batch:
    """A picture of grains from two places, with a box in front, and by how much each pixel moved."""
    left = normal(g, size, 16, 16)
    back = torch.randint(0, 3, (size, 1, 1), generator=g)
    front = torch.randint(3, 6, (size, 1, 1), generator=g)
    at, corner = torch.arange(16), torch.randint(1, 8, (size, 2, 1), generator=g)
    down = (at >= corner[:, 0]) & (at < corner[:, 0] + 7)
    side = (at >= corner[:, 1]) & (at < corner[:, 1] + 7)
    shift = torch.where(down[:, :, None] & side[:, None, :], front, back)
    right = left.gather(2, ((at + back) % 16).expand(size, 16, 16))
    boxed = left.gather(2, ((at + front) % 16).expand(size, 16, 16))
    moved = down[:, :, None] & ((at + front >= corner[:, 1:]) & (at + front < corner[:, 1:] + 7))
    right = torch.where(moved, boxed, right)
    both = torch.stack([left, right], 1)
    return both + 0.15 * normal(g, size, 2, 16, 16), shift.float()


def two_eyes(seed: int) -> Setup:
    """How far things are, from two eyes, under a smooth L1 loss, with Adam and one fall of the rate."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return F.smooth_l1_loss(model(batch[0]), batch[1])

    fall = lambda k: 1.0 if k < 170 else 0.25  # noqa: E731
    return of_made(_Stereo(), _two_eyes, seed, loss, lr=3e-3, steps=240, size=12, number=60, schedule=fall)


def _crowd(size: int, g: torch.Generator) -> Batch:
    """Heads in a square, between three and twelve, and how dense they are at each place."""
    at = torch.arange(20) + 0.0
    centre = uniform(g, size, 12, 2, low=2, high=18)
    there = (torch.arange(12) < torch.randint(3, 13, (size, 1), generator=g)).float()
    bright = there * uniform(g, size, 12, low=0.7, high=1.3)

    def drawn(width: float, weight: Tensor) -> Tensor:
        bell = torch.exp(-(at - centre[..., None]).square() / (2 * width**2))
        return torch.einsum("bk,bky,bkx->byx", weight, bell[:, :, 0], bell[:, :, 1])[:, None]

    seen = drawn(0.9, bright) + 0.2 * normal(g, size, 1, 20, 20) + 0.5 * normal(g, size, 1, 1, 1)
    return seen, drawn(1.5, there)


def crowd(seed: int) -> Setup:
    """Counts heads by their density (Zhang et al. 2016): three branches of filters, with Adam."""

    class Columns(nn.Module):
        """Filters of three widths side by side."""

        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleList(
                nn.Sequential(
                    nn.Conv2d(1, 8, k, padding=k // 2), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()
                )
                for k in (3, 5, 7)
            )
            self.join = nn.Conv2d(24, 1, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.join(torch.cat([part(x) for part in self.parts], 1))

    return of_made(
        Columns(), _crowd, seed, square, lr=5e-3, steps=220, size=12, number=80, schedule=cosine(220)
    )


MADE = {
    "patch_filters": patch_filters,
    "vessels": vessels,
    "colours": colours,
    "two_eyes": two_eyes,
    "crowd": crowd,
}
