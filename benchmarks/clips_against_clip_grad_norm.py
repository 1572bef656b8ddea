"""Healthy Guard.step with every clip against clip_grad_norm_ and the same optimizer.step().

The budgets of `step_against_clip_grad_norm.py` for each policy: a 50M-parameter transformer, AdamW fused
and foreach, and 5,000 tensors of 64 elements. The peer is the same for all, though `UnitClip` has to look at
the weights as well, and none is compared with its published form. Nothing is clipped once thresholds are
learned. "reads" counts with a dispatch mode how often the decision waits for the device, without
remedy and record. On a busy machine set OMP_NUM_THREADS=1.

    python benchmarks/clips_against_clip_grad_norm.py [--quick] [--small] [--only TEXT ...]
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from _compare import header, line, ratio
from step_against_clip_grad_norm import KINDS, many_small, transformer
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import trimtab as tt

NORM = tt.NormClip(1e3)

# Healthy: nothing is clipped, once thresholds are learned
CLIPS: dict[str, tt.decide.Clip[Any]] = {
    "NormClip": NORM,
    "QuantileClip": tt.QuantileClip(100.0),
    "MeanClip": tt.MeanClip(initial=1e3),
    "EmaClip": tt.EmaClip(),
    "ZScoreClip": tt.ZScoreClip(max_norm=None),
    "ValueClip": tt.ValueClip(1e3),
    "LayerClip": tt.LayerClip({}, default=1e3),
    "UnitClip": tt.UnitClip(max_ratio=1e3),
    "TensorClip": tt.TensorClip(max_norm=1e3, factor=2.0),
    "Grouped(NormClip, tensor)": tt.Grouped(NORM),
    "Grouped(NormClip, module)": tt.Grouped(NORM, by="module"),
    "Grouped(QuantileClip, tensor)": tt.Grouped(tt.QuantileClip(100.0)),
    "ByName": tt.ByName({"0": NORM}, rest=NORM),
    "AfterWarmup(EmaClip)": tt.AfterWarmup(tt.EmaClip(), 5),
    "When(NormClip, NormAbove)": tt.When(NORM, tt.NormAbove(2e3)),
}


class Reads(TorchDispatchMode):
    """Counts what makes a host wait for its device."""

    num = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.num += "_local_scalar_dense" in str(func)
        return func(*args, **(kwargs or {}))


class Contest:
    """One model, ours and the peer's steps by turns: two copies would not stay in the caches alike."""

    def __init__(self, model: nn.Module, clip: tt.decide.Clip[Any], **kind: bool) -> None:
        self.model, self.loss = model, torch.tensor(1.0)
        self.parameters = list(model.parameters())
        for p in self.parameters:
            p.grad = torch.randn_like(p) * 1e-3
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-9, **kind)
        self.guard = tt.Guard(model, self.optimizer, clip=clip, remedy=tt.Skip())

    def ours(self) -> None:
        """A guarded step."""
        self.guard.step(self.loss)

    def peer(self) -> None:
        """What people write."""
        torch.nn.utils.clip_grad_norm_(self.parameters, 1e3)
        self.optimizer.step()

    def reads(self) -> int:
        """Reads of a step of which nothing has to be known on the host, the optimizer's own left out."""
        self.guard.close()
        clip = self.guard.clip
        with tt.Guard(self.model, self.optimizer, clip=clip, remedy=None) as guard:
            self.optimizer.step = lambda *_: None  # type: ignore[method-assign]
            guard.step(self.loss)
            with Reads() as counter:
                guard.step(self.loss)
        return counter.num


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="five rounds each")
    parser.add_argument("--only", nargs="+", default=[], help="clips whose name holds one of these")
    parser.add_argument("--small", action="store_true", help="the 5,000 small tensors alone")
    options = parser.parse_args()
    print(
        header("Guard.step with each clip against clip_grad_norm_ + optimizer.step(), not clipped")
        + "   reads"
    )
    budgets = {"fused": "<= 0.97", "foreach": "<= 1.02"}
    for what, build, allowed in (
        ("50M transformer", transformer, budgets),
        ("5,000 tensors of 64", many_small, dict.fromkeys(budgets, "<= 1.15")),
    ):
        if options.small and build is transformer:
            continue
        model = build()
        for kind, budget in allowed.items():
            for name, clip in CLIPS.items():
                if options.only and not any(text in name for text in options.only):
                    continue
                contest = Contest(model, clip, **KINDS[kind])
                result = ratio(contest.ours, contest.peer, rounds=5 if options.quick else 15)
                print(f"{line(f'{what}, {kind}, {name}', *result, budget)}   {contest.reads()}", flush=True)


if __name__ == "__main__":
    main()
