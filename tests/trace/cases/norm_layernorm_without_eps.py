"""nn.LayerNorm with eps=0: a row that ReLU switched off is constant, its variance is 0.

source: pattern of ports from frameworks that add eps elsewhere; tensorflow/tensorflow#24979 for the half precision twin.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

META = dict(
    source="pattern, no thread (LayerNorm with eps=0)",
    category="forward",
    phase="forward",
    step=1,
    visible="loss",
    first_op="aten.native_layer_norm",
    first_op_alt=["aten.layer_norm"],
    module="tower.1.norm",
    line_marker="ORIGIN",
    cause="div_zero",
    fix="a positive eps",
    fix_code="return F.layer_norm(F.relu(self.fc(x)), self.norm.normalized_shape, self.norm.weight, self.norm.bias, 1e-5)",
    dtype="float32",
)


class Unit(nn.Module):
    def __init__(self, i, o):
        super().__init__()
        self.fc, self.norm = nn.Linear(i, o, bias=False), nn.LayerNorm(o, eps=0.0)

    def forward(self, x):
        return self.norm(F.relu(self.fc(x)))  # ORIGIN


class Gate(nn.Module):
    def forward(self, x, present):
        return x * present.unsqueeze(-1)


class ValueNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.tower, self.gate = nn.ModuleList([Unit(4, 8), Unit(8, 8)]), Gate()
        self.out = nn.Linear(8, 1)

    def forward(self, x, present):
        h = self.gate(self.tower[0](x), present)
        return self.out(self.tower[1](h)).squeeze(1)


def td_loss(model, batch):
    return F.mse_loss(model(batch["x"], batch["present"]), batch["y"])


def make(seed=0):
    torch.manual_seed(seed)
    model = ValueNet()
    batches = []
    for i in range(3):
        present = torch.ones(8)
        if i == 1:
            present[5] = 0.0  # the slot of an agent that left
        batches.append(dict(x=torch.randn(8, 4), present=present, y=torch.randn(8)))
    return model, td_loss, batches, torch.optim.SGD(model.parameters(), lr=1e-3)
