"""Reverse KL distillation: F.kl_div differentiates its target, whose probability underflowed to 0.

source: MakazhanAlpamys/Soup#719 (reverse KL returns finite losses with NaN gradients at low temperature).
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

META = dict(
    source="MakazhanAlpamys/Soup#719",
    category="backward",
    phase="backward",
    step=0,
    visible="grad",
    first_op="XlogyBackward0",
    module=None,
    line_marker="ORIGIN",
    cause="singular_gradient",
    cause_alt=["log_zero", "domain_edge"],
    fix="give the target as log-probabilities (log_target=True)",
    fix_code=(
        "return F.kl_div(F.log_softmax(teacher / temperature, -1), F.log_softmax(student / temperature, -1),"
        " log_target=True, reduction='batchmean')"
    ),
    dtype="float32",
    notes="forward: 0 * log 0 is 0 by definition of xlogy; backward: log 0 + 1",
)


class Classifier(nn.Module):
    def __init__(self, dim, classes=6):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(10, dim), nn.Tanh(), nn.Linear(dim, dim), nn.Tanh())
        self.out = nn.Linear(dim, classes)

    def forward(self, x):
        return self.out(self.net(x))


class Distiller(nn.Module):
    def __init__(self):
        super().__init__()
        self.teacher, self.student = Classifier(32), Classifier(8)
        self.teacher.requires_grad_(False)

    def forward(self, x):
        return self.teacher(x), self.student(x)


def reverse_kl(teacher, student, temperature):
    p = F.softmax(student / temperature, -1)
    return F.kl_div(F.log_softmax(teacher / temperature, -1), p, reduction="batchmean")  # ORIGIN


def make(seed=0):
    torch.manual_seed(seed)
    model = Distiller()
    with torch.no_grad():
        model.student.out.weight.mul_(20.0)
        model.student.out.bias.copy_(torch.tensor([6.0, 0.0, 0.0, 0.0, 0.0, -6.0]))
    batches = [torch.randn(8, 10) for _ in range(2)]

    def loss_fn(model, batch):
        teacher, student = model(batch)
        return reverse_kl(teacher, student, 0.05)

    return model, loss_fn, batches, torch.optim.Adam(model.student.parameters(), lr=1e-3)
