"""What a step's forward passes were given and got back: enough to run them again without a closure."""

from __future__ import annotations

import functools
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.hooks import RemovableHandle

from trimtab.act import rng
from trimtab.trace import replay_module, tensors_in
from trimtab.types import Origin

# With gradient accumulation a step has many passes; what is kept of each is a reference to its batch
_MAX_CALLS = 8
_AUTOCAST_DEVICES = ("cpu", "cuda")

# What a copy or a pickle of the model carries in a hook's place: takes anything, returns None
_IDLE = (getattr, (nullcontext(), "__exit__"))


@dataclass(slots=True)
class Call:
    """One forward pass of the model, or of a part of it that was called by itself; by reference.

    Attributes:
        part: Dotted name of the module that was called, "" for the model.
        args: Positional arguments.
        kwargs: Keyword arguments.
        rng: torch's generators as the pass found them.
        autocast: Type that `torch.autocast` computes in, for each kind of device on which it is on.
        output_gradients: Gradient that reached each tensor of the output, None where none did; empty until
            `backward` came by.
        output_nodes: Sequence number and name of the autograd node of each such tensor: where the loss
            function ends and the module begins.
    """

    part: str
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

    @property
    def has_sound_input(self) -> bool:
        """Whether all numbers that it was given are finite. A pass over them, and a read for each tensor."""
        leaves = [x for x in tree_leaves((self.args, self.kwargs)) if isinstance(x, Tensor)]
        numbers = [x.detach() for x in leaves if x.is_floating_point() or x.is_complex()]
        plain = [x for x in numbers if x.layout is torch.strided and not x.is_nested]
        return all(bool(x.isfinite().all()) for x in plain)

    @property
    def is_fed(self) -> bool:
        """Whether some of its input was computed from parameters, by other parts or between them."""
        leaves = tree_leaves((self.args, self.kwargs))
        return any(isinstance(leaf, Tensor) and leaf.grad_fn is not None for leaf in leaves)

    def replayed(self, model: nn.Module, *, is_lost: bool) -> Origin | None:
        """Run the pass, and the way back, again under the tracer: where its first bad value was born.

        Args:
            model: The whole model.
            is_lost: Whether the loss was not finite.
        """
        rng.restore_(self.rng)
        args, kwargs = tree_map_only(Tensor, _as_leaf, (self.args, self.kwargs))
        gradients, within = self.output_gradients, _autocasting(self.autocast)
        return replay_module(model, args, kwargs, gradients, part=self.part, is_lost=is_lost, within=within)


class Recall:
    """Remembers the model's calls of the step that is going on, until `forget`.

    At first only calls of the model itself are seen. One that is called by its parts (`model.encode(x)`, the
    critic within a loss) is hooked there as well, once that shows. Of the calls within each other only the
    outermost counts. Gradients of outputs are kept for the last call of each module only: those of many
    micro-batches may be large. Calls without autograd are passed over, and so is a model that is compiled.

    Args:
        model: The model.

    Cost:
        Some 10 us for each call and no host read. The inputs of up to 8 calls and the gradients of the last
        calls' outputs stay in memory until the step is over.
    """

    def __init__(self, model: nn.Module) -> None:
        self._calls: deque[Call] = deque(maxlen=_MAX_CALLS)
        self._open: list[Call | None] = []  # the calls that are running, the outermost first
        self._is_paused = False
        self._handles: list[RemovableHandle] = []
        self._finalizer = weakref.finalize(self, _remove, self._handles)
        self._model = weakref.ref(model)
        self._has_parts = False
        self._hook("", model)

    @property
    def calls(self) -> tuple[Call, ...]:
        """The calls of this step, oldest first, whose inputs are still what they were."""
        return tuple(call for call in self._calls if call.is_intact)

    @property
    def num_calls(self) -> int:
        """How many calls were seen in this step, 8 at most."""
        return len(self._calls)

    def look_at_parts(self) -> None:
        """From now on see the calls of the model's parts too."""
        model = self._model()
        if not self._has_parts and model is not None and self._finalizer.alive:
            self._has_parts = True
            for name, part in _parts(model, ""):
                self._hook(name, part)

    def note_input(self, part: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A call begins."""
        is_transformed = torch._C._functorch.peek_interpreter_stack() is not None  # vmap, grad of torch.func
        if self._open or self._is_paused or is_transformed or not torch.is_grad_enabled():
            self._open.append(None)
            return
        for earlier in self._calls:
            if earlier.part == part:
                earlier.output_gradients = []
        versions = _versions(args, kwargs)
        call = Call(part, args, dict(kwargs), rng.capture_torch(), _autocast_now(), _versions=versions)
        self._open.append(call)
        self._calls.append(call)

    def note_output(self, output: Any) -> None:
        """The call that began last ends."""
        call = self._open.pop() if self._open else None
        if call is None:
            return
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
        self._open.clear()

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
        self.forget()

    def is_last_of_its_module(self, call: Call) -> bool:
        """Whether its module was not called again since, so that gradients of its outputs are kept."""
        same = [known for known in self._calls if known.part == call.part]
        return not self._is_paused and bool(same) and same[-1] is call

    def _hook(self, name: str, module: nn.Module) -> None:
        before, after = _Before(self, name), _After(self)
        # nn.Module's own: a container that stands for its parts may put hooks on them instead
        self._handles += [
            nn.Module.register_forward_pre_hook(module, before, prepend=True, with_kwargs=True),
            nn.Module.register_forward_hook(module, after, with_kwargs=True, always_call=True),
        ]


class _Before:
    """The forward pre-hook. A copy or a pickle of the model carries an idle one instead."""

    def __init__(self, recall: Recall, part: str) -> None:
        self._recall = weakref.ref(recall)
        self._part = part

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if torch.compiler.is_compiling():
            return
        recall = self._recall()
        if recall is not None:
            recall.note_input(self._part, args, kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        return _IDLE


class _After:
    """The forward hook. A copy or a pickle of the model carries an idle one instead."""

    def __init__(self, recall: Recall) -> None:
        self._recall = weakref.ref(recall)

    def __call__(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if torch.compiler.is_compiling():
            return
        recall = self._recall()
        if recall is not None:
            recall.note_output(output)

    def __reduce__(self) -> tuple[Any, ...]:
        return _IDLE


def _keep(owner: weakref.ref[Recall], call: Call, index: int, num: int, gradient: Tensor) -> None:
    """The hook of an output: what reached it in `backward`, summed over passes through a retained graph."""
    recall = owner()
    if recall is None or not recall.is_last_of_its_module(call):
        return
    if gradient.requires_grad:  # made with create_graph, as for a gradient penalty: `backward` comes later
        return
    if not call.output_gradients:
        call.output_gradients = [None] * num
    known = call.output_gradients[index]
    call.output_gradients[index] = gradient if known is None else known + gradient


def _parts(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    """The modules that a model's own methods call: its children, and those in its lists and dicts."""
    for name, child in module.named_children():
        if isinstance(child, (nn.ModuleList, nn.ModuleDict)):
            yield from _parts(child, f"{prefix}{name}.")
        else:
            yield prefix + name, child


def _as_leaf(tensor: Tensor) -> Tensor:
    """An input without the history that other parts gave it: that graph is gone."""
    return tensor if tensor.grad_fn is None else tensor.detach().requires_grad_()


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


def _remove(handles: Sequence[Any]) -> None:
    for handle in handles:
        handle.remove()
