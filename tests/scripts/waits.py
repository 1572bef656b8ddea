"""Trains until a signal comes."""

import atexit
import time

import torch

atexit.register(print, "left in order", flush=True)
p = torch.ones(1, requires_grad=True)
optimizer = torch.optim.SGD([p], lr=0.1)
for step in range(2000):
    optimizer.zero_grad()
    (p * 2).sum().backward()
    optimizer.step()
    if step == 3:
        print("going", flush=True)
    time.sleep(0.02)
