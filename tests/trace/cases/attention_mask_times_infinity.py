"""An additive mask made by multiplication: (1 - mask) * -inf is 0 * -inf = NaN where the mask is 1.

source: pattern of BERT ports that replace the -10000 of (1 - mask) * -10000 by -inf; bentrevett/pytorch-seq2seq#191.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

META = dict(
    source="bentrevett/pytorch-seq2seq#191",
    category="forward",
    phase="forward",
    step=0,
    visible="loss",
    first_op="aten.mul",
    module="bert.mask",
    line_marker="ORIGIN",
    cause="inf_arithmetic",
    fix="masked_fill with -inf (or multiply by a large finite number)",
    fix_code="return torch.zeros_like(keep).masked_fill(keep == 0, -1e4)[:, None, :]",
    dtype="float32",
)


class ExtendMask(nn.Module):
    def forward(self, keep):
        return (1.0 - keep)[:, None, :] * float("-inf")  # ORIGIN


class SelfAttention(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.qkv, self.dense = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x, bias):
        q, k, v = self.qkv(x).chunk(3, -1)
        scores = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5 + bias
        return self.dense(F.softmax(scores, -1) @ v)


class Bert(nn.Module):
    def __init__(self, vocab, dim, depth):
        super().__init__()
        self.emb, self.mask = nn.Embedding(vocab, dim), ExtendMask()
        self.attn = nn.ModuleList(SelfAttention(dim) for _ in range(depth))
        self.norm = nn.ModuleList(nn.LayerNorm(dim) for _ in range(depth))

    def forward(self, ids, keep):
        x, bias = self.emb(ids), self.mask(keep)
        for attn, norm in zip(self.attn, self.norm, strict=True):
            x = norm(x + attn(x, bias))
        return x[:, 0]


class Sentiment(nn.Module):
    def __init__(self):
        super().__init__()
        self.bert, self.cls = Bert(30, 12, 2), nn.Linear(12, 2)

    def forward(self, ids, keep):
        return self.cls(self.bert(ids, keep))


def make(seed=0):
    torch.manual_seed(seed)
    model = Sentiment()
    batches = []
    for _ in range(2):
        keep = (torch.arange(6) < torch.tensor([[6], [4], [5]])).float()
        batches.append((torch.randint(0, 30, (3, 6)), keep, torch.randint(0, 2, (3,))))

    def loss_fn(model, batch):
        ids, keep, y = batch
        return F.cross_entropy(model(ids, keep), y)

    return model, loss_fn, batches, torch.optim.AdamW(model.parameters(), lr=1e-3)
