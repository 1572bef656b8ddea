"""Covariance alignment through eigenvalues: rounding makes the zero eigenvalues slightly negative, sqrt is NaN.

source: pattern of Frechet distance and CORAL losses (matrix root of a covariance from fewer samples than features).
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

META = dict(
    source="pattern, no thread (square root of a rank-deficient covariance)",
    category="forward",
    phase="loss",
    step=1,
    visible="loss",
    first_op="aten.sqrt",
    module=None,
    line_marker="ORIGIN",
    cause="domain_error",
    fix="clamp the eigenvalues above 0",
    fix_code="root = torch.sqrt(vals.clamp(min=1e-6))",
    dtype="float32",
)


class FeatureNet(nn.Module):
    def __init__(self, feats=6, dim=10):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(feats, 16), nn.Tanh(), nn.Linear(16, dim))

    def forward(self, x):
        return self.net(x)


class Adapter(nn.Module):
    def __init__(self):
        super().__init__()
        self.features, self.out = FeatureNet(), nn.Linear(10, 3)

    def forward(self, x):
        h = self.features(x)
        return h, self.out(h)


def spread(h):
    """Sum of the standard deviations along the principal axes: the nuclear norm of the root of the covariance."""
    h = h - h.mean(0)
    vals = torch.linalg.eigvalsh(h.t() @ h / len(h))
    root = torch.sqrt(vals)  # ORIGIN
    return root.sum()


def adaptation_loss(model, batch):
    h, logits = model(batch["source"])
    h_target, _ = model(batch["target"])
    return F.cross_entropy(logits, batch["y"]) + 0.1 * (spread(h) - spread(h_target)).abs()


def make(seed=0):
    torch.manual_seed(seed)
    model = Adapter()
    batches = []
    for i in range(3):
        n = 3 if i == 1 else 40  # the last batch is smaller than the number of features
        batches.append(
            dict(source=torch.randn(40, 6), target=torch.randn(n, 6) * 3, y=torch.randint(0, 3, (40,)))
        )
    return model, adaptation_loss, batches, torch.optim.SGD(model.parameters(), lr=1e-3)
