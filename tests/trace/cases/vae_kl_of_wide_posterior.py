"""Beta-VAE with a deterministic warm-up: the KL term's exp(logvar) overflows before any sample is drawn.

source: pattern of VAE threads (KL explodes: exp of an unbounded log-variance), AntixK/PyTorch-VAE nan reports.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

META = dict(
    source="pattern, no thread (exp(logvar) in the KL term)",
    category="forward,inf_first",
    phase="loss",
    step=1,
    visible="loss",
    first_op="aten.exp",
    module=None,
    line_marker="ORIGIN",
    cause="exp_overflow",
    fix="clamp the log-variance",
    fix_code="var = logvar.clamp(max=20.0).exp()",
    dtype="float32",
)


class ConvEncoder(nn.Module):
    def __init__(self, z):
        super().__init__()
        self.c1, self.c2 = nn.Conv2d(1, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1)
        self.mu, self.logvar = nn.Linear(32, z), nn.Linear(32, z)

    def forward(self, x):
        h = F.relu(self.c2(F.relu(self.c1(x)))).flatten(1)
        return self.mu(h), self.logvar(h)


class ConvDecoder(nn.Module):
    def __init__(self, z):
        super().__init__()
        self.fc, self.up = nn.Linear(z, 32), nn.ConvTranspose2d(8, 1, 4, 4)

    def forward(self, z):
        return self.up(F.relu(self.fc(z)).view(-1, 8, 2, 2))


class BetaVAE(nn.Module):
    def __init__(self, z=3):
        super().__init__()
        self.encoder, self.decoder = ConvEncoder(z), ConvDecoder(z)

    def forward(self, x):
        mu, logvar = self.encoder(x)
        return self.decoder(mu), mu, logvar  # warm-up: no noise


def kl_divergence(mu, logvar):
    var = logvar.exp()  # ORIGIN
    return 0.5 * (mu.pow(2) + var - 1 - logvar).sum(1).mean()


def make(seed=0):
    torch.manual_seed(seed)
    model = BetaVAE()
    batches = [torch.rand(4, 1, 8, 8) for _ in range(3)]
    batches[1] = batches[1] * 65535  # 16-bit scans of another scanner
    with torch.no_grad():
        model.encoder.logvar.weight.abs_()

    def loss_fn(model, batch):
        recon, mu, logvar = model(batch)
        return F.smooth_l1_loss(recon, batch) + 1e-3 * kl_divergence(mu, logvar)

    return model, loss_fn, batches, torch.optim.SGD(model.parameters(), lr=1e-6)
