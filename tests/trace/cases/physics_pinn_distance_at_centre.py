"""Physics-informed network in polar form: a collocation point at the origin, derivative of hypot(0, 0).

source: pattern of PINN threads (r = sqrt(x ** 2 + y ** 2) as input feature; NaN residual at r = 0).
"""

import torch
import torch.nn as nn

META = dict(
    source="pattern, no thread (polar feature at the origin)",
    category="backward",
    phase="backward",
    step=1,
    visible="loss",
    first_op="HypotBackward0",
    module="u.polar",
    line_marker="ORIGIN",
    cause="singular_gradient",
    cause_alt=["div_zero"],
    fix="shift the radius by an epsilon",
    fix_code="return torch.sqrt(xy[:, :1] ** 2 + xy[:, 1:] ** 2 + 1e-6)",
    dtype="float32",
    notes="the pass that fails is torch.autograd.grad inside the loss",
)


class Polar(nn.Module):
    def forward(self, xy):
        return torch.hypot(xy[:, :1], xy[:, 1:])  # ORIGIN


class Potential(nn.Module):
    def __init__(self, dim=16):
        super().__init__()
        self.polar, self.net = Polar(), nn.Sequential(nn.Linear(3, dim), nn.Tanh(), nn.Linear(dim, 1))

    def forward(self, xy):
        return self.net(torch.cat([xy, self.polar(xy)], 1))


class PINN(nn.Module):
    def __init__(self):
        super().__init__()
        self.u = Potential()

    def forward(self, xy):
        return self.u(xy)


def derivative(y, x):
    return torch.autograd.grad(y.sum(), x, create_graph=True)[0]


def residual_loss(model, batch):
    xy = batch["inside"].clone().requires_grad_(True)
    slope = derivative(model(xy), xy)
    residual = slope.pow(2).sum(1) - batch["source"]
    return residual.pow(2).mean() + (model(batch["border"]) - batch["value"]).pow(2).mean()


def make(seed=0):
    torch.manual_seed(seed)
    model = PINN()
    batches = []
    for i in range(3):
        inside = torch.rand(12, 2) * 2 - 1
        if i == 1:
            inside[5] = 0.0  # a regular grid has its centre
        border = nn.functional.normalize(torch.randn(6, 2), dim=1)
        batches.append(dict(inside=inside, source=torch.rand(12), border=border, value=torch.zeros(6, 1)))
    return model, residual_loss, batches, torch.optim.Adam(model.parameters(), lr=1e-3)
