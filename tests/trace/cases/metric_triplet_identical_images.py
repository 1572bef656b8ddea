"""Batch-hard triplet loss: the distance matrix takes the root of exact zeros on its diagonal.

source: tensorflow/tensorflow#30199 and alfonmedela/triplet-loss-pytorch#3 (gradients are nan with similar samples).
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

META = dict(
    source="tensorflow/tensorflow#30199",
    category="backward",
    phase="backward",
    step=0,
    visible="grad",
    first_op="PowBackward0",
    module="triplet",
    line_marker="ORIGIN",
    cause="singular_gradient",
    fix="clamp the squared distance before the root",
    fix_code="return sq.clamp(min=1e-12) ** 0.5",
    dtype="float32",
)


class BatchHardTriplet(nn.Module):
    def __init__(self, margin=0.3):
        super().__init__()
        self.margin = margin

    def distances(self, z):
        sq = (z[:, None] - z[None]).pow(2).sum(-1)
        return sq**0.5  # ORIGIN

    def forward(self, z, y):
        dist, same = self.distances(z), y[:, None] == y[None]
        far = (dist * same).amax(1)
        near = dist.masked_fill(same, 1e6).amin(1)
        return F.relu(far - near + self.margin).mean()


class Stem(nn.Module):
    def __init__(self, dim=8):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, dim, 3, 2, 1), nn.BatchNorm2d(dim)

    def forward(self, x):
        return F.relu(self.bn(self.conv(x)))


class ReID(nn.Module):
    def __init__(self, dim=8):
        super().__init__()
        self.stem, self.neck, self.triplet = Stem(dim), nn.Linear(dim, dim), BatchHardTriplet()

    def forward(self, img, y):
        return self.triplet(self.neck(self.stem(img).mean((2, 3))), y)


def make(seed=0):
    torch.manual_seed(seed)
    model = ReID()
    batches = [(torch.rand(6, 3, 8, 8), torch.tensor([0, 0, 1, 1, 2, 2])) for _ in range(2)]

    def loss_fn(model, batch):
        return model(*batch)

    return model, loss_fn, batches, torch.optim.Adam(model.parameters(), lr=1e-3)
