"""RMSNorm in fp16: the square of 300 is inf, its rsqrt is 0: the row disappears without any NaN.

source: swfsql/burn-mamba#3 (RmsNorm in f16: x ** 2 is inf for a single x of 256) and the reason why T5 casts to float32.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

META = dict(
    source="swfsql/burn-mamba#3",
    category="forward,inf_first,half,hidden",
    phase="forward",
    step=1,
    visible="hidden",
    first_op="aten.pow",
    module="layers.0.norm",
    line_marker="ORIGIN",
    cause="half_overflow",
    fix="square in float32",
    fix_code="ms = x.float().pow(2).mean(-1, keepdim=True)",
    dtype="float16",
    notes="loss, gradients and parameters stay finite: 1 / sqrt(inf) is 0",
)


class RMSNorm(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.g = nn.Parameter(torch.ones(dim))

    def forward(self, x):
        ms = x.pow(2).mean(-1, keepdim=True)  # ORIGIN
        return (x * torch.rsqrt(ms + 1e-5)).to(x.dtype) * self.g


class Layer(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.norm, self.mix = RMSNorm(dim), nn.Linear(dim, dim)

    def forward(self, x):
        return F.silu(self.mix(self.norm(x)))


class TinyMamba(nn.Module):
    def __init__(self, feats=6, dim=16):
        super().__init__()
        self.inp, self.layers = nn.Linear(feats, dim), nn.ModuleList(Layer(dim) for _ in range(2))
        self.out = nn.Linear(dim, 1)

    def forward(self, x):
        x = self.inp(x)
        for layer in self.layers:
            x = layer(x)
        return self.out(x).squeeze(-1)


def make(seed=0):
    torch.manual_seed(seed)
    model = TinyMamba().half()
    batches = []
    for i in range(3):
        x = torch.randn(5, 6)
        if i == 1:
            x[2] = 900.0  # one reading in milli-units
        batches.append((x.half(), torch.randn(5)))

    def loss_fn(model, batch):
        x, y = batch
        return F.mse_loss(model(x).float(), y)

    return model, loss_fn, batches, torch.optim.SGD(model.parameters(), lr=0.01)
