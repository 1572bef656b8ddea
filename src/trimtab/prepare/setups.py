"""Set-ups that a function builds, and results as JSON: what a command line needs."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any

from trimtab.prepare.checks import Preflight
from trimtab.prepare.given import check_given
from trimtab.prepare.preflight import preflight


def arguments_of(made: Any, seconds: float) -> dict[str, Any]:
    """What a factory returned as the arguments of `preflight`.

    Args:
        made: (model, loss_fn, batch), the same with an optimizer, or a mapping of arguments.
        seconds: Time for the experiments, unless the mapping says otherwise.

    Raises:
        TypeError: It is something else, or one of its parts is.
        ValueError: The batch is empty, or the model has no parameters.

    Example:
        >>> made = (torch.nn.Linear(1, 1), torch.nn.functional.mse_loss, torch.ones(1))
        >>> sorted(arguments_of(made, 5.0))
        ['batch', 'budget_sec', 'loss_fn', 'model']
    """
    names = ("model", "loss_fn", "batch", "optimizer")
    expected = "expected (model, loss_fn, batch), the same with an optimizer, or a mapping of arguments of "
    if isinstance(made, Mapping):
        arguments = dict(made)
    elif isinstance(made, (tuple, list)) and len(made) in (3, 4):
        arguments = dict(zip(names, made, strict=False))
    else:
        number = f" of {len(made)}" if isinstance(made, (tuple, list)) else ""
        raise TypeError(f"the factory returned {type(made).__name__}{number}: {expected}trimtab.preflight.")
    known = list(inspect.signature(preflight).parameters)
    unknown = [name for name in arguments if name not in known]
    missing = [name for name in names[:3] if name not in arguments]
    if unknown or missing:
        wrong = f"{unknown[0]!r}, which is none of them" if unknown else f"no {missing[0]!r}"
        raise TypeError(
            f"the factory returned a mapping with {wrong}: {expected}trimtab.preflight, which are "
            f"{', '.join(known)}."
        )
    arguments = {"budget_sec": seconds, **arguments}
    optimizer, budget_sec = arguments.get("optimizer"), arguments["budget_sec"]
    check_given(arguments["model"], arguments["loss_fn"], arguments["batch"], optimizer, budget_sec)
    return arguments


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
