"""Great-circle loss: asin of exactly 1 between antipodes has an infinite slope.

source: pattern of geolocation losses (2 R asin(sqrt(a)); the clamp at 1 keeps the value, not the slope).
"""

import torch
import torch.nn as nn

META = dict(
    source="pattern, no thread (haversine distance)",
    category="backward",
    phase="backward",
    step=1,
    visible="grad",
    first_op="AsinBackward0",
    module=None,
    line_marker="ORIGIN",
    cause="domain_edge",
    fix="clamp below 1, or atan2(sqrt(a), sqrt(1 - a))",
    fix_code="return 2 * torch.asin(root.clamp(max=1 - 1e-6))",
    dtype="float32",
)


class PhotoEncoder(nn.Module):
    def __init__(self, dim=12):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, dim, 4, 4), nn.Linear(dim, dim)

    def forward(self, img):
        return torch.relu(self.fc(torch.relu(self.conv(img)).mean((2, 3))))


class GeoLocator(nn.Module):
    """Latitude and longitude in radians."""

    def __init__(self, dim=12):
        super().__init__()
        self.encoder, self.out = PhotoEncoder(dim), nn.Linear(dim, 2)

    def forward(self, img):
        return self.out(self.encoder(img))


def haversine(a, b):
    dlat, dlon = (a - b).unbind(-1)
    h = torch.sin(dlat / 2).pow(2) + torch.cos(a[:, 0]) * torch.cos(b[:, 0]) * torch.sin(dlon / 2).pow(2)
    root = (h + 1e-12).sqrt().clamp(max=1.0)
    return 2 * torch.asin(root)  # ORIGIN


def make(seed=0):
    torch.manual_seed(seed)
    model = GeoLocator()
    batches = []
    for i in range(3):
        img, where = torch.rand(4, 3, 8, 8), torch.randn(4, 2).clamp(-0.7, 0.7)
        if i == 1:
            img[2] = 0.0
            with torch.no_grad():  # the label of this photo lies on the other side of the world
                lat, lon = model(img)[2]
            where[2] = torch.stack([-lat, lon + torch.pi])
        batches.append((img, where))

    def loss_fn(model, batch):
        img, where = batch
        return haversine(model(img), where).mean()

    return model, loss_fn, batches, torch.optim.SGD(model.parameters(), lr=0.0)
