"""LBFGS, with and without a line search; one evaluation may be spoilt."""

import hashlib
import sys

import torch
from torch import nn

torch.manual_seed(0)
spoilt = int(sys.argv[1]) if len(sys.argv) > 1 else -1
for line_search in (None, "strong_wolfe"):
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=4, line_search_fn=line_search)
    x, y, num = torch.randn(32, 3), torch.randn(32, 1), 0

    def closure():
        global num
        num += 1
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        if num == spoilt:
            loss = loss * float("nan")
        loss.backward()
        return loss

    for _ in range(4):
        last = optimizer.step(closure)
    values = [p.detach() for p in model.parameters()]
    finite = all(p.isfinite().all().item() for p in values)
    print(hashlib.sha256(b"".join(v.numpy().tobytes() for v in values)).hexdigest()[:16], finite, num)
