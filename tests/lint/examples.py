"""For each rule sources in which it must be found, and sources that look like it and must stay silent.

`x`, `y` and `mask` are parameters of the function that an expression is put into.
"""

from __future__ import annotations

FUNCTION = """
import math
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor, log

class Loss(nn.Module):
    def forward(self, x: Tensor, y: Tensor, mask: Tensor):
{body}
"""

FIRES: dict[str, tuple[str, ...]] = {
    "log-of-softmax": (
        "return torch.log(F.softmax(x, dim=-1))",
        "return log(x.softmax(1))",
        "p = torch.softmax(x, 1)\nx = x + 1\nreturn (p.view(-1, 3).log() * y).sum()",
        "p = nn.Softmax(dim=1)(x)\nreturn p[:, 0].log()",
        "p = x.softmax(1).gather(1, y)\nreturn p.squeeze(1).log()",
    ),
    "log-of-sigmoid": (
        "return torch.log(torch.sigmoid(x))",
        "return (1 - x.sigmoid()).log()",
        "p = torch.special.expit(x)\nreturn -(y * torch.log(p)).sum()",
    ),
    "log-of-sum-of-exp": (
        "return torch.log(torch.sum(torch.exp(x), dim=1))",
        "return x.exp().mean(0).log()",
        "e = torch.exp(x / 0.07)\nreturn torch.log(e.sum(1, keepdim=True))",
    ),
    "softmax-by-hand": (
        "return torch.exp(x) / torch.exp(x).sum(1, keepdim=True)",
        "e = x.exp()\nreturn e / e.sum(-1, keepdim=True)",
        "e = torch.exp(x)\ntotal = torch.sum(e, dim=1)\nreturn e / total.unsqueeze(1)",
    ),
    "log-of-one-plus-exp": (
        "return torch.log(1 + torch.exp(x))",
        "return torch.log1p(x.exp())",
        "return (torch.exp(x) + 1.0).log()",
    ),
    "log-of-one-minus-exp": ("return torch.log(1 - torch.exp(x))", "return (1.0 - x.exp()).log()"),
    "softmax-before-cross-entropy": (
        "return F.cross_entropy(F.softmax(x, 1), y)",
        "p = x.softmax(dim=1)\nreturn nn.CrossEntropyLoss()(p, y)",
        "model = nn.Sequential(nn.Linear(2, 3), nn.Softmax(1)).to('cpu')\nreturn F.cross_entropy(model(x), y)",
        "criterion = nn.CrossEntropyLoss(reduction='sum')\nreturn criterion(input=x.softmax(1), target=y)",
    ),
    "sigmoid-before-logits-loss": (
        "return F.binary_cross_entropy_with_logits(torch.sigmoid(x), y)",
        "return nn.BCEWithLogitsLoss()(x.sigmoid().squeeze(1), y)",
    ),
    "sigmoid-then-binary-cross-entropy": (
        "return F.binary_cross_entropy(torch.sigmoid(x), y)",
        "model = nn.Sequential(nn.Linear(2, 1), nn.Sigmoid())\nreturn nn.BCELoss()(model(x), y)",
    ),
    "probabilities-for-log-probabilities": (
        "return F.nll_loss(F.softmax(x, dim=1), y)",
        "return F.kl_div(x.softmax(1), y.softmax(1), reduction='batchmean')",
    ),
    "sqrt-of-sum-of-squares": (
        "return torch.sqrt(torch.sum((x - y) ** 2, dim=1))",
        "return x.pow(2).sum(-1).sqrt()",
        "d = x - y\nreturn (d * d).sum(1) ** 0.5",
    ),
    "division-by-norm": (
        "return x / x.norm(dim=-1, keepdim=True)",
        "n = torch.linalg.norm(x, dim=1)\nreturn x / n.unsqueeze(1)",
        "return x / torch.norm(x, p=2, dim=1, keepdim=True)",
    ),
    "division-by-std": (
        "return (x - x.mean()) / x.std()",
        "m = x.mean(dim=0)\ns = x.std(dim=0)\nreturn (x - m) / s",
    ),
    "unsafe-branch-of-where": (
        "return torch.where(x > 0, torch.log(x), 0.0)",
        "return torch.where(x == 0, torch.zeros_like(x), y / x)",
        "return torch.where(0.0 < x, y / x, 0.0)",
        "return torch.where(x < 0, y / x, 0.0)",
        "ok = x > 1e-8\nroot = x.sqrt()\nreturn torch.where(ok, root, torch.zeros_like(x))",
    ),
    "acos-of-cosine": (
        "return torch.acos(F.cosine_similarity(x, y))",
        "return torch.arccos((x * y).sum(-1))",
        "c = x @ y\nreturn c.acos()",
        "return torch.acos((torch.einsum('ii', x) - 1) / 2)",
    ),
    "inverse-times": (
        "return torch.inverse(x) @ y",
        "return torch.matmul(torch.linalg.inv(x), y)",
        "a = x.inverse()\nreturn a @ y",
    ),
    "log-of-determinant": ("return torch.log(torch.det(x))", "return torch.linalg.det(x).abs().log()"),
    "variance-by-difference": (
        "return (x ** 2).mean(dim=0) - x.mean(dim=0) ** 2",
        "m = torch.mean(x)\nreturn torch.mean(x * x) - m.pow(2)",
    ),
    "comparison-with-nan": (
        "return x == float('nan')",
        "return [v for v in x if v != math.nan]",
        "return (x == np.nan).any()",
    ),
    "epsilon-lost-in-half": (
        "return y / (x.half() + 1e-8)",
        "h = x.to(torch.float16)\nreturn torch.log(h.clamp(min=1e-12))",
    ),
    "adam-on-half": (
        "model = nn.Linear(2, 2).half()\nreturn torch.optim.Adam(model.parameters(), lr=1e-3)",
        "model = nn.Linear(2, 2).half().cuda()\nreturn torch.optim.AdamW(model.parameters(), eps=1e-8)",
    ),
    "clip-before-unscale": (
        "scaler.scale(loss).backward()\nnn.utils.clip_grad_norm_(self.parameters(), 1.0)\nscaler.step(opt)",
        "for x in y:\n    self.scaler.scale(x).backward()\n    nn.utils.clip_grad_value_(self.p, 1.0)\n"
        "    self.scaler.unscale_(opt)\n    self.scaler.step(opt)",
    ),
    "sum-of-losses-keeps-graphs": (
        "total = 0.0\nfor b in x:\n    loss = self.f(b)\n    loss.backward()\n    total += loss\nreturn total",
        "total = 0\nfor b in x:\n    loss = self.f(b)\n    scaler.scale(loss).backward()\n    total += loss",
    ),
    "missing-zero-grad": (
        "opt = torch.optim.SGD(self.parameters(), lr=0.1)\nfor b in x:\n    self.f(b).backward()\n    opt.step()",
    ),
    "scaler-for-bfloat16": (
        "scaler = torch.amp.GradScaler('cuda')\nwith torch.autocast('cuda', dtype=torch.bfloat16):\n    f(x)",
    ),
}

SILENT: tuple[str, ...] = (
    # logarithms
    "return torch.log(F.softmax(x, 1) + 1e-9)",
    "return F.softmax(x, 1).clamp(min=1e-8).log()",
    "return torch.log_softmax(x, 1)",
    "return torch.log(x)",
    "p = x.softmax(1)\nif y:\n    p = p + 1e-6\nreturn p.log()",
    "p = x.softmax(1)\nfor _ in y:\n    q = p.log()\n    p = p.clamp(min=1e-3)",
    "p = x.softmax(1)\np[p == 0] = 1.0\nreturn p.log()",
    "p = x.softmax(1)\np.clamp_(min=1e-6)\nreturn p.log()",
    "return torch.rand(3, 4).softmax(1).log()",
    "return math.log(x) + np.log(np.exp(x).sum())",
    "m = x.max(1, keepdim=True).values\nreturn m + torch.log(torch.exp(x - m).sum(1, keepdim=True))",
    "e = torch.exp(x - x.amax(1, keepdim=True))\nreturn e / e.sum(1, keepdim=True)",
    "k = torch.exp(-(x ** 2) / 2)\nreturn k / k.sum()",
    "return torch.exp(x) / torch.exp(y).sum()",
    "return x.clamp(min=0) + torch.log1p(torch.exp(-x.abs()))",
    "return torch.log(2 + torch.exp(x))",
    # losses
    "return F.cross_entropy(x, F.softmax(y, 1))",
    "return F.cross_entropy(F.log_softmax(x, 1), y)",
    "w = x.softmax(1)\nreturn F.cross_entropy(w @ y, mask)",
    "model = nn.Sequential(nn.Softmax(1), nn.Linear(2, 3))\nreturn F.cross_entropy(model(x), y)",
    "return F.nll_loss(F.log_softmax(x, 1), y)",
    "return F.binary_cross_entropy_with_logits(x, torch.sigmoid(y))",
    "return F.kl_div(F.log_softmax(x, 1), F.softmax(y, 1), reduction='batchmean')",
    # edges
    "return torch.sqrt((x ** 2).sum(1) + 1e-12)",
    "with torch.no_grad():\n    return x.pow(2).sum().sqrt()",
    "d = torch.sqrt(torch.sum((x - y) ** 2, dim=1))\nreturn torch.argmin(d)",
    "q = torch.randn(4, 3)\nreturn (q * q).sum(1).sqrt()",
    "class Detector:\n    def find(self, a):\n        return a.pow(2).sum(1).sqrt()\nreturn Detector",
    "rand_rows = draw(x)\nreturn rand_rows / rand_rows.norm(dim=1, keepdim=True)",
    "return x / (x.norm(dim=1, keepdim=True) + 1e-8)",
    "return x / x.norm(dim=1, keepdim=True).clamp(min=1e-8)",
    "return x / y.norm(dim=1, keepdim=True)",
    "return F.normalize(x, dim=1)",
    "n = x.norm(dim=1, keepdim=True)\nreturn x / n if n > 0 else x",
    "return (x - x.mean()) / (x.std() + 1e-8)",
    "return (x - y.mean()) / x.std()",
    "safe = torch.where(x > 0, x, 1.0)\nreturn torch.where(x > 0, torch.log(safe), 0.0)",
    "return torch.where(mask, torch.log(x), 0.0)",
    "a = (x > 0).sum().float()\nb = (y > 0).sum().float()\nreturn torch.where(b > 0, a / b, 1.0)",
    "return torch.where(x > 1, torch.log(x), x - 1)",
    "return torch.where(x < 1e-5, 1 / x + x, y / (2 * y))",
    "return torch.acos(torch.clamp((x * y).sum(-1), -1, 1))",
    "return torch.acos(x)",
    "class Root(torch.autograd.Function):\n    def forward(ctx, x):\n        return x.pow(2).sum().sqrt()\nreturn Root",
    "return (x / x.norm(dim=1, keepdim=True)).nan_to_num()",
    # matrices
    "return torch.linalg.solve(x, y)",
    "a = torch.inverse(x)\nreturn a @ y, a @ mask",
    "def g(pose):\n    return pose.inverse() @ y\nreturn g",
    "return torch.logdet(x)",
    "return (x ** 2).mean() - y.mean() ** 2",
    "return x.var(correction=0)",
    # formats
    "return x != x",
    "return x == float('inf')",
    "return x.half() + 1e-4",
    "return x + 1e-8",
    "model = nn.Linear(2, 2).half()\nreturn torch.optim.Adam(model.parameters(), eps=1e-4)",
    "model = nn.Linear(2, 2)\nreturn torch.optim.Adam(model.parameters())",
    # loops
    "scaler.scale(loss).backward()\nscaler.unscale_(opt)\nnn.utils.clip_grad_norm_(p, 1.0)\nscaler.step(opt)",
    "if amp:\n    scaler.scale(loss).backward()\n    scaler.step(opt)\nelse:\n    loss.backward()\n"
    "    nn.utils.clip_grad_norm_(p, 1.0)",
    "loss.backward()\nnn.utils.clip_grad_norm_(p, 1.0)\nopt.step()",
    "total = 0.0\nfor b in x:\n    loss = self.f(b)\n    loss.backward()\n    total += loss.item()",
    "total = 0.0\nfor b in x:\n    loss = self.f(b)\n    total += loss\ntotal.backward()",
    "total = 0.0\nfor b in x:\n    loss = self.f(b)\n    loss.backward()\n    loss = loss.detach()\n    total += loss",
    "total = 0.0\nfor b in x:\n    loss = self.f(b)\n    loss.backward()\n    with torch.no_grad():\n        total += loss",
    "opt = torch.optim.SGD(p, lr=0.1)\nfor b in x:\n    opt.zero_grad()\n    self.f(b).backward()\n    opt.step()",
    "opt = torch.optim.SGD(p, lr=0.1)\nfor b in x:\n    self.f(b).backward()\n    opt.step()\n    clear(opt)",
    "opt = torch.optim.SGD(p, lr=0.1)\nfor b in x:\n    self.f(b).backward()\n    opt.step()\n    w.grad = None",
    "for b in x:\n    self.f(b).backward()\n    self.engine.step()",
    "scaler = torch.amp.GradScaler('cuda')\nwith torch.autocast('cuda', dtype=torch.float16):\n    f(x)",
    "scaler = torch.amp.GradScaler(enabled=not bf16)\nwith torch.autocast('cuda', dtype=torch.bfloat16):\n    f(x)",
)


def source_of(body: str) -> str:
    """An example as a file."""
    lines = "\n".join(f"        {line}" for line in body.splitlines())
    return FUNCTION.format(body=lines)
