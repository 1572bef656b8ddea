"""Networks of the tenth suite whose inside is unlike that of all before."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from data import digits
from eighth.architectures_common import fixed, forever, normal, of_stream
from eighth.habits_data import glyphs, kinds, letters, made, sensors
from fourth.runs import cosine, linear
from models import Batch, Setup, entropy, mlp, square
from torch import Tensor, nn


class _Mixing(nn.Module):
    """Mixes patches, then channels, by the same kind of layer."""

    def __init__(self, places: int, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.across, self.within = mlp((places, 24, places), nn.GELU), mlp((width, 64, width), nn.GELU)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.across(self.first(x).transpose(1, 2)).transpose(1, 2)
        return x + self.within(self.second(x))


class _Mixer(nn.Module):
    """Sixteen patches that talk through plain layers only."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.blocks = nn.Linear(4, 32), nn.Sequential(_Mixing(16, 32), _Mixing(16, 32))
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        patches = x.reshape(-1, 4, 2, 4, 2).transpose(2, 3).reshape(-1, 16, 4)
        return self.head(self.blocks(self.embed(patches)).mean(1))


def mixer(seed: int) -> Setup:
    """Digits by a network of layers over places and over channels (Tolstikhin et al. 2021)."""
    more = {"optimizer": "adamw", "weight_decay": 0.05, "schedule": cosine(220, 15)}
    return made(_Mixer(), digits(), seed, lr=1e-2, size=48, **more)


class _Waves(nn.Module):
    """Mixes a text by a Fourier transform, which has nothing to learn."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(12, 32), nn.Parameter(0.1 * torch.randn(16, 32))
        self.norms = nn.ModuleList(nn.LayerNorm(32) for _ in range(4))
        self.layers = nn.ModuleList(mlp((32, 64, 32), nn.GELU) for _ in range(2))
        self.head = nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.embed(x) + self.place
        for at, layer in enumerate(self.layers):
            hidden = self.norms[2 * at](hidden + torch.fft.fft2(hidden).real / 16)
            hidden = self.norms[2 * at + 1](hidden + layer(hidden))
        return self.head(hidden.mean(1))


@forever
def _polls(size: int, g: torch.Generator) -> Batch:
    """Sixteen words of twelve; the party that is named most often among three is asked for."""
    x = torch.randint(12, (size, 16), generator=g)
    votes = torch.stack([(x // 4 == k).sum(1) for k in range(3)], 1)
    return x, (votes + torch.tensor([0.2, 0.1, 0.0])).argmax(1)


def waves(seed: int) -> Setup:
    """Transforms in the place of attention (Lee-Thorp et al. 2022)."""
    return of_stream(_Waves, _polls, entropy, 64, lr=1e-2, steps=220, schedule=linear(220), optimizer="adam")(
        seed
    )


class _FastWeights(nn.Module):
    """Writes values under keys into a matrix, each time in the place of what was there."""

    def __init__(self) -> None:
        super().__init__()
        self.keys, self.values = nn.Embedding(8, 16), nn.Embedding(8, 16)
        self.strength, self.head = nn.Linear(16, 1), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        memory = torch.zeros(len(x), 16, 16)
        for at in range((x.shape[1] - 1) // 2):
            key, value = F.normalize(self.keys(x[:, 2 * at]), dim=1), self.values(x[:, 2 * at + 1])
            known = (memory @ key[..., None])[..., 0]
            change = self.strength(key).sigmoid() * (value - known)
            memory = memory + change[..., None] * key[:, None]
        asked = F.normalize(self.keys(x[:, -1]), dim=1)
        return self.head((memory @ asked[..., None])[..., 0])


@forever
def _notes(size: int, g: torch.Generator) -> Batch:
    """Eight pairs of name and thing; the last thing that was noted under a name is asked for, and told wrong at times."""
    x = torch.randint(8, (size, 17), generator=g)
    rows, asked = torch.arange(size), torch.randint(8, (size,), generator=g)
    x[:, -1] = x[rows, 2 * asked]
    at = (x[:, 0:16:2] == x[:, -1:]).long() * torch.arange(1, 9)
    told, other = x[rows, 2 * at.argmax(1) + 1], torch.randint(8, (size,), generator=g)
    return x, torch.where(torch.rand(size, generator=g) < 0.1, other, told)


def fast_weights(seed: int) -> Setup:
    """A memory that is written by the delta rule while it reads (Schlag et al. 2021)."""
    more = {"lr": 2e-2, "steps": 200, "schedule": cosine(200), "optimizer": "adam"}
    return of_stream(_FastWeights, _notes, entropy, 64, **more)(seed)


class _Balance(nn.Module):
    """The state at which a layer stays; gradients go through its last step only."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.turn, self.head = nn.Linear(16, 48), nn.Linear(48, 48), nn.Linear(48, 6)
        nn.init.normal_(self.turn.weight, std=0.05)

    def forward(self, x: Tensor) -> Tensor:
        given = self.read(x)
        with torch.no_grad():
            state = torch.zeros_like(given)
            for _ in range(12):
                state = (self.turn(state) + given).tanh()
        return self.head((self.turn(state) + given).tanh())


def balance(seed: int) -> Setup:
    """An equilibrium of a layer (Bai et al. 2019), whose slope is taken for that of one step (Fung 2022)."""
    return made(_Balance(), kinds(), seed, lr=2e-2, schedule=linear(220))


class _Edges(nn.Module):
    """Each point looks at what its six nearest ones are like, seen from it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = mlp((6, 32, 32), nn.ReLU), mlp((64, 48), nn.ReLU)
        self.head = nn.Linear(48, 4)

    def forward(self, x: Tensor) -> Tensor:
        near = torch.cdist(x, x).topk(6, largest=False).indices
        for layer in (self.first, self.second):
            rows = torch.arange(len(x))[:, None, None]
            x = layer(torch.cat([x[:, :, None].expand(-1, -1, 6, -1), x[rows, near] - x[:, :, None]], 3))
            x = x.amax(2)
        return self.head(x.amax(1))


@forever
def _bodies(size: int, g: torch.Generator) -> Batch:
    """24 points each of balls, boxes, rings and sticks, turned about the upright axis."""
    kind, x = torch.randint(4, (size,), generator=g), normal(g, size, 24, 3)
    round_ = F.normalize(x, dim=2)
    flat = F.normalize(x * torch.tensor([1.0, 1.0, 0.0]), dim=2)
    box = x.clamp(-0.8, 0.8) / x.clamp(-0.8, 0.8).abs().amax(2, keepdim=True) * 0.8
    stick = x * torch.tensor([0.15, 0.15, 0.9])
    shape = torch.stack([round_, box, flat, stick])[kind, torch.arange(size)]
    a = 6.28 * torch.rand(size, generator=g)
    turn = torch.stack([a.cos(), -a.sin(), 0 * a, a.sin(), a.cos(), 0 * a, 0 * a, 0 * a, 1 + 0 * a], 1)
    return shape @ turn.reshape(-1, 3, 3) + 0.12 * normal(g, size, 24, 3), kind


def edges(seed: int) -> Setup:
    """Points and their neighbors (Wang et al. 2019)."""
    more = {"lr": 8e-3, "steps": 130, "schedule": cosine(130), "optimizer": "adam"}
    return of_stream(_Edges, _bodies, entropy, 24, 200, **more)(seed)


class _Tanh(nn.Module):
    """Squeezes by a learned amount instead of a norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.pace, self.scale = nn.Parameter(torch.tensor(0.5)), nn.Parameter(torch.ones(width))
        self.shift = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * (self.pace * x).tanh() + self.shift


class _Normless(nn.Module):
    """A causal transformer with no norm in it; its scores are held below fifteen."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(10, 32), nn.Parameter(0.02 * torch.randn(12, 32))
        self.parts = nn.ModuleList(
            nn.ModuleList(
                [_Tanh(32), nn.Linear(32, 96), nn.Linear(32, 32), _Tanh(32), mlp((32, 64, 32), nn.SiLU)]
            )
            for _ in range(2)
        )
        self.last, self.head = _Tanh(32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.embed(x) + self.place
        for squeeze, ask, tell, again, within in self.parts:
            q, k, v = ask(squeeze(hidden)).reshape(*x.shape, 3, 2, 16).permute(2, 0, 3, 1, 4)
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            hidden = hidden + tell(mixed.transpose(1, 2).flatten(2))
            hidden = hidden + within(again(hidden))
        return 15 * (self.head(self.last(hidden)) / 15).tanh()


def normless(seed: int) -> Setup:
    """Letters by a transformer without norms (Zhu et al. 2025) and with soft caps on its scores."""
    more = {"optimizer": "adamw", "weight_decay": 0.05, "schedule": cosine(220, 20), "clip": 1.0}
    return made(_Normless(), letters(), seed, lr=1.5e-2, size=24, steps=220, **more)


class _Chosen(nn.Module):
    """Five ways to do each of two layers, and a softmax that says how much of each."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.head = nn.Linear(10, 40), nn.Linear(40, 1)
        self.ways = nn.ModuleList(nn.ModuleList(nn.Linear(40, 40) for _ in range(3)) for _ in range(2))
        self.choice = nn.Parameter(torch.zeros(2, 5))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.read(x)
        for ways, choice in zip(self.ways, self.choice.softmax(1), strict=True):
            out = [ways[0](hidden).relu(), ways[1](hidden).tanh(), ways[2](hidden).sin(), hidden, 0 * hidden]
            hidden = sum(c * o for c, o in zip(choice, out, strict=True))
        return self.head(hidden)


def chosen_ways(seed: int) -> Setup:
    """What a layer does is searched for along with its weights (Liu et al. 2019), on one set of rows."""
    return made(_Chosen(), sensors(), seed, square, lr=1.5e-2, steps=320, schedule=cosine(320))


class _Paced(nn.Module):
    """Steps of one cell, after each of which it may stop."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.stop, self.head = nn.GRUCell(16, 48), nn.Linear(48, 1), nn.Linear(48, 6)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        state, going, told, chance = torch.zeros(len(x), 48), torch.ones(len(x), 1), [], []
        for at in range(5):
            state = self.cell(x, state)
            here = self.stop(state).sigmoid() if at < 4 else torch.ones_like(going)
            told.append(self.head(state))
            chance.append(going * here)
            going = going * (1 - here)
        return torch.stack(told, 1), torch.cat(chance, 1)


def _pondered(model: nn.Module, batch: Batch) -> Tensor:
    told, chance = model(batch[0])
    costs = F.cross_entropy(told.flatten(0, 1), batch[1].repeat_interleave(5), reduction="none")
    prior = torch.tensor([0.4, 0.24, 0.144, 0.0864, 0.1296])
    pace = (chance * (chance.clamp(min=1e-6) / prior).log()).sum(1).mean()
    return (chance * costs.reshape(-1, 5)).sum(1).mean() + 0.05 * pace


def paced(seed: int) -> Setup:
    """How long to think is learned as well (Banino et al. 2021)."""
    return made(_Paced(), kinds(), seed, _pondered, lr=1.5e-2, steps=240, schedule=linear(240))


class _Unlocked(nn.Module):
    """Filters without norms: each branch ends at zero, with one number before each layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 16, 3, padding=1)
        self.branches = nn.ModuleList(
            nn.ModuleList(nn.Conv2d(16, 16, 3, padding=1, bias=False) for _ in range(2)) for _ in range(4)
        )
        self.shifts, self.scales = nn.Parameter(torch.zeros(4, 4)), nn.Parameter(torch.ones(4))
        self.head = nn.Linear(64, 6)
        for one, two in self.branches:
            nn.init.kaiming_normal_(one.weight)
            one.weight.data.div_(2.0)
            nn.init.zeros_(two.weight)
        nn.init.zeros_(self.head.weight)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x.reshape(-1, 1, 8, 8)).relu()
        for (one, two), shift, scale in zip(self.branches, self.shifts, self.scales, strict=True):
            inner = one(hidden + shift[0]) + shift[1]
            hidden = (hidden + scale * two(inner.relu() + shift[2]) + shift[3]).relu()
        return self.head(F.adaptive_avg_pool2d(hidden, 2).flatten(1))


def no_norms(seed: int) -> Setup:
    """Residual filters that need no norm as they begin at nothing, and so does the head (Zhang 2019)."""
    more = {"optimizer": "sgd", "weight_decay": 5e-4, "schedule": cosine(200, 10), "clip": 1.0}
    return made(_Unlocked(), glyphs(), seed, lr=0.1, size=48, steps=200, **more)


@forever
def _tides(size: int, g: torch.Generator) -> Batch:
    """A time, far and near, and a level with two periods and a slow rise."""
    t = 6 * torch.rand(size, 1, generator=g) - 3
    return t, (4 * t).sin() + 0.5 * (9 * t + 1).cos() + 0.3 * t + 0.1 * normal(g, size, 1)


class _Snake(nn.Module):
    """x and a squared sine, whose pace each unit learns."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.pace = nn.Parameter(3 * fixed(1001, width).abs() + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x + (self.pace * x).sin().square() / self.pace


def snakes(seed: int) -> Setup:
    """A periodic activation with a learned pace, for tides (Ziyin et al. 2020)."""

    def net() -> nn.Module:
        return nn.Sequential(nn.Linear(1, 48), _Snake(48), nn.Linear(48, 48), _Snake(48), nn.Linear(48, 1))

    more = {"lr": 6e-3, "steps": 400, "schedule": cosine(400), "optimizer": "adam"}
    return of_stream(net, _tides, square, 64, **more)(seed)


MADE: dict[str, Callable[[int], Setup]] = {
    f.__name__: f
    for f in (
        mixer,
        waves,
        fast_weights,
        balance,
        edges,
        normless,
        chosen_ways,
        paced,
        no_norms,
        snakes,
    )
}
