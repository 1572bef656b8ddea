"""CONTROL: missing labels are NaN and are selected away before any arithmetic."""

import torch
import torch.nn as nn
import torch.nn.functional as F

META = dict(
    source="pytorch/pytorch#64305, done right",
    category="control",
    phase="none",
    step=None,
    first_op=None,
    module=None,
    line_marker="ORIGIN",
    cause="none",
    fix=None,
    dtype="float32",
    notes="the batch holds NaN in every step",
)


class Body(nn.Module):
    def __init__(self, bits, dim):
        super().__init__()
        self.fc, self.norm = nn.Linear(bits, dim), nn.BatchNorm1d(dim)

    def forward(self, x):
        return F.relu(self.norm(self.fc(x)))


class Toxicity(nn.Module):
    def __init__(self, bits=24, dim=12, tasks=4):
        super().__init__()
        self.body, self.heads = Body(bits, dim), nn.Linear(dim, tasks)

    def forward(self, x):
        return self.heads(self.body(x))


def selected_loss(pred, y):
    known = ~torch.isnan(y)
    return F.binary_cross_entropy_with_logits(pred[known], y[known])  # LEGIT


def make(seed=0):
    torch.manual_seed(seed)
    model = Toxicity()
    batches = []
    for _ in range(6):
        y = (torch.rand(8, 4) > 0.5).float()
        y[torch.rand(8, 4) > 0.6] = float("nan")
        y[0] = 1.0
        batches.append(((torch.rand(8, 24) > 0.5).float(), y))

    def loss_fn(model, batch):
        x, y = batch
        return selected_loss(model(x), y)

    return model, loss_fn, batches, torch.optim.Adam(model.parameters(), lr=1e-3)
