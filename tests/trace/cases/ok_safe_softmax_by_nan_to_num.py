"""CONTROL: softmax of rows without any key is NaN, nan_to_num makes it 0, and the mask drops its gradient too."""

import torch
import torch.nn as nn
import torch.nn.functional as F

META = dict(
    source="pytorch/pytorch#42323 (the usual workaround of #41508)",
    category="control",
    phase="none",
    step=None,
    first_op=None,
    module=None,
    line_marker="ORIGIN",
    cause="none",
    fix=None,
    dtype="float32",
    notes="NaN in forward and in SoftmaxBackward0 of every step; masked_fill's backward replaces it by 0",
)


class NeighbourAttention(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.q, self.kv, self.o = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)

    def forward(self, x, near):
        k, v = self.kv(x).chunk(2, -1)
        scores = self.q(x) @ k.transpose(1, 2) / x.shape[-1] ** 0.5
        scores = scores.masked_fill(~near, float("-inf"))  # LEGIT
        probs = torch.nan_to_num(torch.softmax(scores, -1), nan=0.0)  # LEGIT
        return x + self.o(probs @ v)


class AgentNet(nn.Module):
    def __init__(self, feats=4, dim=12):
        super().__init__()
        self.inp, self.layers = (
            nn.Linear(feats, dim),
            nn.ModuleList(NeighbourAttention(dim) for _ in range(2)),
        )
        self.out = nn.Linear(dim, 2)

    def forward(self, x, near):
        h = torch.tanh(self.inp(x))
        for layer in self.layers:
            h = layer(h, near)
        return self.out(h)


def make(seed=0):
    torch.manual_seed(seed)
    model = AgentNet()
    batches = []
    for _ in range(6):
        near = torch.rand(3, 5, 5) > 0.4
        near[1, 2] = False  # an agent without any neighbour
        batches.append((torch.randn(3, 5, 4), near, torch.randn(3, 5, 2)))

    def loss_fn(model, batch):
        x, near, y = batch
        return F.mse_loss(model(x, near), y)

    return model, loss_fn, batches, torch.optim.Adam(model.parameters(), lr=1e-3)
