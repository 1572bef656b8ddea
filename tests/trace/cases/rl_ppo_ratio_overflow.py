"""PPO on stale data: the importance ratio overflows, the clipped branch hides it, its gradient is 0 * inf.

source: pattern of off-policy PPO / RLHF code (exp(new_logp - old_logp) with old_logp of -100 and below).
"""

import torch
import torch.nn as nn
from torch.distributions import Normal

META = dict(
    source="pattern, no thread (importance ratio of stale rollouts)",
    category="forward,inf_first",
    phase="loss",
    phase_alt=["backward"],
    step=1,
    visible="grad",
    first_op="aten.exp",
    first_op_alt=["ExpBackward0"],
    module=None,
    line_marker="ORIGIN",
    cause="where_grad_trap",
    cause_alt=["exp_overflow"],
    fix="clamp the log-ratio before exp",
    fix_code="ratio = torch.exp((logp - batch['logp']).clamp(max=20.0))",
    dtype="float32",
    notes="the loss is finite: min takes the clipped surrogate",
)


class GaussianActor(nn.Module):
    def __init__(self, obs=3, actions=1):
        super().__init__()
        self.mu = nn.Sequential(nn.Linear(obs, 16), nn.Tanh(), nn.Linear(16, actions))
        self.log_std = nn.Parameter(torch.full((actions,), -2.0))

    def forward(self, obs):
        return Normal(self.mu(obs), self.log_std.exp())


class Critic(nn.Module):
    def __init__(self, obs=3):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(obs, 16), nn.Tanh(), nn.Linear(16, 1))

    def forward(self, obs):
        return self.net(obs).squeeze(-1)


class PPOAgent(nn.Module):
    def __init__(self):
        super().__init__()
        self.actor, self.critic = GaussianActor(), Critic()

    def forward(self, obs, act):
        return self.actor(obs).log_prob(act).sum(-1), self.critic(obs)


def surrogate(logp, batch, clip):
    ratio = torch.exp(logp - batch["logp"])  # ORIGIN
    adv = batch["adv"]
    return torch.min(ratio * adv, ratio.clamp(1 - clip, 1 + clip) * adv)


def make(seed=0):
    torch.manual_seed(seed)
    model = PPOAgent()
    batches = []
    for i in range(3):
        obs, act = torch.randn(8, 3), torch.randn(8, 1) * 0.1
        with torch.no_grad():
            logp, value = model(obs, act)
        adv = torch.randn(8)
        if i == 1:
            logp[3], adv[3] = -140.0, 1.0  # recorded by a policy that had collapsed elsewhere
        batches.append(dict(obs=obs, act=act, logp=logp, adv=adv, ret=value + adv))

    def loss_fn(model, batch):
        logp, value = model(batch["obs"], batch["act"])
        return -surrogate(logp, batch, 0.2).mean() + 0.5 * (value - batch["ret"]).pow(2).mean()

    return model, loss_fn, batches, torch.optim.Adam(model.parameters(), lr=1e-4)
