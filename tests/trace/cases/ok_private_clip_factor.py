"""CONTROL: DP-SGD clips each sample: bound / norm is inf for a sample without gradient, min(1, inf) is 1."""

import torch
import torch.nn as nn

META = dict(
    source="pattern, no thread",
    category="control",
    phase="none",
    step=None,
    first_op=None,
    module=None,
    line_marker="ORIGIN",
    cause="none",
    fix=None,
    dtype="float32",
    notes="per-sample gradients with torch.func; the factor of a padded sample is inf before it is clamped",
)


class Body(nn.Module):
    def __init__(self, feats, dim):
        super().__init__()
        self.a, self.b = nn.Linear(feats, dim), nn.Linear(dim, dim)

    def forward(self, x):
        return torch.tanh(self.b(torch.tanh(self.a(x))))


class Scorer(nn.Module):
    def __init__(self, feats=5, dim=10):
        super().__init__()
        self.body, self.out = Body(feats, dim), nn.Linear(dim, 1)

    def forward(self, x):
        return self.out(self.body(x)).squeeze(-1)


def sample_loss(params, model, x, y, w):
    return w * (torch.func.functional_call(model, params, (x,)) - y).pow(2)


def private_loss(model, batch, bound=0.5):
    params = {n: p.detach() for n, p in model.named_parameters()}
    each = torch.func.vmap(torch.func.grad(sample_loss), in_dims=(None, None, 0, 0, 0))
    grads = each(params, model, batch["x"], batch["y"], batch["w"])
    norm = torch.stack([g.flatten(1).pow(2).sum(1) for g in grads.values()]).sum(0).sqrt()
    factor = (bound / norm).clamp(max=1.0)  # LEGIT
    total = 0.0
    for name, p in model.named_parameters():
        clipped = (factor.view(-1, *[1] * p.dim()) * grads[name]).mean(0)
        total = total + (p * clipped.detach()).sum()  # its gradient is the private gradient
    return total


def make(seed=0):
    torch.manual_seed(seed)
    model = Scorer()
    batches = []
    for _ in range(6):
        w = torch.ones(6)
        w[4:] = 0.0  # Poisson sampling fills the batch with absent samples
        batches.append(dict(x=torch.randn(6, 5), y=torch.randn(6), w=w))
    return model, private_loss, batches, torch.optim.SGD(model.parameters(), lr=0.1)
