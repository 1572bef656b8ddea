"""Tracing a failed step, against the plain step: time and peak memory.

Budgets: at most 4 times the time, 1.5 times the memory. Memory is what the allocator hands out during the
step beyond what is there before it, counted by the profiler; parameters, gradients and the optimizer's
state are in both.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from _compare import header, line, ratio
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

import trimtab as tt


class Language(nn.Module):
    """A causal transformer; the first block can be told to take a root at 0."""

    def __init__(self, width: int, depth: int, vocabulary: int = 1000) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        layers = [nn.TransformerEncoderLayer(width, 4, 4 * width, batch_first=True) for _ in range(depth)]
        self.blocks = nn.ModuleList(layers)
        self.head = nn.Linear(width, vocabulary)
        self.is_broken = False

    def forward(self, ids: Tensor) -> Tensor:
        """Logits."""
        h = self.embed(ids)
        mask = torch.full((ids.shape[1],) * 2, -torch.inf).triu(1)
        for number, block in enumerate(self.blocks):
            h = block(h, src_mask=mask)
            if self.is_broken and number == 0:
                h = h + (h * 0).pow(2).sum(-1, keepdim=True).sqrt()
        return self.head(h)


def peak(work: Callable[[], object]) -> int:
    """Largest number of bytes allocated at once while `work` runs, beyond what was there before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        work()
    now = most = 0
    events = recorded.profiler.kineto_results.events()
    sizes = [(e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"]
    for _, size in sorted(sizes, key=lambda pair: pair[0]):
        now += size
        most = max(most, now)
    return most


def measure(width: int, depth: int, length: int) -> None:
    """Print the rows of one size."""
    torch.manual_seed(0)
    model = Language(width, depth)
    optimizer = torch.optim.AdamW(model.parameters())
    ids = torch.randint(0, 1000, (8, length))

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(ids).flatten(0, 1), ids.flatten())
        loss.backward()
        return loss

    def plain() -> None:
        closure()
        optimizer.step()

    def traced() -> None:
        tt.trace(model, closure, optimizer)

    plain()
    before = sum(p.numel() * p.element_size() for p in model.parameters()) * 4
    size = f"width {width}, {depth} blocks, 8 x {length}"
    for name, is_broken in (("failed step", True), ("sound step, with the optimizer's", False)):
        model.is_broken = is_broken
        taken = ratio(traced, plain, rounds=7)
        print(line(f"{size}: {name}", *taken, "<= 4"))
        ours, theirs = before + peak(traced), before + peak(plain)
        print(f"{'':<58} {ours / 2**20:>9.1f} MiB {theirs / 2**20:>8.1f} MiB {ours / theirs:>8.3f}   <= 1.5")
        model.is_broken = False
        for parameter in model.parameters():
            parameter.data.nan_to_num_()


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    print(header("Tracing a step, against making it"))
    for width, depth, length in ((64, 2, 32), (128, 4, 64), (256, 4, 128)):
        measure(width, depth, length)


if __name__ == "__main__":
    main()
