"""Progressive GAN: the minibatch standard deviation of the last, single image of an epoch.

source: ziwei-jiang/PGGAN-PyTorch#1 (torch.std(x, dim=0) of a batch of one is nan) and pytorch/pytorch#4320.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

META = dict(
    source="ziwei-jiang/PGGAN-PyTorch#1",
    category="forward",
    phase="forward",
    step=2,
    visible="loss",
    first_op="aten.std",
    module="disc.head.0",
    line_marker="ORIGIN",
    cause="empty_reduction",
    fix="use the biased estimate, or drop the last batch",
    fix_code="spread = torch.sqrt(x.var(0, unbiased=False) + 1e-8).mean()",
    dtype="float32",
)


class MinibatchStd(nn.Module):
    def forward(self, x):
        spread = x.std(0).mean()  # ORIGIN
        return torch.cat([x, spread.expand(x.shape[0], 1, *x.shape[2:])], 1)


class EqualConv(nn.Conv2d):
    def forward(self, x):
        return F.conv2d(x, self.weight * (2 / self.weight[0].numel()) ** 0.5, self.bias, padding=1)


class Discriminator(nn.Module):
    def __init__(self, dim=8):
        super().__init__()
        self.body = nn.Sequential(EqualConv(3, dim, 3), nn.LeakyReLU(0.2), nn.AvgPool2d(2))
        self.head = nn.Sequential(MinibatchStd(), EqualConv(dim + 1, dim, 3), nn.LeakyReLU(0.2))
        self.out = nn.Linear(dim, 1)

    def forward(self, img):
        return self.out(self.head(self.body(img)).mean((2, 3))).squeeze(1)


class Trainer(nn.Module):
    def __init__(self):
        super().__init__()
        self.disc = Discriminator()

    def forward(self, real, fake):
        return F.softplus(-self.disc(real)).mean() + F.softplus(self.disc(fake)).mean()


def make(seed=0):
    torch.manual_seed(seed)
    model = Trainer()
    batches = [(torch.rand(n, 3, 8, 8), torch.rand(n, 3, 8, 8)) for n in (4, 4, 1)]

    def loss_fn(model, batch):
        return model(*batch)

    return model, loss_fn, batches, torch.optim.Adam(model.parameters(), lr=1e-3)
