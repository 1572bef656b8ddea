"""CONTROL: illegal actions have a logit of -inf; torch.distributions clamps them in the entropy."""

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.distributions import Categorical

META = dict(
    source="hill-a/stable-baselines#505, done right",
    category="control",
    phase="none",
    step=None,
    first_op=None,
    module=None,
    line_marker="ORIGIN",
    cause="none",
    fix=None,
    dtype="float32",
    notes="softmax, log_softmax, gather and Categorical.entropy on logits with -inf",
)


class Trunk(nn.Module):
    def __init__(self, obs, dim):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(obs, dim), nn.Tanh(), nn.Linear(dim, dim), nn.Tanh())

    def forward(self, x):
        return self.net(x)


class MaskedPolicy(nn.Module):
    def __init__(self, obs=6, dim=16, actions=5):
        super().__init__()
        self.trunk, self.pi, self.v = Trunk(obs, dim), nn.Linear(dim, actions), nn.Linear(dim, 1)

    def forward(self, obs, legal):
        h = self.trunk(obs)
        logits = self.pi(h).masked_fill(~legal, float("-inf"))  # LEGIT
        return Categorical(logits=logits, validate_args=False), self.v(h).squeeze(-1)  # LEGIT


def a2c(model, batch):
    dist, value = model(batch["obs"], batch["legal"])
    adv = (batch["ret"] - value).detach()
    entropy = dist.entropy()  # LEGIT
    return (
        -(dist.log_prob(batch["act"]) * adv).mean() + F.mse_loss(value, batch["ret"]) - 0.01 * entropy.mean()
    )


def make(seed=0):
    torch.manual_seed(seed)
    model = MaskedPolicy()
    batches = []
    for _ in range(6):
        legal = torch.rand(8, 5) > 0.5
        legal[:, 1] = True
        batches.append(dict(obs=torch.randn(8, 6), legal=legal, act=torch.ones(8).long(), ret=torch.randn(8)))
    return model, a2c, batches, torch.optim.Adam(model.parameters(), lr=1e-3)
