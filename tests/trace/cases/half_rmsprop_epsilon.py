"""RMSprop on fp16 parameters: eps of 1e-8 is 0 in float16, rows without a gradient become 0 / 0.

source: google-deepmind/optax#1784 (rmsprop produces NaN on float16 zero-gradient steps).
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

META = dict(
    source="google-deepmind/optax#1784",
    category="optimizer,half",
    phase="optimizer",
    step=0,
    visible="param",
    first_op="aten.addcdiv_",
    first_op_alt=["aten.addcdiv", "aten.div"],
    module=None,
    param="tokens.weight",
    line_marker="ORIGIN",
    line_scored=False,
    cause="half_underflow",
    cause_alt=["div_zero"],
    fix="eps=1e-4 for fp16 parameters, or keep float32 master weights",
    fix_code="opt = torch.optim.RMSprop(model.parameters(), lr=1e-4, eps=1e-3)",
    dtype="float16",
    notes="loss and gradients are finite; the line marks the optimizer's construction",
)


class Mixer(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.a, self.b = nn.Linear(dim, dim), nn.Linear(dim, dim)

    def forward(self, x):
        return x + self.b(torch.tanh(self.a(x)))


class SlotTagger(nn.Module):
    def __init__(self, vocab=50, dim=12, tags=4):
        super().__init__()
        self.tokens, self.mixers = nn.Embedding(vocab, dim), nn.Sequential(Mixer(dim), Mixer(dim))
        self.tags = nn.Linear(dim, tags)

    def forward(self, ids):
        return self.tags(self.mixers(self.tokens(ids)))


def make(seed=0):
    torch.manual_seed(seed)
    model = SlotTagger().half()
    batches = [(torch.randint(0, 25, (3, 6)), torch.randint(0, 4, (3, 6))) for _ in range(3)]

    def loss_fn(model, batch):
        ids, tags = batch
        return 64 * F.cross_entropy(model(ids).float().flatten(0, 1), tags.flatten())

    opt = torch.optim.RMSprop(model.parameters(), lr=1e-4)  # ORIGIN
    return model, loss_fn, batches, opt
