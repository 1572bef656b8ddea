"""Guarding a training loop that must not be edited: its own `optimizer.step()` is guarded by hooks."""

from __future__ import annotations

import torch

import trimtab as tt


def somebody_elses_loop(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """It knows nothing of trimtab, and divides by a standard deviation that is 0 in its fourth batch."""
    for spread in (1.0, 2.0, 0.5, 0.0, 1.0):
        x = torch.randn(16, 4) * spread
        optimizer.zero_grad()
        loss = model((x - x.mean(0)) / x.std(0)).square().mean()
        loss.backward()
        optimizer.step()


def main() -> None:
    """Attach, run the loop, detach."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    with tt.Guard(model, optimizer, clip=tt.NormClip(1.0), record="runs/attached") as guard, guard.attach():
        somebody_elses_loop(model, optimizer)
    log = tt.read("runs/attached")
    for fault in log.faults:
        print(f"step {fault.step}: {fault.kind.value} in the {fault.place.value}: {fault.action.value}")
    assert all(p.isfinite().all() for p in model.parameters())


if __name__ == "__main__":
    main()
