"""CONTROL: the padding vector's length has an infinite slope, but an embedding drops the gradient of padding_idx."""

import torch
import torch.nn as nn
import torch.nn.functional as F

META = dict(
    source="pattern of word2vec-like code with sparse=True and padding_idx",
    category="control",
    phase="none",
    step=None,
    first_op=None,
    module=None,
    line_marker="ORIGIN",
    cause="none",
    fix=None,
    dtype="float32",
    notes="SqrtBackward0 makes a NaN in every step with padding; no gradient, parameter or loss is ever bad",
)


class CappedLookup(nn.Module):
    """Embeddings whose length is soft-capped."""

    def __init__(self, vocab, dim, cap=2.0):
        super().__init__()
        self.table, self.cap = nn.Embedding(vocab, dim, padding_idx=0, sparse=True), cap

    def forward(self, ids):
        v = self.table(ids)
        length = v.pow(2).sum(-1, keepdim=True).sqrt()  # LEGIT
        return v * self.cap / (self.cap + length)


class CBOW(nn.Module):
    def __init__(self, vocab=40, dim=8):
        super().__init__()
        self.lookup, self.context = CappedLookup(vocab, dim), nn.Embedding(vocab, dim, sparse=True)

    def forward(self, window, words):
        return (self.lookup(window).mean(1, keepdim=True) * self.context(words)).sum(-1)


def negative_sampling(model, batch):
    scores = model(batch["window"], batch["words"])
    target = torch.zeros_like(scores)
    target[:, 0] = 1.0
    return F.binary_cross_entropy_with_logits(scores, target)


def make(seed=0):
    torch.manual_seed(seed)
    model = CBOW()
    batches = []
    for i in range(6):
        window = torch.randint(1, 40, (6, 4))
        if i % 2 == 1:
            window[3, 2:] = 0
        batches.append(dict(window=window, words=torch.randint(1, 40, (6, 5))))
    return model, negative_sampling, batches, torch.optim.SparseAdam(list(model.parameters()), lr=1e-2)
