"""Pictures and scenes in the eighth suite."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from data import digits
from fourth.runs import cosine, linear
from models import Batch, entropy, mlp, square
from settings import ADAM, ADAMW, SGD, Build, of_custom
from torch import Tensor, nn

from eighth.architectures_common import forever, normal, of_stream, uniform

GRID = torch.linspace(-1, 1, 12)
DOWN, ACROSS = torch.meshgrid(GRID, GRID, indexing="ij")


def blobs(places: Tensor, width: float = 0.18) -> Tensor:
    """Pictures of 12 x 12 with a blob at each place (rows, number, 2)."""
    down, across = places[..., 0, None, None], places[..., 1, None, None]
    return (-((DOWN - down).square() + (ACROSS - across).square()) / (2 * width**2)).exp()


@forever
def shapes(size: int, g: torch.Generator) -> Batch:
    """Rings, discs, bars and crosses of any size and place, in noise."""
    kind, radius = torch.randint(4, (size, 1, 1), generator=g), uniform(g, size, 1, 1, low=0.35, high=0.6)
    down = DOWN - uniform(g, size, 1, 1, low=-0.3, high=0.3)
    across = ACROSS - uniform(g, size, 1, 1, low=-0.3, high=0.3)
    far = (down.square() + across.square()).sqrt()
    bar, other = (across.abs() < 0.15) & (down.abs() < radius), (down.abs() < 0.15) & (across.abs() < radius)
    drawn = torch.where(kind == 0, (far - radius).abs() < 0.13, far < radius)
    drawn = torch.where(kind == 2, bar, torch.where(kind == 3, bar | other, drawn))
    return (drawn.float() + 0.4 * normal(g, size, 12, 12))[:, None], kind[:, 0, 0]


def plain_net() -> nn.Sequential:
    """Three convolutions with batch normalization."""
    layers: list[nn.Module] = []
    for a, b in ((1, 10), (10, 20), (20, 24)):
        layers += [nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(24, 4))


class Painter(nn.Module):
    """Sees a part of sixteen patches and paints the rest (He et al. 2022)."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.place = nn.Linear(4, 32), nn.Parameter(0.02 * torch.randn(16, 32))
        layer = dict(dim_feedforward=64, dropout=0.0, batch_first=True, norm_first=True, activation="gelu")
        self.encoder, self.decoder = (nn.TransformerEncoderLayer(32, 2, **layer) for _ in range(2))
        self.hidden, self.head = nn.Parameter(torch.zeros(32)), nn.Linear(32, 4)

    def forward(self, x: Tensor, order: Tensor) -> Tensor:
        tokens = self.patch(x) + self.place
        seen = self.encoder(tokens[:, order[:8]])
        rest = (self.hidden + self.place[order[8:]]).expand(len(x), 8, 32)
        return self.head(self.decoder(torch.cat([seen, rest], 1))[:, 8:])


def painted(model: nn.Module, batch: Batch) -> Tensor:
    patches = batch[0].reshape(-1, 4, 2, 4, 2).transpose(2, 3).reshape(-1, 16, 4)
    even = torch.tensor([0, 2, 5, 7, 8, 10, 13, 15, 1, 3, 4, 6, 9, 11, 12, 14])
    order = torch.randperm(16) if model.training else even
    return F.mse_loss(model(patches, order), patches[:, order[8:]])


class Capsules(nn.Module):
    """Vectors that agree on larger vectors in three rounds (Sabour et al. 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 16, 3), nn.Conv2d(16, 32, 3, stride=2)
        self.weight = nn.Parameter(0.1 * torch.randn(32, 10, 4, 8))

    def forward(self, x: Tensor) -> Tensor:
        low = self.second(F.relu(self.first(x.reshape(-1, 1, 8, 8)))).reshape(len(x), 8, 4, 4).transpose(2, 3)
        votes = torch.einsum("bid,iodk->biok", squash(low.reshape(len(x), 32, 4)), self.weight)
        agree = votes.new_zeros(votes.shape[:3])
        for _ in range(3):
            out = squash((agree.softmax(2)[..., None] * votes).sum(1))
            agree = agree + (votes * out[:, None]).sum(-1).detach()
        return out.square().sum(-1).add(1e-8).sqrt()


def squash(x: Tensor) -> Tensor:
    square_length = x.square().sum(-1, keepdim=True)
    return x * square_length / (1 + square_length) / (square_length + 1e-8).sqrt()


def long_enough(model: nn.Module, batch: Batch) -> Tensor:
    """The right capsule longer than 0.9, all others shorter than 0.1."""
    lengths, right = model(batch[0]), F.one_hot(batch[1], 10)
    each = (
        right * (0.9 - lengths).clamp(min=0).square()
        + 0.5 * (1 - right) * (lengths - 0.1).clamp(min=0).square()
    )
    return each.sum(1).mean()


class Pointing(nn.Module):
    """The mean place under a heatmap that no one ever sees (Sun et al. 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 12, 5, padding=2),
            nn.GroupNorm(3, 12),
            nn.Hardswish(),
            nn.Conv2d(12, 12, 5, padding=2),
            nn.GroupNorm(3, 12),
            nn.Hardswish(),
            nn.Conv2d(12, 1, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        heat = self.body(x).flatten(1).softmax(1)
        return torch.stack([heat @ DOWN.flatten(), heat @ ACROSS.flatten()], 1)


@forever
def marks(size: int, g: torch.Generator) -> Batch:
    """A bright blob among wide dim ones, and where it is, as someone marked it by hand."""
    place = uniform(g, size, 1, 2, low=-0.8, high=0.8)
    others = blobs(uniform(g, size, 3, 2, low=-1, high=1), 0.4).sum(1)
    x = blobs(place).sum(1) - 0.5 * others + 0.2 * normal(g, size, 12, 12)
    return x[:, None], place[:, 0] + 0.05 * normal(g, size, 2)


class Flow(nn.Module):
    """How far the second of two pictures has moved; it is moved back to be like the first."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(2, 16, 3, padding=1),
            nn.LeakyReLU(0.1),
            nn.Conv2d(16, 16, 3, stride=2),
            nn.LeakyReLU(0.1),
            nn.Conv2d(16, 16, 3),
            nn.LeakyReLU(0.1),
            nn.Flatten(),
            nn.Linear(144, 2),
        )
        nn.init.zeros_(self.body[-1].weight)

    def forward(self, x: Tensor) -> Tensor:
        shift = self.body(x)
        base = torch.stack([ACROSS, DOWN], -1) + shift[:, None, None]
        return F.grid_sample(x[:, 1:], base, align_corners=True, padding_mode="border")


@forever
def moved(size: int, g: torch.Generator) -> Batch:
    """Two pictures of four blobs, the second moved as a whole; each with noise of its own."""
    places, shift = uniform(g, size, 4, 2, low=-0.6, high=0.6), uniform(g, size, 1, 2, low=-0.35, high=0.35)
    both = torch.stack([blobs(places, 0.25).sum(1), blobs(places + shift, 0.25).sum(1)], 1)
    return both + 0.1 * normal(g, size, 2, 12, 12), shift[:, 0]


def alike(model: nn.Module, batch: Batch) -> Tensor:
    """Light that does not fit after the move, by a robust measure."""
    return ((model(batch[0]) - batch[0][:, :1]).square() + 1e-3).sqrt().mean()


class Turning(nn.Module):
    """Each filter is used in four turns, and the answer is the same for all of them (Cohen and Welling 2016)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(8, 1, 3, 3) / 3)
        self.second = nn.Parameter(torch.randn(16, 8, 4, 3, 3) / 17)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        lifted = torch.stack([self.first.rot90(k, (2, 3)) for k in range(4)], 1).flatten(0, 1)
        hidden = F.max_pool2d(F.relu(F.conv2d(x, lifted, padding=1)), 2)
        turned = [self.second.rot90(k, (3, 4)).roll(k, 2).flatten(1, 2) for k in range(4)]
        hidden = F.conv2d(hidden, torch.stack(turned, 1).flatten(0, 1), padding=1)
        return self.head(F.relu(hidden).amax((2, 3)).unflatten(1, (16, 4)).mean(2))


class Centers(nn.Module):
    """A heatmap of where things are (Zhou et al. 2019); it starts at one in fifty."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 1, 1),
        )
        nn.init.constant_(self.body[-1].bias, -3.9)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


@forever
def crowd(size: int, g: torch.Generator) -> Batch:
    """Two or three blobs on cells of the picture and a map of them that fades with the distance."""
    cells = torch.randint(1, 11, (size, 3, 2), generator=g)
    shown = torch.ones(size, 3, 1, 1)
    shown[:, 2] = (uniform(g, size, 1, 1) < 0.5).float()
    places = GRID[cells]
    x = (shown * blobs(places, 0.2)).sum(1) + 0.15 * normal(g, size, 12, 12)
    return x[:, None], (shown * blobs(places, 0.15)).amax(1, keepdim=True)


def focal(model: nn.Module, batch: Batch) -> Tensor:
    """Centers count as found, all else the less the nearer it is; what is easy hardly counts."""
    out, truth = model(batch[0]), batch[1]
    share, center = out.sigmoid(), truth > 0.999
    hit = (1 - share).square() * F.logsigmoid(out)
    miss = (1 - truth) ** 4 * share.square() * F.logsigmoid(-out)
    return -torch.where(center, hit, miss).sum() / center.sum()


class Matte(nn.Module):
    """Down and up again; the logarithm of a depth for each pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.mid = nn.Conv2d(1, 12, 4, stride=2, padding=1), nn.Conv2d(12, 12, 3, padding=1)
        self.up, self.last = (
            nn.ConvTranspose2d(12, 12, 4, stride=2, padding=1),
            nn.Conv2d(13, 1, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.elu(self.mid(F.elu(self.down(x))))
        return self.last(torch.cat([F.elu(self.up(hidden)), x], 1))


@forever
def depths(size: int, g: torch.Generator) -> Batch:
    """Hills that are darker the farther away, lit by a lamp of unknown strength; logarithms of their depth."""
    hills = blobs(uniform(g, size, 3, 2, low=-1, high=1), 0.45).sum(1, keepdim=True)
    depth = 1.2 - 0.7 * hills
    light = (-depth + 0.3 * normal(g, size, 1, 1, 1)).exp() + 0.1 * normal(g, size, 1, 12, 12)
    return light, depth + 0.15 * normal(g, size, 1, 12, 12)


def any_scale(model: nn.Module, batch: Batch) -> Tensor:
    """Errors of logarithms, where most of a common factor is forgiven (Eigen et al. 2014)."""
    apart = (model(batch[0]) - batch[1]).flatten(1)
    return (apart.square().mean(1) - 0.85 * apart.mean(1).square()).mean()


class Distance(nn.Module):
    """The signed distance of a point to a curve (Gropp et al. 2020)."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp((2, 64, 64, 1), lambda: nn.Softplus(beta=10))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


@forever
def outline(size: int, g: torch.Generator) -> Batch:
    """Points of a rounded flower, measured with noise, and points from anywhere."""
    angle = uniform(g, size, 1, high=6.2832)
    curve = (0.7 + 0.15 * (3 * angle).cos()) * torch.cat([angle.cos(), angle.sin()], 1)
    return curve + 0.03 * normal(g, size, 2), uniform(g, size, 2, low=-1.2, high=1.2)


def unit_slope(model: nn.Module, batch: Batch) -> Tensor:
    """Zero on the curve, and a slope of one everywhere."""
    with torch.enable_grad():
        anywhere = batch[1].detach().clone().requires_grad_()
        slope = torch.autograd.grad(model(anywhere).sum(), anywhere, create_graph=True)[0]
    return model(batch[0]).abs().mean() + 0.1 * (slope.add(1e-8).norm(dim=1) - 1).square().mean()


RUNS: dict[str, dict[str, Build]] = {
    "shapes": {
        "sgd": of_stream(plain_net, shapes, entropy, 48, lr=0.05, steps=200, schedule=linear(200), **SGD),
        "adam": of_stream(plain_net, shapes, entropy, 48, lr=0.012, steps=200, schedule=cosine(200), **ADAM),
    },
    "painter": {
        "adamw": of_custom(
            Painter,
            digits,
            painted,
            48,
            lr=4e-3,
            steps=250,
            weight_decay=0.05,
            schedule=cosine(250, 20),
            **ADAMW,
        ),
    },
    "capsules": {
        "adam": of_custom(Capsules, digits, long_enough, 48, lr=0.015, steps=220, **ADAM),
    },
    "pointing": {
        "adam": of_stream(Pointing, marks, square, 32, lr=5e-3, steps=250, schedule=linear(250), **ADAM),
    },
    "flow": {
        "adam": of_stream(Flow, moved, alike, 48, lr=3e-3, steps=300, schedule=linear(300), **ADAM),
    },
    "turning": {
        "adam": of_stream(Turning, shapes, entropy, 48, lr=0.01, steps=220, schedule=cosine(220), **ADAM),
    },
    "centers": {
        "adam": of_stream(Centers, crowd, focal, 32, lr=5e-3, steps=220, schedule=linear(220), **ADAM),
    },
    "matte": {
        "adam": of_stream(Matte, depths, any_scale, 32, lr=5e-3, steps=250, **ADAM),
    },
    "outline": {
        "adam": of_stream(
            Distance,
            outline,
            unit_slope,
            96,
            800,
            lr=3e-3,
            steps=300,
            slopes=True,
            schedule=linear(300),
            **ADAM,
        ),
    },
}
