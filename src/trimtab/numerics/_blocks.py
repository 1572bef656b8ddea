"""Large tensors in parts that fit the cache, so that a formula of many passes goes to memory once.

On a CPU a pass over memory costs more than most arithmetic, and a fresh tensor twice as much. Only eager code
works in parts: a compiler fuses the passes, and a GPU has its own scheduling. No part depends on another.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

_HALF = (torch.float16, torch.bfloat16)
# Elements for each thread: 256 KB of float32, several of which fit a second-level cache
_BLOCK = 1 << 16
# Below this many parts they save nothing
_FEWEST = 4


def widened(x: Tensor) -> Tensor:
    """Half precision as float32, anything else as it is."""
    return x.float() if x.dtype in _HALF else x


def is_untracked(*inputs: Tensor) -> bool:
    """No derivative, transform or compiler looks at what is computed from these.

    A subclass, or a batch of tensors in disguise, does.
    """
    if torch.compiler.is_compiling() or torch.is_grad_enabled():
        return False
    if torch.autograd.forward_ad._current_level >= 0:
        return False
    functorch = torch._C._functorch
    return all(
        type(x) is Tensor
        and not functorch.is_functorch_wrapped_tensor(x)
        and not functorch.is_legacy_batchedtensor(x)
        for x in inputs
    )


def is_large(*inputs: Tensor) -> bool:
    """Whether parts are worth while, and nobody would notice them."""
    return (
        not torch.compiler.is_compiling()
        and inputs[0].numel() >= _FEWEST * _block()
        and inputs[0].device.type == "cpu"
        and is_untracked(*inputs)
    )


def parts(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Tensors of one shape, cut alike into views, whose elements correspond."""
    flat = [view for x in tensors if (view := _flat(x)) is not None]
    cut: Sequence[Tensor] = flat if len(flat) == len(tensors) else tensors
    rows = max(_block() * cut[0].shape[0] // cut[0].numel(), 1)
    return _split(cut, rows)


def by_elements(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """`function(*inputs)` in the type of the first input, in parts where that saves time.

    Args:
        function: A function of elements of float32 or float64, to which half precision is widened.
        inputs: Tensors of one shape.

    Returns:
        A fresh tensor.
    """
    first = inputs[0]
    if not is_large(*inputs):
        return function(*map(widened, inputs)).to(first.dtype)
    result = torch.empty_like(first)
    for out, *part in parts(result, *inputs):
        out.copy_(function(*map(widened, part)))
    return result


def blockwise(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A function of elements that takes many passes, in parts that take them in the cache.

    Args:
        function: Takes tensors of one shape and type, and `out`: None, or where its result must be. It works
            there from its first pass on, so that no copy follows the last.

    Returns:
        The function of the tensors alone.
    """

    @functools.wraps(function)
    def by_parts(*inputs: Tensor) -> Tensor:
        if not is_large(*inputs):
            return function(*inputs, out=None)
        result = torch.empty_like(inputs[0])
        for out, *part in parts(result, *inputs):
            function(*part, out=out)
        return result

    return by_parts


def by_rows(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of rows, in parts of some rows each where that saves time.

    Args:
        function: Takes tensors and then numbers, the first of which is the dim of a row of the first tensor,
            from its end. All tensors, and the results, share the dims before that one, along which rows are
            independent.

    Returns:
        The same function; what it returns is fresh.
    """

    @functools.wraps(function)
    def by_parts(*args: Any) -> Any:
        inputs = [arg for arg in args if isinstance(arg, Tensor)]
        numbers = args[len(inputs) :]
        num_leading = inputs[0].dim() + numbers[0]
        if num_leading < 1 or not is_large(*inputs):
            return function(*args)
        leading = inputs[0].shape[:num_leading]
        if num_leading > 1 and all(x.is_contiguous() for x in inputs):
            inputs = [x.flatten(0, num_leading - 1) for x in inputs]
        num_rows = inputs[0].shape[0]
        size = max(_block() * num_rows // inputs[0].numel(), 1)
        results: list[Tensor] = []
        for start, part in zip(range(0, num_rows, size), _split(inputs, size), strict=True):
            done = function(*part, *numbers)
            values = (done,) if isinstance(done, Tensor) else done
            if not results:
                results = [v.new_empty((num_rows, *v.shape[1:])) for v in values]
            for whole, value in zip(results, values, strict=True):
                whole[start : start + size].copy_(value)
        if num_rows != leading[0]:
            results = [x.view(*leading, *x.shape[1:]) for x in results]
        return results[0] if isinstance(done, Tensor) else tuple(results)

    return by_parts


def _split(tensors: Sequence[Tensor], size: int) -> Iterator[tuple[Tensor, ...]]:
    return zip(*(torch.split(x, size) for x in tensors), strict=True)


def _block() -> int:
    return _BLOCK * torch.get_num_threads()


def _flat(x: Tensor) -> Tensor | None:
    """All elements along one dim, without a copy; None if there is no such view."""
    if x.is_contiguous():
        return x.view(-1)
    if not any(x.stride()):  # the gradient of a sum
        return x[(0,) * x.dim()].expand(x.numel())
    return None
