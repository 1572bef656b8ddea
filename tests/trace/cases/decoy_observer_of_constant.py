"""Quantisation-aware training: observers start at inf and -inf; a constant activation has a scale of 0.

source: torch.ao observers guard the scale with eps; the pattern of hand-written fake quantisation does not.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

META = dict(
    source="pattern, no thread (fake quantisation of a constant)",
    category="forward",
    decoy_legit=True,
    phase="forward",
    step=0,
    visible="loss",
    first_op="aten.div",
    module="blocks.1.quant",
    line_marker="ORIGIN",
    cause="div_zero",
    fix="clamp the scale",
    fix_code="grid = torch.round((x - self.low) / scale.clamp(min=1e-6))",
    dtype="float32",
    notes="the buffers low and high are inf and -inf before the first step, as they should be",
)


class FakeQuant(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("low", torch.tensor(float("inf")))
        self.register_buffer("high", torch.tensor(float("-inf")))

    def forward(self, x):
        self.low = torch.minimum(self.low, x.detach().min())  # LEGIT
        self.high = torch.maximum(self.high, x.detach().max())  # LEGIT
        scale = (self.high - self.low) / 255
        grid = torch.round((x - self.low) / scale)  # ORIGIN
        return x + (grid * scale + self.low - x).detach()


class Block(nn.Module):
    def __init__(self, i, o):
        super().__init__()
        self.fc, self.quant = nn.Linear(i, o), FakeQuant()

    def forward(self, x):
        return self.quant(F.relu(self.fc(x)))


class EdgeNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks, self.out = nn.ModuleList([Block(6, 12), Block(12, 12)]), nn.Linear(12, 3)
        nn.init.constant_(self.blocks[1].fc.bias, -9.0)  # pruned: its ReLUs are all off

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.out(x)


def make(seed=0):
    torch.manual_seed(seed)
    model = EdgeNet()
    batches = [(torch.randn(8, 6), torch.randint(0, 3, (8,))) for _ in range(2)]

    def loss_fn(model, batch):
        x, y = batch
        return F.cross_entropy(model(x), y)

    return model, loss_fn, batches, torch.optim.SGD(model.parameters(), lr=1e-3)
