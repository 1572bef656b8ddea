"""nn.MultiheadAttention with a float mask of -inf and a key padding mask: together they hide every key of a row.

source: pytorch/pytorch#41508 and #63271 (attn_mask with key_padding_mask gives NaN), #160064 (need_weights=True).
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

META = dict(
    source="pytorch/pytorch#63271",
    category="forward",
    decoy_legit=True,
    phase="forward",
    step=1,
    visible="loss",
    first_op="aten._softmax",
    module="layers.0.attn",
    line_marker="ORIGIN",
    cause="fully_masked_softmax",
    fix="a finite bias for padded keys: a query of padding then sees itself",
    fix_code="y, w = self.attn(h, h, h, attn_mask=band, key_padding_mask=pad.clamp(min=-1e4))",
    dtype="float32",
    notes="left padding with a causal mask: the first queries see only padding; the softmax runs inside torch",
)


class Layer(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.norm, self.attn = nn.LayerNorm(dim), nn.MultiheadAttention(dim, heads, batch_first=True)
        self.ff = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim), nn.GELU())

    def forward(self, x, band, pad):
        h = self.norm(x)
        y, w = self.attn(h, h, h, attn_mask=band, key_padding_mask=pad)  # ORIGIN
        return self.ff(x + y), w


class CausalTagger(nn.Module):
    def __init__(self, vocab=20, dim=16, tags=5):
        super().__init__()
        self.emb = nn.Embedding(vocab, dim)
        self.layers, self.out = nn.ModuleList(Layer(dim, 2) for _ in range(2)), nn.Linear(dim, tags)

    def forward(self, ids):
        pad, t = torch.zeros(ids.shape), ids.shape[1]
        pad = pad.masked_fill(ids == 0, float("-inf"))  # LEGIT
        band = torch.full((t, t), float("-inf")).triu(1)  # LEGIT
        x = self.emb(ids)
        for layer in self.layers:
            x, _ = layer(x, band, pad)
        return self.out(x)


def make(seed=0):
    torch.manual_seed(seed)
    model = CausalTagger()
    batches = []
    for i in range(3):
        ids = torch.randint(1, 20, (3, 6))
        if i == 1:
            ids[2, :2] = 0  # padded on the left
        batches.append((ids, torch.randint(0, 5, (3, 6))))

    def loss_fn(model, batch):
        ids, tags = batch
        return F.cross_entropy(model(ids)[ids != 0], tags[ids != 0])

    return model, loss_fn, batches, torch.optim.Adam(model.parameters(), lr=1e-3)
