"""Mean absolute scaled error: the naive error of a constant history is 0.

source: pattern of MASE losses in forecasting libraries (gluonts and pytorch-forecasting guard it with an epsilon).
"""

import torch
import torch.nn as nn

META = dict(
    source="pattern, no thread (MASE of a constant series)",
    category="forward,inf_first",
    phase="loss",
    step=2,
    visible="loss",
    first_op="aten.div",
    module=None,
    line_marker="ORIGIN",
    cause="div_zero",
    fix="clamp the scale",
    fix_code="return (error / naive.clamp(min=1e-3)).mean()",
    dtype="float32",
    notes="x / 0 with x > 0: an Inf, not a NaN",
)


class Trend(nn.Module):
    def __init__(self, length, dim):
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(length, dim), nn.ReLU())
        self.back, self.ahead = nn.Linear(dim, length), nn.Linear(dim, 4)

    def forward(self, y):
        h = self.fc(y)
        return y - self.back(h), self.ahead(h)


class NBeats(nn.Module):
    def __init__(self, length=12, dim=16):
        super().__init__()
        self.blocks = nn.ModuleList(Trend(length, dim) for _ in range(3))

    def forward(self, y):
        total = 0.0
        for block in self.blocks:
            y, ahead = block(y)
            total = total + ahead
        return total


def mase(pred, target, history):
    naive = (history[:, 1:] - history[:, :-1]).abs().mean(1)
    error = (pred - target).abs().mean(1)
    return (error / naive).mean()  # ORIGIN


def make(seed=0):
    torch.manual_seed(seed)
    model = NBeats()
    batches = []
    for i in range(4):
        history = torch.randn(5, 12).cumsum(1)
        if i == 2:
            history[3] = 7.0  # a product that sold the same number every day
        batches.append((history, torch.randn(5, 4)))

    def loss_fn(model, batch):
        history, target = batch
        return mase(model(history), target, history)

    return model, loss_fn, batches, torch.optim.Adam(model.parameters(), lr=1e-3)
