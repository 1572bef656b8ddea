"""SAC with an action scale of 2: log(1 - action ** 2 + eps) sees the scaled action and turns negative.

source: cpnota/autonomous-learning-library#139 and philtabor/Actor-Critic-Methods-Paper-To-Code#7.
"""

import torch
import torch.nn as nn

META = dict(
    source="cpnota/autonomous-learning-library#139",
    category="forward",
    phase="forward",
    step=1,
    visible="loss",
    first_op="aten.log",
    module="policy",
    line_marker="ORIGIN",
    cause="domain_error",
    fix="correct with tanh(raw), before the scaling",
    fix_code="log_prob = log_prob - torch.log(1 - torch.tanh(raw).pow(2) + 1e-6)",
    dtype="float32",
)


class TwinQ(nn.Module):
    def __init__(self, obs, actions):
        super().__init__()
        self.q1, self.q2 = (
            nn.Sequential(nn.Linear(obs + actions, 16), nn.ReLU(), nn.Linear(16, 1)) for _ in range(2)
        )

    def forward(self, obs, action):
        x = torch.cat([obs, action], -1)
        return torch.min(self.q1(x), self.q2(x)).squeeze(-1)


class GaussianPolicy(nn.Module):
    def __init__(self, obs, actions, scale):
        super().__init__()
        self.body, self.out = nn.Sequential(nn.Linear(obs, 16), nn.ReLU()), nn.Linear(16, 2 * actions)
        self.register_buffer("scale", torch.tensor(scale))

    def forward(self, obs, noise):
        mean, log_std = self.out(self.body(obs)).chunk(2, -1)
        dist = torch.distributions.Normal(mean, log_std.clamp(-5, 2).exp())
        raw = mean + dist.stddev * noise
        action = torch.tanh(raw) * self.scale
        log_prob = dist.log_prob(raw)
        log_prob = log_prob - torch.log(1 - action.pow(2) + 1e-6)  # ORIGIN
        return action, log_prob.sum(-1)


class SAC(nn.Module):
    def __init__(self, obs=5, actions=2):
        super().__init__()
        self.policy, self.critic = GaussianPolicy(obs, actions, 2.0), TwinQ(obs, actions)

    def forward(self, obs, noise):
        action, log_prob = self.policy(obs, noise)
        return (0.2 * log_prob - self.critic(obs, action)).mean()


def make(seed=0):
    torch.manual_seed(seed)
    model = SAC()
    batches = []
    for i in range(3):
        noise = torch.randn(8, 2).clamp(-0.2, 0.2)
        if i == 1:
            noise[5, 1] = 2.5
        batches.append((torch.randn(8, 5) * 0.1, noise))

    def loss_fn(model, batch):
        return model(*batch)

    return model, loss_fn, batches, torch.optim.Adam(model.policy.parameters(), lr=3e-4)
