"""Walking the graph behind a loss by the names of its nodes, and formulas in it that are not stable."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

# Nodes that reshape, cast, shift or scale: a loss behind them is still that loss
_SHAPING = frozenset(
    (
        *("View", "Reshape", "UnsafeView", "ReshapeAlias", "Transpose", "T", "Permute", "Squeeze"),
        *("Unsqueeze", "Slice", "Select", "Expand", "Clone", "ToCopy", "Alias", "Index", "Gather", "Split"),
        *("Unbind", "AsStrided", "Movedim", "Flatten", "Contiguous", "IndexSelect"),
    )
)
_SCALING = frozenset(("Mul", "Div", "Neg"))
_JOINING = frozenset(("Add", "Sub", "Mean", "Sum", "Cat", "Stack", "MaskedFill", "MaskedSelect", "Where"))
# Layers, and the place of the weight among what enters; what lies between two and bends nothing; other layers
_WEIGHT_AT = {"Addmm": 2, "Mm": 1, "Convolution": 1}
_STRAIGHT = frozenset(("Neg", "NativeDropout", "NativeBatchNorm", "CudnnBatchNorm", "MiopenBatchNorm"))
_OTHER_LAYERS = frozenset(
    (
        *("MkldnnRnnLayer", "CudnnRnn", "MiopenRnn", "Embedding", "EmbeddingBag", "Bmm"),
        *("ScaledDotProductFlashAttentionForCpu", "ScaledDotProductFlashAttention"),
        *("ScaledDotProductEfficientAttention", "ScaledDotProductCudnnAttention"),
    )
)
_MAX_NODES, _MAX_WALK = 400, 20_000


def name_of(node: Any) -> str:
    """`ViewBackward0` as `View`."""
    name: str = node.name()
    return name.partition("Backward")[0]


def unstable_forms(loss: Tensor) -> tuple[str, ...]:
    """Formulas in the graph that overflow or lose all digits where a stable function exists.

    Args:
        loss: The loss with its graph.

    Cost:
        At most 20,000 nodes; no host read.
    """
    found = set()
    for node in _walk(loss.grad_fn, _MAX_WALK):
        name = name_of(node)
        if name in ("Log", "Log2", "Log10"):
            source = source_of(node)
            inner = name_of(source) if source is not None else ""
            if inner in ("Softmax", "Sigmoid"):
                found.add(f"log({inner.lower()}(x))")
            elif inner == "Sum" and _is_plain_exp(source_of(source)):
                found.add("log(sum(exp(x)))")
        elif name == "Log1P" and _is_plain_exp(source_of(node)):
            found.add("log1p(exp(x))")
        elif name == "Div" and len(node.next_functions) == 2:
            over, under = [_through(following) for following, _ in node.next_functions]
            sums = under is not None and name_of(under) == "Sum" and _is_plain_exp(source_of(under))
            if sums and _is_plain_exp(over):
                found.add("exp(x) / sum(exp(x))")
    return tuple(sorted(found))


def _is_plain_exp(node: Any) -> bool:
    """An exponential of something from which no maximum has been taken."""
    if node is None or name_of(node) != "Exp":
        return False
    inner = source_of(node)
    return inner is None or name_of(inner) != "Sub"


def behind(start: Any) -> Iterator[Any]:
    """The nodes that a loss is a weighted sum of."""
    through = _SHAPING | _SCALING | _JOINING
    yield from _walk(start, _MAX_NODES, lambda node: name_of(node) in through)


def comes_from(start: Any, nodes: list[Any]) -> bool:
    """Whether one of some nodes is among the nearest behind a start.

    Args:
        start: A node, or None.
        nodes: The nodes to look for.
    """
    return bool(nodes) and any(node in nodes for node in _walk(start, _MAX_NODES))


def nearest(start: Any) -> tuple[Any, ...]:
    """The nodes behind a start, the nearest 400 of them.

    Args:
        start: A node, or None.
    """
    return tuple(_walk(start, _MAX_NODES))


def feeds_linear(nodes: Sequence[Any], name: str) -> bool:
    """Whether some linear layer with a bias takes what a node of this name gave.

    A table of vectors that are mixed by such shares, as in attention or a memory, has no bias.

    Args:
        nodes: Where to look, as `nearest` gives them.
        name: As `name_of` gives it.
    """
    for node in nodes:
        if name_of(node) != "Addmm" or len(node.next_functions) != 3:
            continue
        entering, weight = (_through(node.next_functions[place][0]) for place in (1, 2))
        is_layer = weight is not None and name_of(weight) == "torch::autograd::AccumulateGrad"
        if is_layer and entering is not None and name_of(entering) == name:
            return True
    return False


def chained_share(nodes: Sequence[Any]) -> float:
    """Share of the layers behind the first that go on with what another gave: both are one linear map.

    Nothing but batch norm, shapes and divisors lies between the two (a product may be with a mask, as of a
    ReLU by hand), nothing else takes what is between them, and it is no narrower than the ends of the chain:
    a narrow one is a factorization.

    Args:
        nodes: Where to look, as `nearest` gives them.

    Returns:
        nan with fewer than two layers.
    """
    uses = Counter(following for node in nodes for following, _ in node.next_functions)
    widths = {node: width for node in nodes if (width := _widths(node)) is not None}
    others = sum(name_of(node) in _OTHER_LAYERS for node in nodes)
    if len(widths) + others < 2:
        return math.nan
    before = {node: source for node in widths if (source := _fed_by(node, uses)) in widths}
    after = {source: node for node, source in before.items()}
    # a chain of several layers is as wide as its ends, and narrow in between where one of them is
    wide = sum(
        widths[source][1] >= min(widths[_last(source, before)][0], widths[_last(node, after)][1])
        for node, source in before.items()
    )
    return wide / (len(widths) + others - 1)


def _last(node: Any, further: Mapping[Any, Any]) -> Any:
    while node in further:
        node = further[node]
    return node


def _widths(node: Any) -> tuple[int, int] | None:
    """How many numbers enter and leave a layer that multiplies with a weight; None for what is none."""
    place, is_filter = _WEIGHT_AT.get(name_of(node)), name_of(node) == "Convolution"
    if place is None or place >= len(node.next_functions) or (is_filter and node._saved_groups > 1):
        return None
    holder = node.next_functions[place][0]
    is_turned = holder is not None and name_of(holder) in ("T", "Transpose")
    weight = getattr(holder.next_functions[0][0] if is_turned else holder, "variable", None)
    if weight is None or weight.dim() < 2:
        return None
    # a filter holds (out, in), as a linear layer does, whose weight is turned; x @ weight has (in, out)
    is_out_first = is_turned or (is_filter and not node._saved_transposed)
    first, second = int(weight.shape[0]), int(weight.shape[1])
    return (second, first) if is_out_first else (first, second)


def _fed_by(node: Any, uses: Counter[Any]) -> Any:
    """The node that a layer takes its input from, through what bends nothing; None if others take it too."""
    place = 1 if name_of(node) == "Addmm" else 0
    source = node.next_functions[place][0]
    while source is not None and uses[source] == 1 and _is_straight(source) and source.next_functions:
        source = source.next_functions[0][0]
    return source if source is not None and uses[source] == 1 else None


def _is_straight(node: Any) -> bool:
    name = name_of(node)
    return name in _SHAPING or name in _STRAIGHT or (name == "Div" and _num_inputs(node) == 1)


def _walk(start: Any, limit: int, goes_on: Callable[[Any], bool] = lambda _: True) -> Iterator[Any]:
    """At most so many nodes behind a start, the nearest first."""
    queue = deque([start] if start is not None else [])
    seen: set[Any] = set()
    while queue and len(seen) < limit:
        node = queue.popleft()
        if node in seen:
            continue
        seen.add(node)
        yield node
        if goes_on(node):
            queue.extend(following for following, _ in node.next_functions if following is not None)


def source_of(node: Any) -> Any:
    """What the first input of a node came out of, shapes aside."""
    return _through(node.next_functions[0][0]) if node.next_functions else None


def _num_inputs(node: Any) -> int:
    return sum(following is not None for following, _ in node.next_functions)


def _through(node: Any) -> Any:
    while node is not None and name_of(node) in _SHAPING and node.next_functions:
        node = node.next_functions[0][0]
    return node


def activation_of(node: Any) -> tuple[str, int | None]:
    """Name of what a prediction came out of, and its dimension if that is a softmax."""
    source = _through(node)
    # a constant factor, as a temperature, changes nothing but the scale; a gate would
    while source is not None and name_of(source) in _SCALING and _num_inputs(source) == 1:
        source = _through(source.next_functions[0][0])
    if source is None:
        return "", None
    dim = getattr(source, "_saved_dim", None) if name_of(source) in ("Softmax", "LogSoftmax") else None
    return name_of(source), None if dim is None else signed(dim)


def signed(number: int) -> int:
    """A negative number that the graph holds as an unsigned one of 64 bits."""
    return number - 2**64 if number >= 2**63 else number
