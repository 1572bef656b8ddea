"""Large tensors in parts that fit the cache, so that a formula of many passes goes to memory once.

Only eager code on a CPU works in parts: a compiler fuses the passes, and a GPU has its own scheduling. The
results are the same to the last bit, as no part depends on another.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

# Elements for each thread: 128 KB of float32, several of which fit a second-level cache; torch gives
# a thread no less than this
_BLOCK = 1 << 15


def is_plain(x: Tensor) -> bool:
    """Not a subclass, nor a batch or a dual number in disguise."""
    functorch = torch._C._functorch
    is_wrapped = functorch.is_functorch_wrapped_tensor(x) or functorch.is_legacy_batchedtensor(x)
    return type(x) is Tensor and not is_wrapped


def is_untracked(*inputs: Tensor) -> bool:
    """No derivative, transform or compiler looks at what is computed from these."""
    return (
        not torch.compiler.is_compiling()
        and not torch.is_grad_enabled()
        and torch.autograd.forward_ad._current_level < 0
        and all(map(is_plain, inputs))
    )


def elementwise_in_blocks(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """`function(*inputs)`, for a function of elements whose result has the type of the first input.

    All inputs have one shape.
    """
    first = inputs[0]
    if not _is_worth_it(inputs):
        return function(*inputs)
    result = torch.empty_like(first)
    flat = (result, *inputs)
    if all(x.is_contiguous() for x in flat):
        flat = tuple(x.view(-1) for x in flat)
    for out, *parts in _parts(flat):
        out.copy_(function(*parts))
    return result


def rows_in_blocks(forward: Callable[..., Any]) -> Callable[..., Any]:
    """A forward function of tensors, whose leading dims are independent rows, and a dim from the end."""

    @functools.wraps(forward)
    def by_blocks(*args: Any) -> Any:
        inputs = [arg for arg in args if isinstance(arg, Tensor)]
        numbers = args[len(inputs) :]
        if -numbers[0] >= inputs[0].dim() or not _is_worth_it(inputs):
            return forward(*args)
        results: list[Tensor] = []
        for start, parts in _starts(_parts(inputs)):
            done = forward(*parts, *numbers)
            values = done if isinstance(done, tuple) else (done,)
            if not results:
                results = [v.new_empty((inputs[0].shape[0], *v.shape[1:])) for v in values]
            for whole, value in zip(results, values, strict=True):
                whole[start : start + value.shape[0]].copy_(value)
        return tuple(results) if isinstance(done, tuple) else results[0]

    return by_blocks


def _is_worth_it(inputs: Any) -> bool:
    first = inputs[0]
    return (
        not torch.compiler.is_compiling()
        and first.device.type == "cpu"
        and first.numel() >= 8 * _BLOCK * torch.get_num_threads()
        and is_untracked(*inputs)
    )


def _parts(inputs: Any) -> Iterator[tuple[Tensor, ...]]:
    """All inputs cut alike along their first dim."""
    first = inputs[0]
    per_row = max(first.numel() // first.shape[0], 1)
    rows = max(_BLOCK * torch.get_num_threads() // per_row, 1)
    return zip(*(x.split(rows) for x in inputs), strict=True)


def _starts(parts: Iterator[tuple[Tensor, ...]]) -> Iterator[tuple[int, tuple[Tensor, ...]]]:
    start = 0
    for part in parts:
        yield start, part
        start += part[0].shape[0]
