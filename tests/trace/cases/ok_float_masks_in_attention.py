"""CONTROL: nn.MultiheadAttention and the Transformer encoder with float masks of -inf, causal and padded on the right."""

import torch
import torch.nn as nn
import torch.nn.functional as F

META = dict(
    source="pytorch/pytorch#41508, done right",
    category="control",
    phase="none",
    step=None,
    first_op=None,
    module=None,
    line_marker="ORIGIN",
    cause="none",
    fix=None,
    dtype="float32",
    notes="every query keeps its own key",
)


class Encoder(nn.Module):
    def __init__(self, dim, depth):
        super().__init__()
        layer = nn.TransformerEncoderLayer(dim, 2, 2 * dim, dropout=0.1, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)

    def forward(self, x, causal, pad):
        return self.layers(x, mask=causal, src_key_padding_mask=pad)  # LEGIT


class Captioner(nn.Module):
    def __init__(self, vocab=20, dim=16):
        super().__init__()
        self.emb, self.encoder = nn.Embedding(vocab, dim), Encoder(dim, 2)
        self.cross, self.out = nn.MultiheadAttention(dim, 2, batch_first=True), nn.Linear(dim, vocab)

    def forward(self, ids, image, image_pad):
        t = ids.shape[1]
        causal = nn.Transformer.generate_square_subsequent_mask(t)  # LEGIT
        pad = torch.zeros(ids.shape).masked_fill(ids == 0, float("-inf"))  # LEGIT
        h = self.encoder(self.emb(ids), causal, pad)
        seen, weights = self.cross(h, image, image, key_padding_mask=image_pad, need_weights=True)  # LEGIT
        return self.out(h + seen), weights


def caption_loss(model, batch):
    logits, _ = model(batch["ids"][:, :-1], batch["image"], batch["image_pad"])
    return F.cross_entropy(logits.flatten(0, 1), batch["ids"][:, 1:].flatten(), ignore_index=0)


def make(seed=0):
    torch.manual_seed(seed)
    model = Captioner()
    batches = []
    for i in range(6):
        ids = torch.randint(1, 20, (3, 7))
        ids[1, 5 - i % 2 :] = 0
        image_pad = torch.arange(5) >= torch.tensor([[5], [3], [4]])
        batches.append(dict(ids=ids, image=torch.randn(3, 5, 16), image_pad=image_pad))
    return model, caption_loss, batches, torch.optim.AdamW(model.parameters(), lr=1e-3)
