"""PPO normalises the advantages of a last mini-batch with one transition: its standard deviation is NaN.

source: DLR-RM/stable-baselines3#325 and #265.
"""

import torch
import torch.nn as nn
from torch.distributions import Categorical

META = dict(
    source="DLR-RM/stable-baselines3#325",
    category="forward",
    phase="loss",
    step=3,
    visible="loss",
    first_op="aten.std",
    module=None,
    line_marker="ORIGIN",
    cause="empty_reduction",
    fix="normalise only if there is more than one sample, or use the biased estimate",
    fix_code="spread = advantages.std(unbiased=False)",
    dtype="float32",
)


class ActorCritic(nn.Module):
    def __init__(self, obs=4, actions=3):
        super().__init__()
        self.shared = nn.Sequential(nn.Linear(obs, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh())
        self.pi, self.v = nn.Linear(16, actions), nn.Linear(16, 1)

    def forward(self, obs):
        h = self.shared(obs)
        return Categorical(logits=self.pi(h)), self.v(h).squeeze(-1)


def normalize(advantages):
    spread = advantages.std()  # ORIGIN
    return (advantages - advantages.mean()) / (spread + 1e-8)


def ppo_loss(model, batch, clip=0.2):
    dist, value = model(batch["obs"])
    adv = normalize(batch["adv"])
    ratio = (dist.log_prob(batch["act"]) - batch["logp"]).exp()
    policy = -torch.min(ratio * adv, ratio.clamp(1 - clip, 1 + clip) * adv).mean()
    return policy + 0.5 * (value - batch["ret"]).pow(2).mean() - 0.01 * dist.entropy().mean()


def make(seed=0):
    torch.manual_seed(seed)
    model = ActorCritic()
    batches = []
    for n in (8, 8, 8, 1):  # a rollout of 25 in mini-batches of 8
        obs, act = torch.randn(n, 4), torch.randint(0, 3, (n,))
        with torch.no_grad():
            logp = model(obs)[0].log_prob(act)
        batches.append(dict(obs=obs, act=act, logp=logp, adv=torch.randn(n), ret=torch.randn(n)))
    return model, ppo_loss, batches, torch.optim.Adam(model.parameters(), lr=3e-4)
