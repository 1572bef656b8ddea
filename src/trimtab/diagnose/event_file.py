"""The scalars of a TensorBoard event file, read without TensorBoard.

The file is a sequence of records (length, checksum, data, checksum), each a protocol buffer `Event`. Only
three fields are looked at: the step, and of each value its tag and its number.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

_MAX_RECORD_BYTES = 1 << 28
# Wire types of protocol buffers
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
# Field numbers: Event.step and .summary, Summary.value, Value.tag, .simple_value and .tensor,
# TensorProto.tensor_content, .float_val and .double_val
_STEP, _SUMMARY, _VALUE, _TAG, _SIMPLE, _TENSOR = 2, 5, 1, 1, 2, 8
_CONTENT, _FLOATS, _DOUBLES, _DTYPE = 4, 5, 6, 1
_DOUBLE = 2


def scalars(file: Path) -> Iterator[tuple[int, str, float]]:
    """Step, tag and number of each scalar; what is cut off at the end, as by a crash, is left out.

    Args:
        file: The event file.

    Raises:
        ValueError: The file is no event file.
    """
    for number, data in enumerate(_records(file)):
        try:
            yield from _of_event(data)
        except (IndexError, struct.error) as error:
            raise ValueError(f"record {number} is no event") from error


def _records(file: Path) -> Iterator[bytes]:
    with file.open("rb") as stream:
        while len(head := stream.read(12)) == 12:
            (length,) = struct.unpack("<Q", head[:8])
            if length > _MAX_RECORD_BYTES:
                raise ValueError("it is no event file, or damaged")
            data = stream.read(length)
            if len(data) < length or len(stream.read(4)) < 4:
                return
            yield data


def _of_event(data: bytes) -> Iterator[tuple[int, str, float]]:
    step, summaries = 0, []
    for field, value in _fields(data):
        if field == _STEP and isinstance(value, int):
            step = value
        elif field == _SUMMARY and isinstance(value, bytes):
            summaries.append(value)
    for summary in summaries:
        for field, value in _fields(summary):
            if field == _VALUE and isinstance(value, bytes):
                found = _of_value(value)
                if found is not None:
                    yield step, *found


def _of_value(data: bytes) -> tuple[str, float] | None:
    tag, number = "", None
    for field, value in _fields(data):
        if field == _TAG and isinstance(value, bytes):
            tag = value.decode("utf-8", "replace")
        elif field == _SIMPLE and isinstance(value, float):
            number = value
        elif field == _TENSOR and isinstance(value, bytes):
            number = _of_tensor(value)
    return None if number is None or not tag else (tag, number)


def _of_tensor(data: bytes) -> float | None:
    """The number of a tensor that holds one, as newer writers store scalars."""
    dtype, found = 1, None
    for field, value in _fields(data):
        if field == _DTYPE and isinstance(value, int):
            dtype = value
        elif field in (_CONTENT, _FLOATS, _DOUBLES) and isinstance(value, bytes):
            form = "<d" if field == _DOUBLES or (field == _CONTENT and dtype == _DOUBLE) else "<f"
            if len(value) == struct.calcsize(form):
                (found,) = struct.unpack(form, value)
        elif field in (_FLOATS, _DOUBLES) and isinstance(value, float):
            found = value
    return found


def _fields(data: bytes) -> Iterator[tuple[int, int | float | bytes]]:
    """Number and value of each field of a protocol buffer."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        field, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, position = _varint(data, position)
            yield field, value
        elif kind == _BYTES:
            length, position = _varint(data, position)
            yield field, data[position : position + length]
            position += length
        elif kind in (_FIXED64, _FIXED32):
            form = "<d" if kind == _FIXED64 else "<f"
            yield field, struct.unpack_from(form, data, position)[0]
            position += struct.calcsize(form)
        else:
            raise ValueError("it is no event file, or damaged")


def _varint(data: bytes, position: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = data[position]
        number |= (byte & 127) << shift
        position, shift = position + 1, shift + 7
        if not byte & 128:
            return number, position
