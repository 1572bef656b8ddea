"""Hand-written Gumbel noise: the uniform sample is exactly 0.

source: pytorch/pytorch#4517 review ("can this produce -inf if uniform_ samples exactly 0?"), #22442, clab/dynet#561.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

META = dict(
    source="pytorch/pytorch#22442",
    category="forward,inf_first",
    phase="forward",
    step=1,
    visible="loss",
    first_op="aten.log",
    module="bottleneck",
    line_marker="ORIGIN",
    cause="log_zero",
    fix="clamp the uniform sample away from 0 and 1",
    fix_code="outer = -torch.log(u.clamp(1e-7, 1 - 1e-7))",
    dtype="float32",
    notes="-log(0) = inf, then -log(inf) = -inf: the logit of one code is -inf, a straight-through of it is nan",
)


class GumbelBottleneck(nn.Module):
    def __init__(self, dim, codes):
        super().__init__()
        self.logits, self.book = nn.Linear(dim, codes), nn.Embedding(codes, dim)

    def forward(self, h, u, tau):
        outer = -torch.log(u)  # ORIGIN
        noise = -torch.log(outer)
        y = (self.logits(h) + noise) / tau
        soft = F.softmax(y, -1)
        return soft @ self.book.weight, y


class DiscreteVAE(nn.Module):
    def __init__(self, feats=8, dim=12, codes=5):
        super().__init__()
        self.enc, self.dec = nn.Sequential(nn.Linear(feats, dim), nn.ReLU()), nn.Linear(dim, feats)
        self.bottleneck = GumbelBottleneck(dim, codes)

    def forward(self, x, u):
        z, y = self.bottleneck(self.enc(x), u, 0.7)
        return self.dec(z), y


def elbo(model, batch):
    x, u = batch
    recon, y = model(x, u)
    return F.mse_loss(recon, x) + 1e-3 * y.pow(2).mean()


def make(seed=0):
    torch.manual_seed(seed)
    model = DiscreteVAE()
    batches = []
    for i in range(3):
        u = torch.rand(6, 5).clamp(1e-3, 1 - 1e-3)
        if i == 1:
            u[2, 4] = 0.0  # uniform_ draws from [0, 1)
        batches.append((torch.randn(6, 8), u))
    return model, elbo, batches, torch.optim.Adam(model.parameters(), lr=1e-3)
