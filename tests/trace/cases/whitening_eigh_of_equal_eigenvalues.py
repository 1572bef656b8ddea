"""Spectral layer: the derivative of eigh for a covariance with repeated eigenvalues.

source: jax-ml/jax#2311 and #8732, pytorch/pytorch#49886 (1 / (lambda_i - lambda_j) in the derivative).
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

META = dict(
    source="jax-ml/jax#8732",
    category="backward",
    phase="backward",
    step=1,
    visible="grad",
    first_op="LinalgEighBackward0",
    module="encoder.pe",
    line_marker="ORIGIN",
    cause="degenerate_linalg",
    fix="perturb the diagonal so that no two eigenvalues are equal",
    fix_code="vals, vecs = torch.linalg.eigh(lap + torch.diag(torch.arange(lap.shape[-1]) * 1e-2))",
    dtype="float32",
)


class LaplacianPE(nn.Module):
    """Eigenvectors of a learned graph Laplacian as positional encoding."""

    def __init__(self, keep):
        super().__init__()
        self.keep = keep

    def forward(self, weight):
        lap = torch.diag_embed(weight.sum(-1)) - weight
        vals, vecs = torch.linalg.eigh(lap)  # ORIGIN
        return vecs[..., : self.keep] * torch.exp(-vals[..., None, : self.keep])


class GraphEncoder(nn.Module):
    def __init__(self, feats=4, keep=3, dim=12):
        super().__init__()
        self.score, self.pe, self.mix = nn.Linear(feats, dim), LaplacianPE(keep), nn.Linear(feats + keep, dim)

    def forward(self, x, mask):
        h = self.score(x)
        weight = torch.sigmoid(h @ h.transpose(1, 2) / 4) * mask
        return F.relu(self.mix(torch.cat([x, self.pe(weight)], -1)))


class GraphClassifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.out = GraphEncoder(), nn.Linear(12, 2)

    def forward(self, x, mask):
        return self.out(self.encoder(x, mask).mean(1))


def make(seed=0):
    torch.manual_seed(seed)
    model = GraphClassifier()
    batches = []
    for i in range(3):
        mask = (1 - torch.eye(5)).expand(4, 5, 5).clone()
        if i == 1:
            mask[2] = 0.0  # a graph without edges: every eigenvalue is 0
        batches.append(dict(x=torch.randn(4, 5, 4), mask=mask, y=torch.randint(0, 2, (4,))))

    def loss_fn(model, batch):
        return F.cross_entropy(model(batch["x"], batch["mask"]), batch["y"])

    return model, loss_fn, batches, torch.optim.Adam(model.parameters(), lr=1e-3)
