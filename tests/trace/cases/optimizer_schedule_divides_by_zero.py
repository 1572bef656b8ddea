"""A cosine schedule written with NumPy: warm-up equals the length of the run, the learning rate is 0 / 0.

source: mosaicml/composer#1077 and deepspeedai/DeepSpeed#8142 (warm-up == total steps divides by zero).
"""

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

META = dict(
    source="mosaicml/composer#1077",
    category="optimizer",
    phase="optimizer",
    step=2,
    visible="param",
    first_op="aten.add_",
    first_op_alt=["aten.add", "aten.mul_", "aten.mul"],
    module=None,
    param="body.0.weight",
    line_marker="ORIGIN",
    line_scored=False,
    cause="divergence",
    cause_alt=["div_zero", "inf_arithmetic", "bad_parameter"],
    fix="guard the length of the decay: max(1, total - warmup)",
    fix_code="progress = (step - warmup) / max(total - warmup, 1.0)",
    dtype="float32",
    notes="no cause of the vocabulary is a learning rate of NaN; loss and gradients are finite",
)


class GLU(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.fc = nn.Linear(dim, 2 * dim)

    def forward(self, x):
        return x + F.glu(self.fc(x))


class Regressor(nn.Module):
    def __init__(self, feats=5, dim=12):
        super().__init__()
        self.body, self.out = nn.Sequential(nn.Linear(feats, dim), GLU(dim), GLU(dim)), nn.Linear(dim, 1)

    def forward(self, x):
        return self.out(self.body(x)).squeeze(1)


def cosine(step, warmup, total):
    step, warmup, total = np.float64(step), np.float64(warmup), np.float64(total)
    if step < warmup:
        return float(step / warmup)
    with np.errstate(invalid="ignore"):
        progress = (step - warmup) / (total - warmup)  # ORIGIN
    return float(0.5 * (1 + np.cos(np.pi * progress)))


def make(seed=0):
    torch.manual_seed(seed)
    model = Regressor()
    opt = torch.optim.SGD(model.parameters(), lr=0.05)
    batches = [dict(step=i, x=torch.randn(6, 5), y=torch.randn(6)) for i in range(3)]

    def loss_fn(model, batch):
        for group in opt.param_groups:
            group["lr"] = 0.05 * cosine(batch["step"], 2, 2)
        return F.mse_loss(model(batch["x"]), batch["y"])

    return model, loss_fn, batches, opt
