"""Angle between unit quaternions: rounding makes the dot product larger than 1, acos returns NaN.

source: papagina/RotationContinuity#1 ("occasionally the input can be slightly larger than 1: torch.acos returns nan").
"""

import torch
import torch.nn as nn

META = dict(
    source="papagina/RotationContinuity#1",
    category="forward",
    phase="loss",
    step=1,
    visible="loss",
    first_op="aten.acos",
    first_op_alt=["aten.arccos"],
    module=None,
    line_marker="ORIGIN",
    cause="domain_error",
    fix="use 2 * atan2(|vector part|, |scalar part|), or clamp inside (-1, 1)",
    fix_code="return 2 * torch.acos(dot.clamp(max=1 - 1e-6))",
    dtype="float32",
)


class Skeleton(nn.Module):
    def __init__(self, joints, dim=24):
        super().__init__()
        self.gru, self.out = nn.GRU(joints * 4, dim, batch_first=True), nn.Linear(dim, joints * 4)

    def forward(self, motion):
        b, t, j, _ = motion.shape
        h, _ = self.gru(motion.flatten(2))
        return motion + self.out(h).view(b, t, j, 4)


class MotionPredictor(nn.Module):
    def __init__(self, joints=3):
        super().__init__()
        self.skeleton = Skeleton(joints)

    def forward(self, motion):
        quat = self.skeleton(motion)
        return quat / quat.norm(dim=-1, keepdim=True)


def angles(pred, target):
    dot = (pred * target).sum(-1).abs()
    return 2 * torch.acos(dot)  # ORIGIN


def make(seed=0):
    torch.manual_seed(seed)
    model = MotionPredictor()
    batches = []
    for i in range(3):
        quat = nn.functional.normalize(torch.randn(2, 6, 3, 4), dim=-1)
        target = nn.functional.normalize(quat + 0.3 * torch.randn(2, 6, 3, 4), dim=-1) * 0.999
        if i == 1:
            with torch.no_grad():  # a static clip: the reference was exported with four digits
                target[0] = model(quat)[0] * 1.0005
        batches.append((quat, target))

    def loss_fn(model, batch):
        quat, target = batch
        return angles(model(quat), target).mean()

    return model, loss_fn, batches, torch.optim.SGD(model.parameters(), lr=1e-4)
