"""Missing sensor values are NaN and well imputed; then each window is divided by its range, which is 0.

source: pattern of time series pipelines (instance normalisation by range; a dead channel).
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

META = dict(
    source="pattern, no thread (range normalisation of a dead channel)",
    category="forward",
    decoy_legit=True,
    phase="forward",
    step=1,
    visible="loss",
    first_op="aten.div",
    module="front.scale",
    line_marker="ORIGIN",
    cause="div_zero",
    fix="clamp the range",
    fix_code="return (x - low) / (high - low).clamp(min=1e-5)",
    dtype="float32",
    notes="the NaN of the batch are handled: they are not the origin",
)


class Impute(nn.Module):
    def forward(self, x):
        level = torch.nanmean(x, -1, keepdim=True)  # LEGIT
        return torch.where(torch.isnan(x), level, x)  # LEGIT


class RangeScale(nn.Module):
    def forward(self, x):
        low, high = x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)
        return (x - low) / (high - low)  # ORIGIN


class Front(nn.Module):
    def __init__(self):
        super().__init__()
        self.impute, self.scale = Impute(), RangeScale()

    def forward(self, x):
        return self.scale(self.impute(x))


class ActivityNet(nn.Module):
    def __init__(self, channels=3, dim=10):
        super().__init__()
        self.front, self.conv = Front(), nn.Conv1d(channels, dim, 5, padding=2)
        self.out = nn.Linear(dim, 4)

    def forward(self, x):
        return self.out(F.relu(self.conv(self.front(x))).mean(-1))


def make(seed=0):
    torch.manual_seed(seed)
    model = ActivityNet()
    batches = []
    for i in range(3):
        x = torch.randn(5, 3, 16)
        x[torch.rand(5, 3, 16) > 0.9] = float("nan")
        if i == 1:
            x[3, 1] = 1.25
        batches.append((x, torch.randint(0, 4, (5,))))

    def loss_fn(model, batch):
        x, y = batch
        return F.cross_entropy(model(x), y)

    return model, loss_fn, batches, torch.optim.Adam(model.parameters(), lr=1e-3)
