"""Poincare embeddings: arcosh(1 + x) has an infinite slope at x = 0, the distance of a point to itself.

source: facebookresearch/poincare-embeddings and lmcinnes/umap#207 (arcosh(1 + delta) for identical points).
"""

import torch
import torch.nn as nn

META = dict(
    source="lmcinnes/umap#207",
    category="backward",
    phase="backward",
    step=1,
    visible="grad",
    first_op="AcoshBackward0",
    module="ball",
    line_marker="ORIGIN",
    cause="domain_edge",
    cause_alt=["singular_gradient"],
    fix="clamp the argument of arcosh above 1",
    fix_code="return torch.acosh((1 + delta).clamp(min=1 + 1e-6))",
    dtype="float32",
)


class PoincareBall(nn.Module):
    def forward(self, u, v):
        uu, vv = u.pow(2).sum(-1), v.pow(2).sum(-1)
        delta = 2 * (u - v).pow(2).sum(-1) / ((1 - uu) * (1 - vv)).clamp(min=1e-6)
        return torch.acosh(1 + delta)  # ORIGIN


class Taxonomy(nn.Module):
    def __init__(self, nodes=20, dim=4):
        super().__init__()
        self.emb, self.ball = nn.Embedding(nodes, dim), PoincareBall()
        nn.init.uniform_(self.emb.weight, -0.3, 0.3)

    def forward(self, child, candidates):
        return -self.ball(self.emb(child).unsqueeze(1), self.emb(candidates))


def ranking_loss(model, batch):
    """The first candidate is the parent."""
    scores = model(batch["child"], batch["candidates"])
    return nn.functional.cross_entropy(scores, torch.zeros(len(scores), dtype=torch.long))


def make(seed=0):
    torch.manual_seed(seed)
    model = Taxonomy()
    batches = []
    for i in range(3):
        order = torch.stack([torch.randperm(20)[:6] for _ in range(8)])
        child, candidates = order[:, 0], order[:, 1:].clone()
        if i == 1:
            candidates[5, 3] = child[5]  # the sampler drew the node itself as a negative
        batches.append(dict(child=child, candidates=candidates))
    return model, ranking_loss, batches, torch.optim.SGD(model.parameters(), lr=0.1)
