"""GCN normalisation without self-loops: degree ** -0.5 of an isolated node is inf and meets a weight of 0.

source: mlx-graphs/mlx-graphs#18 (inf in the norm of isolated nodes; torch_geometric masks it with 0).
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

META = dict(
    source="mlx-graphs/mlx-graphs#18",
    category="forward,inf_first",
    phase="forward",
    step=1,
    visible="loss",
    first_op="aten.pow",
    module="convs.0",
    line_marker="ORIGIN",
    cause="div_zero",
    cause_alt=["domain_edge"],
    fix="replace the inf by 0",
    fix_code="inv = deg.pow(-0.5); inv = inv.masked_fill(torch.isinf(inv), 0.0)",
    dtype="float32",
)


class DenseGCNConv(nn.Module):
    def __init__(self, i, o):
        super().__init__()
        self.lin = nn.Linear(i, o, bias=False)

    def forward(self, x, adj):
        deg = adj.sum(-1)
        inv = deg.pow(-0.5)  # ORIGIN
        norm = inv.unsqueeze(-1) * adj * inv.unsqueeze(-2)
        return norm @ self.lin(x)


class GCN(nn.Module):
    def __init__(self, feats=5, hidden=12, classes=3):
        super().__init__()
        self.convs = nn.ModuleList([DenseGCNConv(feats, hidden), DenseGCNConv(hidden, hidden)])
        self.norms = nn.ModuleList([nn.LayerNorm(hidden), nn.LayerNorm(hidden)])
        self.out = nn.Linear(hidden, classes)

    def forward(self, x, adj):
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.elu(norm(conv(x, adj)))
        return self.out(x)


def node_loss(model, batch):
    logits = model(batch["x"], batch["adj"])
    return F.cross_entropy(logits[batch["train"]], batch["y"][batch["train"]])


def make(seed=0):
    torch.manual_seed(seed)
    model = GCN()
    batches = []
    for i in range(3):
        adj = (torch.rand(10, 10) > 0.5).float()
        adj = torch.triu(adj, 1)
        adj = adj + adj.t()
        ring = torch.roll(torch.eye(10), 1, 0)
        adj = ((adj + ring + ring.t()) > 0).float()
        if i == 1:
            adj[7], adj[:, 7] = 0.0, 0.0  # the sampler kept a node and none of its edges
        batches.append(
            dict(x=torch.randn(10, 5), adj=adj, y=torch.randint(0, 3, (10,)), train=torch.arange(6))
        )
    return model, node_loss, batches, torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=5e-4)
