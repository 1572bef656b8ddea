"""Behaviour cloning with a tanh-squashed Gaussian: the action of the demonstration is exactly 1.

source: ray-project/ray#14878 (SAC unsquashes clipped actions) and denisyarats/pytorch_sac#7 (atanh of the action).
"""

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.distributions import Normal

META = dict(
    source="ray-project/ray#14878",
    category="forward,inf_first",
    phase="forward",
    step=1,
    visible="loss",
    first_op="aten.atanh",
    module="actor.head",
    line_marker="ORIGIN",
    cause="domain_edge",
    fix="clip the action into (-1, 1) before atanh",
    fix_code="raw = torch.atanh(action.clamp(-1 + 1e-6, 1 - 1e-6))",
    dtype="float32",
)


class SquashedGaussian(nn.Module):
    def __init__(self, hidden, actions):
        super().__init__()
        self.mu, self.log_std = nn.Linear(hidden, actions), nn.Linear(hidden, actions)

    def log_prob(self, h, action):
        raw = torch.atanh(action)  # ORIGIN
        base = Normal(self.mu(h), self.log_std(h).clamp(-5, 2).exp(), validate_args=False)
        squash = 2 * (0.6931472 - raw - F.softplus(-2 * raw))
        return (base.log_prob(raw) - squash).sum(-1)

    def forward(self, h, action):
        return self.log_prob(h, action)


class Actor(nn.Module):
    def __init__(self, obs=6, hidden=16, actions=2):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(obs, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU())
        self.head = SquashedGaussian(hidden, actions)

    def forward(self, obs, action):
        return self.head(self.trunk(obs), action)


class Agent(nn.Module):
    def __init__(self):
        super().__init__()
        self.actor = Actor()

    def forward(self, obs, action):
        return self.actor(obs, action)


def make(seed=0):
    torch.manual_seed(seed)
    model = Agent()
    batches = []
    for i in range(3):
        action = torch.tanh(torch.randn(8, 2) * 0.5)
        if i == 1:
            action[2, 0] = 1.0  # the operator held the stick at its stop
        batches.append((torch.randn(8, 6), action))

    def loss_fn(model, batch):
        return -model(*batch).mean()

    return model, loss_fn, batches, torch.optim.Adam(model.parameters(), lr=3e-4)
