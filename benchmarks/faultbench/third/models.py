"""The networks of the third suite, and their losses."""

from __future__ import annotations

import functools
import itertools

import torch
import torch.nn.functional as F
from data import digits, shuffled
from models import Batch, mlp
from torch import Tensor, nn


class Attend(nn.Module):
    """A GRU reads, another writes and looks back at what was read; padding is never looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.told = nn.Embedding(13, 24, padding_idx=0), nn.Embedding(14, 24)
        self.reader = nn.GRU(24, 24, batch_first=True, bidirectional=True)
        self.writer, self.ask = nn.GRU(24, 48, batch_first=True), nn.Linear(48, 48)
        self.mix, self.head = nn.Linear(96, 48), nn.Linear(48, 13)

    def forward(self, x: Tensor, last: Tensor) -> Tensor:
        read, state = self.reader(self.embed(x))
        start = torch.cat([state[0], state[1]], -1)[None]
        wrote = self.writer(self.told(last), start)[0]
        score = self.ask(wrote) @ read.transpose(1, 2) / 48**0.5
        weight = score.masked_fill((x == 0)[:, None], -1e4).softmax(-1)
        return self.head(torch.tanh(self.mix(torch.cat([wrote, weight @ read], -1))))


def shifted(y: Tensor) -> Tensor:
    """What the writer is told: the answer of one place before, and a start sign."""
    return torch.cat([torch.full_like(y[:, :1], 13), y[:, :-1]], 1)


def turned(model: nn.Module, batch: Batch) -> Tensor:
    x, y = batch
    return F.cross_entropy(model(x, shifted(y)).flatten(0, 1), y.flatten(), ignore_index=0)


class Swap(nn.Module):
    """Channels last for what is inside."""

    def __init__(self, *inside: nn.Module) -> None:
        super().__init__()
        self.inside = nn.Sequential(*inside)

    def forward(self, x: Tensor) -> Tensor:
        return self.inside(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Next(nn.Module):
    """A ConvNeXt block: wide depthwise filter, norm, inverted bottleneck, a scale that starts small."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.across = nn.Conv2d(width, width, 5, padding=2, groups=width)
        self.along = Swap(
            nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.GELU(), nn.Linear(3 * width, width)
        )
        self.scale = nn.Parameter(torch.full((width, 1, 1), 0.1))
        self.skipped = 0.0

    def forward(self, x: Tensor) -> Tensor:
        more = self.scale * self.along(self.across(x))
        if self.training and self.skipped:
            more = more * (torch.rand(len(x), 1, 1, 1) >= self.skipped) / (1 - self.skipped)
        return x + more


def convnext() -> nn.Sequential:
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 24, 2, stride=2),
        Next(24),
        Next(24),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.LayerNorm(96),
        nn.Linear(96, 10),
    )


def smoothed(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1], label_smoothing=0.1 if model.training else 0.0)


def series() -> nn.Sequential:
    def block(a: int, b: int) -> list[nn.Module]:
        return [nn.Conv1d(a, b, 5, stride=2, padding=2, bias=False), nn.BatchNorm1d(b), nn.ReLU()]

    return nn.Sequential(
        nn.Unflatten(1, (1, 48)),
        *block(1, 12),
        *block(12, 24),
        *block(24, 24),
        nn.AdaptiveAvgPool1d(2),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(48, 6),
    )


class Sets(nn.Module):
    """Each point on its own, then mean and maximum of all, in any order (Zaheer et al. 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.each, self.all = mlp((3, 40, 40), nn.SiLU), mlp((80, 32, 1), nn.SiLU)

    def forward(self, x: Tensor) -> Tensor:
        h = self.each(x)
        return self.all(torch.cat([h.mean(1), h.amax(1)], -1))


class Euler(nn.Module):
    """The same small change taken six times: an Euler solver of a learned equation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner, self.act, self.outer = nn.Linear(width, 48), nn.Tanh(), nn.Linear(48, width)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(6):
            x = x + self.outer(self.act(self.inner(x))) / 3
        return x


def orbit() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 24), Euler(24), nn.Linear(24, 2))


class Near(nn.Module):
    """Images of one class close together on the sphere."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, 64), nn.LeakyReLU(0.1), nn.Linear(64, 16))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.body(x), dim=-1)


def apart(model: nn.Module, batch: Batch) -> Tensor:
    anchor, alike, other = model(batch[0]).unbind(1)
    return F.triplet_margin_loss(anchor, alike, other, margin=0.5)


def neighbor_errors(model: nn.Module) -> float:
    """Share of held-out digits whose nearest known digit is another one."""
    split = digits()
    with torch.no_grad():
        near = torch.cdist(model(split.val_x), model(split.x))
        # a distance that is not a number is the nearest of all: say so
        if not torch.isfinite(near).all():
            return 1.0
        return float((split.y[near.argmin(1)] != split.val_y).float().mean()) + 0.01


class WideDeep(nn.Module):
    """A linear model of the categories next to a network of their embeddings and the numbers."""

    def __init__(self) -> None:
        super().__init__()
        sizes = (12, 30, 7, 50)
        self.embeds = nn.ModuleList(nn.Embedding(n, 6) for n in sizes)
        self.wide = nn.ModuleList(nn.Embedding(n, 1) for n in sizes)
        for table in (*self.embeds, *self.wide):
            nn.init.normal_(table.weight, std=0.1)
        self.deep = mlp((29, 48, 24, 1), nn.ReLU, dropout=0.1)

    def forward(self, x: Tensor) -> Tensor:
        codes = x[:, :4].long().unbind(1)
        deep = [e(c) for e, c in zip(self.embeds, codes, strict=True)]
        wide = sum(e(c) for e, c in zip(self.wide, codes, strict=True))
        return wide + self.deep(torch.cat([*deep, x[:, 4:]], 1))


def logistic(model: nn.Module, batch: Batch) -> Tensor:
    return F.binary_cross_entropy_with_logits(model(batch[0]), batch[1])


class MaskedModel(nn.Module):
    """Sees both sides and fills in what is hidden (Devlin et al. 2019); a filter looks at what is near."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(97, 48), nn.Embedding(24, 48)
        nn.init.normal_(self.embed.weight, std=0.1)
        nn.init.normal_(self.place.weight, std=0.1)
        self.near = nn.Conv1d(48, 48, 5, padding=2)
        self.block = nn.TransformerEncoderLayer(48, 4, 96, 0.0, "gelu", batch_first=True, norm_first=True)
        self.norm, self.head = nn.LayerNorm(48), nn.Linear(48, 96)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x) + self.place.weight
        h = h + F.gelu(self.near(h.transpose(1, 2))).transpose(1, 2)
        return self.head(self.norm(self.block(h)))


class Denoiser(nn.Module):
    """The noise in a point, given how strong it is; the strength comes in as sines."""

    def __init__(self) -> None:
        super().__init__()
        self.place, self.time = nn.Linear(2, 64), nn.Linear(8, 64)
        self.body = nn.Sequential(
            nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 2)
        )
        self.register_buffer("rates", 2.0 ** torch.arange(4))

    def forward(self, x: Tensor) -> Tensor:
        angle = x[:, 2:] * self.rates
        waves = torch.cat([torch.sin(angle), torch.cos(angle)], 1)
        return self.body(self.place(x[:, :2]) + self.time(waves))


class TwoHeads(nn.Module):
    """One trunk with RMS norms; one head tells the class, another how much ink there is."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm1 = nn.Linear(64, 48), nn.RMSNorm(48)
        self.second, self.norm2 = nn.Linear(48, 48), nn.RMSNorm(48)
        self.act, self.classes, self.ink = nn.GELU(), nn.Linear(48, 10), nn.Linear(48, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.act(self.norm1(self.first(x)))
        h = self.act(self.norm2(self.second(h)))
        return self.classes(h), self.ink(h)


def class_part(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch[0])[0], batch[1][:, 0].long())


def ink_part(model: nn.Module, batch: Batch) -> Tensor:
    return F.mse_loss(model(batch[0])[1], batch[1][:, 1:])


def two_tasks(model: nn.Module, batch: Batch) -> Tensor:
    return class_part(model, batch) + 0.5 * ink_part(model, batch)


def grader() -> nn.Sequential:
    """Four answers to ordered questions."""
    return nn.Sequential(
        nn.Linear(10, 40),
        nn.GroupNorm(4, 40),
        nn.ReLU(),
        nn.Linear(40, 40),
        nn.GroupNorm(4, 40),
        nn.ReLU(),
        nn.Linear(40, 4),
    )


class Distilled(nn.Module):
    """A small student; the frozen teacher it learns from is part of the module, as is often done."""

    def __init__(self) -> None:
        super().__init__()
        self.student, self.teacher = mlp((64, 16, 10), nn.ReLU), mlp((64, 96, 10), nn.ReLU)
        self.teacher.load_state_dict(_teacher())
        self.teacher.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.student(x)


@functools.cache
def _teacher() -> dict[str, Tensor]:
    state = torch.random.get_rng_state()
    torch.manual_seed(0)
    model = mlp((64, 96, 10), nn.ReLU)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for x, y in itertools.islice(shuffled(digits(), 64, 0), 250):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    torch.random.set_rng_state(state)
    return model.state_dict()


def label_part(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def teacher_part(model: nn.Module, batch: Batch) -> Tensor:
    """How far the student is from the softened answers of the teacher."""
    with torch.no_grad():
        goal = (model.teacher(batch[0]) / 3).softmax(-1)
    return 9 * F.kl_div((model(batch[0]) / 3).log_softmax(-1), goal, reduction="batchmean")


def taught(model: nn.Module, batch: Batch) -> Tensor:
    return 0.3 * label_part(model, batch) + 0.7 * teacher_part(model, batch)


class Waves(nn.Module):
    """Fixed sines and cosines of the place (Tancik et al. 2020)."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.register_buffer("rates", 5.0 * torch.randn(2, number))

    def forward(self, x: Tensor) -> Tensor:
        angle = x @ self.rates
        return torch.cat([torch.sin(angle), torch.cos(angle)], -1)


def fourier() -> nn.Sequential:
    return nn.Sequential(
        Waves(48), nn.Linear(96, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1)
    )


class Forecaster(nn.Module):
    """Two LSTM layers with dropout between them; the last state tells the next hours."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTM(1, 32, 2, batch_first=True, dropout=0.1)
        self.head = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x)[0][:, -1])


def robust(model: nn.Module, batch: Batch) -> Tensor:
    return F.smooth_l1_loss(model(batch[0]), batch[1], beta=0.5)


# The two parts of the losses that have two
TERMS = {two_tasks: (class_part, ink_part), taught: (label_part, teacher_part)}
