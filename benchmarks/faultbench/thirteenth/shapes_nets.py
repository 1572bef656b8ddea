"""Networks of the thirteenth suite for pictures, signals, sets and graphs, and the losses that are their own."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from models import Batch, Block, mlp
from torch import Tensor, nn


def glyph_net() -> nn.Sequential:
    """Three filters with batch norms, the mean over all places, and one layer."""
    layers: list[nn.Module] = []
    for a, b, stride in ((1, 12, 2), (12, 20, 2), (20, 32, 1)):
        layers += [
            nn.Conv2d(a, b, 3, padding=1, stride=stride, bias=False),
            nn.BatchNorm2d(b),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 6))


def horizon_net() -> nn.Sequential:
    """Wide strided filters without norms, and two numbers."""
    return nn.Sequential(
        nn.Conv2d(1, 12, 5, stride=2, padding=2),
        nn.GELU(),
        nn.Conv2d(12, 20, 3, stride=2, padding=1),
        nn.GELU(),
        nn.Flatten(),
        nn.Linear(300, 48),
        nn.GELU(),
        nn.Linear(48, 2),
    )


class Around(nn.Module):
    """Group norms in front of two filters, and a way around them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(3, width), nn.GroupNorm(3, width)
        self.one, self.other = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.one(F.silu(self.norm1(x)))
        return x + self.other(F.silu(self.norm2(hidden)))


def defect_net() -> nn.Sequential:
    """A first filter, two residual blocks with a pooling between, the largest value of each map."""
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1, stride=2),
        Around(12),
        nn.MaxPool2d(2),
        Around(12),
        nn.GroupNorm(3, 12),
        nn.SiLU(),
        nn.AdaptiveMaxPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 4),
    )


class Cells(nn.Module):
    """Down to a quarter and up again by transposed filters, with batch norms; three scores for each pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(1, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU())
        self.low = nn.Sequential(
            nn.Conv2d(12, 20, 3, padding=1, stride=2),
            nn.BatchNorm2d(20),
            nn.ReLU(),
            nn.Conv2d(20, 20, 3, padding=1),
            nn.BatchNorm2d(20),
            nn.ReLU(),
        )
        self.up = nn.ConvTranspose2d(20, 12, 2, stride=2)
        self.last = nn.Sequential(nn.Conv2d(24, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 3, 1))

    def forward(self, x: Tensor) -> Tensor:
        fine = self.down(x)
        return self.last(torch.cat([fine, self.up(self.low(fine))], 1))


def by_pixel(model: nn.Module, batch: Batch) -> Tensor:
    """Cross entropy over all pixels, classes second."""
    return F.cross_entropy(model(batch[0]), batch[1])


class Clearer(nn.Module):
    """What filters that see further and further say is added to the picture."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for a, b, apart in ((3, 16, 1), (16, 16, 2), (16, 16, 3)):
            layers += [nn.Conv2d(a, b, 3, padding=apart, dilation=apart), nn.LeakyReLU(0.1)]
        self.net = nn.Sequential(*layers, nn.Conv2d(16, 3, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * x + self.net(x)


def bearing_net() -> nn.Sequential:
    """Filters along time with batch norms, the largest value of each, and two layers."""
    return nn.Sequential(
        nn.Conv1d(1, 16, 9, stride=2, padding=4),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.Conv1d(16, 24, 7, stride=2, padding=3),
        nn.BatchNorm1d(24),
        nn.ReLU(),
        nn.Conv1d(24, 32, 5, padding=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool1d(2),
        nn.Flatten(),
        nn.Linear(64, 4),
    )


def moon_net() -> nn.Sequential:
    """An autoencoder of filters with a code of eight numbers."""
    return nn.Sequential(
        nn.Conv2d(1, 12, 4, stride=2, padding=1),
        nn.ELU(),
        nn.Conv2d(12, 20, 4, stride=2, padding=1),
        nn.ELU(),
        nn.Flatten(),
        nn.Linear(180, 8),
        nn.Linear(8, 180),
        nn.ELU(),
        nn.Unflatten(1, (20, 3, 3)),
        nn.ConvTranspose2d(20, 12, 4, stride=2, padding=1),
        nn.ELU(),
        nn.ConvTranspose2d(12, 1, 4, stride=2, padding=1),
    )


class Meters(nn.Module):
    """Filters along time look at a signal; three experts answer, and a gate says how much each counts."""

    def __init__(self) -> None:
        super().__init__()
        self.look = nn.Sequential(
            nn.Conv1d(1, 16, 5, padding=2), nn.ReLU(), nn.Conv1d(16, 16, 5, stride=2, padding=2), nn.ReLU()
        )
        self.gate = nn.Linear(32, 3)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Flatten(), nn.Linear(288, 24), nn.ReLU(), nn.Linear(24, 1)) for _ in range(3)
        )

    def forward(self, x: Tensor) -> Tensor:
        seen = self.look(x)
        weight = self.gate(torch.cat([seen.mean(-1), seen.amax(-1)], 1)).softmax(-1)
        answers = torch.cat([expert(seen) for expert in self.experts], 1)
        return (weight * answers).sum(1, keepdim=True)


class Compounds(nn.Module):
    """Two rounds in which each atom adds up what its neighbors say, and the mean over all atoms."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.say1, self.say2 = nn.Linear(4, 32), nn.Linear(32, 32), nn.Linear(32, 32)
        self.keep1, self.keep2 = nn.Linear(32, 32), nn.Linear(32, 32)
        self.head = mlp((64, 32, 1), nn.ReLU)

    def forward(self, x: Tensor) -> Tensor:
        bonds, kinds = x[..., :12], x[..., 12:]
        start = F.relu(self.first(kinds))
        middle = F.relu(self.keep1(start) + bonds @ self.say1(start) / 2)
        end = F.relu(self.keep2(middle) + bonds @ self.say2(middle) / 2)
        return self.head(torch.cat([middle.mean(1), end.mean(1)], 1))


class Swarms(nn.Module):
    """Each bird by itself, twice with the mean of all, then mean and maximum."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = mlp((3, 40, 32), nn.SiLU), mlp((64, 40, 32), nn.SiLU)
        self.head = mlp((64, 40, 2), nn.SiLU)

    def forward(self, x: Tensor) -> Tensor:
        each = F.silu(self.one(x))
        around = each.mean(1, keepdim=True).expand_as(each)
        each = F.silu(self.two(torch.cat([each, around], -1)))
        return self.head(torch.cat([each.mean(1), each.amax(1)], -1))


class Views(nn.Module):
    """Filters and a projection to the sphere, for two pictures at once."""

    def __init__(self) -> None:
        super().__init__()
        self.filters = nn.Sequential(
            nn.Conv2d(1, 12, 3, padding=1, stride=2),
            nn.ReLU(),
            nn.Conv2d(12, 24, 3, padding=1, stride=2),
            nn.ReLU(),
            nn.Flatten(),
        )
        self.head = mlp((216, 48, 16), nn.ReLU)

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.head(self.filters(x.flatten(0, 1))), dim=-1).unflatten(0, x.shape[:2])


def same_rock(model: nn.Module, batch: Batch) -> Tensor:
    """Each view should find the other one of its rock among the 48 next to it, both ways."""
    one, other = model(batch[0]).unbind(1)
    parts = [(a @ b.T) / 0.15 for a, b in zip(one.split(48), other.split(48), strict=True)]
    both = [
        F.cross_entropy(p, torch.arange(len(p))) + F.cross_entropy(p.T, torch.arange(len(p)))
        for p in parts
        if len(p) == 48
    ]
    return torch.stack(both).mean() / 2


class Fields(nn.Module):
    """Patches of 4 x 4 pixels and their places, two blocks of attention, and the mean of all."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(2, 32, 4, stride=4)
        self.place = nn.Parameter(0.1 * torch.randn(16, 32))
        self.blocks = nn.Sequential(Block(32, False), Block(32, False))
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 6)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patch(x).flatten(2).transpose(1, 2) + self.place
        return self.head(self.norm(self.blocks(patches)).mean(1))
