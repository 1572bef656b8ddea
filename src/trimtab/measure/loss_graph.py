"""What the graph behind a loss tells: how it was reduced, and what its logits went through before."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from trimtab.measure.graph import (
    activation_of,
    behind,
    chained_share,
    feeds_linear,
    name_of,
    nearest,
    source_of,
)

_ENTROPY = ("NllLoss", "NllLoss2D", "CrossEntropyLoss")
_BINARY = "BinaryCrossEntropyWithLogits"
_REGRESSIONS = ("MseLoss", "SmoothL1Loss", "HuberLoss", "L1Loss")
_LOSSES = (*_ENTROPY, _BINARY, "BinaryCrossEntropy", *_REGRESSIONS)
SQUASHING = ("Sigmoid", "Tanh", "Relu")
_SCALES = ("Mul", "Div")
SUM = 2  # reduction code of torch's loss kernels


class LossFacts(NamedTuple):
    """What was found behind a loss; each is 1.0, 0.0 or nan for "no such loss there".

    Attributes:
        is_entropy: It holds a cross-entropy of log-softmax.
        is_sum: Some loss in it is summed over the batch and not averaged.
        softmax_twice: The logits of a cross-entropy are the output of a softmax already.
        sigmoid_twice: The logits of a binary cross-entropy are the output of a sigmoid already.
        activated: The logits of a cross-entropy are the output of a ReLU, tanh or sigmoid.
        is_square: It is one mean squared error, and nothing is done to that.
        is_scaled: It is one mean squared error times a number.
        is_shifted: It is one mean squared error and a number.
        is_binary: It is one binary cross-entropy of logits, averaged, and nothing is done to that.
        is_plain: It is one cross-entropy without weights of classes, at most times a number.
        squashed: The output of a squared error comes out of a sigmoid (1), tanh (2) or ReLU (3); else 0.
        over_batch: The softmax of a cross-entropy goes over the first dimension.
        bend: Where it is one Huber or smooth L1 loss: small differences cost their square over 2 * bend.
        num_paired: It is a mean over so many outputs against as many targets each: a column against a row.
        softmax_inside: A linear layer with a bias takes the output of a softmax.
        chained: Share of the layers behind the first that go on with what another gave, with no activation
            in between.
        without_log: A negative log-likelihood is given the output of a softmax, and not its logarithm.
    """

    is_entropy: float
    is_sum: float
    softmax_twice: float
    sigmoid_twice: float
    activated: float
    is_square: float
    is_scaled: float
    is_shifted: float
    is_binary: float
    is_plain: float
    squashed: float
    over_batch: float
    bend: float
    num_paired: float
    softmax_inside: float
    chained: float
    without_log: float


def loss_facts(loss: object) -> LossFacts | None:
    """Read the names of the nodes behind a loss. The graph may have been used up by `backward()`.

    Args:
        loss: The loss; anything but a tensor with a graph gives None.

    Cost:
        At most 400 nodes are looked at; no host read.

    Example:
        >>> z = torch.zeros(2, 3, requires_grad=True)
        >>> loss = torch.nn.functional.cross_entropy(z.softmax(1), torch.tensor([0, 1]))
        >>> loss_facts(loss).softmax_twice
        1.0
    """
    if not isinstance(loss, Tensor) or loss.grad_fn is None:
        return None
    losses = [(name_of(node), node) for node in behind(loss.grad_fn) if name_of(node) in _LOSSES]
    entropies = [node for name, node in losses if name in _ENTROPY]
    binaries = [node for name, node in losses if name == _BINARY]
    before = {_activation_of_logits(node) for node in entropies}
    before_binary = {activation_of(node.next_functions[0][0])[0] for node in binaries}
    nothing, nodes = float("nan"), nearest(loss.grad_fn)
    is_scaled, is_shifted = _moved_square(loss.grad_fn)
    are_sums = [getattr(node, "_saved_reduction", 1) == SUM for _, node in losses]
    return LossFacts(
        is_entropy=float(bool(entropies)),
        is_sum=float(any(are_sums)) if losses else nothing,
        softmax_twice=float("Softmax" in before) if entropies else nothing,
        sigmoid_twice=float("Sigmoid" in before_binary) if binaries else nothing,
        activated=float(bool(before & {"Relu", "Tanh", "Sigmoid"})) if entropies else nothing,
        is_square=float(_is_square(loss.grad_fn) and not any(are_sums)),
        is_scaled=float(is_scaled and not any(are_sums)),
        is_shifted=float(is_shifted and not any(are_sums)),
        is_binary=float(name_of(loss.grad_fn) == _BINARY and not any(are_sums)),
        is_plain=float(_is_plain(loss.grad_fn)) if entropies else nothing,
        squashed=_squashed(loss.grad_fn),
        over_batch=float(any(_is_over_batch(node) for node in entropies)) if entropies else nothing,
        bend=_bend(loss.grad_fn) if not any(are_sums) else nothing,
        num_paired=_num_paired(loss.grad_fn),
        softmax_inside=float(feeds_linear(nodes, "Softmax")),
        chained=chained_share(nodes),
        without_log=float(any(_is_of_shares(node) for node in entropies)) if entropies else nothing,
    )


def _is_square(node: Any) -> bool:
    """Whether a node is the mean squared error, or the mean of a plain square."""
    if name_of(node) != "Mean":
        return name_of(node) == "MseLoss"
    before = node.next_functions[0][0]
    return before is not None and name_of(before) == "Pow" and float(before._saved_exponent) == 2.0


def _moved_square(node: Any) -> tuple[bool, bool]:
    """Whether a node is a squared error times a number, and whether it is one with a number added."""
    is_scaled = is_shifted = False
    while name_of(node) in ("Mul", "Div", "Add"):
        sources = [following for following, _ in node.next_functions if following is not None]
        if len(sources) != 1:
            return False, False
        is_shifted, is_scaled = (
            is_shifted | (name_of(node) == "Add"),
            is_scaled | (name_of(node) in _SCALES),
        )
        node = sources[0]
    is_one = _is_square(node) and is_scaled != is_shifted
    return is_one and is_scaled, is_one and is_shifted


def _bend(node: Any) -> float:
    """Small differences cost their square over twice this number; the gradient is they, over this number."""
    if name_of(node) == "SmoothL1Loss":
        return float(node._saved_beta) or float("nan")
    return 1.0 if name_of(node) == "HuberLoss" else float("nan")


def _squashed(node: Any) -> float:
    """Number of the activation that the output of a squared error comes out of."""
    if not _is_square(node):
        return float("nan")
    before = node.next_functions[0][0]
    if name_of(node) == "Mean":  # a square, and a difference before it
        before = before.next_functions[0][0]
        before = before.next_functions[0][0] if before is not None and before.next_functions else None
    name = activation_of(before)[0] if before is not None else ""
    return float(SQUASHING.index(name) + 1) if name in SQUASHING else 0.0


def _is_plain(node: Any) -> bool:
    entropy = _unscaled(node)
    if name_of(entropy) not in _ENTROPY:
        return False
    try:
        return getattr(entropy, "_saved_weight", None) is None
    except RuntimeError:  # there were weights, and backward has let go of them
        return False


def _unscaled(node: Any) -> Any:
    """What a loss is times a number."""
    while name_of(node) in ("Mul", "Div"):
        sources = [following for following, _ in node.next_functions if following is not None]
        if len(sources) != 1:
            break
        node = sources[0]
    return node


def _is_over_batch(entropy: Any) -> bool:
    source = source_of(entropy)
    return source is not None and name_of(source) == "LogSoftmax" and source._saved_dim == 0


def _is_of_shares(entropy: Any) -> bool:
    source = source_of(entropy)
    return name_of(entropy) != "CrossEntropyLoss" and source is not None and name_of(source) == "Softmax"


def _num_paired(node: Any) -> float:
    """Rows of a column that was broadcast against a row, by a loss kernel or by a difference; else nan."""
    before = node.next_functions[0][0] if node.next_functions else None
    if before is None:
        return float("nan")
    if name_of(node) in _REGRESSIONS and name_of(before) == "Expand":
        sizes = before._saved_self_sym_sizes
        return float(sizes[0]) if len(sizes) == 2 and sizes[1] == 1 else float("nan")
    if name_of(node) != "Mean" or name_of(before) not in ("Pow", "Abs"):
        return float("nan")
    sizes, difference = getattr(node, "_saved_self_sym_sizes", ()), before.next_functions[0][0]
    is_square = len(sizes) == 2 and sizes[0] == sizes[1]
    if not is_square or difference is None or name_of(difference) != "Sub":
        return float("nan")
    # of a difference of outputs and outputs, both have a graph: pairs are meant then
    sources = [following for following, _ in difference.next_functions if following is not None]
    is_plain = len(sources) == 1 and name_of(sources[0]) not in ("Unsqueeze", "Expand", "T", "Transpose")
    return float(sizes[0]) if is_plain else float("nan")


def _activation_of_logits(entropy: Any) -> str:
    """What the logits of a cross-entropy come out of; empty if no log-softmax stands before it."""
    before = entropy if name_of(entropy) == "CrossEntropyLoss" else source_of(entropy)
    if before is None or name_of(before) not in ("CrossEntropyLoss", "LogSoftmax"):
        return ""
    logits = before.next_functions[0][0]
    name, nearest = activation_of(logits)[0], source_of(before)
    # 30 * tanh(z / 30) caps logits softly, on purpose
    is_capped = name in ("Tanh", "Sigmoid") and (nearest is None or name_of(nearest) != name)
    return "" if is_capped else name
