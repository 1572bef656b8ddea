"""Geodesic distance of rotations: acos of a clamped trace has an infinite slope at exactly 1.

source: papagina/RotationContinuity#11 and banctilrobitaille/torch-vectorized#7 (AcosBackward returned nan).
"""

import torch
import torch.nn as nn

META = dict(
    source="papagina/RotationContinuity#11",
    category="backward",
    phase="backward",
    step=1,
    visible="grad",
    first_op="AcosBackward0",
    module=None,
    line_marker="ORIGIN",
    cause="domain_edge",
    fix="clamp a little inside (-1, 1), or use atan2",
    fix_code="angle = torch.acos(cos.clamp(-1.0 + 1e-6, 1.0 - 1e-6))",
    dtype="float32",
)


class PointFeatures(nn.Module):
    def __init__(self, dim=16):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, dim), nn.ReLU(), nn.Linear(dim, dim))

    def forward(self, pts):
        return self.net(pts).amax(1)


class Rotation6D(nn.Module):
    """Gram-Schmidt of two predicted vectors."""

    def __init__(self, dim=16):
        super().__init__()
        self.out = nn.Linear(dim, 6)

    def forward(self, h):
        a, b = (self.out(h) + torch.tensor([1.0, 0, 0, 0, 1.0, 0])).chunk(2, -1)
        x = nn.functional.normalize(a, dim=-1)
        y = nn.functional.normalize(b - (x * b).sum(-1, keepdim=True) * x, dim=-1)
        return torch.stack([x, y, torch.linalg.cross(x, y)], -1)


class PoseNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.points, self.head = PointFeatures(), Rotation6D()

    def forward(self, pts):
        return self.head(self.points(pts))


def geodesic(pred, target):
    trace = (pred * target).sum((-2, -1))
    cos = (trace - 1) / 2
    angle = torch.acos(cos.clamp(-1.0, 1.0))  # ORIGIN
    return angle.mean()


def make(seed=0):
    torch.manual_seed(seed)
    model = PoseNet()
    with torch.no_grad():
        model.head.out.weight.mul_(0.5)
        model.head.out.bias.zero_()
        model.points.net[2].bias.zero_()
        model.points.net[0].bias.zero_()
    batches = []
    for i in range(3):
        pts, rot = torch.randn(4, 10, 3), torch.linalg.qr(torch.randn(4, 3, 3))[0]
        if i == 1:
            pts[2], rot[2] = 0.0, torch.eye(3)  # an empty scan in canonical pose: predicted exactly
        batches.append((pts, rot))
    # the biases stay 0 so that the empty scan keeps its exact prediction
    weights = [p for n, p in model.named_parameters() if n.endswith("weight")]

    def loss_fn(model, batch):
        pts, rot = batch
        return geodesic(model(pts), rot)

    return model, loss_fn, batches, torch.optim.SGD(weights, lr=1e-3)
