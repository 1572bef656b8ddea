"""Data-parallel training; the batch of the last rank is bad in one step."""

import hashlib
import os
import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank = dist.get_rank()
torch.manual_seed(0)
model = DistributedDataParallel(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)))
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
torch.manual_seed(rank + 1)
for step in range(12):
    x = torch.randn(16, 4)
    if rank == dist.get_world_size() - 1 and step == 5 and "bad" in sys.argv:
        x[0, 0] = float("nan")
    optimizer.zero_grad()
    loss = model(x).square().mean()
    if rank == 0 and step == 7 and "bad" in sys.argv:
        loss = loss + (torch.tensor(float("nan")) - loss).detach()  # bad loss, good gradients, on one rank
    loss.backward()
    optimizer.step()
values = [p.detach() for p in model.parameters()]
name = hashlib.sha256(b"".join(v.numpy().tobytes() for v in values)).hexdigest()[:16]
with open(f"rank-{rank}.txt", "w") as file:
    print(name, all(v.isfinite().all().item() for v in values), os.environ["RANK"], file=file)
dist.destroy_process_group()
