"""Type-checked, never run: what users' own type checkers see."""

from __future__ import annotations

import torch
from torch import Tensor

import trimtab as tt


def uses(model: torch.nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    with tt.Guard(
        model,
        optimizer,
        clip=tt.NormClip(1.0),
        detect=[tt.Overflow()],
        remedy=tt.Skip(budget=3),
        record="runs/x",
    ) as guard:
        outcome: tt.StepOutcome = guard.step(loss)
        number: float = outcome.loss + outcome.grad_norm + outcome.clip_factor + outcome.stability_score
        names: list[str] = [culprit.name for culprit in outcome.culprits]
        is_applied: bool = outcome.applied
        guard.step(lambda: loss)
        with guard.attach():
            optimizer.step()
        guard.log(val_loss=number)
        del names, is_applied
    log: tt.RunLog = tt.read("runs/x")
    tt.report(log, "report.html", baseline=log)


def wrong(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    tt.Guard(model, optimizer, clip=1.0)  # type: ignore[arg-type]
    tt.Guard(model, optimizer, remedy=tt.NormClip(1.0))  # type: ignore[arg-type]
    tt.Guard(model, optimizer, tt.NormClip(1.0))  # type: ignore[call-arg]
    tt.NormClip("1")  # type: ignore[arg-type]


def composed(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> tt.Guard:
    """Policies made of policies, and everything a guard can be given."""
    clip = tt.ByName({"head": tt.Grouped(tt.EmaClip(), by="tensor")}, rest=tt.AfterWarmup(tt.UnitClip(), 100))
    return tt.Guard(
        model,
        optimizer,
        clip=clip,
        detect=[tt.SteadyClipping(), tt.Underflow()],
        remedy=tt.Escalate((tt.Retry(tt.ZeroBad()), tt.PerPlace(parameter=tt.Rewind()))),
        cooldown=tt.CoolDown(),
        snapshots=tt.Snapshots(every=10),
        scaler=tt.LossScaler(),
    )
