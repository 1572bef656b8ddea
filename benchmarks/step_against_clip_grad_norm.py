"""Healthy Guard.step with NormClip against clip_grad_norm_ and the same optimizer.step().

Budget: 50M-parameter transformer, AdamW fused / foreach / for-loop: <= 0.97 / 1.02 / 1.02;
5,000 tensors of 64 elements: <= 1.15. Two identical models step in turn on identical gradients;
"clipped" has a norm above max_norm in every step, "not clipped" has it below.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from _compare import header, line, ratio
from torch import Tensor, nn

import trimtab as tt

KINDS = {
    "fused": {"fused": True},
    "foreach": {"foreach": True},
    "for-loop": {"foreach": False, "fused": False},
}


def transformer() -> nn.Module:
    """12 layers of width 512 and an embedding of 24,000: 50M parameters in 148 tensors."""
    layer = nn.TransformerEncoderLayer(512, 8, 2048, batch_first=True)
    return nn.ModuleList(
        [nn.TransformerEncoder(layer, 12, enable_nested_tensor=False), nn.Embedding(24000, 512)]
    )


def many_small() -> nn.Module:
    """5,000 tensors of 64 elements."""
    return nn.ParameterList([nn.Parameter(torch.randn(64)) for _ in range(5000)])


def pair(
    model: nn.Module, max_norm: float, **kind: bool
) -> tuple[Callable[[], object], Callable[[], object]]:
    """Our step and the peer's, each with a model and gradients of its own."""
    works = []
    for guarded in (True, False):
        own = copy.deepcopy(model)
        optimizer = torch.optim.AdamW(own.parameters(), lr=1e-4, **kind)
        generator = torch.Generator().manual_seed(0)
        for p in own.parameters():
            p.grad = torch.randn(p.shape, generator=generator) * 1e-3
        gradients: list[Tensor] = [p.grad for p in own.parameters() if p.grad is not None]
        loss = torch.tensor(1.0)
        if guarded:
            guard = tt.Guard(own, optimizer, clip=tt.NormClip(max_norm))
            works.append(lambda guard=guard, loss=loss: guard.step(loss))
        else:
            parameters = list(own.parameters())

            def peer(parameters=parameters, optimizer=optimizer) -> None:
                torch.nn.utils.clip_grad_norm_(parameters, max_norm)
                optimizer.step()

            works.append(peer)
        del gradients
    return works[0], works[1]


def main() -> None:
    """Print the table."""
    print(header("Guard.step against clip_grad_norm_ + optimizer.step()"))
    budgets = {"fused": "<= 0.97", "foreach": "<= 1.02", "for-loop": "<= 1.02"}
    for clip, max_norm in (("not clipped", 1e3), ("clipped", 1e-3)):
        for kind, arguments in KINDS.items():
            ours, peer = pair(transformer(), max_norm, **arguments)
            print(
                line(f"50M transformer, AdamW {kind}, {clip}", *ratio(ours, peer), budgets[kind]), flush=True
            )
        for kind, arguments in KINDS.items():
            ours, peer = pair(many_small(), max_norm, **arguments)
            print(
                line(f"5,000 tensors of 64, AdamW {kind}, {clip}", *ratio(ours, peer), "<= 1.15"), flush=True
            )


if __name__ == "__main__":
    main()
