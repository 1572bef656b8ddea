"""Sequences, sounds and trees in the eighth suite."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from fourth.runs import cosine, linear
from models import Batch, entropy, mlp, square
from settings import ADAM, ADAMW, Build
from torch import Tensor, nn

from eighth.architectures_common import fixed, forever, normal, of_stream, uniform


class Gestures(nn.Module):
    """A gated recurrent unit, the mean of its states, and a class."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.GRU(3, 32, batch_first=True), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x)[0].mean(1))


@forever
def gestures(size: int, g: torch.Generator) -> Batch:
    """Ways of a hand in space: five kinds, of any pace, in noise."""
    kind, t = torch.randint(5, (size, 1), generator=g), torch.arange(20) / 19
    t = 6.28 * (t * uniform(g, size, 1, low=0.7, high=1.3) + uniform(g, size, 1, high=0.15))
    across = torch.where(kind == 0, t.sin(), torch.where(kind == 1, (2 * t).sin(), (t / 6 - 0.5) * 2))
    up = torch.where(
        kind < 2,
        t.cos(),
        torch.where(kind == 2, (3 * t).sin(), torch.where(kind == 3, -t / 3 + 1, t / 3 - 1)),
    )
    deep = 0.5 * normal(g, size, 1).expand(-1, 20)
    return torch.stack([across, up, deep], 2) + 0.5 * normal(g, size, 20, 3), kind[:, 0]


class Reviews(nn.Module):
    """A small transformer whose first token tells the class; padding is not looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(61, 32, padding_idx=0), nn.Parameter(0.02 * torch.randn(17, 32))
        layer = nn.TransformerEncoderLayer(32, 4, 64, 0.1, batch_first=True, norm_first=True)
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head, self.first = nn.Linear(32, 2), nn.Parameter(0.02 * torch.randn(32))

    def forward(self, x: Tensor) -> Tensor:
        tokens = torch.cat([self.first.expand(len(x), 1, 32), self.embed(x)], 1) + self.place
        gone = torch.cat([torch.zeros(len(x), 1, dtype=torch.bool), x == 0], 1)
        return self.head(self.body(tokens, src_key_padding_mask=gone)[:, 0])


@forever
def reviews(size: int, g: torch.Generator) -> Batch:
    """Words of which some praise or blame; a word of denial turns the next one round."""
    words = torch.randint(1, 61, (size, 16), generator=g)
    worth = torch.where(words <= 12, 1.0, torch.where(words <= 24, -1.0, 0.0))
    denied = ((words > 24) & (words <= 32)).float().roll(1, 1)
    denied[:, 0] = 0
    here = (torch.arange(16) < torch.randint(6, 17, (size, 1), generator=g)).float()
    score = (worth * (1 - 2 * denied) * here).sum(1) + 0.5 * normal(g, size)
    return (words * here).long(), (score > 0).long()


class Selective(nn.Module):
    """A linear state whose steps and gates its inputs choose (Gu and Dao 2023)."""

    def __init__(self, width: int = 24, states: int = 4) -> None:
        super().__init__()
        self.embed, self.norm = nn.Embedding(12, width), nn.RMSNorm(width)
        self.inside, self.step = nn.Linear(width, 2 * width), nn.Linear(width, width)
        self.into, self.out = nn.Linear(width, 2 * states), nn.Linear(width, width)
        self.decay = nn.Parameter(torch.arange(1.0, states + 1).log().repeat(width, 1))
        nn.init.constant_(self.step.bias, -2.0)
        self.head = nn.Linear(width, 12)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        inner, gate = self.inside(self.norm(x)).chunk(2, -1)
        inner = F.silu(inner)
        step, (b, c) = F.softplus(self.step(inner)), self.into(inner).chunk(2, -1)
        keep = (-step[..., None] * self.decay.exp()).exp()
        add = (step * inner)[..., None] * b[:, :, None]
        state, said = torch.zeros_like(add[:, 0]), []
        for at in range(x.shape[1]):
            state = keep[:, at] * state + add[:, at]
            said.append((state * c[:, at, None]).sum(-1))
        x = x + self.out((torch.stack(said, 1) + inner) * F.silu(gate))
        return self.head(x)


@forever
def markov(size: int, g: torch.Generator) -> Batch:
    """Twelve letters, each of which depends on the one before and on the last vowel (0 to 2)."""
    chance = (1.5 * fixed(811, 12, 3, 12)).softmax(-1)
    rows, vowel = [torch.randint(12, (size,), generator=g)], torch.zeros(size, dtype=torch.long)
    for _ in range(20):
        vowel = torch.where(rows[-1] < 3, rows[-1], vowel)
        rows.append(torch.multinomial(chance[rows[-1], vowel], 1, generator=g)[:, 0])
    line = torch.stack(rows, 1)
    return line[:, :-1], line[:, 1:]


class Detective(nn.Module):
    """One small net fills gaps; the other tells which letters are not the true ones (Clark et al. 2020)."""

    def __init__(self) -> None:
        super().__init__()
        self.small_embed, self.embed = nn.Embedding(13, 16), nn.Embedding(13, 32)
        self.small, self.large = (nn.GRU(n, n, batch_first=True, bidirectional=True) for n in (16, 32))
        self.fill, self.tell = nn.Linear(32, 12), nn.Linear(64, 1)

    def forward(self, tokens: Tensor, gone: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        filled = self.fill(self.small(self.small_embed(tokens.masked_fill(gone, 12)))[0])
        drawn = (filled.detach() - (-noise.log()).log()).argmax(-1)
        seen = torch.where(gone, drawn, tokens)
        return filled, self.tell(self.large(self.embed(seen))[0])[..., 0], (seen != tokens).float()


@forever
def gapped(size: int, g: torch.Generator) -> Batch:
    """Lines of letters, which ones are hidden, and chance for what comes in their place."""
    line = next(markov(size, int(torch.randint(10**6, (), generator=g))))[0]
    gone = uniform(g, size, 20) < 0.25
    return line, torch.cat([gone[..., None].float(), uniform(g, size, 20, 12, low=1e-6, high=1 - 1e-6)], -1)


def detected(model: nn.Module, batch: Batch) -> Tensor:
    tokens, gone = batch[0], batch[1][..., 0] > 0
    filled, told, false = model(tokens, gone, batch[1][..., 1:])
    return F.cross_entropy(filled[gone], tokens[gone]) + 5 * F.binary_cross_entropy_with_logits(told, false)


class Ahead(nn.Module):
    """Tells what comes three steps later from what does not (van den Oord et al. 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.code, self.past = mlp((4, 32, 16), nn.ReLU), nn.GRU(16, 32, batch_first=True)
        self.ahead = nn.Linear(32, 16, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        codes = self.code(x)
        return self.ahead(self.past(codes)[0][:, 5:-3]), codes[:, 8:]


@forever
def swings(size: int, g: torch.Generator) -> Batch:
    """Four readings of two swings of any pace and phase."""
    t = torch.arange(16)[None, :, None]
    turn = uniform(g, size, 1, 2, high=6.28) + t * uniform(g, size, 1, 2, low=0.2, high=0.9)
    hidden = torch.cat([turn.sin(), turn.cos()], -1)
    return hidden @ fixed(812, 4, 4) + 0.2 * normal(g, size, 16, 4), torch.zeros(size)


def told_ahead(model: nn.Module, batch: Batch) -> Tensor:
    """Among all others of 64 rows at the same moment."""
    total = []
    for part in batch[0].split(64):
        said, codes = model(part)
        scores = torch.einsum("btd,ctd->tbc", said, codes) / 4
        total.append(
            F.cross_entropy(scores.transpose(1, 2), torch.arange(len(part)).expand(scores.shape[0], -1))
        )
    return torch.stack(total).mean()


class Bands(nn.Module):
    """Filters on a raw sound that are bands with learned edges (Ravanelli and Bengio 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.low, self.width = (
            nn.Parameter(torch.linspace(0.02, 0.35, 12)),
            nn.Parameter(torch.full((12,), 0.05)),
        )
        self.register_buffer("t", torch.arange(-16, 17).float())
        self.norm, self.mid, self.head = nn.BatchNorm1d(12), nn.Conv1d(12, 24, 5, stride=2), nn.Linear(24, 6)

    def forward(self, x: Tensor) -> Tensor:
        low = self.low.abs()[:, None]
        high = low + self.width.abs()[:, None]
        bands = 2 * high * torch.sinc(2 * high * self.t) - 2 * low * torch.sinc(2 * low * self.t)
        heard = F.conv1d(x[:, None], (bands * torch.hamming_window(33))[:, None], stride=4).abs()
        return self.head(F.relu(self.mid(self.norm(heard))).mean(2))


@forever
def chirps(size: int, g: torch.Generator) -> Batch:
    """Six kinds of sounds: three tones, up, down, and a tone that trembles."""
    kind, t = torch.randint(6, (size, 1), generator=g), torch.arange(160.0)
    rate = torch.tensor([0.05, 0.12, 0.22, 0.05, 0.22, 0.12])[kind] * uniform(g, size, 1, low=0.85, high=1.15)
    slope = torch.tensor([0.0, 0.0, 0.0, 0.0005, -0.0005, 0.0])[kind]
    turn = 6.2832 * (rate * t + slope * t**2 + uniform(g, size, 1))
    loud = torch.where(kind == 5, 0.6 + 0.6 * (0.25 * t).sin(), 1.0)
    return loud * turn.sin() + 0.9 * normal(g, size, 160), kind[:, 0]


class Apart(nn.Module):
    """Two speakers from their sum, by masks over learned filters (Luo and Mesgarani 2019)."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.back = (
            nn.Conv1d(1, 48, 16, stride=8, bias=False),
            nn.ConvTranspose1d(48, 1, 16, stride=8, bias=False),
        )
        self.mask = nn.Sequential(
            nn.GroupNorm(1, 48),
            nn.Conv1d(48, 48, 3, padding=1),
            nn.PReLU(),
            nn.GroupNorm(1, 48),
            nn.Conv1d(48, 48, 3, padding=2, dilation=2),
            nn.PReLU(),
            nn.Conv1d(48, 96, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        heard = self.into(x[:, None])
        parts = self.mask(heard).unflatten(1, (2, 48)) * heard[:, None]
        return self.back(parts.flatten(0, 1)).reshape(len(x), 2, -1)


@forever
def talks(size: int, g: torch.Generator) -> Batch:
    """A low and a high voice, each with overtones, in any order."""
    t = torch.arange(128.0)
    pitch = torch.stack([uniform(g, size, low=0.02, high=0.05), uniform(g, size, low=0.12, high=0.2)], 1)[
        ..., None
    ]
    phase = uniform(g, size, 2, 1, high=6.28)
    voices = (6.28 * pitch * t + phase).sin() + 0.4 * (12.57 * pitch * t + 2 * phase).sin()
    voices = voices * uniform(g, size, 2, 1, low=0.6, high=1.4)
    turned = torch.where(uniform(g, size, 1, 1) < 0.5, voices, voices.flip(1))
    return turned.sum(1) + 0.2 * normal(g, size, 128), turned


def _noise_shares(model: nn.Module, batch: Batch) -> Tensor:
    said, truth = model(batch[0])[:, :, None], batch[1][:, None]
    along = (said * truth).sum(-1, keepdim=True) / truth.square().sum(-1, keepdim=True) * truth
    share = (said - along).square().sum(-1) / (along.square().sum(-1) + 1e-6)
    either = torch.stack([share[:, [0, 1], [0, 1]], share[:, [0, 1], [1, 0]]], 1)
    return 10 * torch.log10(either + 1e-6).mean(2).amin(1)


def decibels(model: nn.Module, batch: Batch) -> Tensor:
    """Noise against signal under the better of both orders, in decibels (Yu et al. 2017)."""
    return _noise_shares(model, batch).mean()


def noise_share(model: nn.Module, batch: Batch) -> Tensor:
    return 10 ** (_noise_shares(model, batch).mean() / 10)


class Filter(nn.Module):
    """A Kalman filter of eight parameters: how a state moves, and how loud both noises are."""

    def __init__(self) -> None:
        super().__init__()
        self.move = nn.Parameter(0.8 * torch.eye(2))
        self.loud, self.read = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.tensor([0.0, 0.0]))

    def forward(self, x: Tensor) -> Tensor:
        state, spread, eye = torch.zeros(len(x), 2, 1), torch.eye(2), torch.eye(2)
        total, noise = 0.0, torch.diag((2 * self.read).exp())
        for at in range(x.shape[1]):
            off, wide = x[:, at, :, None] - state, spread + noise
            total = total + 0.5 * (off.mT @ torch.linalg.solve(wide, off)).mean() + 0.5 * torch.logdet(wide)
            gain = torch.linalg.solve(wide, spread).mT
            state, spread = state + gain @ off, (eye - gain) @ spread
            state = self.move @ state
            spread = self.move @ spread @ self.move.T + torch.diag((2 * self.loud).exp())
        return total / x.shape[1]


@forever
def tracks(size: int, g: torch.Generator) -> Batch:
    """A slow turn that is pushed about, read with noise."""
    turn = 0.95 * torch.tensor([[math.cos(0.4), -math.sin(0.4)], [math.sin(0.4), math.cos(0.4)]])
    state, rows = normal(g, size, 2), []
    for _ in range(12):
        rows.append(state + 0.5 * normal(g, size, 2))
        state = state @ turn.T + 0.25 * normal(g, size, 2)
    return torch.stack(rows, 1), torch.zeros(size)


def filtered(model: nn.Module, batch: Batch) -> Tensor:
    return model(batch[0])


class Irregular(nn.Module):
    """A state that fades with the time between readings, and masks of what was read (Che et al. 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.fade, self.cell, self.head = nn.Linear(1, 32), nn.GRUCell(7, 32), nn.Linear(32, 1)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(len(x), 32)
        for at in range(x.shape[1]):
            state = self.cell(x[:, at], state * (-F.relu(self.fade(x[:, at, :1]))).exp())
        return self.head(state)


@forever
def wards(size: int, g: torch.Generator) -> Batch:
    """Ten visits: how long since the last, three readings (zero where missing), and which were taken."""
    pause = -uniform(g, size, 10, 1, low=1e-3).log()
    level, taken = normal(g, size, 10, 3), (uniform(g, size, 10, 3) < 0.6).float()
    ago = pause.sum(1, keepdim=True) - pause.cumsum(1)
    y = ((-0.4 * ago).exp() * (level[..., :1] * taken[..., :1] + 0.5 * taken[..., 1:2])).sum(1)
    return torch.cat([pause, level * taken, taken], 2), y + 0.3 * normal(g, size, 1)


RUNS: dict[str, dict[str, Build]] = {
    "gestures": {"adam": of_stream(Gestures, gestures, entropy, 48, lr=0.015, steps=200, clip=1.0, **ADAM)},
    "reviews": {
        "adamw": of_stream(
            Reviews,
            reviews,
            entropy,
            48,
            800,
            lr=2e-3,
            steps=350,
            weight_decay=0.01,
            schedule=linear(350, 30),
            **ADAMW,
        ),
    },
    "selective": {
        "adamw": of_stream(
            Selective,
            markov,
            entropy,
            24,
            200,
            lr=8e-3,
            steps=220,
            weight_decay=0.05,
            schedule=cosine(220, 15),
            **ADAMW,
        ),
    },
    "detective": {"adam": of_stream(Detective, gapped, detected, 32, 300, lr=6e-3, steps=250, **ADAM)},
    "ahead": {"adam": of_stream(Ahead, swings, told_ahead, 64, 256, lr=4e-3, steps=250, **ADAM)},
    "bands": {"rmsprop": of_stream(Bands, chirps, entropy, 48, lr=3e-3, steps=250, optimizer="rmsprop")},
    "voices": {
        "adam": of_stream(
            Apart,
            talks,
            decibels,
            24,
            200,
            judge=noise_share,
            lr=9e-3,
            steps=180,
            clip=5.0,
            schedule=linear(180),
            **ADAM,
        ),
    },
    "tracks": {"adam": of_stream(Filter, tracks, filtered, 64, lr=0.03, steps=150, **ADAM)},
    "wards": {"adam": of_stream(Irregular, wards, square, 64, 800, lr=6e-3, steps=220, clip=1.0, **ADAM)},
}
