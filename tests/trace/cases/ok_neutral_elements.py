"""CONTROL: infinity as the neutral element: minima start at inf, maxima at -inf, as buffers and as masks."""

import torch
import torch.nn as nn
import torch.nn.functional as F

META = dict(
    source="torch.ao.quantization MinMaxObserver (min_val = inf, max_val = -inf)",
    category="control",
    phase="none",
    step=None,
    first_op=None,
    module=None,
    line_marker="ORIGIN",
    cause="none",
    fix=None,
    dtype="float32",
    notes="two buffers are infinite before the first step, as those of quantisation observers and early stopping are",
)


class MinMaxObserver(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("low", torch.tensor(float("inf")))
        self.register_buffer("high", torch.tensor(float("-inf")))

    def forward(self, x):
        with torch.no_grad():
            self.low.copy_(torch.minimum(self.low, x.min()))  # LEGIT
            self.high.copy_(torch.maximum(self.high, x.max()))  # LEGIT
        scale = (self.high - self.low).clamp(min=1e-6) / 255
        return x + ((x / scale).round() * scale - x).detach()


class NearestSlot(nn.Module):
    def forward(self, x, slots, free):
        gap = torch.cdist(x, slots).masked_fill(~free, float("inf"))  # LEGIT
        near = gap.amin(1)  # LEGIT
        best = torch.full_like(near, float("inf"))  # LEGIT
        return torch.minimum(best, near)


class SlotNet(nn.Module):
    def __init__(self, feats=4, dim=6, slots=5):
        super().__init__()
        self.enc, self.observer, self.nearest = nn.Linear(feats, dim), MinMaxObserver(), NearestSlot()
        self.slots = nn.Parameter(torch.randn(slots, dim))
        self.register_buffer("best_loss", torch.tensor(float("inf")))

    def forward(self, x, free):
        loss = F.softplus(self.nearest(self.observer(torch.tanh(self.enc(x))), self.slots, free)).mean()
        self.best_loss.copy_(torch.minimum(self.best_loss, loss.detach()))  # LEGIT
        return loss


def make(seed=0):
    torch.manual_seed(seed)
    model = SlotNet()
    batches = []
    for _ in range(6):
        free = torch.rand(8, 5) > 0.5
        free[:, 0] = True
        batches.append((torch.randn(8, 4), free))

    def loss_fn(model, batch):
        return model(*batch)

    return model, loss_fn, batches, torch.optim.Adam(model.parameters(), lr=1e-3)
