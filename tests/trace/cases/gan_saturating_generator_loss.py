"""The original GAN loss: log(1 - D(x)) once the discriminator is certain.

source: pattern of DCGAN tutorials that write -log(D(x)) - log(1 - D(G(z))) on sigmoid outputs.
"""

import torch
import torch.nn as nn

META = dict(
    source="pattern, no thread (log of a saturated sigmoid)",
    category="forward,inf_first",
    phase="loss",
    step=1,
    visible="loss",
    first_op="aten.log",
    module=None,
    line_marker="ORIGIN",
    cause="log_zero",
    fix="work on logits: softplus(logit) = -log(1 - sigmoid(logit))",
    fix_code="fake_term = -torch.log((1 - d_fake).clamp(min=1e-7)).mean()",
    dtype="float32",
)


class Disc(nn.Module):
    def __init__(self, dim=8):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv1d(1, dim, 5, 2, 2), nn.LeakyReLU(0.2), nn.Conv1d(dim, dim, 5, 2, 2)
        )
        self.score = nn.Linear(dim, 1)

    def forward(self, x):
        return torch.sigmoid(self.score(self.features(x.unsqueeze(1)).mean(-1))).squeeze(-1)


class Gen(nn.Module):
    def __init__(self, z=4, length=16):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(z, 16), nn.ReLU(), nn.Linear(16, length))

    def forward(self, z):
        return self.net(z)


class GAN(nn.Module):
    def __init__(self):
        super().__init__()
        self.disc, self.gen = Disc(), Gen()

    def forward(self, real, z):
        return self.disc(real), self.disc(self.gen(z))


def minimax(model, batch):
    d_real, d_fake = model(batch["real"], batch["z"])
    real_term = -torch.log(d_real.clamp(min=1e-7)).mean()
    fake_term = -torch.log(1 - d_fake).mean()  # ORIGIN
    return real_term + fake_term


def make(seed=0):
    torch.manual_seed(seed)
    model = GAN()
    with torch.no_grad():
        for p in model.disc.parameters():
            p.abs_()
        model.gen.net[0].weight.abs_()
        model.gen.net[2].weight.abs_()
    batches = []
    for i in range(3):
        z = torch.rand(5, 4) * 0.1
        if i == 1:
            z[2] = 300.0  # the truncation trick with the wrong sign
        batches.append(dict(real=torch.rand(5, 16), z=z))
    return model, minimax, batches, torch.optim.SGD(model.parameters(), lr=1e-4)
