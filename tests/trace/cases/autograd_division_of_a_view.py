"""Per-group normalisation in place on views: one group is empty, its slice is divided by 0.

source: pattern of loop code over groups (out[g] /= count[g]) in multi-instance and set models.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

META = dict(
    source="pattern, no thread (in-place division of a slice)",
    category="forward",
    phase="forward",
    step=1,
    visible="loss",
    first_op="aten.div_",
    module="bags.mean",
    line_marker="ORIGIN",
    cause="div_zero",
    cause_alt=["empty_reduction"],
    fix="divide by at least 1",
    fix_code="out[g] /= member.sum().clamp(min=1)",
    dtype="float32",
    notes="the bad value is written through a view; the base is read three lines later",
)


class GroupMean(nn.Module):
    def forward(self, h, group, num):
        out = torch.zeros(num, h.shape[1])
        for g in range(num):
            member = (group == g).to(h.dtype)
            out[g] += (member[:, None] * h).sum(0)
            out[g] /= member.sum()  # ORIGIN
        scale = 1.0 + out.new_zeros(num, 1)
        return out * scale


class Bags(nn.Module):
    def __init__(self, feats, dim):
        super().__init__()
        self.embed, self.mean = nn.Sequential(nn.Linear(feats, dim), nn.ReLU()), GroupMean()

    def forward(self, x, group, num):
        return self.mean(self.embed(x), group, num)


class SlideClassifier(nn.Module):
    def __init__(self, feats=6, dim=12):
        super().__init__()
        self.bags, self.out = Bags(feats, dim), nn.Linear(dim, 2)

    def forward(self, x, group, num):
        return self.out(self.bags(x, group, num))


def make(seed=0):
    torch.manual_seed(seed)
    model = SlideClassifier()
    batches = []
    for i in range(3):
        group = torch.arange(12) % 4
        if i == 1:
            group[group == 2] = 3  # a slide without tissue
        batches.append((torch.randn(12, 6), group, torch.randint(0, 2, (4,))))

    def loss_fn(model, batch):
        x, group, y = batch
        return F.cross_entropy(model(x, group, 4), y)

    return model, loss_fn, batches, torch.optim.Adam(model.parameters(), lr=1e-3)
