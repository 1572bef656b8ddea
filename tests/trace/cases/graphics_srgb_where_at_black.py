"""sRGB transfer function with torch.where: black pixels take the linear branch, the power's slope is inf at 0.

source: kornia and differentiable renderers (linear_rgb_to_rgb: where(x > 0.0031308, 1.055 * x ** (1 / 2.4) - 0.055, ...)).
"""

import torch
import torch.nn as nn

META = dict(
    source="pattern, no thread (sRGB curve at 0)",
    category="backward",
    phase="backward",
    step=1,
    visible="grad",
    first_op="PowBackward0",
    module="film",
    line_marker="ORIGIN",
    cause="singular_gradient",
    cause_alt=["where_grad_trap"],
    fix="clamp the argument of the power to the branch where it is used",
    fix_code="curve = 1.055 * linear.clamp(min=0.0031308).pow(1 / 2.4) - 0.055",
    dtype="float32",
    notes="nothing non-finite in forward",
)


class Film(nn.Module):
    def forward(self, linear):
        curve = 1.055 * linear.pow(1 / 2.4) - 0.055  # ORIGIN
        return torch.where(linear > 0.0031308, curve, 12.92 * linear)


class Albedo(nn.Module):
    def __init__(self, dim=12):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, dim), nn.GELU(), nn.Linear(dim, 3))

    def forward(self, uv):
        return torch.sigmoid(self.net(uv))


class Shader(nn.Module):
    def __init__(self):
        super().__init__()
        self.albedo, self.light = Albedo(), nn.Parameter(torch.tensor([0.0, 0.0, 1.0]))

    def forward(self, uv, normal):
        lambert = (normal * nn.functional.normalize(self.light, dim=0)).sum(-1, keepdim=True)
        return self.albedo(uv) * torch.relu(lambert)


class Renderer(nn.Module):
    def __init__(self):
        super().__init__()
        self.shader, self.film = Shader(), Film()

    def forward(self, uv, normal):
        return self.film(self.shader(uv, normal))


def image_loss(model, batch):
    return (model(batch["uv"], batch["normal"]) - batch["rgb"]).abs().mean()


def make(seed=0):
    torch.manual_seed(seed)
    model = Renderer()
    batches = []
    for i in range(3):
        normal = nn.functional.normalize(torch.rand(10, 3) + 0.1, dim=-1)
        if i == 1:
            normal[4] = torch.tensor([0.0, 0.0, -1.0])  # faces away from the light: exactly black
        batches.append(dict(uv=torch.rand(10, 2), normal=normal, rgb=torch.rand(10, 3)))
    return model, image_loss, batches, torch.optim.Adam(model.parameters(), lr=1e-3)
