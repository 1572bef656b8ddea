"""Judged runs whose targets move: rewards, values, two nets against each other, teachers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from eighth.architectures_common import fixed, normal, uniform
from fourth.runs import cosine, linear
from models import Batch, Setup, entropy, mlp
from torch import Tensor, nn

from tenth.judged_data import forever, of_made


class _Rivals(nn.Module):
    """One net makes points, the other tells them from true ones (Goodfellow et al. 2014)."""

    def __init__(self) -> None:
        super().__init__()
        self.makes = mlp((4, 48, 48, 2), nn.ReLU)
        layers = mlp((2, 64, 64, 1), lambda: nn.LeakyReLU(0.2))  # type: ignore[arg-type]
        self.tells = layers


def _moon(size: int, g: torch.Generator) -> Batch:
    """Points on an arc, and the noise that others are made of."""
    angle = uniform(g, size, low=0.0, high=3.1)
    points = torch.stack([1.5 * angle.cos(), 1.5 * angle.sin() - 0.9], 1)
    return points + 0.08 * normal(g, size, 2), normal(g, size, 4)


def _rivalry(model: nn.Module, batch: Batch) -> Tensor:
    """Both losses in one sum: neither can win, so that it stays near two; slopes are punished at true points."""
    true, made = batch[0], model.makes(batch[1])
    tells = model.tells
    frozen = {k: v.detach() for k, v in tells.named_parameters()}
    fools = F.softplus(-torch.func.functional_call(tells, frozen, (made,))).mean()
    if not torch.is_grad_enabled():
        return fools + F.softplus(-tells(true)).mean() + F.softplus(tells(made)).mean()
    true = true.clone().requires_grad_()
    score = tells(true)
    (slope,) = torch.autograd.grad(score.sum(), true, create_graph=True)
    told = F.softplus(-score).mean() + F.softplus(tells(made.detach())).mean()
    return fools + told + 0.1 * slope.square().sum(1).mean()


def _energy(model: nn.Module, batch: Batch) -> Tensor:
    """Energy distance of true and made points (Szekely and Rizzo 2013)."""
    made = model.makes(batch[1])
    cross = torch.cdist(made, batch[0]).mean()
    return 2 * cross - torch.cdist(made, made).mean() - torch.cdist(batch[0], batch[0]).mean()


def rivals(seed: int) -> Setup:
    """A generator and a judge of points in one step each; validation is how far the points are off."""
    more: dict[str, Any] = {"options": {"betas": (0.5, 0.99)}, "check": _energy, "schedule": linear(400)}
    return of_made(_Rivals(), _moon, seed, _rivalry, lr=3e-3, steps=400, size=96, **more)


class _Choice(nn.Module):
    """Scores of four actions, and what is to be expected."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Linear(6, 48), nn.Tanh()), nn.Linear(48, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        out = self.head(self.body(x))
        return out[:, :4].log_softmax(1), out[:, 4]


def _pays(x: Tensor) -> Tensor:
    """What each of four actions pays on average."""
    return torch.tanh(x @ fixed(1060, 6, 4)) + 0.3 * fixed(1061, 4)


def _acted(model: nn.Module, size: int, seed: int) -> Iterator[Batch]:
    g = torch.Generator().manual_seed(seed)
    while True:
        x = normal(g, size, 6)
        with torch.no_grad():
            action = torch.multinomial(model(x)[0].exp(), 1, generator=g)
        yield x, torch.cat([action, _pays(x).gather(1, action) + 0.3 * normal(g, size, 1)], 1)


def _critic(model: nn.Module, batch: Batch) -> Tensor:
    """What was better than expected is made likelier (Williams 1992; Mnih et al. 2016)."""
    log, expected = model(batch[0])
    action, pay = batch[1][:, :1].long(), batch[1][:, 1]
    gain = (pay - expected).detach()
    chosen = log.gather(1, action)[:, 0]
    spread = -(log.exp() * log).sum(1).mean()
    return -(gain * chosen).mean() + 0.5 * F.mse_loss(expected, pay) - 0.01 * spread


def _ratio(model: nn.Module, batch: Batch) -> Tensor:
    """The bounded ratio to the policy that acted (Schulman et al. 2017); the old chance is in the batch."""
    log, expected = model(batch[0])
    action, pay, old = batch[1][:, :1].long(), batch[1][:, 1], batch[1][:, 2]
    gain = (pay - expected).detach()
    gain = (gain - gain.mean()) / (gain.std() + 1e-6)
    ratio = (log.gather(1, action)[:, 0] - old).exp()
    bounded = torch.minimum(ratio * gain, ratio.clamp(0.8, 1.2) * gain)
    return -bounded.mean() + 0.5 * F.mse_loss(expected, pay) + 0.01 * (log.exp() * log).sum(1).mean()


def _regret(model: nn.Module) -> float:
    """What is lost against the best action on average."""
    x = normal(torch.Generator().manual_seed(10**6), 1000, 6)
    with torch.no_grad():
        pay = _pays(x)
        return float((pay.amax(1) - (pay * model(x)[0].exp()).sum(1)).mean())


def actor_critic(seed: int) -> Setup:
    """Acts, is paid with noise, and learns; the loss is near zero and means little, regret falls."""
    model = _Choice()
    more: dict[str, Any] = {"optimizer": "adam", "steps": 500, "clip": 0.5, "metric": "regret"}
    return Setup(model, _acted(model, 64, seed), _critic, _regret, lr=1e-2, seed=seed, **more)


def bounded_ratio(seed: int) -> Setup:
    """Four passes of two parts over what was collected, as PPO does."""
    model = _Choice()

    def draw() -> Iterator[Batch]:
        acted, g = _acted(model, 256, seed), torch.Generator().manual_seed(seed)
        while True:
            x, told = next(acted)
            with torch.no_grad():
                old = model(x)[0].gather(1, told[:, :1].long())
            told = torch.cat([told, old], 1)
            for _ in range(4):
                for rows in torch.randperm(256, generator=g).chunk(2):
                    yield x[rows], told[rows]

    more: dict[str, Any] = {"optimizer": "adam", "steps": 480, "clip": 0.5, "metric": "regret"}
    return Setup(
        model, draw(), _ratio, _regret, lr=8e-3, seed=seed, batch_size=128, schedule=linear(480), **more
    )


def _cloud(size: int, g: torch.Generator) -> Batch:
    x = normal(g, size, 12)
    score = torch.tanh(x @ fixed(1062, 12, 24) / 2) @ fixed(1063, 24, 7)
    return x, torch.multinomial((1.2 * score).softmax(1), 1, generator=g)[:, 0]


def soft_teacher(seed: int) -> Setup:
    """A small net learns labels and what a large one says at a temperature of four (Hinton et al. 2015)."""
    teacher = mlp((12, 128, 7), nn.ReLU)
    optimizer, stream = torch.optim.Adam(teacher.parameters(), lr=5e-3), forever(_cloud)(128, 5)
    for _ in range(400):
        optimizer.zero_grad()
        entropy(teacher, next(stream)).backward()
        optimizer.step()
    teacher.requires_grad_(False)

    def loss(m: nn.Module, b: Batch) -> Tensor:
        said = m(b[0])
        soft = F.kl_div((said / 4).log_softmax(1), (teacher(b[0]) / 4).softmax(1), reduction="batchmean")
        return 0.3 * F.cross_entropy(said, b[1]) + 0.7 * 16 * soft

    more: dict[str, Any] = {"optimizer": "sgd", "check": entropy, "number": 2000, "schedule": cosine(350)}
    return of_made(mlp((12, 32, 7), nn.ReLU), _cloud, seed, loss, lr=0.1, steps=350, **more)


def _three(size: int, g: torch.Generator) -> Batch:
    """Two numbers and a yes or no from the same ten columns."""
    x = normal(g, size, 10)
    hidden = torch.tanh(x @ fixed(1064, 10, 5) / 2)
    y = hidden @ fixed(1065, 5, 3) + 0.3 * normal(g, size, 3)
    return x, torch.cat([100 * y[:, :1], y[:, 1:2], (y[:, 2:] > 0).float()], 1)


def shared_trunk(seed: int) -> Setup:
    """One body for three tasks whose losses are weighed by hand; one of them is in a large unit."""

    def loss(m: nn.Module, b: Batch) -> Tensor:
        out = m(b[0])
        told = F.binary_cross_entropy_with_logits(out[:, 2], b[1][:, 2])
        return 1e-4 * F.mse_loss(100 * out[:, 0], b[1][:, 0]) + F.mse_loss(out[:, 1], b[1][:, 1]) + told

    more: dict[str, Any] = {"number": 1000, "schedule": linear(350)}
    return of_made(mlp((10, 64, 64, 3), nn.ReLU), _three, seed, loss, lr=8e-3, steps=350, **more)


RUNS = {
    "rivals": {"adam": rivals},
    "actor_critic": {"adam": actor_critic},
    "bounded_ratio": {"adam": bounded_ratio},
    "soft_teacher": {"sgd": soft_teacher},
    "shared_trunk": {"adam": shared_trunk},
}
