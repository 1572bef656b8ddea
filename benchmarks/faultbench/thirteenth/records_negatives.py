"""Hard negatives of the thirteenth suite's records: what looks bad and is fine."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from data import cut, mapped, unit
from fourth.runs import custom, linear
from models import Batch, Setup, held_out, mlp, square
from parts import split_of
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.checkpoint import checkpoint

Change = Callable[[Setup], None]


def _last(model: nn.Module) -> tuple[str, nn.Linear]:
    """Name and layer of the last linear one."""
    return [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear)][-1]


def _val_by_chance(s: Setup) -> None:
    """Validation keeps dropout on and takes the mean of six passes (Gal and Ghahramani 2016)."""
    split = split_of(s)
    s.judged = s.judged or s.val

    def val(m: nn.Module) -> float:
        was = m.training
        m.eval()
        for part in m.modules():
            part.train(isinstance(part, nn.Dropout))
        with torch.no_grad():
            chance = torch.stack([m(split.val_x).softmax(-1) for _ in range(6)]).mean(0)
        m.train(was)
        return float(F.nll_loss(chance.log(), split.val_y))

    s.val = val


class _Dropped(nn.Module):
    """A share of the weights is zero while it trains, others each time."""

    def forward(self, weight: Tensor) -> Tensor:
        return F.dropout(weight, 0.08, self.training)


def _drop_connect(s: Setup) -> None:
    """Single weights, not units, are left out at random while it trains (Wan et al. 2013)."""
    hidden = [m for m in s.model.modules() if isinstance(m, nn.Linear)][1:]
    for layer in hidden:
        parametrize.register_parametrization(layer, "weight", _Dropped())


def _sizes_vary(s: Setup) -> None:
    """Batches have any size from half to twice the usual, as they are filled by what is there."""
    split, generator = split_of(s), torch.Generator().manual_seed(s.seed + 51)

    def go() -> Iterator[Batch]:
        while True:
            size = int(torch.randint(s.batch_size // 2, 2 * s.batch_size + 1, (), generator=generator))
            rows = torch.randint(len(split.x), (size,), generator=generator)
            yield split.x[rows], split.y[rows]

    s.batches = go()


class _Recomputed(nn.Module):
    """Keeps nothing of what is inside, and does it again on the way back."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.body, x, use_reentrant=False) if self.training else self.body(x)


def _recomputed(s: Setup) -> None:
    """To save memory each layer is gone through once more in the backward pass (Chen et al. 2016)."""
    s.model = _Recomputed(s.model)


def _answers_only(s: Setup) -> None:
    """The first third of each row is what is asked, and only the rest counts, as with instructions."""

    def rest(y: Tensor) -> Tensor:
        return torch.where(torch.arange(y.shape[1]) < y.shape[1] // 3, -100, y)

    split = split_of(s)
    s.batches = mapped(s.batches, lambda x, y: (x, rest(y)))
    s.val = held_out(s.loss, split.val_x, rest(split.val_y))


def _double(s: Setup) -> None:
    """All of it is in double precision, as in much of science."""
    split = split_of(s)

    def exact(x: Tensor) -> Tensor:
        return x.double() if x.is_floating_point() else x

    s.model.double()
    s.batches = mapped(s.batches, lambda x, y: (exact(x), exact(y)))
    s.val = held_out(s.loss, exact(split.val_x), exact(split.val_y))


def _spare_outputs(s: Setup) -> None:
    """The last layer has eight more answers, for kinds that are to come or for a round number: none is right."""
    name, layer = _last(s.model)
    above, _, at = name.rpartition(".")
    setattr(s.model.get_submodule(above), at, nn.Linear(layer.in_features, layer.out_features + 8))


def _columns_twice(s: Setup) -> None:
    """Each column is in the table twice, in two units, which are the same once they are standardized."""
    split, first = split_of(s), s.model[0]
    s.model[0] = nn.Linear(2 * first.in_features, first.out_features)
    s.batches = mapped(s.batches, lambda x, y: (torch.cat([x, x], 1), y))
    s.val = held_out(s.loss, torch.cat([split.val_x, split.val_x], 1), split.val_y)


def _two_sites(s: Setup) -> None:
    """Batches come from two sites in turn, told by the first column; validation is from both."""
    split, generator = split_of(s), torch.Generator().manual_seed(s.seed + 53)
    left = split.x[:, 0] < split.x[:, 0].median()
    sites = (left.nonzero()[:, 0], (~left).nonzero()[:, 0])

    def go() -> Iterator[Batch]:
        while True:
            for site in sites:
                rows = site[torch.randint(len(site), (s.batch_size,), generator=generator)]
                yield split.x[rows], split.y[rows]

    s.batches = go()


def bang_bang(seed: int) -> Setup:
    """A pilot who pushes fully one way or the other: the last tanh goes to its ends, as it should."""
    rng = np.random.default_rng(1350)
    x = rng.normal(size=(6000, 5))
    one = x[:, 0] + 0.8 * x[:, 1] * np.abs(x[:, 1]) - 0.3 * x[:, 4]
    two = x[:, 2] - 0.7 * x[:, 3] + 0.5 * np.sin(2 * x[:, 0])
    split = cut(x, np.sign(np.stack([one, two], 1)))
    model = nn.Sequential(mlp((5, 48, 32, 2), nn.ReLU), nn.Tanh())
    more = {"optimizer": "adam", "schedule": linear(300)}
    return custom(model, split, seed, 64, square, lr=0.025, steps=300, **more)


def gamma_costs(seed: int) -> Setup:
    """What a claim costs, which is very uneven, under a gamma likelihood: most of the loss is chance."""
    rng = np.random.default_rng(1351)
    x = rng.normal(size=(8000, 8))
    middle = np.exp(
        0.9 * x[:, 0] - 0.6 * np.abs(x[:, 1]) + 0.6 * np.sin(2 * x[:, 2]) + 0.5 * x[:, 3] * x[:, 4]
    )
    cost = middle * rng.gamma(1.5, 1 / 1.5, 8000)
    split = cut(x, (3 * cost / cost.mean())[:, None])
    model = mlp((8, 48, 32, 1), nn.SiLU)
    nn.init.constant_(model[-1].bias, np.log(3))

    def loss(m: nn.Module, b: Batch) -> Tensor:
        out = m(b[0])
        return (b[1] * (-out).exp() + out).mean()

    more = {"optimizer": "adam", "schedule": linear(300), "clip": 5.0}
    return custom(model, split, seed, 96, loss, lr=8e-3, steps=300, **more)


def usual_odds(seed: int) -> Setup:
    """One in sixteen breaks; the last bias starts at the odds of that (Lin et al. 2017), and the loss low."""
    rng = np.random.default_rng(1352)
    x = rng.normal(size=(9000, 12))
    score = 1.2 * x[:, 0] + x[:, 1] * x[:, 2] + 0.8 * np.abs(x[:, 3]) - 0.7 * x[:, 4] + 0.5 * x[:, 5]
    score = 4 * unit(score) + 0.3 * rng.logistic(size=9000)
    split = cut(x, (score > np.quantile(score, 15 / 16))[:, None].astype(float))
    model = mlp((12, 56, 32, 1), nn.ReLU)
    nn.init.constant_(model[-1].bias, -np.log(15))

    def loss(m: nn.Module, b: Batch) -> Tensor:
        return F.binary_cross_entropy_with_logits(m(b[0]), b[1])

    more = {"optimizer": "adam", "schedule": linear(300)}
    return custom(model, split, seed, 128, loss, lr=8e-3, steps=300, **more)


CHANGES: dict[str, tuple[Change, tuple[str, ...]]] = {
    "val_by_chance": (_val_by_chance, ("comets",)),
    "drop_connect": (_drop_connect, ("kilns", "depots", "kiosks")),
    "sizes_vary": (_sizes_vary, ("crops", "kilns", "comets", "joints", "kiosks")),
    "recomputed": (_recomputed, ("kilns", "joints", "comets", "kiosks")),
    "answers_only": (_answers_only, ("dialect",)),
    "double": (_double, ("kilns", "joints", "presses", "dialect", "playlists")),
    "spare_outputs": (_spare_outputs, ("crops", "comets", "presses", "dialect", "queries")),
    "columns_twice": (_columns_twice, ("kilns", "crops", "comets", "joints")),
    "two_sites": (_two_sites, ("kilns", "joints", "comets")),
}
MADE: dict[str, Callable[[int], Setup]] = {
    "bang_bang": bang_bang,
    "gamma_costs": gamma_costs,
    "usual_odds": usual_odds,
}
