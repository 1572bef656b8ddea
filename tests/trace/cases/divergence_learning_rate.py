"""Matrix factorisation with a learning rate far too large: the parameters grow until the squared error overflows.

source: pattern of "loss is nan after a few iterations, it works with a smaller learning rate" threads.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

META = dict(
    source="pattern, no thread (learning rate too large)",
    category="forward,inf_first",
    phase="loss",
    step=4,
    visible="loss",
    first_op="aten.mse_loss",
    module=None,
    line_marker="ORIGIN",
    cause="divergence",
    fix="a smaller learning rate, or clipping",
    fix_code="return F.mse_loss(rating, batch['rating']) * 1e-3",
    dtype="float32",
)


class Factors(nn.Module):
    def __init__(self, num, dim):
        super().__init__()
        self.table, self.bias = nn.Embedding(num, dim), nn.Embedding(num, 1)

    def forward(self, ids):
        return self.table(ids), self.bias(ids).squeeze(-1)


class MatrixFactorisation(nn.Module):
    def __init__(self, users=12, items=15, dim=4):
        super().__init__()
        self.users, self.items = Factors(users, dim), Factors(items, dim)

    def forward(self, user, item):
        (u, bu), (v, bv) = self.users(user), self.items(item)
        return (u * v).sum(-1) + bu + bv


def rating_loss(rating, batch):
    return F.mse_loss(rating, batch["rating"])  # ORIGIN


def make(seed=0):
    torch.manual_seed(seed)
    model = MatrixFactorisation()
    batches = []
    for _ in range(8):
        batches.append(
            dict(user=torch.randint(0, 12, (24,)), item=torch.randint(0, 15, (24,)), rating=torch.randn(24))
        )

    def loss_fn(model, batch):
        return rating_loss(model(batch["user"], batch["item"]), batch)

    return model, loss_fn, batches, torch.optim.SGD(model.parameters(), lr=8.0)
