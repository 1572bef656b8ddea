"""An actor that walks on a line, trained by policy gradient on its own walks."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from models import Batch, features
from torch import Tensor, nn


class Actor(nn.Module):
    """What to do, and what it is worth to be here."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.act, self.worth = nn.Linear(4, 32), nn.Linear(32, 2), nn.Linear(32, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.body(x))
        return torch.cat([self.act(h), self.worth(h)], -1)


class Corridor:
    """Walks of the model as it is now on a line that pays at its right end: states and actions, returns."""

    def __init__(self, model: nn.Module, seed: int) -> None:
        self.model, self.generator = model, torch.Generator().manual_seed(seed)

    def __iter__(self) -> Iterator[Batch]:
        while True:
            at = torch.rand(24, 1, generator=self.generator) * 1.6 - 0.95
            seen, rewards = [], []
            alive = torch.ones_like(at)
            for _ in range(10):
                with torch.no_grad():
                    chance = self.model(features(at))[:, :2].softmax(-1).nan_to_num(0.5)
                action = torch.multinomial(chance, 1, generator=self.generator)
                seen.append(torch.cat([features(at), action.float(), alive], 1))
                at = (
                    at + 0.2 * (2 * action - 1) + 0.05 * torch.randn(24, 1, generator=self.generator)
                ).clamp(-1, 1)
                rewards.append(alive * ((at > 0.8).float() - 0.05))
                alive = alive * (at <= 0.8).float()
            returns, total = [], torch.zeros_like(at)
            for reward in reversed(rewards):
                total = reward + 0.95 * total
                returns.append(total)
            yield torch.cat(seen), torch.cat(returns[::-1])


def advantage(model: nn.Module, batch: Batch) -> Tensor:
    """Policy gradient with a learned baseline and a little entropy (Mnih et al. 2016)."""
    x, value = batch
    out, alive = model(x[:, :4]), x[:, 5:]
    log = out[:, :2].log_softmax(-1)
    better = value - out[:, 2:]
    gain = log.gather(1, x[:, 4:5].long()) * better.detach() - 0.02 * (log.exp() * log).sum(-1, keepdim=True)
    return (alive * (0.5 * better.square() - gain)).sum() / alive.sum()


def distance(model: nn.Module) -> float:
    """How far the walker that does the likelier is from the goal after ten steps on average."""
    at = torch.linspace(-0.9, 0.6, 32)[:, None]
    for _ in range(10):
        with torch.no_grad():
            at = (at + 0.2 * (2 * model(features(at))[:, :2].argmax(1, keepdim=True) - 1)).clamp(-1, 1)
    return float(1.0 - at.mean()) + 0.05
