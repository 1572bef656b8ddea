"""CONTROL: degree ** -0.5 is inf for isolated nodes and is replaced by 0, as torch_geometric does."""

import torch
import torch.nn as nn
import torch.nn.functional as F

META = dict(
    source="torch_geometric gcn_norm",
    category="control",
    phase="none",
    step=None,
    first_op=None,
    module=None,
    line_marker="ORIGIN",
    cause="none",
    fix=None,
    dtype="float32",
    notes="the inf never meets another value",
)


class GCNConv(nn.Module):
    def __init__(self, i, o):
        super().__init__()
        self.lin = nn.Linear(i, o)

    def forward(self, x, adj):
        inv = adj.sum(-1).pow(-0.5)  # LEGIT
        inv = inv.masked_fill(inv == float("inf"), 0.0)
        return inv.unsqueeze(-1) * (adj @ (inv.unsqueeze(-1) * self.lin(x)))


class GCN(nn.Module):
    def __init__(self, feats=5, dim=12):
        super().__init__()
        self.convs, self.out = nn.ModuleList([GCNConv(feats, dim), GCNConv(dim, dim)]), nn.Linear(dim, 3)

    def forward(self, x, adj):
        for conv in self.convs:
            x = F.relu(conv(x, adj))
        return self.out(x)


def make(seed=0):
    torch.manual_seed(seed)
    model = GCN()
    batches = []
    for _ in range(6):
        adj = (torch.rand(9, 9) > 0.6).float()
        adj[4], adj[:, 4] = 0.0, 0.0
        batches.append((torch.randn(9, 5), adj, torch.randint(0, 3, (9,))))

    def loss_fn(model, batch):
        x, adj, y = batch
        return F.cross_entropy(model(x, adj), y)

    return model, loss_fn, batches, torch.optim.Adam(model.parameters(), lr=0.01)
