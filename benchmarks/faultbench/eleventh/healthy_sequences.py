"""Sound runs on text, sound and series: parsing, letters, pairs, keywords, noise and traffic."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from eighth.architectures_common import fixed, normal, uniform
from fourth.runs import cosine, linear
from models import Batch, Setup, entropy
from tenth.judged_data import of_made, one_cycle
from torch import Tensor, nn


class _RootNorm(nn.Module):
    """Length one by root mean square, times a learned size (Zhang and Sennrich 2019)."""

    def __init__(self, wide: int) -> None:
        super().__init__()
        self.size = nn.Parameter(torch.ones(wide))

    def forward(self, x: Tensor) -> Tensor:
        return self.size * x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt()


class _Layer(nn.Module):
    """Attention with turned queries and shared keys, and a gated layer (Touvron et al. 2023)."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = _RootNorm(32), _RootNorm(32)
        self.ask, self.keep, self.join = (nn.Linear(32, n, bias=False) for n in (32, 16, 32))
        self.gate, self.up, self.down = (
            nn.Linear(a, b, bias=False) for a, b in ((32, 64), (32, 64), (64, 32))
        )
        angle = torch.arange(32.0)[:, None] * 100.0 ** (-torch.arange(4) / 4)
        self.register_buffer("turn", torch.stack([angle.cos(), angle.sin()]))

    def turned(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, -1)
        cos, sin = self.turn
        return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.one(x)
        ask = self.turned(self.ask(y).reshape(len(x), 32, 4, 8).transpose(1, 2))
        key, value = self.keep(y)[:, None].chunk(2, -1)
        mixed = F.scaled_dot_product_attention(
            ask, self.turned(key).expand_as(ask), value.expand_as(ask), is_causal=True
        )
        x = x + self.join(mixed.transpose(1, 2).reshape(len(x), 32, 32))
        y = self.two(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class _Letters(nn.Module):
    """Two such layers over twenty letters."""

    def __init__(self) -> None:
        super().__init__()
        self.letters = nn.Embedding(20, 32)
        nn.init.normal_(self.letters.weight, std=0.3)
        self.body = nn.Sequential(_Layer(), _Layer(), _RootNorm(32), nn.Linear(32, 20, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.letters(x))


def _text(size: int, g: torch.Generator) -> Batch:
    """Words of four letters from a list of forty by Zipf's law, with letter 0 between."""
    words = torch.randint(1, 20, (40, 4), generator=torch.Generator().manual_seed(11_040))
    chance = 1 / (torch.arange(40) + 2.0)
    picks = torch.multinomial(chance, 8 * size, replacement=True, generator=g)
    text = F.pad(words[picks], (0, 1)).reshape(size, 40)
    starts = torch.randint(7, (size, 1), generator=g)
    rows = text.gather(1, starts + torch.arange(33))
    return rows[:, :-1], rows[:, 1:]


def gated_letters(seed: int) -> Setup:
    """Letters of a small language; the rate warms up, stays, and falls in the last fifth (Hu et al. 2024)."""
    hold = lambda k: min((k + 1) / 20, 1.0, max(0.05, (200 - k) / 40))  # noqa: E731
    more: dict[str, Any] = {"optimizer": "adamw", "weight_decay": 0.1, "clip": 1.0, "schedule": hold}
    more["options"] = {"betas": (0.9, 0.95)}
    return of_made(_Letters(), _text, seed, entropy, lr=6e-3, steps=200, size=16, number=80, **more)


class _Parser(nn.Module):
    """Which word each word hangs on: an LSTM both ways, a product of both roles (Dozat and Manning 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(50, 24)
        self.read = nn.LSTM(24, 24, batch_first=True, bidirectional=True)
        self.child, self.head = (nn.Sequential(nn.Linear(48, 32), nn.ReLU()) for _ in range(2))
        self.pair, self.alone = nn.Parameter(torch.eye(32) / 4), nn.Linear(32, 1)

    def forward(self, x: Tensor) -> Tensor:
        code = self.read(self.words(x))[0]
        child, head = self.child(code), self.head(code)
        return child @ self.pair @ head.transpose(1, 2) + self.alone(head).transpose(1, 2)


def _trees(size: int, g: torch.Generator) -> Batch:
    """Ten words of four sorts: verbs hang on the first word, nouns on the last verb; some at random."""
    words = torch.randint(50, (size, 10), generator=g)
    sort = words % 4
    words[:, 0], sort[:, 0] = 0, 0
    at = torch.arange(10).expand(size, 10)
    verb = torch.where(sort == 0, at, 0).cummax(1).values
    noun = torch.where(sort == 1, at, 9 * (at == 9))
    later = torch.where(noun > 0, noun, 9).flip(1).cummin(1).values.flip(1)
    heads = torch.stack([torch.zeros_like(at), verb, later, (at - 1).clamp(min=0)])
    chosen = heads.gather(0, sort[None])[0]
    stray = uniform(g, size, 10) < 0.03
    return words, torch.where(stray, torch.randint(10, (size, 10), generator=g), chosen)


def parser(seed: int) -> Setup:
    """A parser of small sentences, with Adam, a clip and a rate that falls in a line."""
    more: dict[str, Any] = {"options": {"betas": (0.9, 0.9)}, "clip": 5.0, "schedule": linear(300)}
    return of_made(_Parser(), _trees, seed, entropy, lr=8e-3, steps=300, size=32, number=200, **more)


class _Entails(nn.Module):
    """Two sentences by the same reader, their gap and their product (Conneau et al. 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(60, 24)
        self.read = nn.Sequential(
            nn.Conv1d(24, 48, 1), nn.ReLU(), nn.Conv1d(48, 48, 1), nn.AdaptiveMaxPool1d(1)
        )
        self.out = nn.Sequential(nn.Linear(192, 48), nn.ReLU(), nn.Dropout(0.1), nn.Linear(48, 3))

    def forward(self, x: Tensor) -> Tensor:
        a, b = (self.read(self.words(part).transpose(1, 2))[..., 0] for part in (x[:, :6], x[:, 6:]))
        return self.out(torch.cat([a, b, (a - b).abs(), a * b], 1))


def _claims(size: int, g: torch.Generator) -> Batch:
    """Six words; two words that follow from them, do not, or deny one (word + 30); a few are mistold."""
    first = uniform(g, size, 30).argsort(1)
    said, other = first[:, :6], first[:, 6:]
    kind = torch.randint(3, (size,), generator=g)
    second = torch.where(kind[:, None] == 1, other[:, :2], said[:, :2])
    second = torch.where(kind[:, None] == 2, second + torch.tensor([0, 30]), second)
    second = second.gather(1, uniform(g, size, 2).argsort(1))
    told = torch.where(uniform(g, size) < 0.1, torch.randint(3, (size,), generator=g), kind)
    mixed = said.gather(1, uniform(g, size, 6).argsort(1))
    return torch.cat([mixed, second], 1), told


def entails(seed: int) -> Setup:
    """Does one sentence follow from another? Adam at one rate with a little dropout."""
    return of_made(_Entails(), _claims, seed, entropy, lr=3e-3, steps=300, size=64, number=600)


def _spectra(sound: Tensor) -> Tensor:
    """Logarithm of how loud each of 33 bands is in each of 31 windows."""
    power = torch.stft(sound, 64, 32, window=torch.hann_window(64), return_complex=True, center=False).abs()
    return (power.square() + 1e-2).log()[:, None]


def _keywords(size: int, g: torch.Generator) -> Batch:
    """Eight words as sounds: two tones each, that rise, fall or stay, at any pitch, with hiss."""
    kind, at = torch.randint(8, (size,), generator=g), torch.arange(1024) / 1024
    pitch = uniform(g, size, 1, low=0.9, high=1.1) * (40 + 25 * (kind % 2)[:, None])
    slope = torch.tensor([-60.0, 60.0])[(kind // 2) % 2][:, None]
    second = torch.tensor([2.0, 3.0])[kind // 4][:, None]
    start = uniform(g, size, 1, low=0.0, high=0.3)
    env = torch.exp(-(((at - start - 0.35) / 0.2) ** 2))
    phase = 2 * math.pi * (pitch * 2 * at + slope * at.square())
    sound = env * (phase.sin() + 0.7 * (second * phase + 6 * uniform(g, size, 1)).sin())
    return _spectra(sound + 0.7 * normal(g, size, 1024)), kind


def keywords(seed: int) -> Setup:
    """Spoken words from their spectra by filters that are split in two (Zhang et al. 2017), with momentum."""
    layers: list[nn.Module] = [
        nn.BatchNorm2d(1),
        nn.Conv2d(1, 16, 3, 2, 1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
    ]
    for stride in (1, 2, 1):
        layers += [nn.Conv2d(16, 16, 3, stride, 1, groups=16, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
        layers += [nn.Conv2d(16, 16, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d((4, 1)), nn.Flatten(), nn.Linear(64, 8))
    more: dict[str, Any] = {"optimizer": "sgd", "weight_decay": 1e-4, "options": {"nesterov": True}}
    fall = cosine(220, 20)
    return of_made(
        model, _keywords, seed, entropy, lr=0.05, steps=220, size=24, number=150, schedule=fall, **more
    )


class _Cleaner(nn.Module):
    """A GRU both ways over spectra that says how much of each band to keep."""

    def __init__(self) -> None:
        super().__init__()
        self.read = nn.GRU(33, 32, batch_first=True, bidirectional=True)
        self.keep = nn.Linear(64, 33)

    def forward(self, x: Tensor) -> Tensor:
        return self.keep(self.read((x + 1e-2).log() / 2 + 1)[0]).sigmoid() * x


def _speech(size: int, g: torch.Generator) -> Batch:
    """How loud bands are of a voice with three overtones in coloured noise, and of the voice alone."""
    at = torch.arange(544) / 544
    pitch = uniform(g, size, 1, low=18, high=50) * (1 + 0.1 * (6 * at + 6 * uniform(g, size, 1)).sin())
    phase = 2 * math.pi * pitch.cumsum(1) / 544
    voice = sum((phase * n).sin() / n for n in (1, 2, 3)) * (uniform(g, size, 8) > 0.3).repeat_interleave(
        68, 1
    )
    hiss = normal(g, size, 544)
    noise = uniform(g, size, 1, low=0.3, high=0.9) * (hiss + hiss.roll(1, 1))
    window = torch.hann_window(64)
    loud = [
        torch.stft(s, 64, 32, window=window, return_complex=True, center=False).abs().transpose(1, 2) / 8
        for s in (voice + noise, voice)
    ]
    return loud[0], loud[1]


def _compressed(model: nn.Module, batch: Batch) -> Tensor:
    """Squared gap of loudness to the power of 0.3, as ears hear it."""
    return F.mse_loss((model(batch[0]) + 1e-3) ** 0.3, (batch[1] + 1e-3) ** 0.3)


def cleaner(seed: int) -> Setup:
    """Takes noise from speech by a mask over spectra (Wang and Chen 2018), with Adam and one cycle."""
    more: dict[str, Any] = {"clip": 5.0, "schedule": one_cycle(180)}
    return of_made(_Cleaner(), _speech, seed, _compressed, lr=1e-2, steps=180, size=16, number=80, **more)


class _Roads(nn.Module):
    """Filters over time, mixing along roads, filters over time (Yu et al. 2018)."""

    def __init__(self) -> None:
        super().__init__()
        roads = (
            torch.eye(16) + torch.eye(16).roll(1, 0) + torch.eye(16).roll(-1, 0) + torch.eye(16).roll(5, 0)
        )
        self.register_buffer("roads", roads / roads.sum(1, keepdim=True))
        self.early, self.late = nn.Conv2d(1, 32, (1, 3)), nn.Conv2d(16, 32, (1, 3))
        self.mix, self.norm = nn.Conv2d(32, 16, 1), nn.LayerNorm([16, 16])
        self.out = nn.Linear(16 * 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        code = F.glu(self.early(x[:, None]), 1)
        moved = torch.einsum("ij,bcjt->bcit", self.roads, code)
        code = self.mix(torch.cat([code, moved], 1)).relu()
        code = F.glu(self.late(code), 1)
        code = self.norm(code.permute(0, 3, 2, 1)).permute(0, 2, 1, 3)
        return x[:, :, -1:] + self.out(code.flatten(2))


def _traffic(size: int, g: torch.Generator) -> Batch:
    """How slow it is at sixteen places of a town: what jams one place jams the next; three steps to tell."""
    roads = 0.55 * torch.eye(16) + 0.43 * torch.eye(16).roll(1, 0)
    state, seen = normal(g, size, 16), []
    phase = uniform(g, size, 1, high=6.28)
    for step in range(25):
        push = 0.5 * torch.sin(0.5 * step + phase + fixed(11_050, 16))
        state = (state @ roads.T + 0.6 * push).clamp(-2, 2) + 0.15 * normal(g, size, 16)
        seen.append(state)
    rows = torch.stack(seen[10:], 2)
    return rows[..., :12], rows[..., 12:]


def traffic(seed: int) -> Setup:
    """Traffic at all places of a town three steps ahead, under the absolute error, with RMSprop."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return F.l1_loss(model(batch[0]), batch[1])

    more: dict[str, Any] = {"optimizer": "rmsprop", "schedule": lambda k: 0.6 ** (k // 50)}
    return of_made(_Roads(), _traffic, seed, loss, lr=2e-3, steps=250, size=24, number=100, **more)


MADE = {
    "gated_letters": gated_letters,
    "parser": parser,
    "entails": entails,
    "keywords": keywords,
    "cleaner": cleaner,
    "traffic": traffic,
}
