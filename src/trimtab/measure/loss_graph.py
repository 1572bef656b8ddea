"""What the graph behind a loss tells: how it was reduced, and what its logits went through before."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import Tensor

# Nodes that only reshape, cast, shift or scale: what is behind them reaches the loss as it is
_PASSING = (
    *("View", "Reshape", "UnsafeView", "Transpose", "T", "Permute", "Squeeze", "Unsqueeze", "Slice"),
    *("Select", "Expand", "Clone", "ToCopy", "Alias", "Index", "Cat", "Stack", "Mul", "Div", "Add", "Sub"),
    *("Neg", "Mean", "Sum", "Contiguous", "Flatten", "Split", "Unbind", "AsStrided", "Cast"),
)
_ENTROPY = ("NllLoss", "CrossEntropyLoss")
_BINARY = "BinaryCrossEntropyWithLogits"
_LOSSES = (*_ENTROPY, _BINARY, "BinaryCrossEntropy", "MseLoss", "SmoothL1Loss", "L1Loss")
# Reduction codes of torch's loss kernels
_SUM = 2
_MAX_NODES = 200


class LossFacts(NamedTuple):
    """What was found behind a loss; each is 1.0, 0.0 or nan for "no such loss there".

    Attributes:
        is_entropy: It holds a cross-entropy of log-softmax.
        is_sum: Some loss in it is summed over the batch and not averaged.
        softmax_twice: The logits of a cross-entropy are the output of a softmax already.
        sigmoid_twice: The logits of a binary cross-entropy are the output of a sigmoid already.
        activated: The logits of a cross-entropy are the output of a ReLU, tanh or sigmoid.
    """

    is_entropy: float
    is_sum: float
    softmax_twice: float
    sigmoid_twice: float
    activated: float


def loss_facts(loss: object) -> LossFacts | None:
    """Read the names of the nodes behind a loss. The graph may have been used up by `backward()`.

    Args:
        loss: The loss; anything but a tensor with a graph gives None.

    Cost:
        At most 200 nodes are looked at; no host read.

    Example:
        >>> z = torch.zeros(2, 3, requires_grad=True)
        >>> loss = torch.nn.functional.cross_entropy(z.softmax(1), torch.tensor([0, 1]))
        >>> loss_facts(loss).softmax_twice
        1.0
    """
    if not isinstance(loss, Tensor) or loss.grad_fn is None:
        return None
    found = [(_name(node), node) for node in _behind(loss.grad_fn)]
    losses = [(name, node) for name, node in found if name in _LOSSES]
    entropies = [node for name, node in losses if name in _ENTROPY]
    binaries = [node for name, node in losses if name == _BINARY]
    before = {name for node in entropies for name in _logits_of(node)}
    before_binary = {name for node in binaries for name in _ends(node)}
    nothing = float("nan")
    are_sums = [getattr(node, "_saved_reduction", 1) == _SUM for _, node in losses]
    return LossFacts(
        is_entropy=float(bool(entropies)),
        is_sum=float(any(are_sums)) if losses else nothing,
        softmax_twice=float("Softmax" in before) if entropies else nothing,
        sigmoid_twice=float("Sigmoid" in before_binary) if binaries else nothing,
        activated=float(bool(before & {"Relu", "Tanh", "Sigmoid"})) if entropies else nothing,
    )


def _name(node: Any) -> str:
    """`ViewBackward0` as `View`."""
    name: str = node.name()
    return name.partition("Backward")[0]


def _next(node: Any) -> list[Any]:
    return [following for following, _ in node.next_functions if following is not None]


def _behind(start: Any) -> Iterator[Any]:
    """The loss nodes that the loss is made of, and what passes from them to it."""
    seen: set[Any] = set()
    queue = [start]
    while queue and len(seen) < _MAX_NODES:
        node = queue.pop(0)
        if node in seen:
            continue
        seen.add(node)
        yield node
        if _name(node) in _PASSING:
            queue += _next(node)


def _ends(start: Any) -> Iterator[str]:
    """Names of the first nodes behind one that change values in another way than by scaling."""
    seen: set[Any] = set()
    queue = _next(start)[:1]  # the first input is the prediction
    while queue and len(seen) < _MAX_NODES:
        node = queue.pop(0)
        if node in seen:
            continue
        seen.add(node)
        name = _name(node)
        if name in _PASSING and name not in ("Add", "Sub", "Index", "Cat", "Stack", "Mean", "Sum"):
            queue += _next(node)[:1]
        else:
            yield name


def _logits_of(entropy: Any) -> Iterator[str]:
    """What the logits of a cross-entropy come from, if it is the log-softmax kind."""
    if _name(entropy) == "CrossEntropyLoss":
        yield from _ends(entropy)
        return
    seen: set[Any] = set()
    queue = _next(entropy)[:1]
    while queue and len(seen) < _MAX_NODES:
        node = queue.pop(0)
        seen.add(node)
        if _name(node) == "LogSoftmax":
            yield from _ends(node)
        elif _name(node) in _PASSING and len(_next(node)) == 1:
            queue += [following for following in _next(node) if following not in seen]
