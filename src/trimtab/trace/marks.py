"""Which elements of a tensor are not finite, kept small, and where each lies in memory."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

NAN, POSITIVE, NEGATIVE = 1, 2, 4
INFINITE = POSITIVE | NEGATIVE

FLOATING = frozenset(
    dtype
    for dtype in vars(torch).values()
    if isinstance(dtype, torch.dtype) and (dtype.is_floating_point or dtype.is_complex)
)
_NO_SUM = frozenset(dtype for dtype in FLOATING if dtype.itemsize == 1)
_NARROW = frozenset({torch.float16, torch.bfloat16})
# Below this share of the elements, or this many, their positions are kept instead of a bit for each
_SPARSE_SHARE = 64
_FEW = 64


def dense_values(tensor: Tensor) -> Tensor | None:
    """The values of a tensor as a plain one, real and wide enough to be added up; None without any."""
    if tensor.dtype is torch.float32 and tensor.layout is torch.strided and not tensor.is_nested:
        return None if tensor.is_meta else tensor
    if tensor.dtype not in FLOATING or tensor.is_meta:
        return None
    if tensor.layout is not torch.strided:
        if tensor.is_mkldnn:
            return tensor.to_dense()
        tensor = tensor._values() if tensor.layout is torch.sparse_coo else tensor.values()
    elif tensor.is_nested:
        tensor = tensor.values()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    return tensor.to(torch.float32) if tensor.dtype in _NO_SUM else tensor


def is_finite(tensor: Tensor) -> bool:
    """Whether all values are finite: one sum, looked at again only when that sum overflows."""
    values = dense_values(tensor)
    return values is None or _has_finite_sum(values) or bool(values.isfinite().all())


def _has_finite_sum(values: Tensor) -> bool:
    total = (values.sum(dtype=torch.float32) if values.dtype in _NARROW else values.sum()).item()
    return total - total == 0.0


def codes_of(tensor: Tensor) -> Tensor:
    """For each element 0, `NAN`, `POSITIVE` or `NEGATIVE`, as uint8 in the tensor's shape."""
    values = tensor.detach()
    if values.is_complex():
        parts = torch.view_as_real(values.resolve_conj())
        codes = codes_of(parts)
        return torch.where(((codes & NAN) != 0).any(-1), NAN, codes.amax(-1)).to(torch.uint8)
    if values.dtype in _NO_SUM:
        values = values.to(torch.float32)
    codes = values.isnan().to(torch.uint8)
    codes += (values == math.inf).to(torch.uint8) * POSITIVE
    codes += (values == -math.inf).to(torch.uint8) * NEGATIVE
    return codes


def address_of(tensor: Tensor) -> int:
    """What tells the memory of a tensor from that of others."""
    if tensor.layout is not torch.strided or tensor.is_nested:
        return id(tensor)
    return int(tensor.untyped_storage()._cdata)


class Marks:
    """The non-finite elements of one tensor, by their position in row-major order.

    Args:
        codes: What `codes_of` gives.

    Cost:
        Memory of a bit for each element at most, a byte when NaN and infinities of both signs are mixed,
        nothing when all elements are alike.
    """

    __slots__ = ("_codes", "_positions", "_uniform", "kinds")

    def __init__(self, codes: Tensor) -> None:
        flat = codes.reshape(-1).cpu().numpy()
        self.kinds = sum(kind for kind in (NAN, POSITIVE, NEGATIVE) if bool((flat == kind).any()))
        self._uniform = self.kinds if self.kinds in (NAN, POSITIVE, NEGATIVE) else 0
        self._positions: NDArray[np.int64] | None = None
        self._codes: NDArray[np.uint8] | None = None
        number = np.count_nonzero(flat)
        if number == flat.size and self._uniform:
            return
        if number <= max(_FEW, flat.size // _SPARSE_SHARE):
            self._positions = np.flatnonzero(flat)
            self._codes = flat[self._positions]
        else:
            self._codes = np.packbits(flat != 0) if self._uniform else flat.copy()

    @classmethod
    def of(cls, tensor: Tensor) -> Marks | None:
        """The marks of a tensor; None if it is finite. A sparse one is looked at as the row of its values.

        Cost:
            One sum for a tensor that is finite.
        """
        values = dense_values(tensor)
        if values is None or values.numel() == 0 or _has_finite_sum(values):
            return None
        is_nan = values.isnan()
        if bool(is_nan.all()):
            return _ALL_NAN
        if not bool(is_nan.any()) and not bool(values.isinf().any()):
            return None  # only the sum was too large
        return cls(codes_of(tensor if tensor.layout is torch.strided and not tensor.is_nested else values))

    @property
    def is_uniform(self) -> bool:
        """Whether all elements are of the one kind."""
        return self._codes is None

    def array(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """The code of each element."""
        size = math.prod(shape)
        if self._codes is None:
            return np.full(shape, self._uniform, np.uint8)
        if self._positions is not None:
            codes = np.zeros(size, np.uint8)
            codes[self._positions] = self._codes
            return codes.reshape(shape)
        if self._uniform:
            return (np.unpackbits(self._codes, count=size) * np.uint8(self._uniform)).reshape(shape)
        return self._codes.reshape(shape)

    def at(self, position: int) -> int:
        """The code of one element."""
        if self._codes is None:
            return self._uniform
        if self._positions is not None:
            place = int(np.searchsorted(self._positions, position))
            is_there = place < self._positions.size and self._positions[place] == position
            return int(self._codes[place]) if is_there else 0
        if self._uniform:
            return self._uniform if self._codes[position >> 3] & (128 >> (position & 7)) else 0
        return int(self._codes[position])

    def first(self, kinds: int) -> int | None:
        """Position of the first element of these kinds."""
        if not self.kinds & kinds:
            return None
        if self._codes is None:
            return 0
        if self._positions is not None:
            return int(self._positions[np.argmax((self._codes & kinds) != 0)])
        if self._uniform:
            return int(np.argmax(np.unpackbits(self._codes)))
        return int(np.argmax((self._codes & kinds) != 0))


_ALL_NAN = Marks(torch.tensor([NAN], dtype=torch.uint8))


class Region(NamedTuple):
    """The elements of a storage that a tensor consists of, in bytes: other types may look at the same."""

    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    itemsize: int

    @classmethod
    def of(cls, tensor: Tensor) -> Region:
        """The region of a strided tensor."""
        size = tensor.itemsize
        offset = int(tensor.storage_offset()) * size
        return cls(offset, tuple(tensor.shape), tuple(int(s) * size for s in tensor.stride()), size)

    def offset_of(self, position: int) -> int:
        """Place in the storage of the element at a position in row-major order."""
        offset = self.offset
        for size, stride in zip(reversed(self.shape), reversed(self.stride), strict=True):
            position, index = divmod(position, size)
            offset += index * stride
        return offset

    def position_of(self, offset: int) -> int | None:
        """Position of the element at a place in the storage; None if it is not in the region."""
        rest = offset - self.offset
        index = [0] * len(self.shape)
        for dim in sorted(range(len(self.shape)), key=lambda d: -self.stride[d]):
            if self.stride[dim] > 0 and rest >= 0:
                index[dim] = min(rest // self.stride[dim], self.shape[dim] - 1)
                rest -= index[dim] * self.stride[dim]
        if not 0 <= rest < self.itemsize:
            return None
        position = 0
        for size, i in zip(self.shape, index, strict=True):
            position = position * size + i
        return position

    def index_of(self, position: int) -> tuple[int, ...]:
        """Index of the element at a position in row-major order."""
        return unravel(position, self.shape)


def unravel(position: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Index of the element at a position in row-major order."""
    index = []
    for size in reversed(shape):
        position, i = divmod(position, max(size, 1))
        index.append(i)
    return tuple(reversed(index))


def broadcast_position(position: int, shape: tuple[int, ...], operand: tuple[int, ...]) -> int:
    """Position in an operand of the element that was broadcast to this position of the result."""
    index = unravel(position, shape)[len(shape) - len(operand) :] if operand else ()
    result = 0
    for size, i in zip(operand, index, strict=True):
        result = result * size + (i if size > 1 else 0)
    return result
