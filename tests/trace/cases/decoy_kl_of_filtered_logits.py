"""RLHF penalty between two top-k filtered policies: -inf - -inf for every filtered token.

source: huggingface/trl#7221 (zero-probability tokens) and the pattern of KL estimates on filtered logits.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

META = dict(
    source="huggingface/trl#7221",
    category="forward",
    decoy_legit=True,
    phase="loss",
    step=0,
    visible="loss",
    first_op="aten.sub",
    module=None,
    line_marker="ORIGIN",
    cause="inf_arithmetic",
    fix="compare the unfiltered policies, or leave filtered tokens out",
    fix_code="gap = logp.masked_fill(logp == float('-inf'), 0.0) - logq.masked_fill(logq == float('-inf'), 0.0)",
    dtype="float32",
    notes="filtering with -inf and the log-softmax of it are legitimate",
)


class Block(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(dim), nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x):
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        return x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True))  # LEGIT


class LM(nn.Module):
    def __init__(self, vocab=16, dim=12, keep=5):
        super().__init__()
        self.emb, self.block, self.head, self.keep = (
            nn.Embedding(vocab, dim),
            Block(dim),
            nn.Linear(dim, vocab),
            keep,
        )

    def forward(self, ids):
        logits = self.head(self.block(self.emb(ids)))
        worst = logits.topk(self.keep, -1).values[..., -1:]
        kept = logits.masked_fill(logits < worst, float("-inf"))  # LEGIT
        return F.log_softmax(kept, -1)  # LEGIT


class RLHF(nn.Module):
    def __init__(self):
        super().__init__()
        self.policy, self.reference = LM(), LM()
        self.reference.load_state_dict(self.policy.state_dict())
        self.reference.requires_grad_(False)

    def forward(self, ids):
        return self.policy(ids), self.reference(ids)


def divergence(logp, logq):
    gap = logp - logq  # ORIGIN
    return (logp.exp() * gap).sum(-1)


def rlhf_loss(model, batch):
    logp, logq = model(batch["ids"])
    act = logp.argmax(-1, keepdim=True)
    gain = -(logp.gather(-1, act).squeeze(-1) * batch["reward"]).mean()
    return gain + 0.1 * divergence(logp, logq).mean()


def make(seed=0):
    torch.manual_seed(seed)
    model = RLHF()
    batches = [dict(ids=torch.randint(0, 16, (3, 6)), reward=torch.randn(3, 6)) for _ in range(2)]
    return model, rlhf_loss, batches, torch.optim.AdamW(model.policy.parameters(), lr=1e-3)
