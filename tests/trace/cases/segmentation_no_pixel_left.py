"""Online hard example mining: no pixel passes the threshold, the mean of an empty selection is NaN.

source: pytorch/pytorch mean of an empty tensor; the pattern of loss[mask].mean() in segmentation code bases.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

META = dict(
    source="pattern, no thread (loss[mask].mean())",
    category="forward",
    phase="forward",
    step=3,
    visible="loss",
    first_op="aten.mean",
    module="criterion",
    line_marker="ORIGIN",
    cause="empty_reduction",
    fix="divide the sum by the number of kept pixels, at least 1",
    fix_code="return kept.sum() / max(kept.numel(), 1)",
    dtype="float32",
)


class OhemLoss(nn.Module):
    def __init__(self, thresh):
        super().__init__()
        self.thresh = thresh

    def forward(self, logits, labels):
        losses = F.cross_entropy(logits, labels, ignore_index=255, reduction="none")
        kept = losses[losses > self.thresh]
        return kept.mean()  # ORIGIN


class SegNet(nn.Module):
    def __init__(self, dim=12, classes=4):
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(3, dim, 3, padding=1), nn.BatchNorm2d(dim), nn.ReLU(), nn.Conv2d(dim, dim, 3, padding=1)
        )
        self.classifier, self.criterion = nn.Conv2d(dim, classes, 1), OhemLoss(0.3)

    def forward(self, img, labels):
        return self.criterion(self.classifier(F.relu(self.trunk(img))), labels)


def make(seed=0):
    torch.manual_seed(seed)
    model = SegNet()
    batches = []
    for i in range(4):
        labels = torch.randint(0, 4, (2, 8, 8))
        if i == 3:
            labels.fill_(255)  # a tile outside the annotated area
        batches.append((torch.rand(2, 3, 8, 8), labels))

    def loss_fn(model, batch):
        return model(*batch)

    return model, loss_fn, batches, torch.optim.SGD(model.parameters(), lr=0.05)
