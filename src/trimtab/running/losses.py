"""The loss of a step, told from the tensors on which the script called `backward()`."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from trimtab.running.patching import replaced

# More than any script accumulates. A script that calls backward() without ever stepping must not fill memory
_MOST = 4096

# On the product of a loss and its scale: the loss
_UNSCALED = "_trimtab_unscaled"


class _Root(NamedTuple):
    """One call of `backward()`: its number, and the scalar, or None if it was none."""

    number: int
    loss: Tensor | None
    is_unscaled: bool


@dataclass(slots=True)
class _Span:
    """From which call of `backward()` on the gradients of an optimizer are made up.

    Attributes:
        start: Number of that call.
        is_sure: Whether the optimizer had no gradient before it.
    """

    start: int
    is_sure: bool = False


class Losses:
    """Remembers the scalars on which `backward()` was called, to tell the loss of each optimizer's step.

    Gradients add up from one call to the next, so the objective of a step is the sum of the scalars since
    the optimizer last had no gradient: of one batch, of all micro-batches that are accumulated, of several
    losses. Scalars are kept by reference, without their graph.

    Cost:
        In each `backward()` a look at `.grad` of the parameters until one has a gradient. No host read.
    """

    def __init__(self) -> None:
        self._roots: deque[_Root] = deque(maxlen=_MOST)
        self._num = 0
        self._last_step = 0  # number of the first call after the last step of any optimizer
        self._is_within = False
        self._spans: weakref.WeakKeyDictionary[Optimizer, _Span] = weakref.WeakKeyDictionary()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """See every `backward()`, and every scaled loss, in this context."""
        with ExitStack() as stack:
            stack.enter_context(replaced(torch.autograd, "backward", self._backward))
            stack.enter_context(replaced(torch.amp.GradScaler, "scale", _scale))
            stack.enter_context(replaced(Optimizer, "zero_grad", self._zero_optimizer))
            stack.enter_context(replaced(nn.Module, "zero_grad", self._zero_module))
            yield

    def follow(self, optimizer: Optimizer) -> None:
        """Tell the losses of this optimizer from now on."""
        self._spans.setdefault(optimizer, _Span(self._num))

    def end_step(self, optimizer: Optimizer) -> None:
        """A step of this optimizer is over."""
        self._last_step = self._num
        if optimizer in self._spans:
            self._spans[optimizer] = _Span(self._num)

    def of(self, optimizer: Optimizer, *, is_scaled: bool) -> Tensor | None:
        """The loss whose gradients the optimizer has now, or None if it cannot be known.

        Args:
            optimizer: One that is followed.
            is_scaled: Whether its losses are multiplied by a loss scale: then only a scalar that is known
                without it counts.
        """
        span = self._spans[optimizer]
        roots = self._since(span.start)
        if not span.is_sure:
            # not zeroed, or by hand and in place: what came before another optimizer's step is likely its own
            roots = self._since(max(span.start, self._last_step)) or roots
        if not roots or (span.is_sure and roots[0].number > span.start):
            return None  # there were none, or more than are remembered
        losses = [root.loss for root in roots if root.is_unscaled or not is_scaled]
        if len(losses) < len(roots) or any(loss is None for loss in losses):
            return None
        known = [loss for loss in losses if loss is not None]
        total = known[0]
        for loss in known[1:]:
            total = total + loss.to(total.device)
        return total

    def _since(self, start: int) -> list[_Root]:
        found: list[_Root] = []
        for root in reversed(self._roots):
            if root.number < start:
                break
            found.append(root)
        return found[::-1]

    def _zero_optimizer(self, original: Any, optimizer: Optimizer, *args: Any, **kwargs: Any) -> None:
        original(optimizer, *args, **kwargs)
        if optimizer in self._spans:
            self._spans[optimizer] = _Span(self._num, is_sure=True)

    def _zero_module(self, original: Any, module: nn.Module, *args: Any, **kwargs: Any) -> None:
        original(module, *args, **kwargs)
        if args[0] if args else kwargs.get("set_to_none", True):
            return  # that shows at the next backward pass
        zeroed = set(module.parameters())
        for optimizer in list(self._spans):
            if any(p in zeroed for group in optimizer.param_groups for p in group["params"]):
                self._spans[optimizer] = _Span(self._num, is_sure=True)

    def _backward(self, original: Any, *args: Any, **kwargs: Any) -> None:
        if self._is_within or not self._spans:
            original(
                *args, **kwargs
            )  # of a checkpoint within a backward pass, or before there is an optimizer
            return
        for optimizer, span in list(self._spans.items()):
            if not _has_gradient(optimizer):
                span.start, span.is_sure = self._num, True
        self._is_within = True
        try:
            original(*args, **kwargs)
        finally:
            self._is_within = False
        self._roots.append(_as_root(self._num, *args, **kwargs))
        self._num += 1


def _as_root(
    number: int, tensors: Any, grad_tensors: Any = None, *_: Any, inputs: Any = None, **__: Any
) -> _Root:
    """What was differentiated, if it was one scalar by itself."""
    root = tensors[0] if isinstance(tensors, (list, tuple)) and len(tensors) == 1 else tensors
    given = (
        grad_tensors[0]
        if isinstance(grad_tensors, (list, tuple)) and len(grad_tensors) == 1
        else grad_tensors
    )
    is_loss = isinstance(root, Tensor) and given is None and inputs is None and root.numel() == 1
    if not is_loss or root.is_complex():
        return _Root(number, None, is_unscaled=True)
    unscaled = vars(root).get(_UNSCALED)
    loss = root if unscaled is None else unscaled
    return _Root(number, loss.detach().reshape(()), is_unscaled=unscaled is not None)


def _scale(original: Any, scaler: Any, outputs: Any) -> Any:
    scaled = original(scaler, outputs)
    if isinstance(outputs, Tensor) and scaled is not outputs:
        setattr(scaled, _UNSCALED, outputs.detach())
    return scaled


def _has_gradient(optimizer: Optimizer) -> bool:
    return any(p.grad is not None for group in optimizer.param_groups for p in group["params"])
