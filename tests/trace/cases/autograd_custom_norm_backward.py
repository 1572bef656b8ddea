"""A custom autograd.Function whose backward divides by the norm that it saved.

source: pattern of hand-written kernels (fused normalisation; the forward is guarded with eps, the backward is not).
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

META = dict(
    source="pattern, no thread (unguarded backward of a custom function)",
    category="backward",
    phase="backward",
    step=1,
    visible="grad",
    first_op="UnitVectorBackward",
    module="heads.1.unit",
    line_marker="ORIGIN",
    cause="div_zero",
    cause_alt=["singular_gradient"],
    fix="guard the division in backward as in forward",
    fix_code="norm = ctx.norm.clamp(min=1e-6)",
    dtype="float32",
)


class UnitVector(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, eps):
        norm = x.norm(dim=-1, keepdim=True)
        unit = x / (norm + eps)
        ctx.save_for_backward(unit)
        ctx.norm = norm
        return unit

    @staticmethod
    def backward(ctx, grad):
        (unit,) = ctx.saved_tensors
        norm = ctx.norm  # FIXHERE
        return (grad - unit * (grad * unit).sum(-1, keepdim=True)) / norm, None


class Unit(nn.Module):
    def forward(self, x):
        return UnitVector.apply(x, 1e-6)  # ORIGIN


class DirectionHead(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.fc, self.unit = nn.Linear(dim, 3, bias=False), Unit()

    def forward(self, h, is_open):
        return self.unit(self.fc(h) * is_open)


class GazeNet(nn.Module):
    def __init__(self, dim=12):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(6, dim, bias=False), nn.ReLU(), nn.Linear(dim, dim, bias=False))
        self.heads = nn.ModuleList([DirectionHead(dim), DirectionHead(dim)])

    def forward(self, eyes, is_open):
        h = self.trunk(eyes)
        return self.heads[0](h, is_open[:, :1]), self.heads[1](h, is_open[:, 1:])


def gaze_loss(model, batch):
    eyes, is_open, left, right = batch
    a, b = model(eyes, is_open)
    return (1 - (a * left).sum(-1)).mean() + (1 - (b * right).sum(-1)).mean()


def make(seed=0):
    torch.manual_seed(seed)
    model = GazeNet()
    batches = []
    for i in range(3):
        is_open = torch.ones(5, 2)
        if i == 1:
            is_open[3, 1] = 0.0  # one eye is closed
        left, right = F.normalize(torch.randn(2, 5, 3), dim=-1)
        batches.append((torch.rand(5, 6), is_open, left, right))
    return model, gaze_loss, batches, torch.optim.SGD(model.parameters(), lr=1e-3)
