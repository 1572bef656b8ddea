"""Networks of the sixth suite and the losses that are their own."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from models import Batch
from torch import Tensor, nn
from torch.nn.utils import parametrizations


def turn_net() -> nn.Sequential:
    """Convolutions with group normalization."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.GroupNorm(4, 16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 24, 3, padding=1),
        nn.GroupNorm(4, 24),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(96, 4),
    )


def upscaler() -> nn.Sequential:
    """Twice the pixels from channels that change places with them (Shi et al. 2016)."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.PReLU(),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.PReLU(),
        nn.Conv2d(16, 4, 3, padding=1),
        nn.PixelShuffle(2),
    )


def charbonnier(model: nn.Module, batch: Batch) -> Tensor:
    return ((model(batch[0]) - batch[1]).square() + 1e-4).sqrt().mean()


class Field(nn.Module):
    """Features on three grids of the plane, and a small network behind (Mueller et al. 2022)."""

    def __init__(self) -> None:
        super().__init__()
        self.grids = nn.ParameterList(0.1 * torch.randn(1, 4, n, n) for n in (6, 14, 32))
        self.net = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3))

    def forward(self, x: Tensor) -> Tensor:
        at = x[None, None]
        found = [F.grid_sample(grid, at, align_corners=True)[0, :, 0].T for grid in self.grids]
        return self.net(torch.cat(found, 1))


class Prototypes(nn.Module):
    """Distances of what is asked to the mean of each kind's examples (Snell et al. 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, 32))

    def forward(self, x: Tensor) -> Tensor:
        codes = self.net(x)
        means, asked = codes[:, :, :3].mean(2), codes[:, :, 3:].flatten(1, 2)
        return -(asked[:, :, None] - means[:, None]).square().sum(-1)


def told_apart(model: nn.Module, batch: Batch) -> Tensor:
    scores = model(batch[0])
    right = torch.arange(5).repeat_interleave(8).expand(len(scores), -1)
    return F.cross_entropy(scores.flatten(0, 1), right.flatten())


class Adder(nn.Module):
    """The distribution of a sum of two digits, each read by the same network."""

    def __init__(self) -> None:
        super().__init__()
        self.read = nn.Sequential(
            nn.Conv2d(1, 12, 3, padding=1),
            nn.ELU(),
            nn.MaxPool2d(2),
            nn.Conv2d(12, 24, 3, padding=1),
            nn.ELU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(96, 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        first, second = (self.read(part.reshape(-1, 1, 8, 8)).softmax(-1) for part in x.split(64, 1))
        both = first[:, :, None] * second[:, None]
        return torch.stack([both.flip(2).diagonal(9 - k, 1, 2).sum(-1) for k in range(19)], 1)


def summed_up(model: nn.Module, batch: Batch) -> Tensor:
    return F.nll_loss((model(batch[0]) + 1e-6).log(), batch[1])


class Translator(nn.Module):
    """A transformer that reads one row and writes another (Vaswani et al. 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.wrote = nn.Embedding(22, 40), nn.Embedding(11, 40)
        self.place: nn.Parameter | None = nn.Parameter(0.3 * torch.randn(2, 8, 40))
        self.encoder = nn.TransformerEncoderLayer(40, 4, 80, 0.0, batch_first=True, norm_first=True)
        self.decoder = nn.TransformerDecoderLayer(40, 4, 80, 0.0, batch_first=True, norm_first=True)
        self.norm, self.head = nn.LayerNorm(40), nn.Linear(40, 10)
        self.register_buffer("mask", torch.full((8, 8), float("-inf")).triu(1))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        told = torch.cat([torch.full_like(y[:, :1], 10), y[:, :-1]], 1)
        source, target = self.read(x), self.wrote(told)
        if self.place is not None:
            source, target = source + self.place[0, :7], target + self.place[1]
        return self.head(self.norm(self.decoder(target, self.encoder(source), tgt_mask=self.mask)))


def written(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(*batch).flatten(0, 1), batch[1].flatten())


def churn_net() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(14, 64),
        nn.BatchNorm1d(64),
        nn.LeakyReLU(0.1),
        nn.Linear(64, 32),
        nn.BatchNorm1d(32),
        nn.LeakyReLU(0.1),
        nn.Linear(32, 3),
    )


def price_net() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(9, 64),
        nn.ReLU(),
        nn.Linear(64, 48),
        nn.ReLU(),
        nn.Linear(48, 32),
        nn.ReLU(),
        nn.Linear(32, 1),
    )


def tumor_net() -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(20), nn.Linear(20, 48), nn.ELU(), nn.Linear(48, 24), nn.ELU(), nn.Linear(24, 10)
    )


class Direction(nn.Module):
    """A unit vector, from layers whose weights have a length of their own."""

    def __init__(self) -> None:
        super().__init__()
        sizes = ((9, 48), (48, 48), (48, 2))
        self.layers = nn.ModuleList(parametrizations.weight_norm(nn.Linear(a, b)) for a, b in sizes)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = F.gelu(layer(x))
        return F.normalize(self.layers[-1](x), dim=-1)


def turned_off(model: nn.Module, batch: Batch) -> Tensor:
    """One less the cosine of the angle between."""
    return (1 - (model(batch[0]) * batch[1]).sum(-1)).mean()


class Segmenter(nn.Module):
    """Down and up again with instance normalization; one number for each pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 12, 3, padding=1),
            nn.InstanceNorm2d(12, affine=True),
            nn.ReLU(),
            nn.Conv2d(12, 20, 3, stride=2, padding=1),
            nn.InstanceNorm2d(20, affine=True),
            nn.ReLU(),
            nn.Conv2d(20, 20, 3, padding=2, dilation=2),
            nn.ReLU(),
            nn.ConvTranspose2d(20, 12, 2, stride=2),
            nn.ReLU(),
            nn.Conv2d(12, 1, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def overlap(model: nn.Module, batch: Batch) -> Tensor:
    """Cross entropy of the pixels, and what the areas do not share."""
    out = model(batch[0])
    chance = out.sigmoid()
    shared = 2 * (chance * batch[1]).sum((1, 2, 3)) + 1
    dice = shared / (chance.sum((1, 2, 3)) + batch[1].sum((1, 2, 3)) + 1)
    return F.binary_cross_entropy_with_logits(out, batch[1]) + (1 - dice).mean()


class Messages(nn.Module):
    """Two rounds of messages along the bonds, kept by a gated unit (Gilmer et al. 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.message = nn.Linear(6, 24), nn.Linear(49, 24)
        self.keep, self.out = (
            nn.GRUCell(24, 24),
            nn.Sequential(nn.Linear(30, 32), nn.ReLU(), nn.Linear(32, 1)),
        )

    def forward(self, x: Tensor) -> Tensor:
        bonds, kinds = x[..., :9], x[..., 9:]
        each = torch.cat([kinds, bonds.sum(-1, keepdim=True), (bonds != 0).sum(-1, keepdim=True)], -1)
        state = torch.relu(self.into(each))
        for _ in range(2):
            pair = torch.cat(
                [
                    state[:, :, None].expand(-1, -1, 9, -1),
                    state[:, None].expand(-1, 9, -1, -1),
                    bonds[..., None],
                ],
                -1,
            )
            sent = (torch.relu(self.message(pair)) * (bonds != 0)[..., None]).sum(2)
            state = self.keep(sent.flatten(0, 1), state.flatten(0, 1)).unflatten(0, (-1, 9))
        return self.out(torch.cat([state, each], -1)).sum(1) / 3


class Policy(nn.Module):
    """Pushes a pole that falls by itself; the whole way can be differentiated."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))
        self.pause = 0.1

    def forward(self, x: Tensor) -> Tensor:
        angle, speed = x.unbind(1)
        cost = torch.zeros_like(angle)
        for _ in range(12):
            push = self.net(torch.stack([angle, speed], 1))[:, 0]
            cost = cost + angle.square() + 0.1 * speed.square() + 0.005 * push.square()
            speed = speed + self.pause * (5 * angle.sin() + push)
            angle = angle + self.pause * speed
        return cost / 12


def cost(model: nn.Module, batch: Batch) -> Tensor:
    return model(batch[0]).mean()


class Twins(nn.Module):
    """Codes of two views."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(64, 64), nn.LayerNorm(64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 16)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first, second = x.split(64, 1)
        return self.net(first), self.net(second)


def redundancy(model: nn.Module, batch: Batch) -> Tensor:
    """How far the correlations of two views' codes are from one and zero (Zbontar et al. 2021)."""
    first, second = model(batch[0])
    a, b = ((c - c.mean(0)) / (c.std(0) + 1e-3) for c in (first, second))
    correlation = a.T @ b / len(a)
    diagonal = correlation.diagonal()
    rest = correlation.square().sum() - diagonal.square().sum()
    return ((1 - diagonal).square().sum() + 0.1 * rest) / 16


class Waiting(nn.Module):
    """The distribution of the next waiting time after each."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.GRU(1, 32, batch_first=True), nn.Linear(32, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x)[0])


def waited(model: nn.Module, batch: Batch) -> Tensor:
    """Likelihood of a lognormal distribution, up to a constant that keeps it above zero."""
    mean, raw = model(batch[0]).chunk(2, -1)
    spread = F.softplus(raw) + 0.05
    return (0.5 * ((batch[1] - mean) / spread).square() + spread.log()).mean() + 2.0


def wait_error(model: nn.Module, batch: Batch) -> Tensor:
    return F.mse_loss(model(batch[0])[..., :1], batch[1])


class Energy(nn.Module):
    """Changes of places and momenta from the slope of one learned energy (Greydanus et al. 2019)."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(4, 48), nn.Softplus(beta=2), nn.Linear(48, 48), nn.Softplus(beta=2), nn.Linear(48, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            slope = torch.autograd.grad(self.net(x).sum(), x, create_graph=True)[0]
        return torch.cat([slope[:, 2:], -slope[:, :2]], 1)


class Pooling(nn.Module):
    """Gated attention says which pieces of a bag matter (Ilse et al. 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.piece = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())
        self.look, self.gate, self.weigh = nn.Linear(32, 16), nn.Linear(32, 16), nn.Linear(16, 3)
        self.head, self.over = nn.Linear(96, 3), 1

    def forward(self, x: Tensor) -> Tensor:
        pieces = self.piece(x)
        scores = self.weigh(torch.tanh(self.look(pieces)) * torch.sigmoid(self.gate(pieces)))
        return self.head(torch.einsum("bnk,bnd->bkd", scores.softmax(self.over), pieces).flatten(1))


class Filters(nn.Module):
    """Filters of three widths over letters, and the largest of each (Kim 2014)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(96, 24, padding_idx=0)
        self.filters = nn.ModuleList(nn.Conv1d(24, 32, width) for width in (3, 4, 6))
        self.drop, self.head = nn.Dropout(0.2), nn.Linear(96, 4)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.embed(x).transpose(1, 2)
        return self.head(self.drop(torch.cat([F.relu(f(rows)).amax(2) for f in self.filters], 1)))


class Gates(nn.Module):
    """Four small experts; each task has a gate and a head of its own (Ma et al. 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU()) for _ in range(4)
        )
        self.gates = nn.ModuleList(nn.Linear(12, 4) for _ in range(3))
        self.heads = nn.ModuleList(nn.Linear(16, n) for n in (1, 1, 3))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        each = torch.stack([expert(x) for expert in self.experts], 1)
        mixed = [torch.einsum("be,bed->bd", gate(x).softmax(-1), each) for gate in self.gates]
        return tuple(head(part) for head, part in zip(self.heads, mixed, strict=True))


def three_tasks(model: nn.Module, batch: Batch) -> Tensor:
    stay, urgent, ward = model(batch[0])
    y = batch[1]
    urgency = F.binary_cross_entropy_with_logits(urgent[:, 0], y[:, 1])
    return F.mse_loss(stay[:, 0], y[:, 0]) + urgency + F.cross_entropy(ward, y[:, 2].long())


class Counts(nn.Module):
    """Logarithm of a rate, and the odds that a station is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(7, 48), nn.Tanh(), nn.Linear(48, 48), nn.Tanh())
        self.rate, self.closed = nn.Linear(48, 1), nn.Linear(48, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.body(x)
        return self.rate(hidden), self.closed(hidden)


def inflated(model: nn.Module, batch: Batch) -> Tensor:
    """Likelihood of a Poisson distribution with more zeros than it should have."""
    log_rate, closed = model(batch[0])
    y = batch[1]
    open_log, shut_log = F.logsigmoid(-closed), F.logsigmoid(closed)
    some = open_log + y * log_rate - log_rate.exp() - torch.lgamma(y + 1)
    none = torch.logaddexp(shut_log, open_log - log_rate.exp())
    return -torch.where(y > 0, some, none).mean()
