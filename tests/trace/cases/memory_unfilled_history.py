"""A history buffer from torch.empty of which only the newest rows are written.

source: sauradip/STALE#16 (background embedding left as torch.empty), kmkurn/pytorch-crf#1 (NaN from unset parameters).
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

META = dict(
    source="sauradip/STALE#16",
    category="forward",
    phase="forward",
    step=0,
    visible="loss",
    first_op="aten.empty",
    first_op_alt=["aten.new_empty", "aten.empty.memory_format", "aten.empty_like"],
    module="context",
    line_marker="ORIGIN",
    cause="uninitialized_memory",
    fix="torch.zeros",
    fix_code="window = torch.zeros(x.shape[0], self.length, x.shape[2])",
    dtype="float32",
    notes="torch fills unwritten memory with NaN here because the run asked for deterministic algorithms",
)


class ContextWindow(nn.Module):
    def __init__(self, length):
        super().__init__()
        self.length = length

    def forward(self, x):
        window = torch.empty(x.shape[0], self.length, x.shape[2])  # ORIGIN
        window[:, -x.shape[1] :] = x
        return window


class Forecaster(nn.Module):
    def __init__(self, feats=3, length=8, dim=12):
        super().__init__()
        self.inp, self.context = nn.Linear(feats, dim), ContextWindow(length)
        self.conv, self.out = nn.Conv1d(dim, dim, 3), nn.Linear(dim, feats)

    def forward(self, x):
        h = self.context(torch.tanh(self.inp(x)))
        return self.out(F.relu(self.conv(h.transpose(1, 2))).mean(-1))


class Reproducible:
    """Runs the model as `torch.use_deterministic_algorithms(True)` does, for this call alone."""

    def __enter__(self):
        self.before = torch.are_deterministic_algorithms_enabled()
        torch.use_deterministic_algorithms(True)

    def __exit__(self, *exc):
        torch.use_deterministic_algorithms(self.before)


def make(seed=0):
    torch.manual_seed(seed)
    model = Forecaster()
    batches = [(torch.randn(4, 5, 3), torch.randn(4, 3)) for _ in range(2)]

    def loss_fn(model, batch):
        x, y = batch
        with Reproducible():
            return F.mse_loss(model(x), y)

    return model, loss_fn, batches, torch.optim.Adam(model.parameters(), lr=1e-3)
