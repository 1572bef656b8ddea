"""A graph network that masks its infinite degrees correctly and then divides by the size of an empty cluster.

source: pattern of hierarchical pooling (DiffPool-like hard assignment; a cluster without nodes).
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

META = dict(
    source="pattern, no thread (empty cluster in hard graph pooling)",
    category="forward",
    decoy_legit=True,
    phase="forward",
    step=1,
    visible="loss",
    first_op="aten.div",
    module="levels.0.pool",
    line_marker="ORIGIN",
    cause="div_zero",
    cause_alt=["empty_reduction"],
    fix="divide by at least 1",
    fix_code="return member.t() @ x / member.sum(0).clamp(min=1).unsqueeze(1)",
    dtype="float32",
    notes="degree ** -0.5 is inf for the isolated node of every batch and is replaced by 0",
)


class Propagate(nn.Module):
    def __init__(self, i, o):
        super().__init__()
        self.lin = nn.Linear(i, o)

    def forward(self, x, adj):
        inv = adj.sum(-1) ** -0.5  # LEGIT
        inv = torch.where(torch.isinf(inv), torch.zeros_like(inv), inv)
        return F.relu(self.lin(x) + inv[:, None] * (adj @ (inv[:, None] * self.lin(x))))


class HardPool(nn.Module):
    def forward(self, x, cluster, num):
        member = F.one_hot(cluster, num).float()
        return member.t() @ x / member.sum(0).unsqueeze(1)  # ORIGIN


class Level(nn.Module):
    def __init__(self, i, o):
        super().__init__()
        self.conv, self.pool = Propagate(i, o), HardPool()

    def forward(self, x, adj, cluster, num):
        return self.pool(self.conv(x, adj), cluster, num)


class Hierarchy(nn.Module):
    def __init__(self, feats=5, dim=12):
        super().__init__()
        self.levels, self.out = nn.ModuleList([Level(feats, dim)]), nn.Linear(dim, 2)

    def forward(self, x, adj, cluster):
        return self.out(self.levels[0](x, adj, cluster, 3).mean(0, keepdim=True))


def make(seed=0):
    torch.manual_seed(seed)
    model = Hierarchy()
    batches = []
    for i in range(3):
        adj = (torch.rand(9, 9) > 0.5).float()
        adj[2], adj[:, 2] = 0.0, 0.0
        cluster = torch.arange(9) % 3
        if i == 1:
            cluster[cluster == 1] = 0
        batches.append((torch.randn(9, 5), adj, cluster, torch.randint(0, 2, (1,))))

    def loss_fn(model, batch):
        x, adj, cluster, y = batch
        return F.cross_entropy(model(x, adj, cluster), y)

    return model, loss_fn, batches, torch.optim.Adam(model.parameters(), lr=1e-3)
