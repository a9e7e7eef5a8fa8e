"""The bytes of a :class:`~primia.mpc.messages.Message`, on a wire and in a file.

All numbers are little-endian. A message is

- a header of 32 bytes: magic, version, kind, number of arrays, batch, stage;
- for each array an entry of 48 bytes: dtype code (its item size), number of dimensions, five dimensions;
- the raw bytes of each array, padded with zeros to a multiple of 16.

So every array starts at a multiple of 16 from the start of the message, and messages after each other in a file keep that.
Nothing is unpickled, and nothing of the announced size is allocated before all that is announced has been checked.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from primia.errors import ProtocolError
from primia.mpc.messages import Array, Kind, Message

ALIGNMENT_BYTES = 16
MAX_DIMENSIONS = 5
MAX_ARRAYS = 2**16 - 1

_MAGIC = b"PMSG"
_VERSION = 1
_HEADER = struct.Struct("<4sBBHQI12x")
_ENTRY = struct.Struct("<BB6x5Q")
_DTYPES = {dtype.itemsize: dtype for dtype in (np.dtype("<u1"), np.dtype("<u4"), np.dtype("<u8"))}
_SAME_VERSION = "both sides must run the same version"

Take = Callable[[int], bytes | bytearray | memoryview]
Fill = Callable[[memoryview], int]


@dataclass(frozen=True)
class _Layout:
    """Where an array of a message lies: ``nbytes`` at its start, ``padding`` zeros behind."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return self.dtype.itemsize * math.prod(self.shape)

    @property
    def padding(self) -> int:
        return -self.nbytes % ALIGNMENT_BYTES


@dataclass(frozen=True)
class _Head:
    """A checked header with its entries."""

    kind: Kind
    batch: int
    stage: int
    layouts: tuple[_Layout, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the whole message."""
        return _head_bytes(len(self.layouts)) + sum(layout.nbytes + layout.padding for layout in self.layouts)

    def message(self, arrays: tuple[Array, ...]) -> Message:
        return Message(self.kind, self.batch, self.stage, arrays)


def encode(message: Message) -> list[memoryview | bytes]:
    """The message's bytes in parts, to be written one after the other; arrays are not copied, so leave them unchanged until then.

    Raises:
        ValueError: an array is not C-contiguous, is of another dtype than uint8, uint32 and uint64, has more than five dimensions,
            or there are more than 65,535 arrays.
    """
    if len(message.arrays) > MAX_ARRAYS:
        raise ValueError(f"{message.kind.name}: {len(message.arrays)} arrays are too many for one message")
    header = _HEADER.pack(_MAGIC, _VERSION, message.kind, len(message.arrays), message.batch, message.stage)
    parts: list[memoryview | bytes] = [b"".join((header, *map(_entry, message.arrays)))]
    for array in message.arrays:
        parts += [part for part in (_bytes_of(array), bytes(-array.nbytes % ALIGNMENT_BYTES)) if len(part)]
    return parts


def decode(read: Take, limit_bytes: int, source: str = "message") -> Message:
    """The next message of a stream.

    ``read(n)`` gives the next n bytes; fewer mean that the stream has ended. ``limit_bytes`` bounds the whole message.
    ``source`` stands at the beginning of an error's line.

    Raises:
        ProtocolError: what is read is no message of this version, is over the limit or is truncated.
    """

    def fill(target: memoryview) -> int:
        data = read(len(target))
        target[: len(data)] = data
        return len(data)

    return decode_into(fill, limit_bytes, source)


def decode_into(fill: Fill, limit_bytes: int, source: str = "message") -> Message:
    """As :func:`decode`, without a second copy of the arrays.

    ``fill(target)`` writes the next ``len(target)`` bytes into ``target`` and gives how many it wrote; fewer mean that the stream
    has ended.
    """

    def take(nbytes: int) -> bytearray:
        data = bytearray(nbytes)
        del data[fill(memoryview(data)) :]
        return data

    head = _parse(take, limit_bytes, source)
    return head.message(tuple(_received(fill, layout, source) for layout in head.layouts))


def write_message(file: BinaryIO, message: Message) -> None:
    """Append the message to ``file``, which must be open for writing bytes and hold nothing but messages."""
    for part in encode(message):
        rest = memoryview(part)
        while len(rest):
            rest = rest[file.write(rest) :]


def read_messages(path: Path) -> Iterator[Message]:
    """The messages of a file, in order; their arrays are aligned read-only views of the mapped file.

    The file stays mapped as long as they live; meanwhile it may be deleted but must not be written or cut.

    Raises:
        ProtocolError: the file cannot be read, is truncated, or holds something else.
    """
    data = _mapped(path)
    start = number = 0
    while start < len(data):
        head = _parse(_Cursor(data, start).take, None, source := f"{path}, message {number}")
        if start + head.nbytes > len(data):
            raise _truncated(source, len(data) - start, head.nbytes)
        yield head.message(_views(data, start, head.layouts))
        start, number = start + head.nbytes, number + 1


@dataclass
class _Cursor:
    data: mmap.mmap | bytes
    position: int

    def take(self, nbytes: int) -> bytes:
        taken = self.data[self.position : self.position + nbytes]
        self.position += len(taken)
        return taken


def _mapped(path: Path) -> mmap.mmap | bytes:
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if path.stat().st_size else b""
    except OSError as error:
        raise ProtocolError(f"cannot read {path}: {error.strerror or error}; check the path, or make the file again") from error


def _views(data: mmap.mmap | bytes, start: int, layouts: tuple[_Layout, ...]) -> tuple[Array, ...]:
    arrays, offset = [], start + _head_bytes(len(layouts))
    for layout in layouts:
        arrays.append(np.ndarray(layout.shape, layout.dtype, buffer=data, offset=offset))
        offset += layout.nbytes + layout.padding
    return tuple(arrays)


def _received(fill: Fill, layout: _Layout, source: str) -> Array:
    array = np.empty(layout.shape, layout.dtype)
    for target in (_bytes_of(array), memoryview(bytearray(layout.padding))):
        if len(target) and (got := fill(target)) < len(target):
            raise _truncated(source, got, len(target))
    return array


def _bytes_of(array: Array) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


def _entry(array: Array) -> bytes:
    if array.dtype not in _DTYPES.values() or not array.flags.c_contiguous or array.ndim > MAX_DIMENSIONS:
        raise ValueError(
            f"a message cannot carry an array of dtype {array.dtype}, shape {array.shape}, strides {array.strides}: "
            f"it must be C-contiguous, uint8, uint32 or uint64, of at most {MAX_DIMENSIONS} dimensions"
        )
    return _ENTRY.pack(array.dtype.itemsize, array.ndim, *array.shape, *[0] * (MAX_DIMENSIONS - array.ndim))


def _parse(take: Take, limit_bytes: int | None, source: str) -> _Head:
    """Header and entries, checked; at most the limit is taken."""
    kind, batch, stage, count = _header(_whole(take, _HEADER.size, source), source)
    _within(limit_bytes, _head_bytes(count), source)
    table = _whole(take, count * _ENTRY.size, source)
    head = _Head(kind, batch, stage, tuple(_layout(entry, source) for entry in _ENTRY.iter_unpack(table)))
    _within(limit_bytes, head.nbytes, source)
    return head


def _header(data: bytes | bytearray | memoryview, source: str) -> tuple[Kind, int, int, int]:
    magic, version, kind, count, batch, stage = _HEADER.unpack(data)
    if magic != _MAGIC:
        raise ProtocolError(f"{source}: starts with {magic!r}, which is no message; {_SAME_VERSION}")
    if version != _VERSION:
        raise ProtocolError(f"{source}: is of message format {version}, where {_VERSION} is due; {_SAME_VERSION}")
    if kind not in Kind.__members__.values():
        raise ProtocolError(f"{source}: is of the unknown kind {kind}; {_SAME_VERSION}")
    return Kind(kind), batch, stage, count


def _layout(entry: tuple[int, ...], source: str) -> _Layout:
    code, ndim, *dimensions = entry
    if code not in _DTYPES:
        raise ProtocolError(f"{source}: has an array of the unknown dtype code {code}; {_SAME_VERSION}")
    if ndim > MAX_DIMENSIONS:
        raise ProtocolError(f"{source}: has an array of {ndim} dimensions, where at most {MAX_DIMENSIONS} may be; {_SAME_VERSION}")
    shape = tuple(dimensions[:ndim])
    # Numpy refuses such a shape even where another dimension is 0 and nothing would be allocated.
    if code * math.prod(max(dimension, 1) for dimension in shape) >= 2**63:
        raise ProtocolError(f"{source}: has an array of the impossible shape {list(shape)}; {_SAME_VERSION}")
    return _Layout(_DTYPES[code], shape)


def _head_bytes(arrays: int) -> int:
    return _HEADER.size + arrays * _ENTRY.size


def _whole(take: Take, nbytes: int, source: str) -> bytes | bytearray | memoryview:
    data = take(nbytes) if nbytes else b""
    if len(data) < nbytes:
        raise _truncated(source, len(data), nbytes)
    return data


def _within(limit_bytes: int | None, nbytes: int, source: str) -> None:
    if limit_bytes is not None and nbytes > limit_bytes:
        raise ProtocolError(
            f"{source}: {nbytes:,} bytes are over the limit of {limit_bytes:,}; both sides must run the same plan, or raise the limit"
        )


def _truncated(source: str, got: int, due: int) -> ProtocolError:
    return ProtocolError(f"{source}: truncated, {got:,} bytes are there where {due:,} are due; it must be made or sent again, whole")
