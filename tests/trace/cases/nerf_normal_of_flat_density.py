"""Surface normals from the gradient of the density: a dead density has no direction, 0 / 0.

source: kwea123/ngp_pl#107 (normals = -normalize(grad) contains many NaN values).
"""

import torch
import torch.nn as nn

META = dict(
    source="kwea123/ngp_pl#107",
    category="forward",
    phase="forward",
    step=1,
    visible="loss",
    first_op="aten.div",
    module="normals",
    line_marker="ORIGIN",
    cause="div_zero",
    fix="clamp the length of the gradient",
    fix_code="return -slope / slope.norm(dim=-1, keepdim=True).clamp(min=1e-6)",
    dtype="float32",
    notes="the value is born in forward code that uses a gradient, not in a backward pass",
)


class HashFeatures(nn.Module):
    def __init__(self, dim=16):
        super().__init__()
        self.register_buffer("mix", torch.randn(3, dim))

    def forward(self, x):
        return torch.sin(x @ self.mix)


class Density(nn.Module):
    def __init__(self, dim=16):
        super().__init__()
        self.feats, self.mlp = (
            HashFeatures(dim),
            nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, 1)),
        )

    def forward(self, x):
        # The scene ends at |x| = 1
        return torch.relu(self.mlp(self.feats(x)).squeeze(-1) + 2.0) * (x.abs().amax(-1) < 1.0)


class Normals(nn.Module):
    def forward(self, density, x):
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            (slope,) = torch.autograd.grad(density(x).sum(), x, create_graph=True)
        return -slope / slope.norm(dim=-1, keepdim=True)  # ORIGIN


class Surface(nn.Module):
    def __init__(self):
        super().__init__()
        self.density, self.normals = Density(), Normals()

    def forward(self, x):
        return self.density(x), self.normals(self.density, x)


def orientation_loss(model, batch):
    sigma, normal = model(batch["x"])
    facing = (normal * batch["view"]).sum(-1).clamp(max=0.0)
    return (sigma.detach() * facing.pow(2)).mean() + (sigma - batch["sigma"]).pow(2).mean()


def make(seed=0):
    torch.manual_seed(seed)
    model = Surface()
    batches = []
    for i in range(3):
        x = torch.rand(8, 3) * 1.6 - 0.8
        if i == 1:
            x[6] = torch.tensor([1.4, 0.2, 0.1])  # a sample beyond the bounding box
        view = nn.functional.normalize(torch.randn(8, 3), dim=-1)
        batches.append(dict(x=x, view=view, sigma=torch.rand(8) * 4))
    return model, orientation_loss, batches, torch.optim.Adam(model.parameters(), lr=1e-3)
