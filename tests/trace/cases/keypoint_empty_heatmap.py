"""Keypoint heat maps divided by their own peak: a joint outside the crop has an all-zero map.

source: pattern of pose estimation forks that scale each target map to a peak of 1 (0 / 0 for joints out of view).
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

META = dict(
    source="pattern, no thread",
    category="forward",
    phase="forward",
    step=1,
    visible="loss",
    first_op="aten.div",
    module="targets",
    line_marker="ORIGIN",
    cause="div_zero",
    fix="divide by a clamped peak; joints out of view keep a map of zeros",
    fix_code="return maps / maps.amax((-2, -1), keepdim=True).clamp(min=1e-6)",
    dtype="float32",
)


class HeatmapTargets(nn.Module):
    def __init__(self, size=12, sigma=1.5):
        super().__init__()
        grid = torch.arange(size).float()
        self.sigma = sigma
        self.register_buffer("grid", torch.stack(torch.meshgrid(grid, grid, indexing="ij"), -1))

    def forward(self, joints):
        gap = (self.grid - joints[:, :, None, None]).pow(2).sum(-1)
        maps = torch.exp(-gap / (2 * self.sigma**2))
        maps = torch.where(gap < (3 * self.sigma) ** 2, maps, torch.zeros(()))
        return maps / maps.amax((-2, -1), keepdim=True)  # ORIGIN


class PoseNet(nn.Module):
    def __init__(self, joints=4, dim=8):
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, dim, 3, padding=1), nn.BatchNorm2d(dim), nn.ReLU())
        self.deconv, self.targets = nn.Conv2d(dim, joints, 1), HeatmapTargets()

    def forward(self, img, joints):
        return self.deconv(self.trunk(img)), self.targets(joints)


def heatmap_loss(pred, target, seen):
    per_joint = F.mse_loss(pred, target, reduction="none").mean((-2, -1))
    return (per_joint * seen).sum() / seen.sum().clamp(min=1)


def make(seed=0):
    torch.manual_seed(seed)
    model = PoseNet()
    batches = []
    for i in range(3):
        joints, seen = torch.rand(2, 4, 2) * 11, torch.ones(2, 4)
        if i == 1:
            joints[0, 2], seen[0, 2] = torch.tensor([-20.0, 3.0]), 0.0
        batches.append(dict(img=torch.rand(2, 3, 12, 12), joints=joints, seen=seen))

    def loss_fn(model, batch):
        pred, target = model(batch["img"], batch["joints"])
        return heatmap_loss(pred, target, batch["seen"])

    return model, loss_fn, batches, torch.optim.Adam(model.parameters(), lr=1e-3)
