"""Generalised-mean pooling inside a checkpointed block: x ** (1 / p) of a map that is 0 everywhere.

source: pattern of GeM pooling (clamp(min=eps) forgotten) with gradient checkpointing.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

META = dict(
    source="pattern, no thread (GeM pooling without clamp)",
    category="backward",
    phase="backward",
    step=1,
    visible="grad",
    first_op="PowBackward0",
    first_op_alt=["PowBackward1"],
    module="blocks.1.pool",
    line_marker="ORIGIN",
    cause="singular_gradient",
    fix="clamp the mean before the root",
    fix_code="return x.pow(self.p).mean((-2, -1)).clamp(min=1e-6).pow(1 / self.p)",
    dtype="float32",
    notes="the node that fails belongs to the second, recomputed forward",
)


class GeM(nn.Module):
    def __init__(self, p=3.0):
        super().__init__()
        self.p = p

    def forward(self, x):
        return x.pow(self.p).mean((-2, -1)).pow(1 / self.p)  # ORIGIN


class SqueezeBlock(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.conv, self.pool, self.gate = (
            nn.Conv2d(dim, dim, 3, padding=1, bias=False),
            GeM(),
            nn.Linear(dim, dim),
        )

    def forward(self, x, valid):
        y = F.softplus(self.conv(x)) * valid
        return x + y * torch.sigmoid(self.gate(self.pool(y)))[..., None, None]


class Retrieval(nn.Module):
    def __init__(self, dim=6):
        super().__init__()
        self.stem = nn.Conv2d(3, dim, 3, padding=1, bias=False)
        self.blocks = nn.ModuleList(SqueezeBlock(dim) for _ in range(2))
        self.out = nn.Linear(dim, 4)

    def forward(self, img, valid):
        x = self.stem(img)
        for block in self.blocks:
            x = checkpoint(block, x, valid, use_reentrant=False)
        return self.out(x.mean((2, 3)))


def make(seed=0):
    torch.manual_seed(seed)
    model = Retrieval()
    batches = []
    for i in range(3):
        valid = torch.ones(3, 1, 6, 6)
        if i == 1:
            valid[1] = 0.0  # a picture of nothing but border
        batches.append((torch.rand(3, 3, 6, 6), valid, torch.randint(0, 4, (3,))))

    def loss_fn(model, batch):
        img, valid, y = batch
        return F.cross_entropy(model(img, valid), y)

    return model, loss_fn, batches, torch.optim.SGD(model.parameters(), lr=1e-3)
