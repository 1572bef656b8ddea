"""Dice loss without a smoothing term: a tile with neither prediction nor label.

source: ivadomed/ivadomed#183 (nan for empty ground truth and empty prediction) and the usual V-Net dice without smooth.
"""

import torch
import torch.nn as nn

META = dict(
    source="ivadomed/ivadomed#183",
    category="forward",
    phase="loss",
    step=2,
    visible="loss",
    first_op="aten.div",
    module=None,
    line_marker="ORIGIN",
    cause="div_zero",
    fix="add a smoothing term to numerator and denominator",
    fix_code="dice = (2 * inter + 1.0) / (pred.pow(2).sum(dims) + label.pow(2).sum(dims) + 1.0)",
    dtype="float32",
)


class DoubleConv(nn.Module):
    def __init__(self, i, o):
        super().__init__()
        self.net = nn.Sequential(nn.Conv3d(i, o, 3, padding=1), nn.InstanceNorm3d(o), nn.PReLU(o))

    def forward(self, x):
        return self.net(x)


class VNet(nn.Module):
    def __init__(self, dim=4, classes=3):
        super().__init__()
        self.a, self.b, self.out = DoubleConv(1, dim), DoubleConv(dim, dim), nn.Conv3d(dim, classes, 1)

    def forward(self, vol):
        return torch.softmax(self.out(self.b(self.a(vol))), 1)


def dice_loss(pred, label, inside):
    """Only voxels inside the body count."""
    pred, label = pred * inside, label * inside
    dims = (2, 3, 4)
    inter = (pred * label).sum(dims)
    dice = 2 * inter / (pred.pow(2).sum(dims) + label.pow(2).sum(dims))  # ORIGIN
    return 1 - dice.mean()


def make(seed=0):
    torch.manual_seed(seed)
    model = VNet()
    batches = []
    for i in range(4):
        vol = torch.randn(2, 1, 4, 6, 6)
        label = nn.functional.one_hot(torch.randint(0, 3, (2, 4, 6, 6)), 3).permute(0, 4, 1, 2, 3).float()
        inside = (torch.rand(2, 1, 4, 6, 6) > 0.3).float()
        if i == 2:
            inside[1] = 0.0  # a tile of air
        batches.append((vol, label, inside))

    def loss_fn(model, batch):
        vol, label, inside = batch
        return dice_loss(model(vol), label, inside)

    return model, loss_fn, batches, torch.optim.Adam(model.parameters(), lr=1e-3)
