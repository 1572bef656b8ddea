"""Sparse word vectors: the length of a context vector that starts at zero has an infinite slope.

source: pytorch/pytorch#2421 family; word2vec initialises its context vectors with zeros.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

META = dict(
    source="pytorch/pytorch#2421",
    category="backward",
    phase="backward",
    step=0,
    visible="grad",
    first_op="SqrtBackward0",
    module="context",
    line_marker="ORIGIN",
    cause="singular_gradient",
    fix="add an epsilon under the root",
    fix_code="length = (v.pow(2).sum(-1, keepdim=True) + 1e-12).sqrt()",
    dtype="float32",
    notes="the gradient of the table is sparse; SparseAdam",
)


class CappedLookup(nn.Module):
    """Embeddings whose length is soft-capped."""

    def __init__(self, vocab, dim, cap=2.0):
        super().__init__()
        self.table, self.cap = nn.Embedding(vocab, dim, sparse=True), cap

    def forward(self, ids):
        v = self.table(ids)
        length = v.pow(2).sum(-1, keepdim=True).sqrt()  # ORIGIN
        return v * self.cap / (self.cap + length)


class CBOW(nn.Module):
    def __init__(self, vocab=40, dim=8):
        super().__init__()
        self.lookup, self.context = nn.Embedding(vocab, dim, sparse=True), CappedLookup(vocab, dim)
        nn.init.zeros_(self.context.table.weight)

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
    for _ in range(2):
        batches.append(dict(window=torch.randint(0, 40, (6, 4)), words=torch.randint(0, 40, (6, 5))))
    return model, negative_sampling, batches, torch.optim.SparseAdam(list(model.parameters()), lr=1e-2)
