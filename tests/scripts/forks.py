"""A process that trains, and a forked one that trains too."""

import os
import sys

import torch

torch.manual_seed(0)


def train(steps):
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(4, 2)).square().mean().backward()
        optimizer.step()


train(3)
child = os.fork()
if child == 0:
    train(4)
    sys.exit(5)
print(child, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
