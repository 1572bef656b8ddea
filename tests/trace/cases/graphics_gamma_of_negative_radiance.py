"""Display gamma of a predicted radiance that is slightly negative: a fractional power of a negative number.

source: pattern of inverse rendering code (x ** (1 / 2.2) on an unclamped network output).
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

META = dict(
    source="pattern, no thread (gamma correction of unclamped radiance)",
    category="forward",
    phase="forward",
    step=0,
    visible="loss",
    first_op="aten.pow",
    module="camera",
    line_marker="ORIGIN",
    cause="domain_error",
    fix="clamp the radiance to a small positive number",
    fix_code="return (radiance * self.exposure.exp()).clamp(min=1e-6) ** (1 / 2.2)",
    dtype="float32",
)


class ResidualBlock(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.a, self.b = nn.Conv2d(dim, dim, 3, padding=1), nn.Conv2d(dim, dim, 3, padding=1)

    def forward(self, x):
        return x + self.b(F.relu(self.a(x)))


class InverseToneMapper(nn.Module):
    def __init__(self, dim=8):
        super().__init__()
        self.inp, self.blocks = (
            nn.Conv2d(3, dim, 3, padding=1),
            nn.Sequential(*(ResidualBlock(dim) for _ in range(2))),
        )
        self.out = nn.Conv2d(dim, 3, 3, padding=1)

    def forward(self, img):
        return img.pow(2.2) + self.out(self.blocks(self.inp(img)))


class Camera(nn.Module):
    def __init__(self):
        super().__init__()
        self.exposure = nn.Parameter(torch.zeros(()))

    def forward(self, radiance):
        return (radiance * self.exposure.exp()) ** (1 / 2.2)  # ORIGIN


class Reexpose(nn.Module):
    def __init__(self):
        super().__init__()
        self.invert, self.camera = InverseToneMapper(), Camera()

    def forward(self, img):
        return self.camera(self.invert(img))


def make(seed=0):
    torch.manual_seed(seed)
    model = Reexpose()
    batches = [dict(img=torch.rand(2, 3, 8, 8) * 0.5, target=torch.rand(2, 3, 8, 8)) for _ in range(2)]

    def loss_fn(model, batch):
        return F.l1_loss(model(batch["img"]), batch["target"])

    return model, loss_fn, batches, torch.optim.Adam(model.parameters(), lr=1e-3)
