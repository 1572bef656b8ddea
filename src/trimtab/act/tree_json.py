"""A tree as JSON plus named tensors, and back, exactly: for a file."""

from __future__ import annotations

import math
import struct
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from trimtab.act.tree import FACTORIES, Slot, find_class, flatten

_LARGEST_IN_DIGITS = 64  # bits; Python refuses to read integers of more than 4,300 digits


class Split(NamedTuple):
    """A tree in two parts.

    Attributes:
        structure: What `json.dumps` takes. None, booleans, strings, lists, finite floats and small integers
            are themselves; all else is an object with one key, which says what it is.
        tensors: Each tensor once, by the path to where it comes first.
    """

    structure: Any
    tensors: dict[str, Tensor]


def split(tree: Any, name: str = "state") -> Split:
    """Take a tree apart for a file.

    Args:
        tree: The tree.
        name: What all paths begin with.

    Raises:
        TypeError: Something in it is no part of a tree.

    Example:
        >>> structure, tensors = split({"lr": 0.1, "w": torch.ones(2), "shape": (1, 2)})
        >>> structure
        {'dict': [['lr', 0.1], ['w', {'tensor': 'state.w'}], ['shape', {'tuple': [1, 2]}]]}
        >>> tensors
        {'state.w': tensor([1., 1.])}
    """
    flat = flatten(tree, name)
    names: dict[int, str] = {}
    structure = _Encoder(names).encode(flat.structure, name)
    return Split(structure, {key: flat.tensors[index] for index, key in names.items()})


def join(structure: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Put together what `split` took apart.

    Raises:
        ValueError: It names something that is not known here, as a NamedTuple of a module that is not
            imported.
    """
    return _Decoder(tensors).decode(structure)


class _Encoder:
    def __init__(self, names: dict[int, str]) -> None:
        self._names = names
        self._used: set[str] = set()

    def encode(self, node: Any, path: str) -> Any:
        match node:
            case None | bool() | str() if type(node) is not np.str_:
                return node
            case Slot(index=index):
                return {"tensor": self._name(index, path)}
            case list():
                return self._items(node, path)
            case dict():
                return self._mapping(node, path)
            case torch.Size():
                return {"size": list(node)}
            case tuple() if hasattr(node, "_fields"):
                name = [type(node).__module__, type(node).__qualname__]
                return {"namedtuple": [*name, list(node._fields), self._items(node, path)]}
            case tuple():
                return {"tuple": self._items(node, path)}
            case np.ndarray() | np.generic():
                return _encoded_array(node)
        return _encoded_atom(node)

    def _items(self, nodes: Any, path: str) -> list[Any]:
        return [self.encode(node, f"{path}.{index}") for index, node in enumerate(nodes)]

    def _mapping(self, node: dict[Any, Any], path: str) -> Any:
        pairs = [[self.encode(k, path), self.encode(v, f"{path}.{k}")] for k, v in node.items()]
        if isinstance(node, OrderedDict):
            extra = [self.encode(part, path) for part in vars(node).values()]
            return {"OrderedDict": [pairs, *extra]}
        if isinstance(node, defaultdict):
            names = [name for name, kind in FACTORIES.items() if kind is node.default_factory]
            return {"defaultdict": [*names, pairs]}
        return {"Counter" if isinstance(node, Counter) else "dict": pairs}

    def _name(self, index: int, path: str) -> str:
        """The path, made unique: keys 1 and '1' have the same one."""
        if index not in self._names:
            path = path.encode("ascii", "backslashreplace").decode()
            name, num = path, 1
            while name in self._used:
                name, num = f"{path}#{num}", num + 1
            self._used.add(name)
            self._names[index] = name
        return self._names[index]


def _encoded_atom(node: Any) -> Any:
    match node:
        case int():
            return node if node.bit_length() <= _LARGEST_IN_DIGITS else {"int": hex(node)}
        case float():
            # JSON has no NaN and no infinity, and a NaN may carry bits of its own
            return node if math.isfinite(node) else {"float": struct.pack(">d", node).hex()}
        case complex():
            return {"complex": [_encoded_atom(node.real), _encoded_atom(node.imag)]}
        case bytes():
            return {"bytes": node.hex()}
        case torch.dtype():
            return {"dtype": str(node).removeprefix("torch.")}
        case torch.device():
            return {"device": str(node)}
    raise AssertionError(type(node))


def _encoded_array(array: Any) -> Any:
    kind = "array" if isinstance(array, np.ndarray) else "scalar"
    array = np.asarray(array)
    return {kind: [array.dtype.str, list(array.shape), array.tobytes().hex()]}


class _Decoder:
    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        decode = self.decode
        self._kinds: dict[str, Callable[[Any], Any]] = {
            "tensor": lambda key: tensors[key],
            "dict": lambda pairs: dict(self._pairs(pairs)),
            "OrderedDict": self._ordered,
            "defaultdict": self._defaulting,
            "Counter": lambda pairs: Counter(dict(self._pairs(pairs))),
            "tuple": lambda items: tuple(decode(item) for item in items),
            "namedtuple": self._named,
            "size": torch.Size,
            "array": _decoded_array,
            "scalar": lambda x: _decoded_array(x)[()],
            "int": lambda text: int(text, 16),
            "float": lambda text: struct.unpack(">d", bytes.fromhex(text))[0],
            "complex": lambda parts: complex(*(decode(part) for part in parts)),
            "bytes": bytes.fromhex,
            "dtype": decoded_dtype,
            "device": torch.device,
        }

    def decode(self, node: Any) -> Any:
        if isinstance(node, list):
            return [self.decode(item) for item in node]
        if not isinstance(node, dict):
            return node
        ((kind, content),) = node.items()
        if kind not in self._kinds:
            raise ValueError(f"{kind!r} is no kind of entry that this release knows")
        return self._kinds[kind](content)

    def _pairs(self, pairs: list[list[Any]]) -> list[tuple[Any, Any]]:
        return [(self.decode(key), self.decode(value)) for key, value in pairs]

    def _ordered(self, content: list[Any]) -> OrderedDict[Any, Any]:
        new = OrderedDict(self._pairs(content[0]))
        for metadata in content[1:]:
            vars(new)["_metadata"] = self.decode(metadata)
        return new

    def _defaulting(self, content: list[Any]) -> defaultdict[Any, Any]:
        *names, pairs = content
        return defaultdict(FACTORIES[names[0]] if names else None, self._pairs(pairs))

    def _named(self, content: list[Any]) -> Any:
        module, name, fields, items = content
        kind = find_class(module, name)
        # the name comes from a file: nothing is imported for it, and nothing else than a NamedTuple is made
        if (
            not (isinstance(kind, type) and issubclass(kind, tuple))
            or list(getattr(kind, "_fields", ())) != fields
        ):
            raise ValueError(
                f"the NamedTuple {module}.{name}({', '.join(fields)}) is not there. Import its module first."
            )
        return kind._make(self.decode(item) for item in items)  # type: ignore[attr-defined]


def _decoded_array(content: list[Any]) -> Any:
    dtype, shape, data = content
    if np.dtype(dtype).hasobject:
        raise ValueError(f"an array of dtype {dtype} holds objects")
    return np.ndarray(shape, dtype, buffer=bytearray.fromhex(data))


def decoded_dtype(name: str) -> torch.dtype:
    """The dtype of this name.

    Raises:
        ValueError: This release of torch has none.
    """
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"torch.{name} is no dtype of torch {torch.__version__}")
    return dtype
