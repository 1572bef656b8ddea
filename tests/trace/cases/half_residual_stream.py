"""A T5-like feed-forward in fp16: the sum of residual and branch passes 65504.

source: huggingface/transformers#12225 (Pegasus: fc2 is 6.06e4, the residual addition is inf) and #19229.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

META = dict(
    source="huggingface/transformers#12225",
    category="forward,inf_first,half",
    phase="forward",
    step=1,
    visible="loss",
    first_op="aten.add",
    module="stack.1",
    line_marker="ORIGIN",
    cause="half_overflow",
    fix="clamp hidden states below the limit of float16, or run the block in bfloat16 or float32",
    fix_code="x = (x.float() + self.ff(self.norm(x)).float()).clamp(-6e4, 6e4).to(x.dtype)",
    dtype="float16",
)


class PreNorm(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.g = nn.Parameter(torch.ones(dim))

    def forward(self, x):
        wide = x.float()
        return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype) * self.g


class FeedForward(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.wi, self.wo = nn.Linear(dim, 2 * dim, bias=False), nn.Linear(2 * dim, dim, bias=False)

    def forward(self, x):
        return self.wo(F.relu(self.wi(x)))


class Block(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.norm, self.ff = PreNorm(dim), FeedForward(dim)

    def forward(self, x):
        x = x + self.ff(self.norm(x))  # ORIGIN
        return x


class Encoder(nn.Module):
    def __init__(self, vocab=30, dim=16):
        super().__init__()
        self.emb = nn.Embedding(vocab, dim)
        self.stack, self.final, self.out = (
            nn.Sequential(Block(dim), Block(dim)),
            PreNorm(dim),
            nn.Linear(dim, 3),
        )

    def forward(self, ids):
        return self.out(self.final(self.stack(self.emb(ids))).mean(1))


def make(seed=0):
    torch.manual_seed(seed)
    model = Encoder()
    with torch.no_grad():
        model.emb.weight[29] = 0.0
        model.emb.weight[29, 2] = 6.0e4  # an outlier feature, as trained checkpoints have
        model.emb.weight[:29, 2] = 0.0
        for layer in (model.stack[1].ff.wi, model.stack[1].ff.wo):
            layer.weight.mul_(1.0)
        model.stack[1].ff.wi.weight[:, 2].abs_()
        model.stack[1].ff.wo.weight[2] = 400.0
        model.stack[0].ff.wo.weight[2] = 0.0
    model = model.half()
    batches = []
    for i in range(3):
        ids = torch.randint(0, 29, (4, 5))
        if i == 1:
            ids[2, 3] = 29
        batches.append((ids, torch.randint(0, 3, (4,))))

    def loss_fn(model, batch):
        ids, y = batch
        return F.cross_entropy(model(ids).float(), y)

    return model, loss_fn, batches, torch.optim.SGD(model.parameters(), lr=1e-4)
