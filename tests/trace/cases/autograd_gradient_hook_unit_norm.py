"""A hook that scales the gradient of a feature map to unit norm: a batch without gradient gives 0 / 0.

source: pattern of gradient normalisation hooks in multi-task code (GradNorm-like balancing of branches).
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

META = dict(
    source="pattern, no thread (gradient divided by its norm in a hook)",
    category="backward",
    phase="backward",
    step=1,
    visible="grad",
    first_op="aten.div",
    module=None,
    line_marker="ORIGIN",
    cause="div_zero",
    fix="add an epsilon to the norm",
    fix_code="return grad / (grad.norm() + 1e-12)",
    dtype="float32",
    notes="the hook's own line: no autograd node makes this value",
)


def unit(grad):
    return grad / grad.norm()  # ORIGIN


class Shared(nn.Module):
    def __init__(self, feats, dim):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(feats, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU())

    def forward(self, x):
        return self.net(x)


class Branch(nn.Module):
    def __init__(self, dim, out):
        super().__init__()
        self.fc = nn.Linear(dim, out)

    def forward(self, h):
        h = h * 1.0
        if h.requires_grad:
            h.register_hook(unit)
        return self.fc(h)


class Balanced(nn.Module):
    def __init__(self, feats=6, dim=12):
        super().__init__()
        self.shared, self.depth, self.label = Shared(feats, dim), Branch(dim, 1), Branch(dim, 4)

    def forward(self, x):
        h = self.shared(x)
        return self.depth(h).squeeze(1), self.label(h)


def two_tasks(model, batch):
    depth, label = model(batch["x"])
    gap = (depth - batch["depth"]).abs() * batch["has_depth"]
    return gap.mean() + F.cross_entropy(label, batch["y"])


def make(seed=0):
    torch.manual_seed(seed)
    model = Balanced()
    batches = []
    for i in range(3):
        has_depth = torch.zeros(6) if i == 1 else torch.ones(6)
        batches.append(
            dict(x=torch.randn(6, 6), depth=torch.rand(6), y=torch.randint(0, 4, (6,)), has_depth=has_depth)
        )
    return model, two_tasks, batches, torch.optim.SGD(model.parameters(), lr=0.01)
