"""Origins that no replay of the module shows: in a loss function that cannot be called, in a past update."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from trimtab.trace.marks import is_finite
from trimtab.trace.origins import origin_of, what_is_bad
from trimtab.trace.replay import Replay
from trimtab.trace.watching import Watch
from trimtab.types import Cause, Origin, Phase

_MOST_NODES = 1000
_PARAMETER = "torch::autograd::AccumulateGrad"

# What can make a value that is not finite of finite ones, by the name of its autograd node
_SUSPECTS = {
    "Div": Cause.DIV_ZERO,
    "Reciprocal": Cause.DIV_ZERO,
    "Rsqrt": Cause.DIV_ZERO,
    "Log": Cause.LOG_ZERO,
    "Log2": Cause.LOG_ZERO,
    "Log10": Cause.LOG_ZERO,
    "Log1P": Cause.LOG_ZERO,
    "Xlogy": Cause.LOG_ZERO,
    "Sqrt": Cause.DOMAIN_ERROR,
    "Pow": Cause.DOMAIN_ERROR,
    "Acos": Cause.DOMAIN_ERROR,
    "Asin": Cause.DOMAIN_ERROR,
    "Acosh": Cause.DOMAIN_ERROR,
    "Atanh": Cause.DOMAIN_EDGE,
    "Exp": Cause.EXP_OVERFLOW,
    "Exp2": Cause.EXP_OVERFLOW,
    "Expm1": Cause.EXP_OVERFLOW,
    "Sinh": Cause.EXP_OVERFLOW,
    "Cosh": Cause.EXP_OVERFLOW,
    "Softmax": Cause.FULLY_MASKED_SOFTMAX,
    "LogSoftmax": Cause.FULLY_MASKED_SOFTMAX,
    "Mean": Cause.EMPTY_REDUCTION,
    "Std": Cause.EMPTY_REDUCTION,
    "Var": Cause.EMPTY_REDUCTION,
    "NllLoss": Cause.EMPTY_REDUCTION,
    "NllLoss2D": Cause.EMPTY_REDUCTION,
    "CtcLoss": Cause.INFEASIBLE_TARGET,
}


def loss_origin(loss: Tensor, output_nodes: Collection[tuple[int, str]]) -> Origin | None:
    """What the autograd graph of a bad loss tells of its birth, when the model's outputs are sound.

    Values are gone after `backward`; the names of the operations between the outputs and the loss are not.

    Args:
        loss: The loss, with its history.
        output_nodes: Sequence number and name of the nodes at which the model's outputs end.

    Returns:
        An origin of phase `LOSS` without a line, which names the first operation that can make a bad value
        of good ones; None if the loss is finite or has no history, or depends on more than these outputs,
        as with a penalty on slopes.

    Cost:
        A walk over the nodes of the loss function; one read of the loss.

    Example:
        >>> from trimtab.trace import loss_origin
        >>> output = torch.nn.Linear(2, 1)(torch.zeros(3, 2))
        >>> node = (output.grad_fn._sequence_nr(), output.grad_fn.name())
        >>> origin = loss_origin(output.sum() / 0, {node})
        >>> origin.op, origin.cause.value
        ('DivBackward0', 'div_zero')
    """
    if loss.grad_fn is None or not output_nodes or is_finite(loss.detach()):
        return None
    nodes = list(_nodes_before(loss.grad_fn, frozenset(output_nodes)))
    if not nodes or nodes[-1] == _PARAMETER:
        return None
    suspects = [(name, cause) for name in nodes if (cause := _SUSPECTS.get(_short(name))) is not None]
    op, cause = suspects[-1] if suspects else (nodes[-1], Cause.INF_ARITHMETIC)
    others = sorted({name for name, _ in suspects} - {op})
    why = (
        "the outputs of the model are finite and the loss is not: of the operations in between, "
        f"{op} can make a bad value of good ones"
    ) + (f", and so can {', '.join(others)}" if others else "")
    return Origin(
        phase=Phase.LOSS,
        op=op,
        module=None,
        file=None,
        line=None,
        code="",
        cause=cause,
        why=why,
        advice=f"{cause.fixes[0]}. To get the line: guard.step(closure), or trimtab.trace(model, closure)",
        chain=(*reversed(nodes[-6:]), "the loss"),
        seen=f"the loss became {'NaN' if bool(loss.detach().isnan().any()) else 'Inf'}",
    )


def optimizer_origin(model: nn.Module, optimizer: Optimizer) -> Origin | None:
    """Whether the optimizer's own arithmetic made the parameters bad that are bad now.

    The last update cannot be run again: its parameters and gradients are gone. But its state is there. An
    update from this state, with zeros for the bad values and for the gradients, shows a fault of the
    optimizer's own, as 0 / 0 where an epsilon is rounded away.

    Args:
        model: The model.
        optimizer: Its optimizer, after the update in question.

    Returns:
        An origin of phase `OPTIMIZER`, or None.

    Cost:
        A copy of the parameters and of the optimizer's state, and one step. All is left as it was.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    bad = [p for p in parameters if not is_finite(p.detach())]
    if not bad:
        return None
    with Replay(model, optimizer, Watch) as replay:
        with torch.no_grad():
            for parameter in parameters:
                replay.protect(parameter)
                parameter.nan_to_num_(0.0, 0.0, 0.0)
                parameter.grad = torch.zeros_like(parameter)
        replay.step(optimizer)
        if all(is_finite(parameter.detach()) for parameter in bad):
            return None
        were_bad = {name for name, p in model.named_parameters() if any(p is b for b in bad)}
        # zeros instead of gradients may spoil others too, which the real update did not
        seen = [s for s in what_is_bad(replay.watch, model, optimizer, None) if s.parameter in were_bad]
        origin = origin_of(replay.watch, replay.running, model, seen) if seen else None
        return origin if origin is not None and origin.phase is Phase.OPTIMIZER else None


def _nodes_before(root: Any, stops: frozenset[tuple[int, str]]) -> Iterator[str]:
    """Names of the nodes from the loss to the outputs, nearest to the loss first; ends at a parameter."""
    queue, seen = deque([root]), {root}
    num = 0
    while queue and num < _MOST_NODES:
        node = queue.popleft()
        num += 1
        yield node.name()
        if node.name() == _PARAMETER:
            return  # on a way that does not lead through the outputs
        for following, _ in node.next_functions:
            if following is None or following in seen:
                continue
            if (following._sequence_nr(), following.name()) not in stops:
                seen.add(following)
                queue.append(following)


def _short(name: str) -> str:
    """`torch::autograd::DivBackward0` and `DivBackward0` without what all share."""
    return name.rpartition("::")[2].split("Backward")[0]
