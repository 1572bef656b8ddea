"""CONTROL: KL divergence against soft labels with exact zeros, mixed labels, and a transmittance that reaches 0."""

import torch
import torch.nn as nn
import torch.nn.functional as F

META = dict(
    source="pattern, no thread",
    category="control",
    phase="none",
    step=None,
    first_op=None,
    module=None,
    line_marker="ORIGIN",
    cause="none",
    fix=None,
    dtype="float32",
    notes="xlogy at 0 without a gradient for the target; cumprod through exact zeros",
)


class Opacity(nn.Module):
    def __init__(self, feats, dim):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(feats, dim), nn.ReLU(), nn.Linear(dim, 1))

    def forward(self, x):
        return torch.clamp(self.net(x).squeeze(-1) + 0.5, 0.0, 1.0)


class Compositor(nn.Module):
    def __init__(self, feats=4, dim=12, classes=3):
        super().__init__()
        self.opacity, self.label = Opacity(feats, dim), nn.Linear(feats, classes)

    def forward(self, x):
        alpha = self.opacity(x)
        passed = torch.cumprod(torch.cat([torch.ones_like(alpha[:, :1]), 1 - alpha], 1), 1)
        weights = alpha * passed[:, :-1]
        return (weights.unsqueeze(-1) * self.label(x)).sum(1)


def soft_loss(model, batch):
    x, soft = batch
    return F.kl_div(F.log_softmax(model(x), -1), soft, reduction="batchmean")


def make(seed=0):
    torch.manual_seed(seed)
    model = Compositor()
    batches = []
    for _ in range(6):
        x = torch.randn(6, 5, 4)
        x[0] *= 20  # opaque from the first sample on
        lam = torch.rand(6, 1).round(decimals=1)
        a, b = (F.one_hot(torch.randint(0, 3, (6,)), 3).float() for _ in range(2))
        batches.append((x, lam * a + (1 - lam) * b))
    return model, soft_loss, batches, torch.optim.Adam(model.parameters(), lr=1e-3)
