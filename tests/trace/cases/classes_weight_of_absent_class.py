"""Weighted cross entropy: every label of the batch belongs to a class whose weight is 0.

source: pytorch/pytorch weighted mean of nll_loss; perslev/MultiPlanarUNet#24 (nan from the weight of an absent class).
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

META = dict(
    source="perslev/MultiPlanarUNet#24",
    category="forward",
    phase="loss",
    step=1,
    visible="loss",
    first_op="aten.nll_loss_forward",
    first_op_alt=["aten.nll_loss", "aten.cross_entropy_loss", "aten.nll_loss2d_forward"],
    module=None,
    line_marker="ORIGIN",
    cause="div_zero",
    cause_alt=["empty_reduction"],
    fix="sum the weighted losses and divide by a clamped sum of weights",
    fix_code="return F.cross_entropy(logits, y, weight=weight, reduction='sum') / weight[y].sum().clamp(min=1e-6)",
    dtype="float32",
)


class Bottleneck(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(dim, dim // 2), nn.GELU(), nn.Linear(dim // 2, dim))

    def forward(self, x):
        return x + self.net(x)


class SoundEvents(nn.Module):
    def __init__(self, mels=8, dim=16, classes=4):
        super().__init__()
        self.stem, self.body = nn.Linear(mels, dim), nn.Sequential(Bottleneck(dim), Bottleneck(dim))
        self.out = nn.Linear(dim, classes)
        self.register_buffer("weight", torch.tensor([0.0, 1.0, 2.0, 1.5]))  # silence counts nothing

    def forward(self, x):
        return self.out(self.body(self.stem(x)).mean(1))


def weighted_ce(logits, y, weight):
    return F.cross_entropy(logits, y, weight=weight)  # ORIGIN


def make(seed=0):
    torch.manual_seed(seed)
    model = SoundEvents()
    batches = []
    for i in range(3):
        y = torch.tensor([0, 1, 2, 3, 0, 1])
        if i == 1:
            y = torch.zeros_like(y)  # a night without events
        batches.append((torch.randn(6, 5, 8), y))

    def loss_fn(model, batch):
        x, y = batch
        return weighted_ce(model(x), y, model.weight)

    return model, loss_fn, batches, torch.optim.Adam(model.parameters(), lr=1e-3)
