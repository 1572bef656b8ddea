"""Focal loss with gamma 0.5: (1 - p) ** gamma has an infinite slope once p saturates at 1.

source: kornia/kornia#918 (nan gradients when sigmoid(prediction) is exactly 0 or 1 and 0 < gamma < 1).
"""

import torch
import torch.nn as nn

META = dict(
    source="kornia/kornia#918",
    category="backward",
    phase="backward",
    step=1,
    visible="grad",
    first_op="PowBackward0",
    module=None,
    line_marker="ORIGIN",
    cause="singular_gradient",
    fix="add the epsilon inside the power too",
    fix_code="weight = torch.pow(1.0 - probs + eps, gamma)",
    dtype="float32",
    notes="the slope of the power is inf, the factor log(p + eps) that reaches it may be 0: inf or nan leaves the node",
)


class SmallUNet(nn.Module):
    def __init__(self, dim=8):
        super().__init__()
        self.enc = nn.Sequential(nn.Conv2d(1, dim, 3, padding=1), nn.ReLU())
        self.mid = nn.Sequential(nn.Conv2d(dim, dim, 3, 2, 1), nn.ReLU())
        self.up, self.head = nn.Upsample(scale_factor=2), nn.Conv2d(2 * dim, 1, 1)

    def forward(self, img):
        fine = self.enc(img)
        return self.head(torch.cat([fine, self.up(self.mid(fine))], 1))


def binary_focal_loss(logits, target, gamma, alpha=0.25, eps=1e-6):
    probs = torch.sigmoid(logits)
    weight = torch.pow(1.0 - probs, gamma)  # ORIGIN
    positive = -alpha * weight * target * torch.log(probs + eps)
    negative = -(1 - alpha) * torch.pow(probs, 2.0) * (1.0 - target) * torch.log(1.0 - probs + eps)
    return (positive + negative).mean()


def make(seed=0):
    torch.manual_seed(seed)
    model = SmallUNet()
    batches = []
    for i in range(3):
        img = torch.rand(2, 1, 8, 8)
        if i == 1:
            img[0, 0, 2, 2] = 900.0  # a hot pixel: its logit saturates the sigmoid
        batches.append((img, (torch.rand(2, 1, 8, 8) > 0.5).float()))
    with torch.no_grad():
        model.head.weight.abs_()
        model.enc[0].weight.abs_()

    def loss_fn(model, batch):
        img, target = batch
        return binary_focal_loss(model(img), target, gamma=0.5)

    return model, loss_fn, batches, torch.optim.Adam(model.parameters(), lr=1e-4)
