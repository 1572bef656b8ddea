"""Statistics pooling of a speaker model: torch.var_mean over an utterance of one frame.

source: pattern of x-vector code (mean and standard deviation over time); pytorch/pytorch#4320 discussion.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

META = dict(
    source="pytorch/pytorch#4320",
    category="forward",
    phase="forward",
    step=2,
    visible="loss",
    first_op="aten.var_mean",
    first_op_alt=["aten.var"],
    module="pool",
    line_marker="ORIGIN",
    cause="empty_reduction",
    fix="the biased variance",
    fix_code="var, mean = torch.var_mean(h, dim=1, correction=0)",
    dtype="float32",
    notes="one of two outputs is bad",
)


class StatsPool(nn.Module):
    def forward(self, h):
        var, mean = torch.var_mean(h, dim=1)  # ORIGIN
        return torch.cat([mean, torch.sqrt(var + 1e-6)], 1)


class TDNN(nn.Module):
    def __init__(self, i, o, context):
        super().__init__()
        self.conv, self.norm = nn.Conv1d(i, o, context, padding=context // 2), nn.LayerNorm(o)

    def forward(self, x):
        return F.relu(self.norm(self.conv(x.transpose(1, 2)).transpose(1, 2)))


class XVector(nn.Module):
    def __init__(self, mels=6, dim=10, speakers=4):
        super().__init__()
        self.frames, self.pool = nn.Sequential(TDNN(mels, dim, 3), TDNN(dim, dim, 3)), StatsPool()
        self.out = nn.Linear(2 * dim, speakers)

    def forward(self, x):
        return self.out(self.pool(self.frames(x)))


def make(seed=0):
    torch.manual_seed(seed)
    model = XVector()
    batches = [(torch.randn(3, t, 6), torch.randint(0, 4, (3,))) for t in (9, 7, 1, 8)]

    def loss_fn(model, batch):
        x, y = batch
        return F.cross_entropy(model(x), y)

    return model, loss_fn, batches, torch.optim.Adam(model.parameters(), lr=1e-3)
