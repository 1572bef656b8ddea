"""Sound runs on tables: columns as waves, clicks, treatments, simulators and what comes next."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from eighth.architectures_common import fixed, normal, uniform
from fourth.runs import cosine, linear
from models import Batch, Setup, entropy, mlp, square
from tenth.judged_data import bent, of_made, one_cycle
from torch import Tensor, nn


class _Waves(nn.Module):
    """Each column as sines and cosines of learned pace before a plain net (Gorishniy et al. 2022)."""

    def __init__(self) -> None:
        super().__init__()
        self.pace = nn.Parameter(0.3 * torch.randn(8, 8))
        self.mix = nn.Parameter(torch.randn(8, 16, 8) / 4)
        self.body = nn.Sequential(nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.05), nn.Linear(64, 1))

    def forward(self, x: Tensor) -> Tensor:
        angle = 2 * math.pi * x[:, :, None] * self.pace
        code = torch.einsum("bcf,cfd->bcd", torch.cat([angle.sin(), angle.cos()], 2), self.mix)
        return self.body(code.flatten(1))


def _flats(size: int, g: torch.Generator) -> Batch:
    """Rents of flats: smooth in most columns, with a bend and a step in two."""
    x = uniform(g, size, 8, low=-1.7, high=1.7)
    rent = bent(x) + 0.5 * (x[:, 6:7] > 0.4) + 0.4 * (3 * x[:, 7:8]).cos()
    return x, rent + 0.3 * normal(g, size, 1)


def flats(seed: int) -> Setup:
    """Rents from columns that are taken apart into waves, with AdamW and a cosine."""
    more: dict[str, Any] = {"optimizer": "adamw", "weight_decay": 0.01, "schedule": cosine(500, 20)}
    return of_made(_Waves(), _flats, seed, square, lr=5e-3, steps=500, size=128, number=1500, **more)


def _hits(size: int, g: torch.Generator) -> Batch:
    """Ten hits for each question, and how well each one answers it, in five grades."""
    x = normal(g, size, 10, 9)
    worth = torch.sin(x[..., 0]) + x[..., 1] * x[..., 2].tanh() + 0.5 * x[..., 3] - 0.4 * x[..., 4].abs()
    return x, (1.2 * worth + 0.4 * normal(g, size, 10) + 2).round().clamp(0, 4)


def _in_order(model: nn.Module, batch: Batch) -> Tensor:
    """All pairs of hits with different grades, the better one first (Burges et al. 2005)."""
    score = model(batch[0])[..., 0]
    better = batch[1][:, :, None] > batch[1][:, None, :]
    return F.softplus(score[:, None, :] - score[:, :, None])[better].mean()


def hits(seed: int) -> Setup:
    """A net that ranks hits by pairs, with Adam at one rate."""
    return of_made(
        mlp((9, 48, 48, 1), nn.ReLU), _hits, seed, _in_order, lr=5e-3, steps=350, size=24, number=200
    )


class _Interest(nn.Module):
    """What a user looked at before is weighed by what is offered now (Zhou et al. 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.things = nn.Embedding(120, 12)
        nn.init.normal_(self.things.weight, std=0.3)
        self.weigh = mlp((48, 24, 1), nn.PReLU)
        self.body = nn.Sequential(
            nn.Linear(39, 48), nn.PReLU(), nn.Linear(48, 24), nn.PReLU(), nn.Linear(24, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        offer, seen = self.things(x[:, 0].long()), self.things(x[:, 1:9].long())
        wide = offer[:, None].expand_as(seen)
        weight = self.weigh(torch.cat([wide, seen, wide - seen, wide * seen], 2))
        history = (weight * seen).mean(1)
        return self.body(torch.cat([offer, history, offer * history, x[:, 9:]], 1))


def _offers(size: int, g: torch.Generator) -> Batch:
    """A thing, eight that were seen before, three numbers; clicked if it is like one that was seen."""
    ids = torch.randint(120, (size, 9), generator=g)
    taste = F.normalize(fixed(11_010, 120, 3), dim=1)[ids]
    like = (taste[:, :1] * taste[:, 1:]).sum(2)
    number = normal(g, size, 3)
    score = 1.5 * like.sum(1) + 1.2 * fixed(11_011, 120)[ids[:, 0]] + number[:, 0] - 0.7
    clicked = (uniform(g, size) < score.sigmoid()).float()[:, None]
    return torch.cat([ids, number], 1), clicked


def _clicked(model: nn.Module, batch: Batch) -> Tensor:
    return F.binary_cross_entropy_with_logits(model(batch[0]), batch[1])


def offers(seed: int) -> Setup:
    """Clicks from the history of a user, in batches of 256, with Adam and a falling rate."""
    more: dict[str, Any] = {"schedule": linear(500)}
    return of_made(_Interest(), _offers, seed, _clicked, lr=3e-2, steps=400, size=256, number=2000, **more)


class _Arms(nn.Module):
    """One body, and a head for each of two treatments (Shalit et al. 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(10, 64), nn.ELU(), nn.Linear(64, 48), nn.ELU())
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(48, 24), nn.ELU(), nn.Linear(24, 1)) for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        code = self.body(x)
        return torch.cat([head(code) for head in self.heads], 1)


def _patients(size: int, g: torch.Generator) -> Batch:
    """Ten readings; the treatment that was given, more often to the ill, and how it went."""
    x = normal(g, size, 10)
    given = (uniform(g, size) < (0.8 * x[:, 0]).sigmoid()).float()
    effect = 0.8 + 0.7 * x[:, 6].tanh()
    result = bent(x)[:, 0] + given * effect + 0.4 * normal(g, size)
    return x, torch.stack([given, result], 1)


def _as_given(model: nn.Module, batch: Batch) -> Tensor:
    """The head of the treatment that was given has to tell the result."""
    out = model(batch[0]).gather(1, batch[1][:, :1].long())
    return F.mse_loss(out, batch[1][:, 1:])


def treated(seed: int) -> Setup:
    """What a treatment does, from results under one of two each, with Adam and light decay."""
    more: dict[str, Any] = {"optimizer": "adamw", "weight_decay": 1e-3, "schedule": cosine(450)}
    return of_made(_Arms(), _patients, seed, _as_given, lr=9e-3, steps=450, size=100, number=2000, **more)


class _Posterior(nn.Module):
    """Four affine couplings over two numbers, told by a summary of what was seen (Papamakarios 2019)."""

    def __init__(self) -> None:
        super().__init__()
        self.summary = mlp((12, 32, 12), nn.ReLU)
        self.steps = nn.ModuleList(mlp((13, 32, 2), nn.Tanh) for _ in range(4))

    def forward(self, seen: Tensor, z: Tensor) -> Tensor:
        """How likely the two numbers are, logarithm."""
        code, volume = self.summary(seen), torch.zeros(len(z))
        for step in self.steps:
            keep, move = z[:, :1], z[:, 1:]
            scale, shift = step(torch.cat([code, keep], 1)).chunk(2, 1)
            scale = 2 * torch.tanh(scale / 2)
            z, volume = torch.cat([move * scale.exp() + shift, keep], 1), volume + scale[:, 0]
        return volume - 0.5 * z.square().sum(1) - math.log(2 * math.pi)


def _decays(size: int, g: torch.Generator) -> Batch:
    """A decay of unknown height and pace at twelve times, with noise."""
    numbers = normal(g, size, 2)
    at = torch.linspace(0.1, 3.0, 12)
    height, pace = (0.5 * numbers[:, :1]).exp(), (0.6 * numbers[:, 1:]).exp()
    return height * (-pace * at).exp() + 0.1 * normal(g, size, 12), numbers


def _surprise(model: nn.Module, batch: Batch) -> Tensor:
    return 3.0 - model(batch[0], batch[1]).mean()


def posterior(seed: int) -> Setup:
    """A flow that says which numbers of a simulator fit with what was seen, with Adam and a clip."""
    more: dict[str, Any] = {"clip": 5.0, "schedule": cosine(350)}
    return of_made(_Posterior(), _decays, seed, _surprise, lr=5e-3, steps=350, size=96, number=1000, **more)


class _NextThing(nn.Module):
    """Causal attention over what was bought, against the table itself (Kang and McAuley 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.things = nn.Embedding(60, 32)
        self.place = nn.Parameter(0.02 * torch.randn(12, 32))
        nn.init.normal_(self.things.weight, std=0.2)
        layer = nn.TransformerEncoderLayer(32, 2, 64, 0.1, batch_first=True, norm_first=True)
        self.body, self.norm = layer, nn.LayerNorm(32)
        self.register_buffer("mask", torch.full((12, 12), -torch.inf).triu(1))

    def forward(self, x: Tensor) -> Tensor:
        code = self.body(self.things(x) + self.place, src_mask=self.mask)
        return self.norm(code) @ self.things.weight.T


def _bought(size: int, g: torch.Generator) -> Batch:
    """Each thing leads to some others with fixed chances, and one in six is bought at random."""
    chance = (2.5 * fixed(11_020, 60, 60)).softmax(1)
    row = [torch.randint(60, (size,), generator=g)]
    for _ in range(12):
        follow = torch.multinomial(chance[row[-1]], 1, generator=g)[:, 0]
        stray = torch.randint(60, (size,), generator=g)
        row.append(torch.where(uniform(g, size) < 1 / 6, stray, follow))
    x = torch.stack(row, 1)
    return x[:, :-1], x[:, 1:]


def bought(seed: int) -> Setup:
    """The next thing in a basket by self-attention, under one cycle of Adam."""
    more: dict[str, Any] = {"schedule": one_cycle(250), "options": {"betas": (0.9, 0.98)}}
    return of_made(_NextThing(), _bought, seed, entropy, lr=1e-2, steps=250, size=48, number=150, **more)


MADE = {
    "flats": flats,
    "hits": hits,
    "offers": offers,
    "treated": treated,
    "posterior": posterior,
    "bought": bought,
}
