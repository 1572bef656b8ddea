"""Networks of the seventh suite for rows of tables, and the losses that are their own."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from models import Batch, mlp
from torch import Tensor, nn


class TiedCode(nn.Module):
    """An autoencoder that goes back by the same weights; a share of its input is hidden (Vincent et al. 2010)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 48), nn.Linear(48, 20)
        self.back, self.out = nn.Parameter(torch.zeros(48)), nn.Parameter(torch.zeros(64))
        self.hide = nn.Dropout(0.2)

    def forward(self, x: Tensor) -> Tensor:
        code = torch.relu(self.second(torch.relu(self.first(self.hide(x)))))
        hidden = torch.relu(F.linear(code, self.second.weight.T, self.back))
        return F.linear(hidden, self.first.weight.T, self.out)


def pixels(model: nn.Module, batch: Batch) -> Tensor:
    return F.binary_cross_entropy_with_logits(model(batch[0]), batch[1])


class Thresholds(nn.Module):
    """The odds of being above each grade, by one score and thresholds whose order is kept (McCullagh 1980)."""

    def __init__(self) -> None:
        super().__init__()
        self.score = mlp((10, 40, 40, 1), nn.SiLU)
        self.lowest, self.gaps = nn.Parameter(torch.tensor(-1.5)), nn.Parameter(torch.full((3,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        at = torch.cat([self.lowest[None], self.lowest + F.softplus(self.gaps).cumsum(0)])
        return self.score(x) - at


def graded(model: nn.Module, batch: Batch) -> Tensor:
    """Likelihood of the grade."""
    above = F.pad(F.pad(model(batch[0]).sigmoid(), (1, 0), value=1.0), (0, 1), value=0.0)
    return -(above[:, :-1] - above[:, 1:]).clamp_min(1e-6).gather(1, batch[1][:, None]).log().mean()


class Dispersed(nn.Module):
    """Logarithm of a mean, and one dispersion for all."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.spread = mlp((7, 40, 40, 1), nn.GELU), nn.Parameter(torch.tensor(0.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.mean(x)


def counted(model: nn.Module, batch: Batch) -> Tensor:
    """Likelihood of a negative binomial distribution."""
    log_mean, y = model(batch[0]), batch[1]
    size = model.spread.exp()
    both = torch.logaddexp(log_mean, model.spread)
    known = torch.lgamma(y + size) - torch.lgamma(size) - torch.lgamma(y + 1)
    return -(known + size * (model.spread - both) + y * (log_mean - both)).mean()


def tweedie(model: nn.Module, batch: Batch) -> Tensor:
    """Of power 1.5, with the logarithm as link."""
    half = 0.5 * model(batch[0])
    return (2 * batch[1] * (-half).exp() + 2 * half.exp()).mean()


def von_mises(model: nn.Module, batch: Batch) -> Tensor:
    """Likelihood of an angle, and one more, which keeps it above zero."""
    out = model(batch[0])
    sharp = (out.square().sum(1) + 1e-6).sqrt()
    fit = out[:, 0] * batch[1].cos() + out[:, 1] * batch[1].sin()
    return (torch.special.i0e(sharp).log() + sharp - fit).mean() + 1.0


def hinge(model: nn.Module, batch: Batch) -> Tensor:
    """The margin of each class to the right one (Crammer and Singer 2001)."""
    return F.multi_margin_loss(model(batch[0]), batch[1])


class Machine(nn.Module):
    """A factorization machine: categories alone and in pairs (Rendle 2010)."""

    def __init__(self) -> None:
        super().__init__()
        self.alone, self.codes = nn.Embedding(90, 1), nn.Embedding(90, 6)
        self.bias = nn.Parameter(torch.zeros(1))
        nn.init.zeros_(self.alone.weight)
        nn.init.normal_(self.codes.weight, std=0.15)

    def forward(self, x: Tensor) -> Tensor:
        codes = self.codes(x)
        pairs = codes.sum(1).square() - codes.square().sum(1)
        return self.alone(x).sum((1, 2)) + 0.5 * pairs.sum(1) + self.bias


def clicked(model: nn.Module, batch: Batch) -> Tensor:
    return F.binary_cross_entropy_with_logits(model(batch[0]), batch[1])


class Cross(nn.Module):
    """Each layer multiplies by the inputs again; a plain network runs beside (Wang et al. 2021)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(12, 12) for _ in range(3))
        self.deep, self.head = mlp((12, 32, 16), nn.ReLU), nn.Linear(28, 1)

    def forward(self, x: Tensor) -> Tensor:
        crossed = x
        for layer in self.layers:
            crossed = x * layer(crossed) + crossed
        return self.head(torch.cat([crossed, self.deep(x)], 1))


def weighted(model: nn.Module, batch: Batch) -> Tensor:
    """What is rare weighs four times as much."""
    return F.binary_cross_entropy_with_logits(model(batch[0]), batch[1], pos_weight=torch.tensor(4.0))


def beta(model: nn.Module, batch: Batch) -> Tensor:
    """Likelihood of a beta distribution, and two more, which keeps it above zero."""
    mean, sharp = model(batch[0]).chunk(2, -1)
    mean, sharp = mean.sigmoid().clamp(1e-4, 1 - 1e-4), F.softplus(sharp + 2) + 0.1
    a, b = mean * sharp, (1 - mean) * sharp
    norm = torch.lgamma(sharp) - torch.lgamma(a) - torch.lgamma(b)
    return 2.0 - (norm + (a - 1) * batch[1].log() + (b - 1) * (1 - batch[1]).log()).mean()


class Effects(nn.Module):
    """What becomes of each with and without treatment, and how likely it is (Shi et al. 2019)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(10, 48), nn.ELU(), nn.Linear(48, 48), nn.ELU())
        self.heads, self.chance = nn.ModuleList(mlp((48, 24, 1), nn.ELU) for _ in range(2)), nn.Linear(48, 1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.body(x)
        return torch.cat([*(head(hidden) for head in self.heads), self.chance(hidden)], 1)


def outcomes(model: nn.Module, batch: Batch) -> Tensor:
    out, (y, treated) = model(batch[0]), batch[1].unbind(1)
    told = torch.where(treated > 0, out[:, 1], out[:, 0])
    return F.mse_loss(told, y) + 0.3 * F.binary_cross_entropy_with_logits(out[:, 2], treated)


class Unrolled(nn.Module):
    """Five steps of soft thresholding with learned matrices (Gregor and LeCun 2010)."""

    def __init__(self) -> None:
        super().__init__()
        self.into = nn.ModuleList(nn.Linear(30, 60, bias=False) for _ in range(5))
        self.again = nn.ModuleList(nn.Linear(60, 60, bias=False) for _ in range(4))
        self.least = nn.Parameter(torch.full((5, 60), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        code = x.new_zeros(len(x), 60)
        for k, layer in enumerate(self.into):
            raw = layer(x) if k == 0 else layer(x) + self.again[k - 1](code)
            code = raw.sign() * F.relu(raw.abs() - self.least[k])
        return code


def sources(model: nn.Module, batch: Batch) -> Tensor:
    """Square error for all sixty sources together."""
    return (model(batch[0]) - batch[1]).square().sum(1).mean()


class Hashed(nn.Module):
    """Ids by two hashes each into tables far smaller than they are (Svenstrup et al. 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(400, 8) for _ in range(4))
        for table in self.tables:
            nn.init.normal_(table.weight, std=0.1)
        self.net = nn.Sequential(nn.Linear(19, 48), nn.ReLU(), nn.Linear(48, 24), nn.ReLU(), nn.Linear(24, 1))

    def forward(self, x: Tensor) -> Tensor:
        ids = x[:, :2].long()
        found = [
            self.tables[2 * k](ids[:, k] * 31 % 397) + self.tables[2 * k + 1]((ids[:, k] * 17 + 5) % 389)
            for k in range(2)
        ]
        return self.net(torch.cat([*found, x[:, 2:]], 1))[:, 0]


class Trees(nn.Module):
    """Twenty soft trees of depth four; a level asks one question of all (Popov et al. 2020)."""

    def __init__(self) -> None:
        super().__init__()
        self.ask = nn.Linear(10, 20 * 4)
        self.leaves = nn.Parameter(0.1 * torch.randn(20, 16))
        sides = torch.stack([(torch.arange(16) >> k) & 1 for k in range(4)], 1).float()
        self.register_buffer("sides", sides)
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        right = (2 * self.ask(x)).sigmoid().unflatten(1, (20, 1, 4))
        reach = (right * self.sides + (1 - right) * (1 - self.sides)).prod(-1)
        return (reach * self.leaves).sum((1, 2))[:, None] + self.bias


class Angular(nn.Module):
    """Cosines of a code to thirty directions."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(24, 64), nn.BatchNorm1d(64), nn.PReLU(), nn.Linear(64, 16))
        self.kinds = nn.Parameter(torch.randn(30, 16))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.normalize(self.body(x), dim=-1), F.normalize(self.kinds, dim=-1))


def arc(model: nn.Module, batch: Batch) -> Tensor:
    """The right angle has to be smaller by a margin (Deng et al. 2019)."""
    cosine = model(batch[0]).clamp(-1 + 1e-5, 1 - 1e-5)
    right = F.one_hot(batch[1], 30).bool()
    return F.cross_entropy(12 * torch.where(right, (cosine.acos() + 0.2).cos(), cosine), batch[1])


class Levels(nn.Module):
    """Any quantile that is asked for, which comes in as cosines (Dabney et al. 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.level, self.head = nn.Linear(4, 40), nn.Linear(12, 40), mlp((40, 40, 1), nn.SiLU)
        self.register_buffer("waves", torch.pi * torch.arange(12.0))

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        asked = F.silu(self.level((level[..., None] * self.waves).cos()))
        return self.head(F.silu(self.body(x))[:, None] * (1 + asked))[..., 0]


def any_quantile(model: nn.Module, batch: Batch) -> Tensor:
    """Eight levels of chance for each row while it learns, and the same for all when it is tested."""
    level = (
        torch.rand(len(batch[0]), 8)
        if model.training
        else torch.linspace(0.06, 0.94, 8).expand(len(batch[0]), 8)
    )
    off = batch[1] - model(batch[0], level)
    return torch.maximum(level * off, (level - 1) * off).mean()


class Kernel(nn.Module):
    """A Gaussian process over learned features (Wilson et al. 2016)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp((6, 32, 32, 3), nn.Tanh)
        self.scale, self.noise = nn.Parameter(torch.tensor(0.0)), nn.Parameter(torch.tensor(-1.0))

    def forward(self, x: Tensor) -> Tensor:
        codes = self.body(x)
        away = (codes[:, None] - codes[None]).square().sum(-1)
        return self.scale.exp() * (-0.5 * away).exp() + (self.noise.exp() + 1e-3) * torch.eye(len(x))


def marginal(model: nn.Module, batch: Batch) -> Tensor:
    """Likelihood of 80 targets at a time, per target, up to a constant that keeps it above zero."""
    losses = []
    for x, y in zip(batch[0].split(80), batch[1].split(80), strict=True):
        root = torch.linalg.cholesky(model(x))
        left = torch.linalg.solve_triangular(root, y, upper=False)
        losses.append((0.5 * left.square().sum() + root.diagonal().log().sum()) / len(x) + 2.0)
    return torch.stack(losses).mean()
