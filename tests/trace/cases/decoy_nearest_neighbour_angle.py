"""Normal estimation: the nearest valid neighbour is found with inf as neutral element, then acos of 1 is differentiated.

source: pattern of point cloud losses (angle between normals, torch.acos of a clamped dot product).
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

META = dict(
    source="pattern, no thread (angle to the nearest neighbour's normal)",
    category="backward",
    decoy_legit=True,
    phase="backward",
    step=1,
    visible="grad",
    first_op="AcosBackward0",
    module="angle",
    line_marker="ORIGIN",
    cause="domain_edge",
    fix="clamp a little inside",
    fix_code="return torch.acos(dot.clamp(-1 + 1e-5, 1 - 1e-5))",
    dtype="float32",
    notes="the distances to invalid points are inf and never chosen",
)


class Nearest(nn.Module):
    def forward(self, pts, ref, valid):
        gap = (pts[:, None] - ref[None]).pow(2).sum(-1)
        gap = gap.masked_fill(~valid, float("inf"))  # LEGIT
        return gap.argmin(1)  # LEGIT


class Angle(nn.Module):
    def forward(self, a, b):
        dot = (a * b).sum(-1)
        return torch.acos(dot.clamp(-1.0, 1.0))  # ORIGIN


class NormalNet(nn.Module):
    def __init__(self, dim=16):
        super().__init__()
        self.net, self.nearest, self.angle = nn.Sequential(nn.Linear(3, dim), nn.ReLU()), Nearest(), Angle()
        self.out = nn.Linear(dim, 3)

    def forward(self, pts, ref, normals, valid):
        pred = F.normalize(self.out(self.net(pts)), dim=-1)
        return self.angle(pred, normals[self.nearest(pts, ref, valid)])


@torch.no_grad()
def predicted_exactly(model):
    """A point on a fitted plane: its normal is predicted right to the last bit."""
    for _ in range(100):
        pts = torch.randn(6, 3)
        pred = F.normalize(model.out(model.net(pts)), dim=-1)
        exact = pred / pred.pow(2).sum(-1, keepdim=True)
        hits = ((pred * exact).sum(-1) == 1.0).nonzero()
        if len(hits):
            return pts[hits[0, 0]], exact[hits[0, 0]]
    raise AssertionError("no point is predicted exactly")


def make(seed=0):
    torch.manual_seed(seed)
    model = NormalNet()
    batches = []
    for i in range(3):
        pts, ref = torch.randn(6, 3), torch.randn(9, 3)
        normals, valid = F.normalize(torch.randn(9, 3), dim=-1), torch.arange(9) != 4
        if i == 1:
            pts[3], normals[2] = predicted_exactly(model)
            ref[2] = pts[3]
        batches.append((pts, ref, normals, valid))

    def loss_fn(model, batch):
        return model(*batch).mean()

    return model, loss_fn, batches, torch.optim.SGD(model.parameters(), lr=0.0)
