"""A hand-written LayerNorm in fp16: the epsilon of 1e-12 vanishes, a constant row has variance 0.

source: tensorflow/tensorflow#24979 (epsilon of 1e-12 too small for float16 layer norm, NaN for BERT).
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

META = dict(
    source="tensorflow/tensorflow#24979",
    category="forward,half",
    phase="forward",
    step=1,
    visible="loss",
    first_op="aten.div",
    module="encoder.norm_in",
    line_marker="ORIGIN",
    cause="half_underflow",
    cause_alt=["div_zero"],
    fix="an epsilon that float16 can hold (1e-5), added to the variance",
    fix_code="y = centered / torch.sqrt(var + 1e-5)",
    dtype="float16",
)


class BertLayerNorm(nn.Module):
    def __init__(self, dim, eps=1e-12):
        super().__init__()
        self.weight, self.bias, self.eps = nn.Parameter(torch.ones(dim)), nn.Parameter(torch.zeros(dim)), eps

    def forward(self, x):
        centered = x - x.mean(-1, keepdim=True)
        var = centered.pow(2).mean(-1, keepdim=True)
        y = centered / torch.sqrt(var + self.eps)  # ORIGIN
        return self.weight * y + self.bias


class Encoder(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.norm_in, self.norm_out = BertLayerNorm(dim), BertLayerNorm(dim)
        self.ff = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, x):
        x = self.norm_in(x)
        return self.norm_out(x + self.ff(x))


class SensorBert(nn.Module):
    def __init__(self, dim=8):
        super().__init__()
        self.encoder, self.out = Encoder(dim), nn.Linear(dim, 2)

    def forward(self, x):
        return self.out(self.encoder(x).mean(1))


def make(seed=0):
    torch.manual_seed(seed)
    model = SensorBert().half()
    batches = []
    for i in range(3):
        x = torch.randn(4, 5, 8)
        if i == 1:
            x[1, 4] = 0.5  # a sensor that reports one constant
        batches.append((x.half(), torch.randint(0, 2, (4,))))

    def loss_fn(model, batch):
        x, y = batch
        return F.cross_entropy(model(x).float(), y)

    return model, loss_fn, batches, torch.optim.SGD(model.parameters(), lr=0.01)
