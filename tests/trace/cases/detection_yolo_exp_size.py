"""YOLO box decoding: exp of an unbounded width logit.

source: VCasecnikovs/Yet-Another-YOLOv4-Pytorch#16 (torch.exp(w) * anchor overflows while training).
"""

import torch
import torch.nn as nn

META = dict(
    source="VCasecnikovs/Yet-Another-YOLOv4-Pytorch#16",
    category="forward,inf_first",
    phase="forward",
    step=1,
    visible="loss",
    first_op="aten.exp",
    module="heads.1",
    line_marker="ORIGIN",
    cause="exp_overflow",
    fix="clamp the logit of the size (or use (2 * sigmoid) ** 2, as later versions do)",
    fix_code="wh = torch.exp(t[..., 2:4].clamp(max=8.0)) * self.anchor",
    dtype="float32",
)


class ConvBlock(nn.Sequential):
    def __init__(self, i, o, stride=1):
        super().__init__(nn.Conv2d(i, o, 3, stride, 1), nn.LeakyReLU(0.1))


class YoloHead(nn.Module):
    def __init__(self, dim, anchor):
        super().__init__()
        self.pred = nn.Conv2d(dim, 5, 1)
        self.register_buffer("anchor", torch.tensor(anchor))

    def forward(self, feats):
        t = self.pred(feats).permute(0, 2, 3, 1)
        xy = torch.sigmoid(t[..., :2])
        wh = torch.exp(t[..., 2:4]) * self.anchor  # ORIGIN
        return torch.cat([xy, wh], -1), t[..., 4]


class Yolo(nn.Module):
    def __init__(self, dim=8):
        super().__init__()
        self.stem, self.down = ConvBlock(3, dim), ConvBlock(dim, dim, stride=2)
        self.heads = nn.ModuleList([YoloHead(dim, [1.0, 1.5]), YoloHead(dim, [3.0, 4.0])])

    def forward(self, img):
        fine = self.stem(img)
        coarse = self.down(fine)
        return [head(f) for head, f in zip(self.heads, (fine, coarse), strict=True)]


def detection_loss(outputs, targets):
    total = 0.0
    for (boxes, conf), (gt, obj) in zip(outputs, targets, strict=True):
        wh = (boxes[..., 2:].sqrt() - gt[..., 2:].sqrt()).pow(2).sum(-1)
        xy = (boxes[..., :2] - gt[..., :2]).pow(2).sum(-1)
        total = total + ((xy + wh) * obj).sum() / obj.sum().clamp(min=1)
        total = total + nn.functional.binary_cross_entropy_with_logits(conf, obj)
    return total


def make(seed=0):
    torch.manual_seed(seed)
    model = Yolo()
    batches = []
    for i in range(3):
        img = torch.rand(2, 3, 8, 8)
        if i == 1:
            img = img * 255 * 16  # a 12-bit frame that was never scaled to [0, 1]
        targets = []
        for size in (8, 4):
            gt = 0.2 + torch.rand(2, size, size, 4)
            targets.append((gt, (torch.rand(2, size, size) > 0.7).float()))
        batches.append((img, targets))
    with torch.no_grad():
        model.heads[1].pred.weight[2].abs_()  # this head learned that more contrast means a wider box
        model.heads[0].pred.weight[2:4].mul_(0.01)

    def loss_fn(model, batch):
        img, targets = batch
        return detection_loss(model(img), targets)

    return model, loss_fn, batches, torch.optim.SGD(model.parameters(), lr=1e-4)
