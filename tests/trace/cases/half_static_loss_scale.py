"""A static loss scale of 2 ** 16 applied to an fp16 loss.

source: pattern of training loops without GradScaler (loss * 65536 in float16, NVIDIA apex static loss scaling threads).
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

META = dict(
    source="pattern, no thread (static loss scale in half precision)",
    category="forward,inf_first,half",
    phase="loss",
    step=0,
    visible="loss",
    first_op="aten.mul",
    module=None,
    line_marker="ORIGIN",
    cause="half_overflow",
    fix="scale in float32 (GradScaler does), with a dynamic scale",
    fix_code="return loss * 128.0",
    dtype="float16",
)

SCALE = 2.0**16


class ConvLayer(nn.Module):
    def __init__(self, i, o):
        super().__init__()
        self.conv, self.norm = nn.Conv1d(i, o, 3, padding=1), nn.GroupNorm(2, o)

    def forward(self, x):
        return F.relu(self.norm(self.conv(x)))


class ECGNet(nn.Module):
    def __init__(self, leads=2, classes=5):
        super().__init__()
        self.layers = nn.Sequential(ConvLayer(leads, 8), ConvLayer(8, 8))
        self.out = nn.Linear(8, classes)

    def forward(self, x):
        return self.out(self.layers(x).mean(-1))


def scaled_loss(logits, y):
    loss = F.nll_loss(F.log_softmax(logits, -1), y)
    return loss * SCALE  # ORIGIN


class ScaledSGD(torch.optim.SGD):
    """Divides the gradients by the scale again."""

    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p.grad.div_(SCALE)
        return super().step(closure)


def make(seed=0):
    torch.manual_seed(seed)
    model = ECGNet().half()
    batches = [(torch.randn(4, 2, 20).half(), torch.randint(0, 5, (4,))) for _ in range(2)]

    def loss_fn(model, batch):
        x, y = batch
        return scaled_loss(model(x), y)

    return model, loss_fn, batches, ScaledSGD(model.parameters(), lr=1e-2)
