"""RMSNorm without an epsilon: the padding vector is zero, rsqrt(0) is inf and meets 0.

source: pattern of minimal LLM code (x * torch.rsqrt(x.pow(2).mean(-1)) with eps lost), padding_idx embeddings.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

META = dict(
    source="pattern, no thread (RMSNorm without epsilon)",
    category="forward,inf_first",
    phase="forward",
    step=0,
    visible="grad",
    first_op="aten.rsqrt",
    module="blocks.0.norm",
    line_marker="ORIGIN",
    cause="div_zero",
    cause_alt=["domain_edge"],
    fix="add an epsilon inside the root",
    fix_code="inv = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)",
    dtype="float32",
)


class RMSNorm(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x):
        inv = torch.rsqrt(x.pow(2).mean(-1, keepdim=True))  # ORIGIN
        return x * inv * self.weight


class SwiGLU(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.up, self.gate, self.down = (nn.Linear(dim, dim, bias=False) for _ in range(3))

    def forward(self, x):
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Block(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.norm, self.mlp = RMSNorm(dim), SwiGLU(dim)

    def forward(self, x):
        return x + self.mlp(self.norm(x))


class TinyLlama(nn.Module):
    def __init__(self, vocab=24, dim=12):
        super().__init__()
        self.emb = nn.Embedding(vocab, dim, padding_idx=0)
        self.blocks, self.head = (
            nn.ModuleList(Block(dim) for _ in range(2)),
            nn.Linear(dim, vocab, bias=False),
        )

    def forward(self, ids):
        x = self.emb(ids)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def lm_loss(model, ids):
    logits = model(ids[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), ignore_index=0)


def make(seed=0):
    torch.manual_seed(seed)
    model = TinyLlama()
    batches = []
    for _ in range(2):
        ids = torch.randint(1, 24, (3, 7))
        ids[1, 4:] = 0
        batches.append(ids)
    return model, lm_loss, batches, torch.optim.AdamW(model.parameters(), lr=1e-3)
