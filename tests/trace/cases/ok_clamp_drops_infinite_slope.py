"""CONTROL: acos of a clamped dot product that was above 1: the slope is infinite, the clamp drops it."""

import torch
import torch.nn as nn
import torch.nn.functional as F

META = dict(
    source="papagina/RotationContinuity#1 (values above 1 by rounding)",
    category="control",
    phase="none",
    step=None,
    first_op=None,
    module=None,
    line_marker="ORIGIN",
    cause="none",
    fix=None,
    dtype="float32",
    notes="AcosBackward0 makes an inf in every step; no gradient, parameter or loss is ever bad",
)


class Angle(nn.Module):
    def forward(self, a, b):
        dot = (a * b).sum(-1)
        return torch.acos(dot.clamp(-1.0, 1.0))  # LEGIT


class NormalNet(nn.Module):
    def __init__(self, dim=16):
        super().__init__()
        self.net, self.angle = nn.Sequential(nn.Linear(3, dim), nn.ReLU()), Angle()
        self.out = nn.Linear(dim, 3)

    def forward(self, pts, normals, exact):
        pred = F.normalize(self.out(self.net(pts)), dim=-1)
        # A few labels are the prediction itself, rounded up by the export
        return self.angle(pred, torch.where(exact[:, None], pred.detach() * 1.001, normals))


def make(seed=0):
    torch.manual_seed(seed)
    model = NormalNet()
    batches = []
    for _ in range(6):
        normals = F.normalize(torch.randn(6, 3), dim=-1)
        batches.append((torch.randn(6, 3), normals, torch.arange(6) == 3))

    def loss_fn(model, batch):
        return model(*batch).mean()

    return model, loss_fn, batches, torch.optim.SGD(model.parameters(), lr=0.01)
