"""log(p).clamp(min=-100) as in hand-written binary cross entropies: the -inf is clamped, its gradient is 0 * inf.

source: pattern of BCE ports (torch's own clamps inside its kernel and is safe); NaN gradients with finite loss.
"""

import torch
import torch.nn as nn

META = dict(
    source="pattern, no thread (clamp after the logarithm)",
    category="forward,inf_first",
    phase="loss",
    phase_alt=["backward"],
    step=1,
    visible="grad",
    first_op="aten.log",
    first_op_alt=["LogBackward0"],
    module=None,
    line_marker="ORIGIN",
    cause="where_grad_trap",
    cause_alt=["log_zero"],
    fix="clamp before the logarithm, or use the loss on logits",
    fix_code="log_p = torch.log(p.clamp(min=1e-7))",
    dtype="float32",
    notes="the loss is finite: -100 stands for -inf",
)


class WindowEncoder(nn.Module):
    def __init__(self, feats=4, dim=12):
        super().__init__()
        self.conv, self.norm = nn.Conv1d(feats, dim, 5, padding=2), nn.BatchNorm1d(dim)

    def forward(self, x):
        return torch.relu(self.norm(self.conv(x))).mean(-1)


class FaultDetector(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.score = WindowEncoder(), nn.Linear(12, 1)

    def forward(self, x, bias):
        return torch.sigmoid(self.score(self.encoder(x)).squeeze(-1) + bias)


def bce(p, y):
    log_p = torch.log(p).clamp(min=-100.0)  # ORIGIN
    log_q = torch.log1p(-p.clamp(max=1 - 1e-7))
    return -(y * log_p + (1 - y) * log_q).mean()


def make(seed=0):
    torch.manual_seed(seed)
    model = FaultDetector()
    batches = []
    for i in range(3):
        bias = torch.zeros(6)
        if i == 1:
            bias[4] = -150.0  # an interlock rules a fault out: p underflows to 0
        batches.append((torch.randn(6, 4, 16), bias, (torch.rand(6) > 0.5).float()))

    def loss_fn(model, batch):
        x, bias, y = batch
        return bce(model(x, bias), y)

    return model, loss_fn, batches, torch.optim.Adam(model.parameters(), lr=1e-3)
