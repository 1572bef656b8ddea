"""Kabsch alignment of a planar, symmetric cloud: the derivative of svd with equal singular values.

source: pytorch/pytorch#49886 (SVD backward is not defined for repeated singular values).
"""

import torch
import torch.nn as nn

META = dict(
    source="pytorch/pytorch#49886",
    category="backward",
    phase="backward",
    step=1,
    visible="grad",
    first_op="LinalgSvdBackward0",
    first_op_alt=["SvdBackward0"],
    module="align",
    line_marker="ORIGIN",
    cause="degenerate_linalg",
    fix="break the tie (a tiny diagonal ramp), or solve for the rotation without differentiating U and V",
    fix_code="u, s, vt = torch.linalg.svd(cov + torch.diag(torch.tensor([3e-2, 2e-2, 1e-2])))",
    dtype="float32",
)


class FlowHead(nn.Module):
    def __init__(self, dim=16):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, dim), nn.ReLU(), nn.Linear(dim, 3))

    def forward(self, pts):
        return pts + 0.1 * self.net(pts)


class Kabsch(nn.Module):
    def forward(self, src, dst):
        src, dst = src - src.mean(1, keepdim=True), dst - dst.mean(1, keepdim=True)
        cov = src.transpose(1, 2) @ dst
        u, s, vt = torch.linalg.svd(cov)  # ORIGIN
        return (u @ vt).transpose(1, 2)


class Registration(nn.Module):
    def __init__(self):
        super().__init__()
        self.flow, self.align = FlowHead(), Kabsch()

    def forward(self, src):
        moved = self.flow(src)
        return self.align(src, moved), moved


def registration_loss(model, batch):
    rot, moved = model(batch["src"])
    aligned = batch["src"] @ rot.transpose(1, 2)
    return (aligned - batch["dst"]).pow(2).mean() + 1e-3 * (moved - batch["src"]).pow(2).mean()


def make(seed=0):
    torch.manual_seed(seed)
    model = Registration()
    batches = []
    for i in range(3):
        src = torch.randn(3, 12, 3) * torch.tensor([1.0, 2.0, 3.0])
        if i == 1:
            src[1] = src[1, :1]  # a scan with one valid return, repeated to the batch size
        batches.append(dict(src=src, dst=src @ torch.linalg.qr(torch.randn(3, 3, 3))[0]))
    return model, registration_loss, batches, torch.optim.Adam(model.parameters(), lr=1e-3)
