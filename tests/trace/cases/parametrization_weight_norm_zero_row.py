"""weight_norm of a layer initialised with zeros: v / |v| of a zero row.

source: pytorch/pytorch#19126 (weight_norm returns nan for zero weights) and KohakuBlueleaf/LyCORIS#166.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.utils.parametrizations import weight_norm

META = dict(
    source="pytorch/pytorch#19126",
    category="forward",
    phase="forward",
    step=0,
    visible="loss",
    first_op="aten._weight_norm_interface",
    first_op_alt=["aten._weight_norm", "aten.div", "aten.mul"],
    module="policy.zero.parametrizations.weight.0",
    module_alt=["policy.zero", "policy.zero.parametrizations.weight"],
    line_marker="ORIGIN",
    cause="div_zero",
    fix="do not initialise a weight-normalised layer with zeros",
    fix_code="nn.init.normal_(layer.weight, std=1e-3)",
    dtype="float32",
    notes="the line runs the layer, whose parametrization divides",
)


def zero_layer(i, o):
    layer = nn.Linear(i, o)
    nn.init.zeros_(layer.weight)  # FIXHERE
    return weight_norm(layer)


class Residual(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.fc = weight_norm(nn.Linear(dim, dim))

    def forward(self, x):
        return x + torch.tanh(self.fc(x))


class Policy(nn.Module):
    def __init__(self, feats, dim, out):
        super().__init__()
        self.inp, self.body, self.zero = nn.Linear(feats, dim), Residual(dim), zero_layer(dim, out)

    def forward(self, x):
        h = self.body(self.inp(x))
        return self.zero(h)  # ORIGIN


class Imitation(nn.Module):
    def __init__(self):
        super().__init__()
        self.policy = Policy(5, 12, 2)

    def forward(self, x):
        return self.policy(x)


def make(seed=0):
    torch.manual_seed(seed)
    model = Imitation()
    batches = [(torch.randn(6, 5), torch.randn(6, 2)) for _ in range(2)]

    def loss_fn(model, batch):
        x, y = batch
        return F.smooth_l1_loss(model(x), y)

    return model, loss_fn, batches, torch.optim.Adam(model.parameters(), lr=1e-3)
