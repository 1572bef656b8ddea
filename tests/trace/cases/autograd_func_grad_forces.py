"""Forces with torch.func: the gradient of a distance of two atoms at the same place.

source: atomistic code ported to torch.func (vmap(grad(energy))); pytorch/pytorch#2421 is the same root at zero.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

META = dict(
    source="pytorch/pytorch#2421",
    category="backward",
    phase="backward",
    phase_alt=["forward"],
    step=1,
    visible="loss",
    first_op="SqrtBackward0",
    first_op_alt=["aten.div", "aten.mul", "aten.sqrt"],
    module="energy.pair",
    line_marker="ORIGIN",
    cause="singular_gradient",
    cause_alt=["div_zero"],
    fix="add an epsilon under the root",
    fix_code="return torch.sqrt((a - b).pow(2).sum(-1) + 1e-12)",
    dtype="float32",
    notes="the backward pass runs inside the forward of the model, level by level in torch.func",
)


class PairDistance(nn.Module):
    def forward(self, a, b):
        return torch.sqrt((a - b).pow(2).sum(-1))  # ORIGIN


class PairEnergy(nn.Module):
    def __init__(self, dim=12):
        super().__init__()
        self.pair, self.net = (
            PairDistance(),
            nn.Sequential(nn.Linear(1, dim), nn.Softplus(), nn.Linear(dim, 1)),
        )

    def forward(self, pos):
        i, j = torch.triu_indices(pos.shape[0], pos.shape[0], 1)
        return self.net(self.pair(pos[i], pos[j]).unsqueeze(-1)).sum()


class Forces(nn.Module):
    def __init__(self):
        super().__init__()
        self.energy = PairEnergy()

    def forward(self, pos):
        return -torch.func.vmap(torch.func.grad(self.energy))(pos)


def force_loss(model, batch):
    pos, target = batch
    return F.mse_loss(model(pos), target)


def make(seed=0):
    torch.manual_seed(seed)
    model = Forces()
    batches = []
    for i in range(3):
        pos = torch.randn(3, 4, 3)
        if i == 1:
            pos[2, 3] = pos[2, 0]  # a duplicated atom in the data base
        batches.append((pos, torch.randn(3, 4, 3)))
    return model, force_loss, batches, torch.optim.Adam(model.parameters(), lr=1e-3)
