"""CONTROL: the slope of |X| ** 0.3 is infinite where a ReLU mask is 0, and the same ReLU drops that gradient."""

import torch
import torch.nn as nn
import torch.nn.functional as F

META = dict(
    source="pattern, no thread",
    category="control",
    phase="none",
    step=None,
    first_op=None,
    module=None,
    line_marker="ORIGIN",
    cause="none",
    fix=None,
    dtype="float32",
    notes="PowBackward0 makes inf and nan in every step; no gradient, parameter or loss is ever bad",
)


class BandGate(nn.Module):
    def __init__(self, bins, dim=12):
        super().__init__()
        self.rnn, self.out = nn.GRU(bins, dim, batch_first=True), nn.Linear(dim, bins)

    def forward(self, mag):
        return torch.relu(self.out(self.rnn(mag)[0]))


class Compressed(nn.Module):
    def __init__(self, bins=8):
        super().__init__()
        self.gate = BandGate(bins)

    def forward(self, mag):
        return self.gate(mag).pow(0.3)  # LEGIT


def make(seed=0):
    torch.manual_seed(seed)
    model = Compressed()
    batches = [(torch.rand(3, 6, 8), torch.rand(3, 6, 8)) for _ in range(6)]

    def loss_fn(model, batch):
        mag, target = batch
        return F.l1_loss(model(mag), target)

    return model, loss_fn, batches, torch.optim.Adam(model.parameters(), lr=1e-3)
