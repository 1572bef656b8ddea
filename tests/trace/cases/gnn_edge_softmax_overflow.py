"""Graph attention with a hand-written edge softmax: exp of the raw score, no maximum subtracted.

source: pattern of early GAT implementations (exp(e) / segment sum of exp(e)); Diego999/pyGAT's sparse layer has it.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

META = dict(
    source="pattern, no thread (edge softmax without maximum)",
    category="forward,inf_first",
    phase="forward",
    step=1,
    visible="loss",
    first_op="aten.exp",
    module="layers.1.heads.0",
    line_marker="ORIGIN",
    cause="exp_overflow",
    fix="subtract the maximum of each target node before exp, or bound the score",
    fix_code="e = torch.exp(score.clamp(max=50.0))",
    dtype="float32",
)


class SparseHead(nn.Module):
    def __init__(self, i, o):
        super().__init__()
        self.w, self.a = nn.Linear(i, o, bias=False), nn.Linear(2 * o, 1, bias=False)

    def forward(self, x, src, dst):
        h = self.w(x)
        score = F.leaky_relu(self.a(torch.cat([h[src], h[dst]], -1)).squeeze(-1), 0.2)
        e = torch.exp(score)  # ORIGIN
        total = torch.zeros(len(x)).index_add(0, dst, e)
        return torch.zeros_like(h).index_add(0, dst, (e / total[dst]).unsqueeze(-1) * h[src])


class GATLayer(nn.Module):
    def __init__(self, i, o, heads):
        super().__init__()
        self.heads = nn.ModuleList(SparseHead(i, o) for _ in range(heads))

    def forward(self, x, src, dst):
        return torch.cat([head(x, src, dst) for head in self.heads], -1)


class GAT(nn.Module):
    def __init__(self, feats=6):
        super().__init__()
        self.layers = nn.ModuleList([GATLayer(feats, 4, 2), GATLayer(8, 4, 2)])
        self.out = nn.Linear(8, 3)

    def forward(self, x, src, dst):
        for layer in self.layers:
            x = F.elu(layer(x, src, dst))
        return self.out(x)


def make(seed=0):
    torch.manual_seed(seed)
    model = GAT()
    with torch.no_grad():
        head = model.layers[1].heads[0]
        head.w.weight[0], head.a.weight[0, 0], head.a.weight[0, 4] = 1.0, 1.0, 1.0
        head.a.weight[0, 1:4], head.a.weight[0, 5:] = 0.0, 0.0
        model.layers[0].heads[0].w.weight.abs_()
    src = torch.arange(8).repeat(3)
    dst = torch.cat([torch.arange(8), torch.roll(torch.arange(8), 1), torch.roll(torch.arange(8), 2)])
    batches = []
    for i in range(3):
        x = torch.rand(8, 6)
        if i == 1:
            x[3] = 60.0  # a hub with raw counts
        batches.append((x, src, dst, torch.randint(0, 3, (8,))))
    with torch.no_grad():  # the first layer's own scores stay small
        for h in model.layers[0].heads:
            h.a.weight.mul_(0.01)

    def loss_fn(model, batch):
        x, src, dst, y = batch
        return F.cross_entropy(model(x, src, dst), y)

    return model, loss_fn, batches, torch.optim.SGD(model.parameters(), lr=1e-4)
