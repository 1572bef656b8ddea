"""Generalised IoU of two boxes without area, both clipped to the image: the union is 0.

source: open-mmlab/mmdetection#3394 and pytorch/vision#3405 (NaN when a predicted box has no area, early in the
training of anchor-free detectors).
"""

import torch
import torch.nn as nn

META = dict(
    source="open-mmlab/mmdetection#3394",
    category="forward",
    phase="loss",
    step=1,
    visible="loss",
    first_op="aten.div",
    module=None,
    line_marker="ORIGIN",
    cause="div_zero",
    fix="add an epsilon to the union",
    fix_code="iou = overlap / (area_p + area_t - overlap).clamp(min=1e-6)",
    dtype="float32",
)


class Tower(nn.Module):
    def __init__(self, dim, depth):
        super().__init__()
        layers = []
        for _ in range(depth):
            layers += [nn.Linear(dim, dim), nn.LayerNorm(dim), nn.ReLU()]
        self.layers = nn.Sequential(*layers)

    def forward(self, x):
        return self.layers(x)


class AnchorFreeHead(nn.Module):
    """Distances to the four sides of the box; boxes are clipped to the image."""

    def __init__(self, dim=16, size=10.0):
        super().__init__()
        self.size = size
        self.tower, self.reg = Tower(dim, 2), nn.Linear(dim, 4)

    def forward(self, feats, points):
        left, top, right, bottom = torch.relu(self.reg(self.tower(feats))).unbind(-1)
        x, y = points.unbind(-1)
        return torch.stack([x - left, y - top, x + right, y + bottom], -1).clamp(0.0, self.size)


def giou_loss(pred, target):
    area_p = (pred[:, 2] - pred[:, 0]) * (pred[:, 3] - pred[:, 1])
    area_t = (target[:, 2] - target[:, 0]) * (target[:, 3] - target[:, 1])
    lt, rb = torch.max(pred[:, :2], target[:, :2]), torch.min(pred[:, 2:], target[:, 2:])
    wh = (rb - lt).clamp(min=0)
    overlap = wh[:, 0] * wh[:, 1]
    iou = overlap / (area_p + area_t - overlap)  # ORIGIN
    hull = torch.max(pred[:, 2:], target[:, 2:]) - torch.min(pred[:, :2], target[:, :2])
    hull_area = (hull[:, 0] * hull[:, 1]).clamp(min=1e-6)
    return (1 - iou + (hull_area - (area_p + area_t - overlap)) / hull_area).mean()


def make(seed=0):
    torch.manual_seed(seed)
    model = AnchorFreeHead()
    with torch.no_grad():
        model.reg.bias.fill_(0.5)
    batches = []
    for i in range(3):
        points = 1.5 + torch.rand(6, 2) * 7
        if i == 1:
            points[3] = torch.tensor([-30.0, -30.0])  # a random crop left this object outside
        boxes = torch.cat([points - 0.5 - torch.rand(6, 2), points + 0.5 + torch.rand(6, 2)], 1).clamp(
            0.0, 10.0
        )
        batches.append((torch.randn(6, 16), points, boxes))

    def loss_fn(model, batch):
        feats, points, boxes = batch
        return giou_loss(model(feats, points), boxes)

    return model, loss_fn, batches, torch.optim.SGD(model.parameters(), lr=1e-3)
