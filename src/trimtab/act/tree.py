"""State as `state_dict` gives it: nested containers with tensors in them. Taken apart, copied, put together.

A tree is made of dict, OrderedDict, defaultdict, Counter, list, tuple, NamedTuple; of str, bytes, bool, int,
float, complex, None, dtypes, devices, sizes; of NumPy arrays and scalars; and of strided tensors.
"""

from __future__ import annotations

import sys
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

# What two tensors must share for one to take the other's memory, and the device that it is a copy from
_Spec: TypeAlias = tuple[torch.dtype, torch.device, torch.Size]

_ATOMS: frozenset[type] = frozenset(
    {str, bytes, bool, int, float, complex, type(None), torch.dtype, torch.device, torch.Size}
)
# What a defaultdict may make: a file names these and nothing else
FACTORIES: dict[str, type] = {
    kind.__name__: kind for kind in (dict, list, tuple, set, str, int, float, bool, OrderedDict, Counter)
}
_PLAIN_TENSORS = frozenset({Tensor, torch.nn.Parameter})
_ARRAY_KINDS = frozenset("biufcSUmM")  # not objects, nor records, whose field names `dtype.str` forgets


@dataclass(frozen=True, slots=True)
class Slot:
    """Stands for tensor number `index` in the structure of a tree."""

    index: int


class Flat(NamedTuple):
    """A tree taken apart.

    Attributes:
        structure: The same containers, copied, with a `Slot` for each tensor.
        tensors: The tensors; one that occurs twice in the tree is here once.
    """

    structure: Any
    tensors: list[Tensor]


class _ForeignError(Exception):
    """Something that no tree is made of."""

    def __init__(self, thing: Any) -> None:
        super().__init__()
        self.thing = thing


def flatten(tree: Any, name: str = "state") -> Flat:
    """Take a tree apart into its structure and its tensors.

    Containers and arrays are copied, so that what the caller does to them later changes nothing here.
    The tensors are the caller's own.

    Args:
        tree: The tree.
        name: What it is called in an error.

    Raises:
        TypeError: Something in it is no part of a tree; the message says where.

    Cost:
        Half a microsecond or so for each entry; no host read.

    Example:
        >>> flatten({"w": torch.ones(2), "betas": (0.9, 0.99)}).structure
        {'w': Slot(index=0), 'betas': (0.9, 0.99)}
    """
    tensors: list[Tensor] = []
    known: dict[int, Slot] = {}

    def leaf(thing: Any) -> Any:
        if isinstance(thing, Tensor):
            slot = known.get(id(thing))
            if slot is None:
                _check_tensor(thing)
                slot = known[id(thing)] = Slot(len(tensors))
                tensors.append(thing)
            return slot
        return _copied_array(thing)

    try:
        return Flat(_rebuilt(tree, leaf), tensors)
    except _ForeignError as error:
        where = next((path for path, thing in _walk(tree, name) if thing is error.thing), name)
        raise TypeError(
            f"{where} is {_described(error.thing)}: a snapshot cannot hold it. {_ADVICE}"
        ) from None


_ADVICE = (
    "It can hold numbers, strings, None, dict, list, tuple, NamedTuple, NumPy arrays and plain strided "
    "tensors. Have state_dict() leave it out or give it as one of these, and load_state_dict() build it anew."
)


def unflatten(structure: Any, tensor: Callable[[int], Tensor]) -> Any:
    """Put a tree together again, with containers and arrays of its own.

    Args:
        structure: A part, or all, of `Flat.structure`.
        tensor: Gives the tensor for an index.

    Example:
        >>> structure, tensors = flatten([torch.tensor(1.0), "a"])
        >>> unflatten(structure, tensors.__getitem__)
        [tensor(1.), 'a']
    """

    def leaf(thing: Any) -> Any:
        return tensor(thing.index) if type(thing) is Slot else _copied_array(thing)

    return _rebuilt(structure, leaf)


class TreeCopy:
    """A copy of a tree in the memory of the host.

    Tensors of a CUDA device are copied to pinned memory, in the order of the current stream and without
    waiting; those of the host at once.

    Args:
        flat: The tree.
        memory: A copy that is not needed any more: where its tensors fit they are written over.
        devices: Where the tensors belong, if not where they are.

    Cost:
        One pass over the tensors. No host read; on devices other than CUDA a copy waits for the device.
        Not run on a GPU.

    Example:
        >>> tree = {"w": torch.zeros(2)}
        >>> copy = TreeCopy(flatten(tree))
        >>> tree["w"].fill_(1.0), copy.whole()
        (tensor([1., 1.]), {'w': tensor([0., 0.])})
    """

    @torch.no_grad()
    def __init__(
        self, flat: Flat, *, memory: TreeCopy | None = None, devices: Sequence[torch.device] | None = None
    ) -> None:
        self.structure = flat.structure
        self.devices = [t.device for t in flat.tensors] if devices is None else list(devices)
        places = zip(flat.tensors, self.devices, strict=True)
        self._specs: list[_Spec] = [(t.dtype, device, t.shape) for t, device in places]
        self.tensors = _allocate(flat.tensors, self._specs, memory)
        self._events = _copy(flat.tensors, self.tensors)

    @property
    def num_bytes(self) -> int:
        """Memory that the tensors take."""
        return num_bytes(self.tensors)

    def wait(self) -> None:
        """Return once all copies are complete. Needed before anything reads them."""
        for event in self._events:
            event.synchronize()
        self._events = []

    def whole(self) -> Any:
        """The tree, with the tensors of this copy: not to be written to."""
        return unflatten(self.structure, self.tensors.__getitem__)


def num_bytes(tensors: Sequence[Tensor]) -> int:
    """Memory that a copy of these tensors takes."""
    return sum(t.numel() * t.element_size() for t in tensors)


class WriteBack:
    """Brings trees back to what a copy holds, in the memory they have now where that fits.

    Args:
        copy: What to go back to.
        moved: Devices that tensors belong to now, by the device they were on.

    Example:
        >>> live = {"w": torch.zeros(2), "step": 1}
        >>> copy = TreeCopy(flatten(live))
        >>> memory = live["w"]
        >>> live = {"w": memory.fill_(9.0), "step": 2, "later": None}
        >>> back = WriteBack(copy, {})
        >>> live = back.into(live, copy.structure)
        >>> back.run()
        >>> live, live["w"] is memory
        ({'w': tensor([0., 0.]), 'step': 1}, True)
    """

    def __init__(self, copy: TreeCopy, moved: dict[torch.device, torch.device]) -> None:
        copy.wait()
        self._copy = copy
        self._moved = moved
        self._done: dict[int, Tensor] = {}
        self._taken: set[int] = set()
        self._sources: list[Tensor] = []
        self._targets: list[Tensor] = []

    def into(self, live: Any, structure: Any) -> Any:
        """The tree of this structure, in the tensors of `live` where they fit. They are filled by `run`."""
        if type(structure) is Slot:
            return self._tensor(structure.index, live)
        if type(structure) is dict:
            old = live if isinstance(live, dict) else {}
            return {key: self.into(old.get(key), part) for key, part in structure.items()}
        if type(structure) in (list, tuple):
            same = isinstance(live, (list, tuple)) and len(live) == len(structure)
            parts = live if same else [None] * len(structure)
            return type(structure)(self.into(x, part) for x, part in zip(parts, structure, strict=True))
        return self.anew(structure)

    def anew(self, structure: Any) -> Any:
        """The tree of this structure in memory of its own."""
        return unflatten(structure, lambda index: self._tensor(index, None))

    def over(self, target: Tensor, slot: Slot) -> None:
        """Write over this tensor, wherever it lives, when `run` is called."""
        self._targets.append(target)
        self._sources.append(self._copy.tensors[slot.index])

    @torch.no_grad()
    def run(self) -> None:
        """Do all the writing."""
        if self._targets:  # a tree need not hold tensors, and torch refuses empty lists
            torch._foreach_copy_(self._targets, self._sources)

    def _tensor(self, index: int, live: Any) -> Tensor:
        if index in self._done:
            return self._done[index]
        saved, device = self._copy.tensors[index], self._copy.devices[index]
        device = self._moved.get(device, device)
        if (
            isinstance(live, Tensor)
            and id(live) not in self._taken
            and (live.dtype, live.device, live.shape) == (saved.dtype, device, saved.shape)
        ):
            self.over(live, Slot(index))
            self._taken.add(id(live))
            result = live
        else:
            result = saved.detach().to(device, copy=True)
        self._done[index] = result
        return result


def _rebuilt(node: Any, leaf: Callable[[Any], Any]) -> Any:
    """The same containers anew, with `leaf(x)` for all that is neither a container nor an atom."""
    kind = type(node)
    if kind in _ATOMS:
        return node
    if kind is dict:
        _check_keys(node)
        return {key: _rebuilt(value, leaf) for key, value in node.items()}
    if kind is list:
        return [_rebuilt(value, leaf) for value in node]
    if kind is tuple:
        return tuple([_rebuilt(value, leaf) for value in node])
    if kind in (OrderedDict, defaultdict, Counter):
        return _rebuilt_mapping(node, leaf)
    if isinstance(node, tuple) and hasattr(kind, "_make"):
        if find_class(kind.__module__, kind.__qualname__) is not kind:
            raise _ForeignError(node)  # a file could not name it
        return kind._make(_rebuilt(value, leaf) for value in node)
    return leaf(node)


def _rebuilt_mapping(node: Any, leaf: Callable[[Any], Any]) -> Any:
    _check_keys(node)
    items = [(key, _rebuilt(value, leaf)) for key, value in node.items()]
    if isinstance(node, defaultdict):
        if node.default_factory is not None and node.default_factory not in FACTORIES.values():
            raise _ForeignError(node)
        return defaultdict(node.default_factory, items)
    if isinstance(node, Counter):
        return Counter(dict(items))
    new = OrderedDict(items)
    if "_metadata" in vars(node):  # the versions that nn.Module.load_state_dict goes by
        vars(new)["_metadata"] = _rebuilt(vars(node)["_metadata"], leaf)
    return new


def find_class(module: str, name: str) -> Any:
    """A class of a module that is loaded, or None. Loads nothing: the name may come from a file."""
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


def _check_keys(node: dict[Any, Any]) -> None:
    if not _ATOMS.issuperset(map(type, node)) and not all(_is_key(key) for key in node):
        raise _ForeignError(next(key for key in node if not _is_key(key)))


def _is_key(key: Any) -> bool:
    return all(_is_key(part) for part in key) if type(key) is tuple else type(key) in _ATOMS


def _check_tensor(tensor: Tensor) -> None:
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta:
        raise _ForeignError(tensor)
    kind = type(tensor)
    if kind not in _PLAIN_TENSORS and (is_lazy(tensor) or hasattr(kind, "__tensor_flatten__")):
        raise _ForeignError(tensor)  # no memory yet, or memory in several parts


def _copied_array(thing: Any) -> Any:
    if isinstance(thing, np.generic) and thing.dtype.kind in _ARRAY_KINDS:
        return thing
    if type(thing) is np.ndarray and thing.dtype.kind in _ARRAY_KINDS:
        return thing.copy()
    raise _ForeignError(thing)


def _walk(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Everything in a tree with the path to it; a key of a dict counts as in it."""
    yield path, node
    if isinstance(node, dict):
        for key, value in node.items():
            yield f"a key of {path}", key
            yield from _walk(value, f"{path}[{key!r}]")
    elif isinstance(node, (list, tuple)):
        for index, value in enumerate(node):
            yield from _walk(value, f"{path}[{index}]")


def _described(thing: Any) -> str:
    kind = f"of type {type(thing).__module__}.{type(thing).__qualname__}".replace("builtins.", "")
    if isinstance(thing, Tensor):
        return f"{kind} on {thing.device} with layout {thing.layout}"
    if isinstance(thing, (np.ndarray, np.generic)):
        return f"{kind} and dtype {thing.dtype}"
    return kind


def _allocate(tensors: Sequence[Tensor], specs: Sequence[_Spec], memory: TreeCopy | None) -> list[Tensor]:
    """Host memory for a copy of each tensor, out of `memory` where one of it fits."""
    free: dict[_Spec, list[Tensor]] = {}
    if memory is not None:
        memory.wait()
        if memory._specs == specs:
            return memory.tensors
        for spec, tensor in zip(memory._specs, memory.tensors, strict=True):
            free.setdefault(spec, []).append(tensor)
    return [
        fitting.pop() if (fitting := free.get(spec)) else _host_memory(tensor, spec[1])
        for spec, tensor in zip(specs, tensors, strict=True)
    ]


def _host_memory(tensor: Tensor, device: torch.device) -> Tensor:
    plain = tensor.detach().as_subclass(Tensor)
    return torch.empty_like(plain, device="cpu", pin_memory=device.type == "cuda")


def _copy(sources: Sequence[Tensor], targets: Sequence[Tensor]) -> list[Any]:
    """Copy to the host, and an event for each device that is not waited for."""
    groups: dict[torch.device, tuple[list[Tensor], list[Tensor]]] = {}
    for source, target in zip(sources, targets, strict=True):
        group = groups.setdefault(source.device, ([], []))
        group[0].append(target)
        group[1].append(source)
    events = []
    for device, (into, out_of) in groups.items():
        is_cuda = device.type == "cuda"
        torch._foreach_copy_(into, out_of, non_blocking=is_cuda)
        if is_cuda:
            events.append(_record_event(device))
    return events


def _record_event(device: torch.device) -> Any:
    return torch.cuda.current_stream(device).record_event()
