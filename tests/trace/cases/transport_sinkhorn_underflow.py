"""Sinkhorn in the primal domain: the kernel exp(-C / eps) underflows, a row of it sums to 0.

source: PythonOT/POT#194 and rajewsky-lab/novosparc#50 (divide by zero in u = a / (K v): the regularisation is too small).
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

META = dict(
    source="PythonOT/POT#194",
    category="forward,inf_first",
    phase="forward",
    step=1,
    visible="loss",
    first_op="aten.div",
    module="matcher.sinkhorn",
    line_marker="ORIGIN",
    cause="div_zero",
    fix="iterate in the log domain, or a larger regularisation",
    fix_code="u = a / (kernel @ v + 1e-30).clamp(min=1e-12)",
    dtype="float32",
)


class Sinkhorn(nn.Module):
    def __init__(self, eps, rounds):
        super().__init__()
        self.eps, self.rounds = eps, rounds

    def forward(self, cost):
        n, m = cost.shape
        kernel = torch.exp(-cost / self.eps)
        a, v = torch.full((n,), 1 / n), torch.ones(m)
        for _ in range(self.rounds):
            u = a / (kernel @ v)  # ORIGIN
            v = 1 / m / (kernel.t() @ u).clamp(min=1e-12)
        return u[:, None] * kernel * v


class Matcher(nn.Module):
    def __init__(self, eps=0.05):
        super().__init__()
        self.sinkhorn = Sinkhorn(eps, 5)

    def forward(self, a, b):
        cost = (a[:, None] - b[None]).pow(2).mean(-1)
        return (self.sinkhorn(cost) * cost).sum()


class SetAutoencoder(nn.Module):
    def __init__(self, dim=8):
        super().__init__()
        self.enc = nn.Sequential(nn.Linear(3, dim), nn.ReLU(), nn.Linear(dim, dim))
        self.dec, self.matcher = nn.Linear(dim, 15), Matcher()

    def forward(self, pts):
        code = self.enc(pts).amax(0)
        return self.matcher(torch.tanh(self.dec(code)).view(5, 3), pts)


def make(seed=0):
    torch.manual_seed(seed)
    model = SetAutoencoder()
    batches = [torch.rand(6, 3) - 0.5 for _ in range(3)]
    batches[1] = batches[1] + 9.0  # a cloud that was not centred

    def loss_fn(model, batch):
        return F.softplus(model(batch))

    return model, loss_fn, batches, torch.optim.Adam(model.parameters(), lr=1e-3)
