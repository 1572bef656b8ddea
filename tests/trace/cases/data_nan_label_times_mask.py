"""Multi-task regression: missing labels are NaN and are multiplied by a mask of 0 instead of selected away.

source: pytorch/pytorch#64305 (NaNs propagate to grad even when masked out) and #89543 (NaN-ignoring MSE).
"""

import torch
import torch.nn as nn

META = dict(
    source="pytorch/pytorch#64305",
    category="input",
    phase="input",
    phase_alt=["loss"],
    step=0,
    visible="loss",
    first_op="input",
    first_op_alt=["aten.sub", "aten.rsub"],
    module=None,
    line_marker="ORIGIN",
    cause="bad_input",
    cause_alt=["inf_arithmetic"],
    fix="fill the missing labels before the difference",
    fix_code="gap = pred - y.nan_to_num(0.0)",
    dtype="float32",
    bad_input="y",
)


class MolecularFingerprint(nn.Module):
    def __init__(self, bits=32, dim=16):
        super().__init__()
        self.fc, self.drop, self.norm = nn.Linear(bits, dim), nn.Dropout(0.0), nn.LayerNorm(dim)

    def forward(self, fp):
        return self.norm(self.drop(torch.relu(self.fc(fp))))


class MultiTask(nn.Module):
    def __init__(self, tasks=4):
        super().__init__()
        self.body = MolecularFingerprint()
        self.heads = nn.ModuleList(nn.Linear(16, 1) for _ in range(tasks))

    def forward(self, fp):
        h = self.body(fp)
        return torch.cat([head(h) for head in self.heads], 1)


def masked_mse(pred, y, has_label):
    gap = pred - y  # ORIGIN
    return (gap.pow(2) * has_label).sum() / has_label.sum().clamp(min=1)


def make(seed=0):
    torch.manual_seed(seed)
    model = MultiTask()
    batches = []
    for _ in range(2):
        y = torch.randn(6, 4)
        missing = torch.rand(6, 4) > 0.7
        batches.append(dict(fp=(torch.rand(6, 32) > 0.5).float(), y=y.masked_fill(missing, float("nan"))))

    def loss_fn(model, batch):
        has_label = (~torch.isnan(batch["y"])).float()
        return masked_mse(model(batch["fp"]), batch["y"], has_label)

    return model, loss_fn, batches, torch.optim.Adam(model.parameters(), lr=1e-3)
