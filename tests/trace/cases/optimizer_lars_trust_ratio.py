"""A LARS optimizer of one's own: the trust ratio of a layer without a gradient is norm / 0, then inf * 0.

source: pattern of LARS and LAMB implementations (trust ratio without the two guards), microsoft/dion#24 (zero gradients).
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

META = dict(
    source="microsoft/dion#24",
    category="optimizer,inf_first",
    phase="optimizer",
    step=1,
    visible="param",
    first_op="aten.div",
    module=None,
    param="aux.weight",
    line_marker="ORIGIN",
    cause="div_zero",
    fix="take 1 as trust ratio where the gradient is 0",
    fix_code="trust = torch.where(g_norm > 0, w_norm / g_norm.clamp(min=1e-12), 1.0)",
    dtype="float32",
)


class LARS(torch.optim.Optimizer):
    def __init__(self, params, lr, eta=1e-3):
        super().__init__(params, dict(lr=lr, eta=eta))

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self.update(p, group["lr"], group["eta"])

    def update(self, p, lr, eta):
        w_norm, g_norm = p.norm(), p.grad.norm()
        trust = w_norm / g_norm  # ORIGIN
        p.sub_(lr * eta * trust * p.grad)


class Trunk(nn.Module):
    def __init__(self, feats, dim):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(feats, dim, bias=False), nn.Linear(dim, dim, bias=False)

    def forward(self, x):
        return torch.tanh(self.fc2(torch.tanh(self.fc1(x))))


class TwoHeads(nn.Module):
    def __init__(self, feats=6, dim=12):
        super().__init__()
        self.trunk = Trunk(feats, dim)
        self.main, self.aux = nn.Linear(dim, 3, bias=False), nn.Linear(dim, 4, bias=False)

    def forward(self, x):
        h = self.trunk(x)
        return self.main(h), self.aux(h)


def make(seed=0):
    torch.manual_seed(seed)
    model = TwoHeads()
    batches = []
    for i in range(3):
        has_aux = torch.zeros(8) if i == 1 else torch.ones(8)  # a batch without auxiliary labels
        batches.append((torch.randn(8, 6), torch.randint(0, 3, (8,)), torch.randint(0, 4, (8,)), has_aux))

    def loss_fn(model, batch):
        x, y, y_aux, has_aux = batch
        main, aux = model(x)
        aux_loss = (F.cross_entropy(aux, y_aux, reduction="none") * has_aux).mean()
        return F.cross_entropy(main, y) + 0.3 * aux_loss

    return model, loss_fn, batches, LARS(model.parameters(), lr=1.0)
