"""Taking a snapshot, against cloning the same tensors.

Budget: at most 1.2 times. The ring's memory is used again, which costs less than a clone into fresh
memory. Looking the state through for NaN and Inf, which a guard does before, is a row of its own.
"""

from __future__ import annotations

from itertools import count

import torch
from _compare import header, line, ratio
from step_against_clip_grad_norm import transformer
from torch import Tensor

import trimtab as tt


def tensors_of(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """All that a snapshot copies, but for the random number generators."""
    state = [v for of in optimizer.state.values() for v in of.values() if isinstance(v, Tensor)]
    return [*model.parameters(), *model.buffers(), *state]


def main() -> None:
    """Print the table."""
    torch.manual_seed(0)
    model = transformer()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    tensors = tensors_of(model, optimizer)
    snapshots = tt.Snapshots(every=1, keep=2)
    guard = tt.Guard(model, optimizer, snapshots=snapshots)
    steps = count()

    def clone() -> list[Tensor]:
        return [tensor.detach().clone() for tensor in tensors]

    print(header("Snapshot of a 50M-parameter transformer with AdamW"))
    taken = ratio(lambda: snapshots.take(next(steps), None), clone, rounds=9)
    print(line("snapshot, against clone", *taken, "<= 1.2"))
    looked = ratio(guard.inspect, clone, rounds=9)
    print(line("looking for NaN and Inf before it, against clone", *looked, ""))


if __name__ == "__main__":
    main()
