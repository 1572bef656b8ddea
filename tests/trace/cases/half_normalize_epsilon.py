"""F.normalize in fp16: its epsilon of 1e-12 is 0 in float16, a zero vector becomes 0 / 0.

source: pytorch/pytorch#32137 (normalize epsilon too small for half precision).
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

META = dict(
    source="pytorch/pytorch#32137",
    category="forward,half",
    phase="forward",
    step=1,
    visible="loss",
    first_op="aten.div",
    module="towers.1",
    line_marker="ORIGIN",
    cause="half_underflow",
    cause_alt=["div_zero"],
    fix="normalise in float32, or with an epsilon that float16 can hold",
    fix_code="return F.normalize(self.proj(pooled), dim=-1, eps=1e-4)",
    dtype="float16",
)


class Tower(nn.Module):
    def __init__(self, vocab, dim):
        super().__init__()
        self.emb = nn.Embedding(vocab, dim, padding_idx=0)
        self.proj = nn.Linear(dim, dim, bias=False)

    def forward(self, ids):
        pooled = self.emb(ids).mean(1)
        return F.normalize(self.proj(pooled), dim=-1)  # ORIGIN


class TwoTower(nn.Module):
    def __init__(self, dim=16):
        super().__init__()
        self.towers = nn.ModuleList([Tower(30, dim), Tower(50, dim)])

    def forward(self, query, item):
        return self.towers[0](query) @ self.towers[1](item).t()


def in_batch_softmax(scores, temperature=0.1):
    return F.cross_entropy(scores.float() / temperature, torch.arange(len(scores)))


def make(seed=0):
    torch.manual_seed(seed)
    model = TwoTower().half()
    batches = []
    for i in range(3):
        query, item = torch.randint(1, 30, (6, 4)), torch.randint(1, 50, (6, 5))
        if i == 1:
            item[3] = 0  # an item without a title: only padding
        batches.append((query, item))

    def loss_fn(model, batch):
        return in_batch_softmax(model(*batch))

    return model, loss_fn, batches, torch.optim.SGD(model.parameters(), lr=0.01)
