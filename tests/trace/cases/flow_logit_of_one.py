"""RealNVP logit pre-processing without dequantisation noise: a pixel of exactly 1 has log(1 - x) = -inf.

source: pattern of flow code bases (logit(x) of data in [0, 1]; alpha + (1 - 2 alpha) x is forgotten for one split).
"""

import math

import torch
import torch.nn as nn

META = dict(
    source="pattern, no thread (logit transform of saturated pixels)",
    category="forward,inf_first",
    phase="forward",
    step=2,
    visible="loss",
    first_op="aten.log",
    first_op_alt=["aten.log1p"],
    module="transforms.0",
    line_marker="ORIGIN",
    cause="log_zero",
    fix="squeeze the data into (0, 1) before the logit",
    fix_code="x = 1e-4 + (1 - 2e-4) * x; lo, hi = torch.log(x), torch.log(1.0 - x)",
    dtype="float32",
)


class Logit(nn.Module):
    def forward(self, x):
        lo, hi = torch.log(x), torch.log(1.0 - x)  # ORIGIN
        return lo - hi, -(lo + hi).sum(1)


class AffineCoupling(nn.Module):
    def __init__(self, dim, flip):
        super().__init__()
        self.flip = flip
        self.net = nn.Sequential(nn.Linear(dim // 2, 16), nn.Tanh(), nn.Linear(16, dim))

    def forward(self, x):
        a, b = x.chunk(2, 1)
        if self.flip:
            a, b = b, a
        shift, log_scale = self.net(a).chunk(2, 1)
        log_scale = torch.tanh(log_scale)
        out = [a, b * torch.exp(log_scale) + shift]
        return torch.cat(out[::-1] if self.flip else out, 1), log_scale.sum(1)


class RealNVP(nn.Module):
    def __init__(self, dim=8):
        super().__init__()
        self.transforms = nn.ModuleList([Logit(), AffineCoupling(dim, False), AffineCoupling(dim, True)])

    def forward(self, x):
        total = 0.0
        for transform in self.transforms:
            x, log_det = transform(x)
            total = total + log_det
        return x, total


def nll(z, log_det):
    return (0.5 * z.pow(2).sum(1) + 0.5 * z.shape[1] * math.log(2 * math.pi) - log_det).mean()


def make(seed=0):
    torch.manual_seed(seed)
    model = RealNVP()
    batches = [torch.rand(6, 8) * 0.98 + 0.01 for _ in range(4)]
    batches[2][4, 1] = 1.0  # a white pixel

    def loss_fn(model, batch):
        return nll(*model(batch))

    return model, loss_fn, batches, torch.optim.Adam(model.parameters(), lr=1e-3)
