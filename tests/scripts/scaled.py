"""float16-style training: a loss scale, micro-batches, a batch that is NaN, a scale that is too large."""

import argparse
import hashlib
import warnings

import torch
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--fused", action="store_true")
parser.add_argument("--scale", type=float, default=1024.0)
parser.add_argument("--nan", type=int, default=-1)
parser.add_argument("--factor", type=float, default=1.0)
parser.add_argument("--clip", type=float, default=0.0)
options = parser.parse_args()
warnings.simplefilter("error")
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=options.fused)
scaler = torch.amp.GradScaler("cpu", init_scale=options.scale, growth_interval=4)
for step in range(12):
    optimizer.zero_grad()
    for _ in range(2):
        x = torch.randn(16, 4)
        if step == options.nan:
            x[0, 0] = float("nan")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = options.factor * model(x).float().square().mean() / 2
        scaler.scale(loss).backward()
    if options.clip:
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), options.clip)
    scaler.step(optimizer)
    scaler.update()
values = list(model.state_dict().values())
finite = all(value.isfinite().all() for value in values)
print(
    hashlib.sha256(b"".join(v.numpy().tobytes() for v in values)).hexdigest()[:16], scaler.get_scale(), finite
)
