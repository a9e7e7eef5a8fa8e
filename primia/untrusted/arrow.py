"""Arrow files from strangers: mapped into memory only where nothing in them has to be unpacked into new memory.

A compressed batch says itself how much memory it takes when it is unpacked. Arrow has no limit for that, so its few bytes of
flatbuffers (Format/File.fbs and Message.fbs) are read here first: one batch, no compression, no dictionaries.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

from primia.untrusted.files import Unusable, check_regular

_MAGIC = b"ARROW1"
_RECORD_BATCH = 3
_FOOTER_LIMIT = 2**20


def check_mappable(path: Path) -> None:
    """Check an Arrow file, through links, before it is mapped.

    Raises:
        OSError: it is missing or not readable.
        Unusable: no regular file, no Arrow file, or not one plain record batch.
    """
    check_regular(path, follow=True)
    with path.open("rb") as file:
        if path.stat().st_size < 32:
            raise Unusable("cut short, or no Arrow file")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                _check(data)
            except (struct.error, IndexError):
                raise Unusable("its structure is damaged") from None


def _check(data: mmap.mmap) -> None:
    if data[:6] != _MAGIC or data[-6:] != _MAGIC:
        raise Unusable("cut short, or no Arrow file")
    size = _i32(data, len(data) - 10)
    start = len(data) - 10 - size
    if not 8 <= size <= _FOOTER_LIMIT or start < 8:
        raise Unusable("its footer is damaged")
    footer = start + _u32(data, start)
    if _length(data, _field(data, footer, 2)):
        raise Unusable("it has dictionaries")
    batches = _field(data, footer, 3)
    if (count := _length(data, batches)) != 1:
        raise Unusable(f"it has {count} record batches where a shard has one")
    offset, size = struct.unpack_from("<qi", data, batches + _u32(data, batches) + 4)
    _check_batch(data, offset, size)


def _check_batch(data: mmap.mmap, offset: int, size: int) -> None:
    if not 8 <= offset <= len(data) - 8 or not 0 < size <= _FOOTER_LIMIT:
        raise Unusable("its record batch lies outside the file")
    if _u32(data, offset) == 0xFFFFFFFF:
        offset += 4
    offset += 4
    message = offset + _u32(data, offset)
    kind, header = _field(data, message, 1), _field(data, message, 2)
    if not kind or not header or data[kind] != _RECORD_BATCH:
        raise Unusable("its record batch is none")
    batch = header + _u32(data, header)
    if _field(data, batch, 3):
        raise Unusable("it is compressed")
    rows = _field(data, batch, 0)
    if rows and not 0 <= struct.unpack_from("<q", data, rows)[0] <= len(data):
        raise Unusable("it has more rows than bytes")


def _field(data: mmap.mmap, table: int, index: int) -> int:
    """Where a flatbuffers table has a field; 0 where it has none."""
    vtable = _inside(data, table - _i32(data, table))
    slot = 4 + 2 * index
    offset = _u16(data, vtable + slot) if slot < _u16(data, vtable) else 0
    return _inside(data, table + offset) if offset else 0


def _length(data: mmap.mmap, field: int) -> int:
    """Entries of a vector; 0 where there is none."""
    return _u32(data, field + _u32(data, field)) if field else 0


def _inside(data: mmap.mmap, place: int) -> int:
    if not 0 <= place < len(data):
        raise IndexError
    return place


def _u16(data: mmap.mmap, place: int) -> int:
    return int(struct.unpack_from("<H", data, _inside(data, place))[0])


def _u32(data: mmap.mmap, place: int) -> int:
    return int(struct.unpack_from("<I", data, _inside(data, place))[0])


def _i32(data: mmap.mmap, place: int) -> int:
    return int(struct.unpack_from("<i", data, _inside(data, place))[0])
