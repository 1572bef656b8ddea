"""Supervised contrastive loss: a class with a single sample in the batch has no positive pair.

source: HobbitLong/SupContrast#20 (loss is nan: "denum could be zero if there is no same label").
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

META = dict(
    source="HobbitLong/SupContrast#20",
    category="forward",
    phase="forward",
    step=1,
    visible="loss",
    first_op="aten.div",
    module="criterion",
    line_marker="ORIGIN",
    cause="div_zero",
    cause_alt=["empty_reduction"],
    fix="divide by max(1, number of positives)",
    fix_code="mean_pos = (positive * logp).sum(1) / positive.sum(1).clamp(min=1)",
    dtype="float32",
)


class SupConLoss(nn.Module):
    def __init__(self, temperature=0.1):
        super().__init__()
        self.temperature = temperature

    def forward(self, z, y):
        logits = z @ z.t() / self.temperature
        others = 1 - torch.eye(len(z))
        positive = (y[:, None] == y[None]).float() * others
        logits = logits - logits.amax(1, keepdim=True).detach()
        logp = logits - (logits.exp() * others).sum(1, keepdim=True).log()
        mean_pos = (positive * logp).sum(1) / positive.sum(1)  # ORIGIN
        return -mean_pos.mean()


class ResMLP(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.norm, self.fc = nn.BatchNorm1d(dim), nn.Linear(dim, dim)

    def forward(self, x):
        return x + F.relu(self.fc(self.norm(x)))


class Embedder(nn.Module):
    def __init__(self, feats=10, dim=16):
        super().__init__()
        self.inp, self.blocks = nn.Linear(feats, dim), nn.Sequential(ResMLP(dim), ResMLP(dim))
        self.criterion = SupConLoss()

    def forward(self, x, y):
        return self.criterion(F.normalize(self.blocks(self.inp(x)), dim=1), y)


def make(seed=0):
    torch.manual_seed(seed)
    model = Embedder()
    batches = []
    for i in range(3):
        y = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
        if i == 1:
            y[7] = 4  # a rare class
        batches.append((torch.randn(8, 10), y))

    def loss_fn(model, batch):
        return model(*batch)

    return model, loss_fn, batches, torch.optim.Adam(model.parameters(), lr=1e-3)
