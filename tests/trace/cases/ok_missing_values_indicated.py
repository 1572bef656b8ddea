"""CONTROL: a table with NaN for missing values; the model itself replaces them and keeps an indicator."""

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
    notes="the first operation on the input is nan_to_num",
)


class Impute(nn.Module):
    def __init__(self, numeric):
        super().__init__()
        self.default = nn.Parameter(torch.zeros(numeric))

    def forward(self, x):
        missing = torch.isnan(x)
        known = torch.nan_to_num(x, nan=0.0)  # LEGIT
        return torch.cat([torch.where(missing, self.default, known), missing.float()], 1)


class TabularNet(nn.Module):
    def __init__(self, numeric=6, dim=16):
        super().__init__()
        self.impute, self.norm = Impute(numeric), nn.BatchNorm1d(2 * numeric)
        self.mlp = nn.Sequential(nn.Linear(2 * numeric, dim), nn.ReLU(), nn.Linear(dim, 1))

    def forward(self, x):
        return self.mlp(self.norm(self.impute(x))).squeeze(1)


def make(seed=0):
    torch.manual_seed(seed)
    model = TabularNet()
    batches = []
    for _ in range(6):
        x = torch.randn(8, 6)
        x[torch.rand(8, 6) > 0.7] = float("nan")
        batches.append((x, torch.randn(8)))

    def loss_fn(model, batch):
        x, y = batch
        return F.mse_loss(model(x), y)

    return model, loss_fn, batches, torch.optim.Adam(model.parameters(), lr=1e-3)
