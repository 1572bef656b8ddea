"""Mixture density network: every component's density underflows for an outlier, log(0).

source: keras-team/keras#1061 and #2586 (mixture density network: loss becomes inf, then nan).
"""

import math

import torch
import torch.nn as nn

META = dict(
    source="keras-team/keras#1061",
    category="forward,inf_first",
    phase="forward",
    step=1,
    visible="loss",
    first_op="aten.log",
    module="criterion",
    line_marker="ORIGIN",
    cause="log_zero",
    fix="logsumexp of log weights and log densities",
    fix_code="return -torch.log(total.clamp(min=1e-30)).mean()",
    dtype="float32",
)


class MixtureNLL(nn.Module):
    def forward(self, weight, mu, sigma, y):
        gap = (y.unsqueeze(1) - mu) / sigma
        density = torch.exp(-0.5 * gap.pow(2)) / (sigma * math.sqrt(2 * math.pi))
        total = (weight * density).sum(1)
        return -torch.log(total).mean()  # ORIGIN


class MDNHead(nn.Module):
    def __init__(self, dim, parts):
        super().__init__()
        self.weight, self.mu, self.sigma = (nn.Linear(dim, parts) for _ in range(3))

    def forward(self, h):
        return torch.softmax(self.weight(h), -1), self.mu(h), nn.functional.softplus(self.sigma(h)) + 0.05


class MDN(nn.Module):
    def __init__(self, feats=2, dim=16, parts=3):
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Linear(feats, dim), nn.Tanh()), MDNHead(dim, parts)
        self.criterion = MixtureNLL()

    def forward(self, x, y):
        return self.criterion(*self.head(self.body(x)), y)


def make(seed=0):
    torch.manual_seed(seed)
    model = MDN()
    batches = []
    for i in range(3):
        x, y = torch.randn(8, 2), torch.randn(8)
        if i == 1:
            y[6] = 60.0  # one target in another unit
        batches.append((x, y))

    def loss_fn(model, batch):
        return model(*batch)

    return model, loss_fn, batches, torch.optim.RMSprop(model.parameters(), lr=1e-3)
