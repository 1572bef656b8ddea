"""A Beta policy scores an action of exactly 0: (alpha - 1) * log(0).

source: pytorch/pytorch#65811 (Beta.log_prob at 0 and 1 is -inf or nan) and tensorforce/tensorforce#94.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.distributions import Beta

META = dict(
    source="pytorch/pytorch#65811",
    category="forward,inf_first",
    phase="forward",
    step=1,
    visible="loss",
    first_op="aten.xlogy",
    module="policy",
    line_marker="ORIGIN",
    cause="log_zero",
    cause_alt=["domain_edge"],
    fix="clip actions into the open interval",
    fix_code="return self.dist(obs).log_prob(action.clamp(1e-4, 1 - 1e-4)).sum(-1)",
    dtype="float32",
    notes="the operation runs inside torch.distributions; the line is the caller's",
)


class BetaPolicy(nn.Module):
    def __init__(self, obs, actions):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(obs, 16), nn.ReLU(), nn.Linear(16, 2 * actions))

    def dist(self, obs):
        a, b = F.softplus(self.net(obs)).chunk(2, -1)
        return Beta(1 + a, 1 + b)

    def forward(self, obs, action):
        return self.dist(obs).log_prob(action).sum(-1)  # ORIGIN


class Thruster(nn.Module):
    def __init__(self, obs=7, actions=2):
        super().__init__()
        self.policy = BetaPolicy(obs, actions)
        self.value = nn.Sequential(nn.Linear(obs, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, obs, action):
        return self.policy(obs, action), self.value(obs).squeeze(-1)


def loss_fn(model, batch):
    logp, value = model(batch["obs"], batch["act"])
    adv = (batch["ret"] - value).detach()
    return -(logp * adv).mean() + F.mse_loss(value, batch["ret"])


def make(seed=0):
    torch.manual_seed(seed)
    model = Thruster()
    batches = []
    for i in range(3):
        act = torch.rand(6, 2) * 0.9 + 0.05
        if i == 1:
            act[0, 1] = 0.0  # thruster off
        batches.append(dict(obs=torch.randn(6, 7), act=act, ret=torch.randn(6)))
    return model, loss_fn, batches, torch.optim.Adam(model.parameters(), lr=1e-3)
