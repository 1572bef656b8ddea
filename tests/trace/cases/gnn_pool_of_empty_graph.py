"""Mean pooling over graphs: a molecule that lost all its atoms in filtering has a count of 0.

source: pattern of scatter-mean code (sum / count without clamp; torch_geometric's scatter clamps the count at 1).
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

META = dict(
    source="pattern, no thread (scatter mean without clamp)",
    category="forward",
    phase="forward",
    step=2,
    visible="loss",
    first_op="aten.div_",
    module="readout",
    line_marker="ORIGIN",
    cause="div_zero",
    cause_alt=["empty_reduction"],
    fix="count at least 1",
    fix_code="return total.div_(count.clamp(min=1).unsqueeze(-1))",
    dtype="float32",
    notes="in place",
)


class GINLayer(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.eps = nn.Parameter(torch.zeros(()))
        self.mlp = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim))

    def forward(self, x, src, dst):
        heard = torch.zeros_like(x).index_add_(0, dst, x[src])
        return F.relu(self.mlp((1 + self.eps) * x + heard))


class MeanReadout(nn.Module):
    def forward(self, x, graph, num_graphs):
        total = x.new_zeros(num_graphs, x.shape[1]).index_add_(0, graph, x)
        count = x.new_zeros(num_graphs).index_add_(0, graph, torch.ones_like(x[:, 0]))
        return total.div_(count.unsqueeze(-1))  # ORIGIN


class MoleculeNet(nn.Module):
    def __init__(self, atoms=6, dim=12):
        super().__init__()
        self.emb, self.layers = nn.Embedding(atoms, dim), nn.ModuleList(GINLayer(dim) for _ in range(2))
        self.readout, self.out = MeanReadout(), nn.Linear(dim, 1)

    def forward(self, z, src, dst, graph, num_graphs):
        x = self.emb(z)
        for layer in self.layers:
            x = layer(x, src, dst)
        return self.out(self.readout(x, graph, num_graphs)).squeeze(-1)


def make(seed=0):
    torch.manual_seed(seed)
    model = MoleculeNet()
    batches = []
    for i in range(4):
        graph = torch.repeat_interleave(torch.arange(4), torch.tensor([3, 4, 0 if i == 2 else 2, 3]))
        n = len(graph)
        src = torch.arange(n)
        dst = torch.roll(src, 1)
        batches.append(dict(args=(torch.randint(0, 6, (n,)), src, dst, graph, 4), y=torch.randn(4)))

    def loss_fn(model, batch):
        return F.l1_loss(model(*batch["args"]), batch["y"])

    return model, loss_fn, batches, torch.optim.Adam(model.parameters(), lr=1e-3)
