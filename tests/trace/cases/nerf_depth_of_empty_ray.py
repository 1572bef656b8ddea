"""NeRF: expected depth is divided by the accumulated weight, which is exactly 0 on a ray through empty space.

source: pattern of NeRF code bases with a ReLU density (disparity 1 / max(eps, depth / acc) guards only half of it).
"""

import torch
import torch.nn as nn

META = dict(
    source="pattern, no thread (depth / acc of empty rays)",
    category="forward",
    phase="forward",
    step=1,
    visible="loss",
    first_op="aten.div",
    module="renderer",
    line_marker="ORIGIN",
    cause="div_zero",
    fix="divide by the accumulated weight plus an epsilon",
    fix_code="depth = (weights * z).sum(-1) / (acc + 1e-10)",
    dtype="float32",
)


class PositionalEncoding(nn.Module):
    def __init__(self, bands=3):
        super().__init__()
        self.register_buffer("freq", 2.0 ** torch.arange(bands))

    def forward(self, x):
        angles = (x.unsqueeze(-1) * self.freq).flatten(-2)
        return torch.cat([x, angles.sin(), angles.cos()], -1)


class RadianceField(nn.Module):
    def __init__(self, dim=24):
        super().__init__()
        self.encode = PositionalEncoding()
        self.trunk = nn.Sequential(nn.Linear(21, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU())
        self.sigma, self.rgb = nn.Linear(dim, 1), nn.Linear(dim, 3)

    def forward(self, x, inside):
        h = self.trunk(self.encode(x))
        return torch.relu(self.sigma(h).squeeze(-1)) * inside, torch.sigmoid(self.rgb(h))


class Renderer(nn.Module):
    def forward(self, sigma, rgb, z):
        alpha = 1 - torch.exp(-sigma * 0.1)
        passed = torch.cumprod(torch.cat([torch.ones_like(alpha[:, :1]), 1 - alpha + 1e-10], 1), 1)[:, :-1]
        weights = alpha * passed
        acc = weights.sum(-1)
        depth = (weights * z).sum(-1) / acc  # ORIGIN
        return (weights.unsqueeze(-1) * rgb).sum(1), depth, acc


class NeRF(nn.Module):
    def __init__(self):
        super().__init__()
        self.field, self.renderer = RadianceField(), Renderer()

    def forward(self, origin, direction, z, near):
        points = origin[:, None] + direction[:, None] * z[..., None]
        inside = (points.norm(dim=-1) < near).float()  # the bounding sphere of the scene
        return self.renderer(*self.field(points, inside), z)


def photometric(model, batch):
    rgb, depth, acc = model(*batch["ray"], 1.5)
    return (rgb - batch["rgb"]).pow(2).mean() + 0.1 * ((depth - batch["depth"]).abs() * batch["seen"]).mean()


def make(seed=0):
    torch.manual_seed(seed)
    model = NeRF()
    with torch.no_grad():
        model.field.sigma.bias.fill_(1.0)
    batches = []
    for i in range(3):
        origin, direction = torch.zeros(5, 3), nn.functional.normalize(torch.randn(5, 3), dim=-1)
        if i == 1:
            origin[2], direction[2] = (
                torch.tensor([9.0, 0.0, 0.0]),
                torch.tensor([1.0, 0.0, 0.0]),
            )  # looks away
        z = torch.linspace(0.1, 1.5, 8).expand(5, 8)
        seen = torch.ones(5)
        batches.append(dict(ray=(origin, direction, z), rgb=torch.rand(5, 3), depth=torch.rand(5), seen=seen))
    return model, photometric, batches, torch.optim.Adam(model.parameters(), lr=1e-3)
