"""Healthy Guard.step with NormClip against clip_grad_norm_ and the same optimizer.step().

Budget: 50M-parameter transformer, AdamW fused / foreach / for-loop: <= 0.97 / 1.02 / 1.02;
5,000 tensors of 64 elements: <= 1.15. Two identical models step in turn on identical gradients, whose
norm is above max_norm in every step ("clipped") or below it in every step ("not clipped").
"""

from __future__ import annotations

import copy

import torch
from _compare import header, line, ratio
from torch import nn

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


class Contest:
    """Our step and the peer's, each with a model and an optimizer of its own."""

    def __init__(self, model: nn.Module, max_norm: float, **kind: bool) -> None:
        models = [copy.deepcopy(model), copy.deepcopy(model)]
        self.parameters = [list(m.parameters()) for m in models]
        optimizers = [torch.optim.AdamW(p, lr=1e-4, **kind) for p in self.parameters]
        self.gradients = [torch.randn_like(p) * 1e-3 for p in self.parameters[0]]
        self.guard = tt.Guard(models[0], optimizers[0], clip=tt.NormClip(max_norm))
        self.peer_optimizer, self.max_norm, self.loss = optimizers[1], max_norm, torch.tensor(1.0)

    def refresh(self) -> None:
        """The same gradients for both: a clip that works leaves nothing to clip."""
        for parameters in self.parameters:
            for parameter, gradient in zip(parameters, self.gradients, strict=True):
                if parameter.grad is None:
                    parameter.grad = gradient.clone()
            torch._foreach_copy_([p.grad for p in parameters], self.gradients)

    def ours(self) -> None:
        """A guarded step."""
        self.guard.step(self.loss)

    def peer(self) -> None:
        """What people write."""
        torch.nn.utils.clip_grad_norm_(self.parameters[1], self.max_norm)
        self.peer_optimizer.step()


def main() -> None:
    """Print the table."""
    print(header("Guard.step against clip_grad_norm_ + optimizer.step()"))
    large = {"fused": "<= 0.97", "foreach": "<= 1.02", "for-loop": "<= 1.02"}
    for name, build, budgets in (
        ("50M transformer", transformer, large),
        ("5,000 tensors of 64", many_small, dict.fromkeys(large, "<= 1.15")),
    ):
        for kind, arguments in KINDS.items():
            for clip, max_norm in (("not clipped", 1e3), ("clipped", 1e-3)):
                contest = Contest(build(), max_norm, **arguments)
                result = ratio(contest.ours, contest.peer, before=contest.refresh)
                print(line(f"{name}, AdamW {kind}, {clip}", *result, budgets[kind]), flush=True)


if __name__ == "__main__":
    main()
