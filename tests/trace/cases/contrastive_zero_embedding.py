"""SimCLR: an embedding that ReLU switched off entirely is divided by its norm of 0.

source: HobbitLong/SupContrast and raywang4/DispLoss#9 (info_nce loss becomes nan after a while).
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

META = dict(
    source="raywang4/DispLoss#9",
    category="forward",
    phase="forward",
    step=1,
    visible="loss",
    first_op="aten.div",
    module="projector",
    line_marker="ORIGIN",
    cause="div_zero",
    fix="F.normalize, which clamps the norm",
    fix_code="return F.normalize(z, dim=1)",
    dtype="float32",
)


class Encoder(nn.Module):
    def __init__(self, dim=16):
        super().__init__()
        self.c1, self.c2 = nn.Conv2d(3, dim, 3, 2, 1, bias=False), nn.Conv2d(dim, dim, 3, 2, 1, bias=False)

    def forward(self, x):
        return F.relu(self.c2(F.relu(self.c1(x)))).mean((2, 3))


class Projector(nn.Module):
    def __init__(self, dim=16, out=8):
        super().__init__()
        self.hidden, self.out = nn.Linear(dim, dim, bias=False), nn.Linear(dim, out, bias=False)

    def forward(self, h):
        z = self.out(F.relu(self.hidden(h)))
        return z / z.norm(dim=1, keepdim=True)  # ORIGIN


class SimCLR(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.projector = Encoder(), Projector()

    def forward(self, x):
        return self.projector(self.encoder(x))


def nt_xent(za, zb, temperature=0.2):
    logits = za @ zb.t() / temperature
    target = torch.arange(len(za))
    return 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.t(), target))


def make(seed=0):
    torch.manual_seed(seed)
    model = SimCLR()
    batches = []
    for i in range(3):
        img = torch.rand(6, 3, 8, 8)
        if i == 1:
            img[4] = 0.0  # cut-out erased the whole crop
        batches.append((img, (img + 0.1 * torch.rand_like(img)).where(img != 0, 0.0)))

    def loss_fn(model, batch):
        a, b = batch
        return nt_xent(model(a), model(b))

    return model, loss_fn, batches, torch.optim.SGD(model.parameters(), lr=0.01)
