"""WGAN-GP: the norm of the critic's input gradient is exactly 0 where all its ReLUs are dead.

source: keras-team/keras-io#910, pytorch/pytorch#2534 (gradient of the gradient explodes to nan in WGAN-GP).
"""

import torch
import torch.nn as nn

META = dict(
    source="pytorch/pytorch#2534",
    category="backward",
    phase="backward",
    step=1,
    visible="grad",
    first_op="SqrtBackward0",
    module=None,
    line_marker="ORIGIN",
    cause="singular_gradient",
    fix="add an epsilon under the root",
    fix_code="norm = (slope.pow(2).sum(1) + 1e-12).sqrt()",
    dtype="float32",
    notes="the pass that fails is the second one, through the gradient",
)


class Critic(nn.Module):
    def __init__(self, dim=2, hidden=16):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU())
        self.out = nn.Linear(hidden, 1)

    def forward(self, x):
        return self.out(self.net(x)).squeeze(-1)


class Generator(nn.Module):
    def __init__(self, z=3, dim=2):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(z, 16), nn.LeakyReLU(0.2), nn.Linear(16, dim))

    def forward(self, z):
        return self.net(z)


class WGAN(nn.Module):
    def __init__(self):
        super().__init__()
        self.critic, self.generator = Critic(), Generator()

    def forward(self, z):
        return self.generator(z)


def gradient_penalty(critic, real, fake, mix):
    x = (mix * real + (1 - mix) * fake).requires_grad_(True)
    (slope,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    norm = slope.pow(2).sum(1).sqrt()  # ORIGIN
    return (norm - 1).pow(2).mean()


def critic_loss(model, batch):
    with torch.no_grad():
        fake = model(batch["z"])
    gap = model.critic(fake).mean() - model.critic(batch["real"]).mean()
    return gap + 10 * gradient_penalty(model.critic, batch["real"], fake, batch["mix"])


def make(seed=0):
    torch.manual_seed(seed)
    model = WGAN()
    with torch.no_grad():
        model.critic.net[0].weight[:, 0].abs_()  # every unit switches off far to the left
    batches = []
    for i in range(3):
        real = torch.rand(6, 2)
        if i == 1:
            real[3, 0] = -500.0
        mix = torch.rand(6, 1).clamp(min=0.3)
        batches.append(dict(real=real, z=torch.randn(6, 3), mix=mix))
    return model, critic_loss, batches, torch.optim.Adam(model.critic.parameters(), lr=1e-4, betas=(0.0, 0.9))
