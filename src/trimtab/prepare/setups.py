"""Set-ups that a function builds, and results as JSON: what a command line needs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from trimtab.prepare.checks import Preflight


def arguments_of(made: Any, seconds: float) -> dict[str, Any]:
    """What a factory returned as the arguments of `preflight`.

    Args:
        made: (model, loss_fn, batch), the same with an optimizer, or a mapping of arguments.
        seconds: Time for the experiments, unless the mapping says otherwise.

    Raises:
        TypeError: It is something else.

    Example:
        >>> made = (torch.nn.Linear(1, 1), torch.nn.functional.mse_loss, torch.ones(1))
        >>> sorted(arguments_of(made, 5.0))
        ['batch', 'budget_sec', 'loss_fn', 'model']
    """
    names = ("model", "loss_fn", "batch", "optimizer")
    if isinstance(made, Mapping):
        arguments = dict(made)
    elif isinstance(made, (tuple, list)) and len(made) in (3, 4):
        arguments = dict(zip(names, made, strict=False))
    else:
        raise TypeError(
            f"the factory returned {type(made).__name__}: expected (model, loss_fn, batch), the same with an "
            "optimizer, or a mapping of arguments of trimtab.preflight."
        )
    missing = [name for name in names[:3] if name not in arguments]
    if missing or not isinstance(arguments["model"], torch.nn.Module) or not callable(arguments["loss_fn"]):
        raise TypeError(
            f"the factory returned {sorted(arguments)}: expected a torch.nn.Module as model, a function as "
            "loss_fn, and a batch."
        )
    return {"budget_sec": seconds, **arguments}


def facts_of(result: Preflight) -> dict[str, Any]:
    """A pre-flight check as JSON takes it, which knows neither NaN nor Inf.

    Args:
        result: What was found.
    """
    return {
        "is_clean": result.is_clean,
        "seconds": round(result.seconds, 2),
        "checks": [
            {
                "name": each.name,
                "verdict": each.verdict.value,
                "summary": each.summary,
                "evidence": {
                    n.name: n.value if math.isfinite(n.value) else str(n.value) for n in each.evidence
                },
                "advice": each.advice,
                "explained_by": each.explained_by,
            }
            for each in result.checks
        ],
    }
