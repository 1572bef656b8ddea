"""A ReLU recurrence whose weights an aggressive optimizer has pushed above 1: the state overflows along the sequence.

source: pattern of exploding recurrent networks (rtqichen/torchdiffeq#58: descent diverged, the state is not finite).
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

META = dict(
    source="rtqichen/torchdiffeq#58",
    category="forward,inf_first",
    phase="forward",
    step=1,
    visible="loss",
    first_op="aten.addmm",
    first_op_alt=["aten.linear", "aten.mm"],
    module="core.hh",
    module_alt=["core"],
    line_marker="ORIGIN",
    cause="divergence",
    fix="clip the gradient, a smaller learning rate, or a bounded activation",
    fix_code="h = torch.tanh(self.ih(x[:, t]) + self.hh(h))",
    dtype="float32",
)


class ReLURecurrence(nn.Module):
    def __init__(self, feats, dim):
        super().__init__()
        self.ih, self.hh = nn.Linear(feats, dim), nn.Linear(dim, dim)
        nn.init.eye_(self.hh.weight)

    def forward(self, x):
        h = x.new_zeros(x.shape[0], self.hh.out_features)
        for t in range(x.shape[1]):
            h = F.relu(self.ih(x[:, t]) + self.hh(h))  # ORIGIN
        return h


class Adder(nn.Module):
    """The adding problem."""

    def __init__(self, dim=8):
        super().__init__()
        self.core, self.out = ReLURecurrence(2, dim), nn.Linear(dim, 1)

    def forward(self, x):
        return self.out(self.core(x)).squeeze(1)


def make(seed=0):
    torch.manual_seed(seed)
    model = Adder()
    batches = []
    for _ in range(3):
        x = torch.rand(6, 50, 2)
        batches.append((x, x[..., 0].sum(1)))

    def loss_fn(model, batch):
        x, y = batch
        return F.smooth_l1_loss(model(x), y)

    return model, loss_fn, batches, torch.optim.Adam(model.parameters(), lr=5.0)
