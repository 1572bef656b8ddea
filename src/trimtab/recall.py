"""What a step's forward passes were given and got back: enough to run them again without a closure."""

from __future__ import annotations

import functools
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from trimtab.act import rng
from trimtab.trace import replay_module, tensors_in
from trimtab.types import Origin

# With gradient accumulation a step has many passes; what is kept of each is a reference to its batch
_MAX_CALLS = 8
_AUTOCAST_DEVICES = ("cpu", "cuda")


@dataclass(slots=True)
class Call:
    """One forward pass of the root module, by reference.

    Attributes:
        args: Positional arguments.
        kwargs: Keyword arguments.
        rng: torch's generators as the pass found them.
        autocast: Type that `torch.autocast` computes in, for each kind of device on which it is on.
        output_gradients: Gradient that reached each tensor of the output, None where none did; empty until
            `backward` came by.
        output_nodes: Sequence number and name of the autograd node of each such tensor: where the loss
            function ends and the module begins.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    rng: dict[str, Any]
    autocast: dict[str, torch.dtype] = field(default_factory=dict)
    output_gradients: list[Tensor | None] = field(default_factory=list)
    output_nodes: frozenset[tuple[int, str]] = frozenset()
    _versions: tuple[int, ...] = ()

    @property
    def is_intact(self) -> bool:
        """Whether nobody wrote to the inputs since."""
        return self._versions == _versions(self.args, self.kwargs)

    def replayed(self, model: nn.Module) -> Origin | None:
        """Run the pass, and the way back, again under the tracer: where its first bad value was born."""
        rng.restore_(self.rng)
        within = _autocasting(self.autocast)
        return replay_module(model, self.args, self.kwargs, self.output_gradients, within=within)


class Recall:
    """Remembers the root module's calls of the step that is going on, until `forget`.

    Gradients of outputs are kept for the last call only: those of many micro-batches may be large. Calls
    without autograd are passed over, and so is a module that is compiled in place.

    Args:
        model: The root module.

    Cost:
        Some 10 us for each call and no host read. The inputs of up to 8 calls and the gradient of the last
        call's output stay in memory until the step is over.
    """

    def __init__(self, model: nn.Module) -> None:
        self._calls: deque[Call] = deque(maxlen=_MAX_CALLS)
        self._is_paused = False
        before = model.register_forward_pre_hook(_Before(self), prepend=True, with_kwargs=True)
        after = model.register_forward_hook(_After(self), with_kwargs=True)
        self._finalizer = weakref.finalize(self, _remove, (before, after))

    @property
    def calls(self) -> tuple[Call, ...]:
        """The calls of this step, oldest first, whose inputs are still what they were."""
        return tuple(call for call in self._calls if call.is_intact)

    def note_input(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A call begins."""
        if self._is_paused or torch.compiler.is_compiling() or not torch.is_grad_enabled():
            return
        for earlier in self._calls:
            earlier.output_gradients = []
        versions = _versions(args, kwargs)
        call = Call(args, dict(kwargs), rng.capture_torch(), _autocast_now(), _versions=versions)
        self._calls.append(call)

    def note_output(self, output: Any) -> None:
        """The call that began last ends."""
        if self._is_paused or torch.compiler.is_compiling() or not torch.is_grad_enabled():
            return
        if not self._calls:
            return
        call = self._calls[-1]
        outputs = tensors_in(output)
        hooked: dict[int, tuple[int, str]] = {}
        for index, tensor in enumerate(outputs):
            if tensor.grad_fn is not None and id(tensor) not in hooked:
                hooked[id(tensor)] = (tensor.grad_fn._sequence_nr(), tensor.grad_fn.name())
                keep = functools.partial(_keep, weakref.ref(self), call, index, len(outputs))
                tensor.register_hook(keep)  # type: ignore[no-untyped-call]
        call.output_nodes = frozenset(hooked.values())

    def forget(self) -> None:
        """The step is over."""
        self._calls.clear()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Calls within are not the step's own."""
        self._is_paused = True
        try:
            yield
        finally:
            self._is_paused = False

    def close(self) -> None:
        """Remove the hooks. Safe to call twice."""
        self._finalizer()
        self._calls.clear()


class _Before:
    """The forward pre-hook. A copy or a pickle of the model carries an idle one instead."""

    def __init__(self, recall: Recall) -> None:
        self._recall = weakref.ref(recall)

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        recall = self._recall()
        if recall is not None:
            recall.note_input(args, kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        return _IDLE


class _After:
    """The forward hook. A copy or a pickle of the model carries an idle one instead."""

    def __init__(self, recall: Recall) -> None:
        self._recall = weakref.ref(recall)

    def __call__(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        recall = self._recall()
        if recall is not None:
            recall.note_output(output)

    def __reduce__(self) -> tuple[Any, ...]:
        return _IDLE


# What a copy or a pickle of the model carries in a hook's place: takes anything, returns None
_IDLE = (getattr, (nullcontext(), "__exit__"))


def _keep(owner: weakref.ref[Recall], call: Call, index: int, num: int, gradient: Tensor) -> None:
    """The hook of an output: what reached it in `backward`, summed over passes through a retained graph."""
    recall = owner()
    # a call that is not the step's last one any more has given its gradients up
    if recall is None or recall._is_paused or not recall._calls or recall._calls[-1] is not call:
        return
    if gradient.requires_grad:  # made with create_graph, as for a gradient penalty: `backward` comes later
        return
    if not call.output_gradients:
        call.output_gradients = [None] * num
    known = call.output_gradients[index]
    call.output_gradients[index] = gradient if known is None else known + gradient


def _autocast_now() -> dict[str, torch.dtype]:
    return {
        device: torch.get_autocast_dtype(device)
        for device in _AUTOCAST_DEVICES
        if torch.is_autocast_enabled(device)
    }


@contextmanager
def _autocasting(dtypes: dict[str, torch.dtype]) -> Iterator[None]:
    with ExitStack() as stack:
        for device, dtype in dtypes.items():
            stack.enter_context(torch.autocast(device, dtype))
        yield


def _versions(args: Any, kwargs: Any) -> tuple[int, ...]:
    return tuple(
        leaf._version
        for leaf in tree_leaves((args, kwargs))
        if isinstance(leaf, Tensor) and not leaf.is_inference()
    )


def _remove(handles: tuple[Any, ...]) -> None:
    for handle in handles:
        handle.remove()
