"""Faster R-CNN box encoding: the logarithm of a ground-truth box of zero width.

source: rbgirshick/py-faster-rcnn#403 (rpn_loss_bbox is nan after bbox_transform; degenerate annotations).
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

META = dict(
    source="rbgirshick/py-faster-rcnn#403",
    category="forward,inf_first",
    phase="forward",
    step=2,
    visible="loss",
    first_op="aten.log",
    module="rpn.encoder",
    line_marker="ORIGIN",
    cause="log_zero",
    fix="drop or clamp ground-truth boxes without area",
    fix_code="scale = torch.log((gt[:, 2:] / anchors[:, 2:]).clamp(min=1e-3))",
    dtype="float32",
)


class Backbone(nn.Module):
    def __init__(self, dim=12):
        super().__init__()
        self.c1, self.c2 = nn.Conv2d(3, dim, 3, padding=1), nn.Conv2d(dim, dim, 3, padding=1)
        self.n = nn.GroupNorm(3, dim)

    def forward(self, img):
        return F.relu(self.n(self.c2(F.relu(self.c1(img)))))


class BoxEncoder(nn.Module):
    """Offsets of a ground truth against its anchor: both as (cx, cy, w, h)."""

    def forward(self, anchors, gt):
        shift = (gt[:, :2] - anchors[:, :2]) / anchors[:, 2:]
        scale = torch.log(gt[:, 2:] / anchors[:, 2:])  # ORIGIN
        return torch.cat([shift, scale], 1)


class RPN(nn.Module):
    def __init__(self, dim=12):
        super().__init__()
        self.conv, self.deltas, self.encoder = nn.Linear(dim, dim), nn.Linear(dim, 4), BoxEncoder()

    def forward(self, feats, cells, anchors, gt):
        picked = feats.flatten(2)[:, :, cells].mean(0).t()
        deltas = self.deltas(F.relu(self.conv(picked)))
        return F.smooth_l1_loss(deltas, self.encoder(anchors, gt))


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone, self.rpn = Backbone(), RPN()

    def forward(self, img, cells, anchors, gt):
        return self.rpn(self.backbone(img), cells, anchors, gt)


def make(seed=0):
    torch.manual_seed(seed)
    model = Detector()
    batches = []
    for i in range(4):
        gt = torch.cat([torch.rand(5, 2) * 8, 1 + torch.rand(5, 2) * 4], 1)
        if i == 2:
            gt[4, 2] = 0.0  # the annotator clicked twice on the same column
        anchors = torch.cat([gt[:, :2] + 0.3, torch.full((5, 2), 3.0)], 1)
        batches.append((torch.rand(2, 3, 8, 8), torch.randint(0, 64, (5,)), anchors, gt))

    def loss_fn(model, batch):
        return model(*batch)

    return model, loss_fn, batches, torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
